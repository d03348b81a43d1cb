"""Many pictures at once: files and archives in, rows out, exactly those of a batch run."""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import struct
import threading
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from demo import answers
from demo.doors import Upload
from lib import images, records
from lib.bundle import Bundle
from lib.failures import Unreadable
from lib.records import ErrorRow, Prediction

MAX_IMAGES = 1_000
"""The most pictures of one go."""

MAX_UNPACKED_BYTES = 2**30
"""The most that all archives of one go may unpack to, in bytes."""

MAX_DIRECTORY_BYTES = 4 * 2**20
"""The longest table of contents of an archive that is read, in bytes: some 50,000 names."""

N_CORES = os.cpu_count() or 1

_DAMAGES = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)
_DAMAGES += (ArithmeticError, EOFError, LookupError, NotImplementedError, OSError, ValueError)
"""What a damaged archive raises in one place or another."""

Row = Prediction | ErrorRow


@dataclass(frozen=True)
class Picture:
    """One picture to be classified: what to call it and how to get it."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Found:
    """What lies in some uploads."""

    pictures: list[Picture] = field(default_factory=list)
    refused: list[ErrorRow] = field(default_factory=list)
    """Archives and names in them that are not touched."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files in archives that do not end like an image, counted by their ending."""


@dataclass(frozen=True)
class Seen:
    """The row of one picture, and the picture as the model saw it, if it could be read."""

    row: Row
    image: np.ndarray | None


@dataclass(frozen=True)
class Outcome:
    """The rows of one go, in the order of the uploads."""

    predictions: list[Prediction]
    errors: list[ErrorRow]
    skipped: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return what a program wants to know."""
        return {
            "predictions": [json.loads(records.to_json(row)) for row in self.predictions],
            "errors": [json.loads(records.to_json(row)) for row in self.errors],
            "skipped": self.skipped,
        }


def find(uploads: Sequence[Upload]) -> Found:
    """List the pictures in files and zip archives; nothing is unpacked to disk."""
    found, budget = Found(), _Budget(MAX_UNPACKED_BYTES)
    for upload in uploads:
        if upload.name.lower().endswith(".zip"):
            _look_into(upload, found, budget)
        else:
            _add(found, Picture(upload.name, upload.read))
    return found


def _add(found: Found, picture: Picture) -> None:
    if len(found.pictures) < MAX_IMAGES:
        found.pictures.append(picture)
    else:
        message = f"at most {MAX_IMAGES:,} pictures are taken at once"
        found.refused.append(_refused(picture.name, "too_many", message))


def _refused(name: str, code: str, message: str) -> ErrorRow:
    return ErrorRow(name, "", {"code": code, "message": message})


class _Budget:
    """How many bytes all archives of one go may still unpack to."""

    def __init__(self, n_bytes: int) -> None:
        self.n_left = n_bytes
        self._lock = threading.Lock()

    def read(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
        """Return the bytes of a member, never more than an image may have.

        Raises:
            Unreadable: it is longer, damaged or locked, or the budget is used up.
        """
        try:
            with self._lock, archive.open(member) as file:
                data = file.read(min(images.MAX_BYTES, max(self.n_left, 0)) + 1)
                self.n_left -= len(data)
        except _DAMAGES as error:
            raise Unreadable("damaged", f"the archive is damaged here: {error}") from error
        except RuntimeError as error:
            raise Unreadable("locked", "the archive is locked with a password") from error
        if self.n_left < 0:
            message = f"the archives unpack to more than {MAX_UNPACKED_BYTES:,} bytes"
            raise Unreadable("too_large", message)
        return data


def _look_into(upload: Upload, found: Found, budget: _Budget) -> None:
    try:
        archive = _open(upload.read())
    except Unreadable as error:
        found.refused.append(_refused(upload.name, error.code, error.message))
        return
    n_before = len(found.pictures) + len(found.refused)
    for member in archive.infolist():
        name = f"{upload.name}/{member.filename}"
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if member.filename.endswith("/"):  # is_dir() fails where a damaged name is empty
            continue
        if ".." in parts or member.filename.startswith(("/", "\\")):
            found.refused.append(_refused(name, "unsafe_name", "the name leads out of the archive"))
        elif any(part.startswith((".", "__MACOSX")) for part in parts):
            found.skipped["hidden"] += 1
        elif not images.has_image_extension(member.filename):
            found.skipped[PurePosixPath(member.filename).suffix.lower() or "no ending"] += 1
        else:
            _add(found, Picture(name, lambda m=member: budget.read(archive, m)))
    if len(found.pictures) + len(found.refused) == n_before:
        found.refused.append(_refused(upload.name, "empty", "there is no picture in the archive"))


def _open(data: bytes) -> zipfile.ZipFile:
    end = data.rfind(b"PK\5\6", max(0, len(data) - 65_557))
    if end < 0 or len(data) < end + 22:
        raise Unreadable("not_an_archive", "the file ends in .zip and is no zip archive")
    n_bytes = struct.unpack_from("<L", data, end + 12)[0]
    if n_bytes > MAX_DIRECTORY_BYTES:
        message = f"its table of contents has more than {MAX_DIRECTORY_BYTES:,} bytes"
        raise Unreadable("too_large", message)
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except _DAMAGES as error:
        raise Unreadable("damaged", f"the archive is damaged: {error}") from error


def classify(found: Found, model: Bundle) -> Iterator[Seen]:
    """Yield what became of each picture, in order, with a bounded number of them in memory.

    Closing the iterator ends the work after the pictures that are being looked at.
    """
    in_flight: deque[Future[Seen]] = deque()
    with ThreadPoolExecutor(N_CORES) as pool:
        try:
            for picture in found.pictures:
                in_flight.append(pool.submit(_look_at, picture, model))
                if len(in_flight) >= 2 * N_CORES:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        finally:
            for future in in_flight:
                future.cancel()


def _look_at(picture: Picture, model: Bundle) -> Seen:
    etag = ""
    try:
        data = picture.read()
        etag = answers.fingerprint(data)
        image = images.decode(data, model.card.image)
    except Unreadable as error:
        row = ErrorRow(picture.name, etag, {"code": error.code, "message": error.message})
        return Seen(row, None)
    scores = model.predict(image[None])[0]
    return Seen(records.prediction(picture.name, etag, model.card, scores.tolist()), image)


def outcome(found: Found, rows: Sequence[Row]) -> Outcome:
    """Sort rows into predictions and errors, as a batch run does."""
    return Outcome(
        [row for row in rows if isinstance(row, Prediction)],
        [row for row in rows if isinstance(row, ErrorRow)] + found.refused,
        dict(found.skipped),
    )


def to_jsonl(rows: Sequence[Row]) -> bytes:
    """Return rows as the part of a batch run has them."""
    return b"".join(map(records.to_line, rows))


def to_csv(rows: Sequence[Prediction]) -> bytes:
    """Return the same rows for a spreadsheet; no text in them can become a formula."""
    names = [f.name for f in fields(Prediction)]
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in names])
    return file.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(records.FORMULA_STARTS):
        return f"'{value}"
    return value
