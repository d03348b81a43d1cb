"""Keeps the greetings of native libraries out of stderr, where only our own lines belong."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

GREETINGS = (
    b"INFO: Created TensorFlow Lite XNNPACK delegate",
    b"WARNING: All log messages before absl::InitializeLog",
    b"I0000 ",
    b"W0000 ",
)
"""How the lines begin that TensorFlow and LiteRT write while they start, whatever is set."""

_one_at_a_time = threading.Lock()


@contextmanager
def without_greetings() -> Iterator[None]:
    """Hold stderr back while native code starts, then pass on all of it but the greetings."""
    with _one_at_a_time, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held:
                if not line.startswith(GREETINGS):
                    os.write(2, line)
