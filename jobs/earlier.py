"""What earlier runs of a model have rows for, so that an incremental run can leave it out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from jobs.ahead import ahead
from jobs.rows import Rows
from lib import storage
from lib.records import ErrorRow, Prediction

N_READING = 8
"""Parts read at a time."""

PASSING = ("missing", "changed")
"""Codes of errors that say nothing of the bytes behind the etag."""


class Known:
    """A set of images by uri and etag, 8 bytes each: of ten million, two collide once in 300,000.

    Args:
        names: uint64, in any order.
    """

    def __init__(self, names: np.ndarray) -> None:
        self.names = np.unique(names)

    def __contains__(self, image: tuple[str, str]) -> bool:
        name = _name(*image)
        place = int(np.searchsorted(self.names, name))
        return place < len(self.names) and bool(self.names[place] == name)


NOTHING = Known(np.empty(0, np.uint64))


def rows(parts: Iterable[tuple[Rows, type, str]]) -> Known:
    """Return the images that some parts, each with its format, kind and uri, have a row for.

    An image that cannot be decoded has its row too: the same bytes would fail again.
    """

    def names(part: tuple[Rows, type, str]) -> np.ndarray:
        shape, kind, uri = part
        found = shape.read(kind, storage.read(uri).data, uri)
        return np.array([_name(row.uri, row.etag) for row in found if _stays(row)], np.uint64)

    return Known(np.concatenate([NOTHING.names, *ahead(names, parts, N_READING, 2 * N_READING)]))


def _name(uri: str, etag: str) -> np.uint64:
    text = f"{uri}\n{etag}".encode("utf-8", "surrogatepass")
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big"))


def _stays(row: Prediction | ErrorRow) -> bool:
    return isinstance(row, Prediction) or row.error["code"] not in PASSING
