"""Images in, rows out: read ahead, decode and predict at the same time, on every core."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from jobs.ahead import ahead
from jobs.patience import patiently
from jobs.sources import Image
from lib import images, records, storage
from lib.bundle import Bundle
from lib.failures import Unreadable
from lib.records import ErrorRow, Prediction

N_CORES = os.cpu_count() or 1

N_READERS = 16 * max(2, N_CORES)
"""Images being read. S3 takes 10 to 100 ms to the first byte; a core classifies some 350 images a
second, so 17 of them hide 50 ms."""

N_AHEAD = 2 * N_READERS
"""Images begun before the row of the first is taken: while a part is written, work goes on."""

READ_AHEAD_BYTES = 64 * 2**20
"""Encoded images held at a time, so that memory is bounded where photographs are large."""


def rows(todo: Iterable[Image], model: Bundle) -> Iterator[Prediction | ErrorRow]:
    """Yield a row for each image, in order. Close the iterator to stop early.

    Many threads read, for they wait; as many as there are cores decode and predict, which lets go
    of the GIL. A thread that did all three would wake the next one for every image, and a core
    would be idle meanwhile: that cost a quarter of the throughput.

    Raises:
        Broken: the store failed, which says nothing of any image.
    """
    workers = _Workers(model)
    try:
        for row in ahead(workers.read, workers.admitted(todo), N_READERS, N_AHEAD):
            yield row.result()
    finally:
        workers.stop()


class _Workers:
    """What the threads of one pipeline share."""

    def __init__(self, model: Bundle) -> None:
        self._stopped = threading.Event()
        self._model = model
        self._cores = ThreadPoolExecutor(N_CORES)
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

    def read(self, image: Image) -> Future[Prediction | ErrorRow]:
        """Read an image and return its row to come."""
        try:
            return self._cores.submit(self._row, image, self._read(image))
        except BaseException:
            self._free(image)
            raise

    def stop(self) -> None:
        """Begin nothing more; what runs is not waited for."""
        self._stopped.set()
        self._cores.shutdown(wait=False, cancel_futures=True)

    def _read(self, image: Image) -> bytes | ErrorRow:
        """Return the bytes of an image, or the row that says why it has none."""
        try:
            if not image.etag:
                raise Unreadable("missing", "the list names it, but there was no such object")
            return patiently(
                lambda: storage.read(image.uri, image.etag, max_bytes=images.MAX_BYTES).data,
                self._stopped,
            )
        except Unreadable as error:
            return error_row(image, error.code, error.message)
        except storage.Missing:
            return error_row(image, "missing", "the image was deleted after the run was planned")
        except storage.Changed:
            return error_row(image, "changed", "the image was replaced after the run was planned")

    def _row(self, image: Image, read: bytes | ErrorRow) -> Prediction | ErrorRow:
        try:
            return read if isinstance(read, ErrorRow) else self._predicted(image, read)
        finally:
            self._free(image)

    def _predicted(self, image: Image, data: bytes) -> Prediction | ErrorRow:
        try:
            pixels = images.decode(data, self._model.card.image)
        except Unreadable as error:
            return error_row(image, error.code, error.message)
        scores = self._model.predict(pixels[None])[0].tolist()
        return records.prediction(image.uri, image.etag, self._model.card, scores)

    def _free(self, image: Image) -> None:
        with self._is_freed:
            self._held_bytes -= _held(image)
            self._is_freed.notify()


def _held(image: Image) -> int:
    """Return how many bytes an image holds while it is in work; larger ones are never read."""
    return min(image.size_bytes, images.MAX_BYTES)


def error_row(image: Image, code: str, message: str) -> ErrorRow:
    """Return the row of an image that has no prediction."""
    return ErrorRow(image.uri, image.etag, {"code": code, "message": message})
