"""Images in, rows out: read ahead, decode and predict at the same time, on every core."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator

from jobs.ahead import ahead
from jobs.patience import patiently
from jobs.sources import Image
from lib import images, records, storage
from lib.bundle import Bundle
from lib.failures import Unreadable
from lib.records import ErrorRow, Prediction

N_CORES = os.cpu_count() or 1

N_WORKERS = 16 * max(2, N_CORES)
"""Images being read, waiting for a core or on one. S3 takes 10 to 100 ms to the first byte; a core
classifies some 300 images a second, so 15 of them hide 50 ms."""

N_AHEAD = 2 * N_WORKERS
"""Images begun before the row of the first is taken: while a part is written, work goes on."""

READ_AHEAD_BYTES = 64 * 2**20
"""Encoded images held at a time, so that memory is bounded where photographs are large."""


def rows(todo: Iterable[Image], model: Bundle) -> Iterator[Prediction | ErrorRow]:
    """Yield a row for each image, in order. Close the iterator to stop early.

    Reading, decoding and predicting let go of the GIL, so a worker does all three for its image;
    only as many as there are cores may be past the reading, the others wait for the store.

    Raises:
        Broken: the store failed, which says nothing of any image.
    """
    workers = _Workers(model)
    try:
        yield from ahead(workers.row, workers.admitted(todo), N_WORKERS, N_AHEAD)
    finally:
        workers.stopped.set()


class _Workers:
    """What the threads of one pipeline share."""

    def __init__(self, model: Bundle) -> None:
        self.stopped = threading.Event()
        self._model = model
        self._cores = threading.BoundedSemaphore(N_CORES)
        self._is_freed = threading.Condition()
        self._held_bytes = 0

    def admitted(self, todo: Iterable[Image]) -> Iterator[Image]:
        """Yield each image once there is room for its bytes; a single one always has room."""
        for image in todo:
            size_bytes = _held(image)
            with self._is_freed:
                self._is_freed.wait_for(
                    lambda size_bytes=size_bytes: (
                        not self._held_bytes or self._held_bytes + size_bytes <= READ_AHEAD_BYTES
                    )
                )
                self._held_bytes += size_bytes
            yield image

    def row(self, image: Image) -> Prediction | ErrorRow:
        """Return the row of one image."""
        try:
            scores = self._scores(image)
        except Unreadable as error:
            return error_row(image, error.code, error.message)
        except storage.Missing:
            return error_row(image, "missing", "the image was deleted after the run was planned")
        except storage.Changed:
            return error_row(image, "changed", "the image was replaced after the run was planned")
        finally:
            with self._is_freed:
                self._held_bytes -= _held(image)
                self._is_freed.notify()
        return records.prediction(image.uri, image.etag, self._model.card, scores)

    def _scores(self, image: Image) -> list[float]:
        if not image.etag:
            raise Unreadable("missing", "the list names it, but there was no such object")
        data = patiently(
            lambda: storage.read(image.uri, image.etag, max_bytes=images.MAX_BYTES).data,
            self.stopped,
        )
        with self._cores:
            pixels = images.decode(data, self._model.card.image)
            return self._model.predict(pixels[None])[0].tolist()


def _held(image: Image) -> int:
    """Return how many bytes an image holds while it is in work; larger ones are never read."""
    return min(image.size_bytes, images.MAX_BYTES)


def error_row(image: Image, code: str, message: str) -> ErrorRow:
    """Return the row of an image that has no prediction."""
    return ErrorRow(image.uri, image.etag, {"code": code, "message": message})
