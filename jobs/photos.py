"""What lies in the sources of a training, and whether that is enough to learn from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from lib import images, sessions, storage
from lib.failures import BadData
from lib.records import ErrorRow, Example

MIN_IMAGES_PER_CLASS = 3
"""One to learn from, one to stop by, one to test on."""

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
    examples = []
    for entry in storage.entries(source):
        key = storage.relative(entry.uri, source)
        label, _, rest = key.partition("/")
        is_hidden = any(part.startswith(".") for part in key.split("/"))
        if rest and not is_hidden and images.has_image_extension(key):
            examples.append(Example(entry.uri, entry.etag, source, key, label))
        else:
            ignored["hidden" if is_hidden else PurePosixPath(key).suffix.lower() or key] += 1
    return examples


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
    n_measured = len(photos.examples) - photos.n_extra
    measured = {example.uri for example in photos.examples[:n_measured]}
    _check_enough([e for e in kept if e.uri in measured], "the sources", "readable ")


def split(
    examples: Sequence[Example], classes: Sequence[str], extra: Sequence[str]
) -> tuple[sessions.Sessions, sessions.Split]:
    """Return the sessions and sides of images; those of extra sources are on the train side."""
    labels = np.array([classes.index(example.label) for example in examples])
    measured = np.array([example.source not in extra for example in examples])
    found = sessions.find(
        [e for e, is_measured in zip(examples, measured, strict=True) if is_measured]
    )
    cut = sessions.split(found, labels[measured])
    names = np.full(len(examples), "extra", object)
    names[measured] = found.names
    sides = np.full(len(examples), "train", object)
    sides[measured] = cut.sides
    blocks = np.full(len(examples), "", object)
    blocks[measured] = found.blocks
    return (
        sessions.Sessions(names, found.how, blocks),
        sessions.Split(sides, cut.how, cut.warning),
    )
