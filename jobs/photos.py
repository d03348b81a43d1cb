"""What lies in the sources of a training, and whether that is enough to learn from."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np

from lib import images, sessions, storage
from lib.failures import BadData
from lib.records import ErrorRow, Example

MIN_IMAGES_PER_CLASS = 3
"""One to learn from, one to stop by, one to test on."""

SESSIONS_CSV = "sessions.csv"
"""The file in a source that names sessions; its columns are image and session."""

EXTRA = "extra"
"""The session of images that are learned from and never measured on."""

MAX_UNREADABLE_SHARE = 0.1
"""More unreadable images than this share mean that something else is wrong."""


@dataclass(frozen=True)
class Photos:
    """Images of classes, listed and not read yet.

    Attributes:
        examples: the images; those of the extra sources come last.
        n_extra: how many are from extra sources: learned from, never measured on.
        ignored: how many other files there are, by their ending.
    """

    examples: list[Example]
    n_extra: int
    ignored: Counter[str]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in alphabetical order: the order of the scores."""
        return tuple(sorted({example.label for example in self.examples}))

    @property
    def measured(self) -> list[Example]:
        """The images that a model may be measured on."""
        return self.examples[: len(self.examples) - self.n_extra]

    @property
    def per_class(self) -> Counter[str]:
        """How many images each class has."""
        return Counter(example.label for example in self.examples)

    @property
    def fingerprint(self) -> str:
        """A digest of every image's place and etag: unchanged data has the same."""
        lines = sorted(f"{example.key}\t{example.etag}" for example in self.examples)
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def find(sources: Sequence[str], extra: Sequence[str] = ()) -> Photos:
    """List the images below the sources; a class is the first folder below its source.

    Raises:
        BadData: there are no images, fewer than two classes, or a class has too few.
    """
    ignored = Counter[str]()
    examples = [example for source in sources for example in _below(source, ignored)]
    _check_enough(examples, ", ".join(sources))
    more = [example for source in extra for example in _below(source, ignored)]
    foreign = {example.label for example in more} - {example.label for example in examples}
    if foreign:
        raise BadData(
            f"{', '.join(extra)}: extra images must be of the classes that are measured. "
            f"Received: {', '.join(sorted(foreign))}"
        )
    return Photos(examples + more, len(more), ignored)


def _below(source: str, ignored: Counter[str]) -> list[Example]:
    examples, named = [], {}
    for entry in storage.entries(source):
        key = storage.relative(entry.uri, source)
        label, _, rest = key.partition("/")
        is_hidden = any(part.startswith(".") for part in key.split("/"))
        if rest and not is_hidden and images.has_image_extension(key):
            examples.append(Example(entry.uri, entry.etag, source, key, label, entry.modified_s))
        elif key == SESSIONS_CSV:
            named = _named_sessions(entry.uri)
        else:
            ignored["hidden" if is_hidden else PurePosixPath(key).suffix.lower() or key] += 1
    if stray := named.keys() - {example.key for example in examples}:
        ignored[f"lines of {SESSIONS_CSV} without an image"] += len(stray)
    return [replace(example, session=named.get(example.key, "")) for example in examples]


def _named_sessions(uri: str) -> dict[str, str]:
    """Return the session of each image, by its place below the source."""
    text = storage.read(uri, max_bytes=images.MAX_BYTES).data.decode("utf-8-sig", "replace")
    lines = csv.DictReader(io.StringIO(text))
    if not {"image", "session"} <= set(lines.fieldnames or ()):
        raise BadData(
            f"{uri}: the columns must be image (as <class>/<image>) and session. "
            f"Received: {', '.join(lines.fieldnames or ()) or 'nothing'}"
        )
    return {line["image"]: line["session"] or "" for line in lines}


def _check_enough(examples: Sequence[Example], where: str, readable: str = "") -> None:
    per_class = Counter(example.label for example in examples)
    if not per_class:
        raise BadData(f"{where}: images must lie in <class>/<image>. Found: no image in any folder")
    if len(per_class) < 2:
        raise BadData(f"{where}: classes must be at least 2. Received: 1 ({next(iter(per_class))})")
    for name, n_images in sorted(per_class.items()):
        if n_images < MIN_IMAGES_PER_CLASS:
            raise BadData(
                f"{where}: a class needs at least {MIN_IMAGES_PER_CLASS} {readable}images. "
                f"Received: {n_images} ({name})"
            )


def check_readable(photos: Photos, kept: Sequence[Example], unreadable: Sequence[ErrorRow]) -> None:
    """Refuse a data set of which too little could be read.

    Raises:
        BadData: too many images are unreadable, or a class has too few that are not.
    """
    if len(unreadable) > MAX_UNREADABLE_SHARE * len(photos.examples):
        raise BadData(
            f"at most {MAX_UNREADABLE_SHARE:.0%} of the images may be unreadable. "
            f"Received: {len(unreadable)} of {len(photos.examples)}"
        )
    measured = {example.uri for example in photos.measured}
    _check_enough([e for e in kept if e.uri in measured], "the sources", "readable ")


def find_sessions(
    examples: Sequence[Example], extra: Sequence[str], taken_s: np.ndarray | None = None
) -> sessions.Sessions:
    """Return the sessions of images; those of extra sources are in one called `extra`.

    Args:
        taken_s: the capture time in each image, float (N,), as `sessions.find` takes it.
    """
    rows = measured_rows(examples, extra)
    known_s = None if taken_s is None else taken_s[rows]
    return _widened(sessions.find([examples[row] for row in rows], known_s), rows, len(examples))


def with_likeness(
    groups: sessions.Sessions,
    examples: Sequence[Example],
    extra: Sequence[str],
    features: np.ndarray,
) -> sessions.Sessions:
    """Return sessions that are cut by near twins; features are float (N, D)."""
    rows = measured_rows(examples, extra)
    alone = replace(groups, names=groups.names[rows], blocks=groups.blocks[rows])
    return _widened(sessions.with_likeness(alone, features[rows]), rows, len(examples))


def split(
    groups: sessions.Sessions,
    examples: Sequence[Example],
    classes: Sequence[str],
    extra: Sequence[str],
    before: np.ndarray | None = None,
) -> sessions.Split:
    """Return the side of each image; those of extra sources are on the train side.

    Args:
        before: the side of each image in an earlier split, text (N,), empty for new ones.
    """
    rows = measured_rows(examples, extra)
    labels = np.array([classes.index(examples[row].label) for row in rows])
    alone = replace(groups, names=groups.names[rows], blocks=groups.blocks[rows])
    cut = sessions.split(alone, labels, None if before is None else before[rows])
    sides = np.full(len(examples), "train", object)
    sides[rows] = cut.sides
    return replace(cut, sides=sides)


def measured_rows(examples: Sequence[Example], extra: Sequence[str]) -> np.ndarray:
    """Return the rows of all images but those of extra sources, int (n,)."""
    return np.flatnonzero([example.source not in extra for example in examples])


def _widened(groups: sessions.Sessions, rows: np.ndarray, n_images: int) -> sessions.Sessions:
    names, blocks = np.full(n_images, EXTRA, object), np.full(n_images, "", object)
    names[rows], blocks[rows] = groups.names, groups.blocks
    return replace(groups, names=names, blocks=blocks)
