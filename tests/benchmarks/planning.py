"""Plan a run over a generated listing of a million keys; the caller reads the peak of memory."""

import sys
from collections.abc import Iterator

from jobs import plan
from lib import bundle, registry, storage


def listing(uri: str) -> Iterator[storage.Entry]:
    """Yield a million photographs of a phone, as S3 would list them."""
    for k in range(1_000_000):
        etag = f'"{k:032x}"'
        yield storage.Entry(f"{uri}/2026/{k // 1000:04}/IMG_{k:07}.jpg", etag, 3_000_000, 0.0)


def main(model: str, output: str) -> None:
    """Plan and print how many images and shards there are."""
    # Plans lie in a folder, and photographs in a bucket that nobody has to fill first.
    listed = storage.entries
    storage.entries = lambda uri: listing(uri) if storage.is_s3(uri) else listed(uri)
    loaded = bundle.load(registry.resolve(model))
    planned, _ = plan.make("s3://photos", output, loaded, plan.Options())
    print(planned.n_images, planned.n_shards)


if __name__ == "__main__":
    main(*sys.argv[1:])
