"""What a run is asked to classify: folders, prefixes and lists of keys, each object once.

A source that ends in `.txt`, `.csv` or `.jsonl` is a list. A text list has a key a line; a CSV
names its columns in the first line, a JSONL holds objects: `uri` or `key`, and if they know them
`etag` and `size_bytes`, which are then believed. A key is an `s3://` address, a path from the root,
or lies below the folder that the list is in.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from jobs.ahead import ahead
from jobs.patience import patiently
from lib import records, storage
from lib.failures import Misuse

LISTS = (".txt", ".csv", ".jsonl")

N_ASKING = 32
"""Threads that ask for the etag and size of what a list names."""


@dataclass(frozen=True, slots=True)
class Image:
    """One line of a shard file: an image as it was when it was listed."""

    uri: str
    etag: str
    """Empty where a list names an object that was not there."""
    size_bytes: int


def walk(sources: Sequence[str], output: str) -> Iterator[tuple[str, Image]]:
    """Yield every object of the sources once, with the key by which it is chosen.

    A run's own output below a source is left out, so that a run does not change what it is asked.

    Raises:
        Misuse: a list has no keys, or the output is a source.
    """
    inside = tuple(filter(None, (_inside(output, source) for source in sources)))
    found = chain.from_iterable(map(_objects, sources))
    for key, image in _once(found) if len(sources) > 1 else found:
        if not image.uri.startswith(inside):
            yield key, image


def _objects(source: str) -> Iterator[tuple[str, Image]]:
    if _is_list(source):
        yield from _listed(source)
        return
    for entry in storage.entries(source):
        key = storage.relative(entry.uri, source)
        yield key, Image(entry.uri, entry.etag, entry.size_bytes)


def _is_list(source: str) -> bool:
    return source.lower().endswith(LISTS)


def _inside(output: str, source: str) -> str | None:
    """Return `output` as a listing of `source` spells it, or None where it lies elsewhere."""
    if _is_list(source):
        return None
    there, here = (
        storage.join(place if storage.is_s3(place) else os.path.realpath(place), "")
        for place in (output, source)
    )
    if there == here:
        raise Misuse(f"OUTPUT must be another place than SOURCE. Received: {output}")
    return storage.join(source, there.removeprefix(here)) if there.startswith(here) else None


def _once(found: Iterable[tuple[str, Image]]) -> Iterator[tuple[str, Image]]:
    """Drop what an earlier source held already; known by 12 bytes of a digest, to save memory."""
    seen: set[bytes] = set()
    for key, image in found:
        name = hashlib.blake2b(image.uri.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if name not in seen:
            seen.add(name)
            yield key, image


# ---- Lists ------------------------------------------------------------------------------------


def _listed(source: str) -> Iterator[tuple[str, Image]]:
    """Yield what a list names, in the order of the keys, whatever the order in the list."""
    folder = source.rpartition("/")[0] if "/" in source else "."
    named = {_key(fields, source): fields for fields in _lines(source)}

    def find(key: str) -> tuple[str, Image]:
        is_whole = storage.is_s3(key) or key.startswith("/")
        uri = key if is_whole else storage.join(folder, key)
        return key, _believed(uri, named[key]) or _asked(uri)

    yield from ahead(find, sorted(named, key=_bytes), N_ASKING, 4 * N_ASKING)


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _lines(source: str) -> Iterator[Mapping[str, Any]]:
    text = storage.read(source).data.decode("utf-8-sig", "surrogateescape")
    if source.lower().endswith(".csv"):
        return csv.DictReader(io.StringIO(text, newline=""))
    # Not splitlines(): a key may hold what Unicode calls a line's end.
    lines = (line.removesuffix("\r") for line in text.split("\n") if line.strip())
    if source.lower().endswith(".jsonl"):
        return (records.parse_object(line, source) for line in lines)
    return ({"key": line} for line in lines)


def _key(fields: Mapping[str, Any], source: str) -> str:
    key = fields.get("uri") or fields.get("key")
    if not key or not isinstance(key, str):
        names = ", ".join(map(str, fields))
        raise Misuse(f"{source}: a list must name a uri or key in each line. Received: {names}")
    return key


def _believed(uri: str, fields: Mapping[str, Any]) -> Image | None:
    etag, size = fields.get("etag"), str(fields.get("size_bytes", ""))
    return Image(uri, str(etag), int(size)) if etag and size.isdecimal() else None


def _asked(uri: str) -> Image:
    try:
        entry = patiently(lambda: storage.stat(uri))
    except storage.Missing:
        return Image(uri, "", 0)
    return Image(uri, entry.etag, entry.size_bytes)
