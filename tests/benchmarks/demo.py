"""How fast the page starts and answers, and whether it stays small under load.

python -m tests.benchmarks.demo [--seconds 120] [--models …]
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image

from demo.shelf import SHIPPED
from lib import bundle, images, registry, samples

ROOT = Path(__file__).parents[2]
N_CLIENTS, N_REQUESTS = 50, 20
WITH_TENSORFLOW = (
    "import runpy, tensorflow, keras; runpy.run_module('demo', run_name='__main__', alter_sys=True)"
)


@contextmanager
def served(*program: str) -> Iterator[tuple[str, int, float]]:
    """Run the page; gives its address, its process and the seconds to the first page."""
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        for line in process.stderr:
            if found := re.search(r"local address: (\S+)", line):
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        httpx.get(found[1], trust_env=False).raise_for_status()
        yield found[1], process.pid, time.perf_counter() - started_s
    finally:
        process.terminate()
        process.wait()


def start_s(*program: str) -> float:
    """Return the seconds from the start of the process to the first page."""
    with served(*program) as (_, _, seconds):
        return seconds


def median_ms(work: Callable[[], object], n: int) -> float:
    """Return the median of `n` tries, in milliseconds."""
    times = []
    for _ in range(n):
        started_s = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started_s))
    return statistics.median(times)


def rss_mb(pid: int) -> float:
    """Return the memory of a process, in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Visitor:
    """Uploads a picture and asks both models."""

    def __init__(self, url: str, data: bytes) -> None:
        self.web = httpx.Client(base_url=url, timeout=120, trust_env=False)
        self.data = data

    def upload(self) -> dict[str, object]:
        path = self.web.post("/gradio_api/upload", files={"files": ("hand.png", self.data)}).json()[
            0
        ]
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def ask(self, picture: dict[str, object]) -> bool:
        answered = self.web.post("/gradio_api/run/classify", json={"data": [picture]})
        return answered.status_code == 200 and "models" in answered.json()["data"][0]


def drawn(seed: int) -> bytes:
    """Return a drawn hand as PNG."""
    file = io.BytesIO()
    Image.fromarray(samples.draw(seed % 4, seed).image).save(file, "PNG")
    return file.getvalue()


def load(url: str, pid: int, seconds: float) -> None:
    """Let 50 clients send 20 requests each, again and again, and watch the memory."""
    pictures = [drawn(seed) for seed in range(20)]
    visitors = [Visitor(url, pictures[i % 20]) for i in range(N_CLIENTS)]

    def twenty(visitor: Visitor) -> int:
        return sum(not visitor.ask(visitor.upload()) for _ in range(N_REQUESTS))

    seen: list[tuple[float, float]] = []
    done = threading.Event()
    started_s, n_errors = time.monotonic(), 0

    def watch() -> None:
        while not done.wait(1):
            seen.append((time.monotonic() - started_s, rss_mb(pid)))

    with ThreadPoolExecutor(N_CLIENTS + 1) as pool:
        pool.submit(watch)
        for n_rounds in itertools.count(1):
            n_errors += sum(pool.map(twenty, visitors))
            at_s = time.monotonic() - started_s
            if n_rounds == 1:
                print(
                    f"{N_CLIENTS} clients x {N_REQUESTS} requests: {at_s:.1f} s, {n_errors} errors"
                )
            if at_s > seconds:
                break
        done.set()
    n_requests = n_rounds * N_CLIENTS * N_REQUESTS
    rate = n_requests / at_s
    print(f"{n_requests:,} requests in {at_s:.0f} s: {n_errors} errors, {rate:.0f} requests/s")
    for moment_s in (5, 30, 60, at_s):
        mb = [mb for second, mb in seen if second <= moment_s]
        print(f"memory after {moment_s:.0f} s: {mb[-1]:.0f} MB")


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--models", nargs="+", default=[SHIPPED])
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    shown = ["--models", *arguments.models]
    ours, theirs = [], []
    for _ in range(arguments.starts):
        ours.append(start_s("-m", "demo", *shown))
        theirs.append(start_s("-c", WITH_TENSORFLOW, *shown))
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    share = ours_s / theirs_s
    print(f"start to first page: {ours_s:.2f} s, with TensorFlow {theirs_s:.2f} s: {share:.2f}")
    with served("-m", "demo", *shown) as (url, pid, _):
        data = drawn(7)
        with httpx.Client(base_url=url, trust_env=False) as web:
            names = [model["model"] for model in web.get("/health").json()["models"]]
        root = arguments.models[0]
        models = [bundle.load(registry.resolve(f"{root}/{name}")) for name in names]
        pixels = images.decode(data, models[0].card.image)[None]
        for model in models:
            model.predict(pixels)
        bare_ms = median_ms(lambda: [model.predict(pixels) for model in models], 200)
        visitor = Visitor(url, data)
        picture = visitor.upload()
        page_ms = median_ms(lambda: visitor.ask(picture), 200)
        allowed_ms = 3 * bare_ms + 15
        print(f"/classify p50: {page_ms:.1f} ms; bare {bare_ms:.1f}; allowed {allowed_ms:.1f}")
        load(url, pid, arguments.seconds)


if __name__ == "__main__":
    main()
