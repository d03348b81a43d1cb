"""Every figure that is claimed, measured in one run, beside what it is compared with.

    python -m tests.benchmarks [PHOTOS] [--quick] [--write README.md]

PHOTOS are images of classes in three sessions; without them training is measured on drawn hands,
whose accuracies mean little. `--write` puts the table between two marks in a file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from lib import samples
from tests.benchmarks.told import ROWS

MODEL = "demo/models/mobilenet"
START, END = "<!-- figures -->", "<!-- end of figures -->"

TRAINING = ["mobilenet", "few", "random", "frozen", "default", "second", "memory"]
"""All but the small CNN, which takes longer than the others together: `--only cnn cnn-few`."""

FULL = {
    "training": ["{photos}", "--only", *TRAINING],
    "batch": ["--model", MODEL],
    "demo": [],
}
QUICK = {
    "training": ["{photos}", "--only", "frozen"],
    "batch": ["--model", MODEL, "--repeats", "1", "--only", "bucket", "jpeg", "first"],
    "demo": ["--starts", "1", "--seconds", "0"],
}
"""A few of them, in two minutes."""


def main() -> None:
    """Run the benchmarks one after the other and print or write their table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("photos", nargs="?")
    parser.add_argument("--quick", action="store_true", help="a few of them, in two minutes")
    parser.add_argument("--only", nargs="+", choices=list(FULL), default=list(FULL))
    parser.add_argument("--write", metavar="FILE", help="put the table between the marks in FILE")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = asked.photos or f"{folder}/hands"
        if not asked.photos:
            samples.write(Path(photos), n_images_per_class=40, seed=1)
        rows = Path(folder) / "rows.jsonl"
        rows.touch()
        for name in asked.only:
            words = [word.format(photos=photos) for word in (QUICK if asked.quick else FULL)[name]]
            print(f"---- {name}", flush=True)
            subprocess.run(
                [sys.executable, "-m", f"tests.benchmarks.{name}", *words],
                env=os.environ | {ROWS: str(rows)}, check=True,
            )  # fmt: skip
        told = table([json.loads(line) for line in rows.read_text("utf-8").splitlines()])
    if asked.write:
        write(Path(asked.write), told)
    else:
        print(told)


def table(rows: list[dict[str, str]]) -> str:
    """Return the rows as Markdown, with the day and the machine."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    lines = [f"Measured on {datetime.now(UTC):%Y-%m-%d}, {machine}.", ""]
    lines += ["| | figure | wanted | | |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['what'].strip()} | {row['figure']} | {row['wanted']} | {row['verdict']} | {row['more']} |"
        for row in rows
    ]
    return "\n".join(lines)


def write(path: Path, told: str) -> None:
    """Put the table between the marks of a file."""
    text = path.read_text("utf-8")
    if not (0 <= text.find(START) < text.find(END)):
        sys.exit(f"{path} must hold the marks {START} and {END}")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{START}\n{told}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
