"""A store that refuses or does not answer is asked again, for half a minute and no longer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lib import storage
from lib.failures import Broken

Result = TypeVar("Result")

PATIENCE_S = 30.0
"""No new try begins so long after the first; a try itself may take as long as storage allows it."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0

ANSWERS = (storage.Missing, storage.Changed, storage.AlreadyThere)
"""What the store says of an object, as against of itself: asking again changes nothing."""


def patiently(call: Callable[[], Result], stopped: threading.Event | None = None) -> Result:
    """Return `call()`, tried again with growing pauses while the store refuses or fails.

    The pauses are drawn, so that many workers do not come back in the same moment. `stopped` ends
    the waiting, not the call.

    Raises:
        Missing, Changed, AlreadyThere, Unreadable: at once; they are answers.
        Broken: still there after `PATIENCE_S`.
    """
    stopped = stopped or threading.Event()
    started_s, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            return call()
        except ANSWERS:
            raise
        except Broken:
            drawn_s = pause_s * random.uniform(0.5, 1)
            if time.monotonic() - started_s + drawn_s > PATIENCE_S or stopped.wait(drawn_s):
                raise
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def read(uri: str) -> bytes:
    """Return the bytes of one object of a run."""
    return patiently(lambda: storage.read(uri).data)


def create(uri: str, data: bytes) -> str:
    """Store one object of a run, if nothing has that name yet, and return its etag."""
    return patiently(lambda: storage.create(uri, data))
