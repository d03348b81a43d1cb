"""Files that promise more than they hold: refused before a decoder takes them at their word.

Pillow bounds the pixels that a header promises, but neither how long it reads the header nor what
the tags of a TIFF or of EXIF unpack to: a file of some kilobytes can fill the memory of a machine,
one of some megabytes keep a core busy for hours.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator

from PIL import Image

from lib.failures import Unreadable

MAX_HEADER_READS = 10_000
"""How many times a header may ask for more bytes: a comment in pieces is copied at each of them."""

MAX_READS = 100_000
"""How many times the pixels may: some programs write a piece for each line of the image."""

MAX_TAG_VALUES = 200_000
"""Numbers in the tags of one file, each an object of Python. One strip per line has two a line."""

MAX_SCANS = 64
"""Passes over the pixels of one JPEG; the usual progressive one has ten."""

_SHARED = 2  # tags may share their bytes; no file uses all of them more often

# TIFF's types by their number: size in bytes. Those of _PLAIN stay the bytes that they are.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_PLAIN = (1, 2, 7)

_BELOW = (34665, 34853, 40965)  # tags that lead to the directories of EXIF, GPS, interoperability

_TIFF = (b"II\x2a\0", b"MM\0\x2a", b"MM\x2a\0", b"II\0\x2a", b"MM\0\x2b", b"II\x2b\0")
_EXIF = b"Exif\0\0"

# The two kinds of JPEG segments that hold tags: the camera's, and those of several pictures in one.
_SEGMENT = re.compile(rb"\xff[\xe1\xe2](..)(Exif\0\0|MPF\0)", re.DOTALL)

_RAW_EXIF = "Raw profile type exif"


class Metered(io.BytesIO):
    """The bytes of a file, which may be asked for `n_reads_left` times.

    Raises (from `read`):
        Unreadable: that was once too often.
    """

    n_reads_left = MAX_HEADER_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes."""
        self.n_reads_left -= 1
        if self.n_reads_left < 0:
            raise Unreadable("too_large", "the file is cut into more pieces than are allowed")
        return super().read(size)


def check(data: bytes) -> None:
    """Refuse a file that would fill the memory as soon as it is opened.

    Raises:
        Unreadable: its tags unpack to more than is allowed.
    """
    if data.startswith(_TIFF):
        check_tags(data)
    elif data.startswith(b"\xff\xd8"):
        camera = b""
        for found in _SEGMENT.finditer(data):
            body = data[found.end() : found.start() + 2 + int.from_bytes(found[1])]
            if found[2] == _EXIF:
                camera += body  # Pillow reads several such segments as one
            else:
                check_tags(body)
        check_tags(camera)


def check_scans(image: Image.Image, data: bytes) -> None:
    """Refuse a JPEG that goes over its pixels again and again.

    Raises:
        Unreadable: it has more than `MAX_SCANS` scans.
    """
    n_scans = 0 if _is_read_once(image, data) else data.count(b"\xff\xda")
    if n_scans > MAX_SCANS:
        raise Unreadable("too_large", f"at most {MAX_SCANS} scans. Received: {n_scans:,}")


def is_streamed(image: Image.Image, data: bytes) -> bool:
    """Return whether an opened image is a JPEG that is decoded line by line, never held whole."""
    return image.format in ("JPEG", "MPO") and _is_read_once(image, data)


def _is_read_once(image: Image.Image, data: bytes) -> bool:
    """Return whether the first scan of a JPEG, which `image` stands behind, has all of its colours.

    https://www.w3.org/Graphics/JPEG/itu-t81.pdf, B.2.3
    """
    first = data.rfind(b"\xff\xda", 0, image.fp.tell())
    n_colours = data[first + 4]
    return not image.info.get("progressive") and n_colours == image.layers


def check_exif(image: Image.Image) -> None:
    """Refuse to read the EXIF of an opened image where that would fill the memory.

    Raises:
        Unreadable: its tags unpack to more than is allowed.
    """
    check_tags(image.info.get("exif", b""))
    if _RAW_EXIF in image.info:
        check_tags(bytes.fromhex("".join(image.info[_RAW_EXIF].split("\n")[3:])))


def check_tags(data: bytes) -> None:
    """Refuse a TIFF, or EXIF, which is one, whose tags unpack to more than it holds.

    https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, section 2
    """
    while data.startswith(_EXIF):
        data = data.removeprefix(_EXIF)
    n_values = n_bytes = 0
    for kind, count in _tags(data):
        size_bytes = count * _SIZES.get(kind, 0)
        if size_bytes <= len(data):  # Pillow, too, stops before what the file cannot hold
            n_bytes += size_bytes
            n_values += 0 if kind in _PLAIN else count
    if n_values > MAX_TAG_VALUES or n_bytes > _SHARED * len(data):
        raise Unreadable("too_large", "the tags unpack to more than is allowed")


def _tags(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield type and count of every tag in the first directory and in those right below it."""
    order = "little" if data.startswith(b"II") else "big"
    is_big = data[2:3] == b"\x2b"
    entry = struct.Struct(("<" if order == "little" else ">") + ("HHQ8s" if is_big else "HHL4s"))
    n_offset, n_count = (8, 8) if is_big else (4, 2)
    todo = [int.from_bytes(data[n_offset : 2 * n_offset], order)]
    for start in todo:
        first = start + n_count
        n_tags = int.from_bytes(data[start:first], order)
        table = data[first : first + n_tags * entry.size]
        whole = table[: len(table) // entry.size * entry.size]
        for tag, kind, count, value in entry.iter_unpack(whole):
            yield kind, count
            if tag in _BELOW and len(todo) <= len(_BELOW):
                todo.append(int.from_bytes(value[: _SIZES.get(kind, 0)], order))
