"""What every command line shares: one-line errors, exit codes, and progress on stderr."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from lib.failures import Failure

LOG_EVERY_S = 30.0
"""How often progress writes a line where stderr is a file, in seconds."""

REDRAW_EVERY_S = 0.1
"""How often progress redraws its bar on a terminal, in seconds."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose `--help` ends in a runnable example and whose errors are one line."""

    def __init__(self, *, description: str, example: str, **options: object) -> None:
        super().__init__(
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (--help shows how)\n")


def run(main: Callable[[Sequence[str] | None], None]) -> NoReturn:
    """Run a command's `main` and turn its failures into one line and an exit code."""
    try:
        main(None)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; nobody is left to tell
        sys.exit(1)
    sys.exit(0)


def say(line: str) -> None:
    """Write one line about the work to stderr; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Count work done: a bar with a rate and the time left on a terminal, plain lines in a log.

    Args:
        what: what is being done, such as `reading`.
        n_total: how many there are.
        unit: what is counted, in the plural.
    """

    def __init__(self, what: str, n_total: int, unit: str = "images") -> None:
        self.what = what
        self.n_total = n_total
        self.unit = unit
        self.n_done = 0
        self._is_terminal = sys.stderr.isatty()
        self._every_s = REDRAW_EVERY_S if self._is_terminal else LOG_EVERY_S
        self._started_s = self._shown_s = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            print(f"\r\033[K{self._line()}", file=sys.stderr, flush=True)
        else:
            say(self._line())

    def add(self, n: int = 1, note: str = "") -> None:
        """Count `n` more as done; `note` stands behind the figures."""
        self.n_done += n
        now_s = time.monotonic()
        if now_s - self._shown_s < self._every_s:
            return
        self._shown_s = now_s
        if self._is_terminal:
            print(
                f"\r\033[K{self._bar()} {self._line()} {note}", end="", file=sys.stderr, flush=True
            )
        else:
            say(f"{self._line()} {note}".rstrip())

    def _bar(self, width: int = 24) -> str:
        filled = width * self.n_done // max(self.n_total, 1)
        return "█" * filled + "░" * (width - filled)

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._started_s, 1e-9)
        rate = self.n_done / seconds
        line = f"{self.what}: {self.n_done:,} of {self.n_total:,} {self.unit}, {rate:,.0f} {self.unit}/s"
        if not self.n_done or self.n_done >= self.n_total:
            return f"{line}, {seconds:.0f} s"
        return f"{line}, {(self.n_total - self.n_done) / rate:.0f} s left"
