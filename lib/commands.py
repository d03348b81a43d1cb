"""What every command line shares: one-line errors, exit codes, and progress on stderr."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from lib.failures import Failure

LOG_EVERY_S = 30.0
"""How often progress writes a line where stderr is a file, in seconds."""

GRACE_S = 10.0
"""How long a stopped command may tidy up, in seconds; Spot kills it after 30."""

REDRAW_EVERY_S = 0.1
"""How often progress redraws its bar on a terminal, in seconds."""


class Action(argparse.ArgumentParser):
    """The parser of one action of a command; its errors are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (--help shows how)\n")


class Parser(Action):
    """The parser of a command; its `--help` ends in a runnable example."""

    def __init__(self, *, description: str, example: str, **options: Any) -> None:
        super().__init__(
            description=description,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )


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


class Stopped(Failure):
    """Somebody asked the process to end, as Spot does before it takes a machine back."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGTERM into a failure, so that what is half-done is dropped and the exit code is 1.

    A thread that waits for a store that does not answer is not waited for longer than `GRACE_S`.
    """

    def stop(*_: object) -> NoReturn:
        end = threading.Timer(GRACE_S, os._exit, [Stopped.exit_code])
        end.daemon = True
        end.start()
        raise Stopped("stopped by SIGTERM; the same command goes on from here")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
        self._n_skipped = 0
        self._is_terminal = sys.stderr.isatty()
        self._every_s = REDRAW_EVERY_S if self._is_terminal else LOG_EVERY_S
        self._started_s = self._shown_s = time.monotonic()
        self._counting = threading.Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            print(f"\r\033[K{self._line()}", file=sys.stderr, flush=True)
        else:
            say(self._line())

    def skip(self, n: int) -> None:
        """Count `n` as done before, which the rate leaves out."""
        self.n_done += n
        self._n_skipped += n

    def add(self, n: int = 1, note: str = "") -> None:
        """Count `n` more as done, from any thread; `note` stands behind the figures."""
        with self._counting:
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
        rate = (self.n_done - self._n_skipped) / seconds
        counts = f"{self.what}: {self.n_done:,} of {self.n_total:,} {self.unit}"
        line = f"{counts}, {rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s"
        if not rate or self.n_done >= self.n_total:
            return f"{line}, {seconds:.0f} s"
        return f"{line}, {(self.n_total - self.n_done) / rate:.0f} s left"
