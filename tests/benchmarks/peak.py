"""The most memory that a process ever held."""

from __future__ import annotations

import re
import threading
from pathlib import Path

TICK_S = 0.02


class Peak:
    """Watch a process while it runs; afterwards `mb` is the most it held, in megabytes.

    The kernel's own figure of a child (`ru_maxrss`) counts the parent it was split from, before it
    became another program; the one in /proc does not, but is gone with the process.
    """

    def __init__(self, pid: int) -> None:
        self.mb = 0.0
        self._status = Path(f"/proc/{pid}/status")
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._ended.wait(TICK_S):
            try:
                found = re.search(r"^VmHWM:\s+(\d+) kB", self._status.read_text(), re.MULTILINE)
            except OSError:
                return
            if found:  # a process that has ended and was not waited for has none
                self.mb = max(self.mb, int(found[1]) / 1000)
