"""Corrections: a picture and what it really shows, put where the next training finds it.

<uri>/<class>/demo-<date>/<date>T<time>-<id>.png
"""

from __future__ import annotations

import io
import threading
import uuid
from collections import Counter
from datetime import UTC, datetime

from PIL import Image

from demo.doors import Upload
from lib import images, storage
from lib.failures import Misuse
from lib.records import ImageRule

MAX_PER_DAY = 5_000
"""How many corrections one process takes on one day; each has at most 200 kB."""

CONSENT = (
    "By sending you agree that this picture is kept to train the next models. It is stored small "
    "and without its metadata (place, time, device)."
)


class Corrections:
    """Where corrections go. Safe to share between threads, processes and machines.

    Args:
        uri: a folder or `s3://bucket/prefix`, in the layout that training reads.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._n_of_day: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, upload: Upload, label: str, rule: ImageRule) -> str:
        """Store one correction and return its uri.

        What is stored are the pixels that the models saw: decoding them again gives the same ones,
        and nothing else of the file, such as where it was taken, is kept.

        Raises:
            Unreadable: the picture cannot be used.
            Misuse: the label is no name of a folder, or the day's corrections are used up.
            Broken: the storage failed.
        """
        if not label or label.startswith(".") or "/" in label or "\\" in label:
            raise Misuse(f"a class must be the name of a folder. Received: {label!r}")
        data = _png(upload.read(), rule)
        now = datetime.now(UTC)
        self._count(f"{now:%Y-%m-%d}")
        name = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex}.png"
        uri = storage.join(self.uri, label, f"demo-{now:%Y-%m-%d}", name)
        storage.create(uri, data)
        return uri

    def _count(self, day: str) -> None:
        with self._lock:
            if self._n_of_day[day] >= MAX_PER_DAY:
                raise Misuse(
                    f"at most {MAX_PER_DAY:,} corrections are taken a day; come back tomorrow"
                )
            self._n_of_day[day] += 1


def _png(data: bytes, rule: ImageRule) -> bytes:
    file = io.BytesIO()
    Image.fromarray(images.decode(data, rule)).save(file, "PNG")
    return file.getvalue()
