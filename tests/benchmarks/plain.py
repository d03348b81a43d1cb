"""What people write: every image of a bucket or folder, one after the other, into Keras `predict`.

    python -m tests.benchmarks.plain s3://bucket/prefix|FOLDER

prints the seconds from the start of the process to the first row and to the last, and the images.
"""

import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 32


def bodies(source: str) -> Iterator[bytes]:
    """Yield the bytes of every object."""
    if not source.startswith("s3://"):
        yield from (path.read_bytes() for path in sorted(Path(source).iterdir()))
        return
    import boto3

    s3 = boto3.client("s3")
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for found in page["Contents"]:
            yield s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()


def network() -> Any:
    """Return a MobileNetV2 of the size that Handful trains, its weights drawn."""
    import keras

    base = keras.applications.MobileNetV2(
        (224, 224, 3), 0.35, include_top=False, weights=None, pooling="avg"
    )
    return keras.Sequential([keras.layers.Rescaling(1 / 127.5, -1), base, keras.layers.Dense(4)])


def main(source: str) -> None:
    """Classify everything."""
    import numpy as np
    from PIL import Image

    model = network()
    rows: list[int] = []
    first_s = 0.0
    batch: list[np.ndarray] = []

    def flush() -> None:
        nonlocal first_s
        if batch:
            rows.extend(model.predict(np.stack(batch), verbose=0).argmax(1))
            first_s = first_s or since_start_s()
            batch.clear()

    for body in bodies(source):
        batch.append(np.asarray(Image.open(io.BytesIO(body)).convert("RGB").resize((224, 224))))
        if len(batch) == BATCH:
            flush()
    flush()
    print(first_s, since_start_s(), len(rows))


def since_start_s() -> float:
    """Return the seconds since this process was started, the interpreter's own start included."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main(sys.argv[1])
