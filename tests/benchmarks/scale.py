"""How a batch run grows: with the bucket, with shards, and on paper to 100 million images.

    python -m tests.benchmarks.scale --model REGISTRY/NAME|BUNDLE [--sizes 1000 5000 20000] [--plot FILE.png]

Measured against SeaweedFS on loopback, on the same cores as the job. The paper uses the same
function of the cost as `jobs.predict --dry-run`.
"""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jobs.estimate import Prices, Task, cost
from jobs.plan import IMAGES_PER_PART
from lib import samples, storage
from tests.benchmarks.batch import N_CORES, Bench, beside_a_store, encoded, ran
from tests.benchmarks.told import tell

REQUESTS = {"GET": 0.4, "PUT": 5.0, "LIST": 5.0}
"""US dollars for a million requests to S3 Standard in us-east-1."""

PAPER_IMAGES = (1_000_000, 10_000_000, 100_000_000)
PAPER_WORKERS = (100, 1000)


@dataclass(frozen=True)
class Point:
    """One run: images a second, megabytes at the peak, and seconds until the plan was written."""

    n_images: int
    n_shards: int
    images_per_s: float
    peak_mb: float
    plan_s: float


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale")
    parser.add_argument("--model", required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 5000, 20_000])
    parser.add_argument("--plot", metavar="FILE")
    asked = parser.parse_args()
    with beside_a_store(asked.model, repeats=1) as bench:
        points = [measured(bench, n, shards) for n in filled(asked.sizes) for shards in (1, 2)]
    if asked.plot:
        draw(points, Path(asked.plot))
    on_paper(max(point.images_per_s for point in points) / N_CORES)


def filled(sizes: Sequence[int]) -> Sequence[int]:
    """Store as many images as the largest bucket has; a smaller one is the first of them."""
    small = [encoded(samples.draw(k % 4, k).image, "JPEG", quality=40) for k in range(8)]
    starts = [0, *sorted(sizes)]

    def put(k: int) -> None:
        below = next(start for start in reversed(starts) if k >= start)
        storage.write(f"s3://photos/from-{below:06}/{k:06}.jpg", small[k % 8])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(max(sizes))))
    return sorted(sizes)


def measured(bench: Bench, n_images: int, n_shards: int) -> Point:
    """Run over the first images, in one process or in one a shard at the same time."""
    starts = [
        storage.relative(e.uri, "s3://photos").split("/")[0] for e in storage.entries("s3://photos")
    ]
    sources = [
        f"s3://photos/{start}/" for start in dict.fromkeys(starts) if int(start[5:]) < n_images
    ]
    run, out = secrets.token_hex(6), str(bench.folder / "out")
    command = ["jobs.predict", *sources, out, "--model", bench.model, "--run", run]
    planned = ran(bench, *command, "--shards", str(n_shards))
    with ThreadPoolExecutor(n_shards) as pool:
        runs = list(pool.map(lambda k: ran(bench, *command, "--shard", str(k)), range(n_shards)))
    done = [json.loads(path.read_text()) for path in Path(out, run, "done").iterdir()]
    rate = n_images / max(shard["seconds"] for shard in done)
    peak_mb = max(one.peak_mb for one in runs)
    more = f"{peak_mb:.0f} MB a process at the peak, planned in {planned.wall_s:.1f} s"
    tell(f"{n_images:,} images, {n_shards} shards, images/s", rate, more=more, places=0)
    return Point(n_images, n_shards, rate, peak_mb, planned.wall_s)


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw throughput, memory and the time to plan over the size of the bucket, to a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    names = {"images_per_s": "images/s", "peak_mb": "MB at the peak", "plan_s": "seconds to plan"}
    for axes, (field, title) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for n_shards in (1, 2):
            some = [point for point in points if point.n_shards == n_shards]
            axes.plot(
                [point.n_images for point in some], [getattr(point, field) for point in some],
                marker="o", label=f"{n_shards} shard{'s' if n_shards > 1 else ''}",
            )  # fmt: skip
        axes.set(xscale="log", xlabel="images", title=title, ylim=(0, None))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def on_paper(images_per_vcpu_s: float) -> None:
    """Print what large buckets would take at the speed that was measured."""
    print(f"\nOn paper, at {images_per_vcpu_s:.0f} images a second and vCPU:\n")
    print("| images | workers | hours | vCPU-hours | Fargate, USD | Spot, USD | requests, USD |")
    print("|---|---|---|---|---|---|---|")
    for n_images in PAPER_IMAGES:
        for n_workers in PAPER_WORKERS:
            spent = cost(n_images, images_per_vcpu_s, n_workers, Task(), Prices())
            hours = spent.vcpu_hours / Task().n_vcpus / n_workers
            print(
                f"| {n_images:,} | {n_workers:,} | {hours:.2f} | {spent.vcpu_hours:,.1f} | "
                f"{spent.fargate_usd:,.2f} | {spent.fargate_spot_usd:,.2f} | {asked_usd(n_images):,.2f} |"
            )


def asked_usd(n_images: int) -> float:
    """Return the price of a run's requests: a GET an image, a LIST a thousand, a PUT a part."""
    n_requests = {"GET": n_images, "LIST": n_images / 1000, "PUT": n_images / IMAGES_PER_PART}
    return sum(n * REQUESTS[kind] / 1e6 for kind, n in n_requests.items())


if __name__ == "__main__":
    main()
