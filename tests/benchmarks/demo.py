"""How fast the page starts and answers, and whether it stays small under load.

python -m tests.benchmarks.demo [--seconds 150] [--starts 3] [--models …]

Takes some three and a half minutes on a quiet machine; each line is a figure, what is wanted of
it, and whether it is met.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image

from demo.shelf import SHIPPED, Shelf
from lib import images, samples
from tests.benchmarks.told import tell

ROOT = Path(__file__).parents[2]
N_CLIENTS, N_REQUESTS = 50, 20
N_TRIES = 200
"""How often an answer is timed; the median counts."""

WARM_S = 60.0
"""The first minute, in seconds: until then the memory may grow."""

WINDOW_S = 15.0
"""Memory is the median over this many seconds, sampled once a second."""

MAX_GROWTH = 1.03
"""How many times its size the memory may grow to after the first minute and still be flat: it breathes that much."""

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
        yield _address(process), process.pid, time.perf_counter() - started_s
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    """Wait for the first page and return its address."""
    for line in process.stderr:
        if found := re.search(r"local address: (\S+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            httpx.get(found[1], trust_env=False, timeout=60).raise_for_status()
            return found[1]
    raise RuntimeError(f"the page ended before it was served, with exit {process.wait()}")


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


def starts(n: int, shown: Sequence[str]) -> None:
    """Compare the start of the page with that of the same page beside TensorFlow."""
    ours, theirs = [], []
    for _ in range(n):
        ours.append(start_s("-m", "demo", *shown))
        theirs.append(start_s("-c", WITH_TENSORFLOW, *shown))
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    share = ours_s / theirs_s
    tell(
        "page, start without ÷ with TensorFlow",
        share,
        "≤ 0.5",
        f"{ours_s:.2f} and {theirs_s:.2f} s",
    )


def answering(url: str, models: Sequence[str]) -> None:
    """Compare an answer of the page with the bare forward passes in it."""
    bundles = Shelf(models).bundles
    data = drawn(7)
    pixels = images.decode(data, bundles[0].card.image)[None]
    visitor = Visitor(url, data)
    picture = visitor.upload()
    bare_ms = median_ms(lambda: [model.predict(pixels) for model in bundles], N_TRIES)
    page_ms = median_ms(lambda: visitor.ask(picture), N_TRIES)
    bare = f"3 × bare forward passes ({bare_ms:.1f} ms) + 15 ms are allowed"
    tell(
        "/classify of both models, p50 in ms", page_ms, f"≤ {3 * bare_ms + 15:.1f}", bare, places=1
    )


@contextmanager
def memory(pid: int) -> Iterator[list[float]]:
    """Gather the memory of a process in megabytes, once a second."""
    seen: list[float] = []
    done = threading.Event()

    def watch() -> None:
        until_s = time.monotonic()
        while not done.wait(max(until_s - time.monotonic(), 0)):
            seen.append(rss_mb(pid))
            until_s += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def load(url: str, pid: int, seconds: float) -> None:
    """Let 50 clients send 20 requests each, then go on until the time is over."""
    pictures = [drawn(seed) for seed in range(20)]
    visitors = [Visitor(url, pictures[i % 20]) for i in range(N_CLIENTS)]
    started_s = time.monotonic()

    def twenty(visitor: Visitor) -> list[bool]:
        return [visitor.ask(visitor.upload()) for _ in range(N_REQUESTS)]

    def go_on(visitor: Visitor) -> list[bool]:
        answered = []
        while time.monotonic() - started_s < seconds:
            answered.append(visitor.ask(visitor.upload()))
        return answered

    with memory(pid) as seen, ThreadPoolExecutor(N_CLIENTS) as pool:
        first = sum(pool.map(twenty, visitors), [])
        first_s = time.monotonic() - started_s
        later = sum(pool.map(go_on, visitors), [])
    figure = f"{N_CLIENTS} clients x {N_REQUESTS} requests"
    _tell_errors(figure, first, first_s)
    _tell_errors("and on until the end", later, time.monotonic() - started_s - first_s)
    _tell_memory(seen)


def _tell_errors(figure: str, answered: list[bool], seconds: float) -> None:
    n_errors = answered.count(False)
    rate = len(answered) / seconds
    more = f"of {len(answered):,} in {seconds:.0f} s, {rate:.0f} a second"
    tell(f"{figure}, errors", n_errors, "≤ 0", more, places=0)


def _tell_memory(seen: list[float]) -> None:
    window, warm = int(WINDOW_S), int(WARM_S)
    if len(seen) < warm + 2 * window:
        print(f"memory: {len(seen)} s are too few to tell whether it is flat after the first 60 s")
        return
    after_mb = statistics.median(seen[warm : warm + window])
    end_mb = statistics.median(seen[-window:])
    more = f"{seen[0]:.0f} MB, {after_mb:.0f} after 1 min, {end_mb:.0f} at the end"
    tell("memory of the page, end ÷ after 1 min", end_mb / after_mb, f"≤ {MAX_GROWTH}", more)


def main() -> None:
    """Print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--models", nargs="+", default=[SHIPPED])
    parser.add_argument("--starts", type=int, default=3)
    arguments = parser.parse_args()
    shown = ["--models", *arguments.models]
    starts(arguments.starts, shown)
    with served("-m", "demo", *shown) as (url, pid, _):
        answering(url, arguments.models)
        load(url, pid, arguments.seconds)


if __name__ == "__main__":
    main()
