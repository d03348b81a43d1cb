"""Who may do what, asked of the emulator while a test wants it to."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


def let_iam_decide_after(server: str, n_requests: bytes) -> None:
    """Have permissions checked after so many more requests; `inf` is never."""
    plain = {"Content-Type": "text/plain"}
    asked = urllib.request.Request(f"{server}/moto-api/reset-auth", n_requests, plain)
    urllib.request.urlopen(asked).close()


@contextmanager
def enforced_permissions(server: str) -> Iterator[None]:
    """Let the emulator check who may do what."""
    let_iam_decide_after(server, b"0")
    try:
        yield
    finally:
        let_iam_decide_after(server, b"inf")
