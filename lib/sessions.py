"""Which images were taken together, and splits that keep them together.

Frames of one burst are nearly the same picture: with one in training and its twin in validation, a
model that has learned nothing but the burst looks perfect.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.records import Example

GAP_S = 600
"""A pause longer than this, in seconds, ends a session."""

BLOCK_S = 30
"""Where there are fewer than three sessions, they are cut into blocks of this many seconds."""

SIDES = ("train", "validation", "test")

_DATE_AND_TIME = re.compile(
    r"(?<!\d)(20\d\d)[-_.]?(\d\d)[-_.]?(\d\d)[-_.T ]+(\d\d)[-_.:h]?(\d\d)[-_.:m]?(\d\d)"
)
_TIME = re.compile(r"^(\d\d)[-_.:](\d\d)[-_.:](\d\d)(?!\d)")


@dataclass(frozen=True)
class Sessions:
    """What was found.

    Attributes:
        names: the session of each image, text (N,); they sort by age where times are known.
        how: how they were told apart, a phrase; empty where no session could be found.
        blocks: a finer part of the session of each image, text (N,), to cut a lone session by.
    """

    names: np.ndarray
    how: str
    blocks: np.ndarray


@dataclass(frozen=True)
class Split:
    """The side of each image, text (N,) of `SIDES`, how it was made, and what is wrong with it."""

    sides: np.ndarray
    how: str
    warning: str = ""

    def rows(self, *sides: str) -> np.ndarray:
        """Return the rows, int (n,), of the images on these sides."""
        return np.flatnonzero(np.isin(self.sides, sides))


def find(examples: Sequence[Example]) -> Sessions:
    """Tell sessions apart by sub-folder, or by the time in the file name, source by source."""
    sources = list(dict.fromkeys(example.source for example in examples))
    if len(sources) == 1:
        return _find(examples)
    names, blocks, hows = np.empty(len(examples), object), np.empty(len(examples), object), []
    for k, source in enumerate(sources):
        rows = [row for row, example in enumerate(examples) if example.source == source]
        found = _find([examples[row] for row in rows])
        start = f"source {k + 1}"
        names[rows] = [f"{start}, {name}" for name in found.names] if found.how else start
        blocks[rows] = [f"{start}, {block}" for block in found.blocks]
        hows.append(found.how or "a source of which nothing is known is one")
    return Sessions(names.astype(str), "; ".join(dict.fromkeys(hows)), blocks.astype(str))


def _find(examples: Sequence[Example]) -> Sessions:
    folders = [example.key.split("/")[1:-1] for example in examples]
    keys = np.array([example.key for example in examples])
    if all(folders):
        return Sessions(np.array(["/".join(folder) for folder in folders]), "by sub-folder", keys)
    times_s = [_time_s(example.key) for example in examples]
    if None not in times_s:
        return _by_time(np.array(times_s))
    return Sessions(keys, "", keys)


def _time_s(key: str) -> int | None:
    """Return the seconds that a file name tells, from any fixed start, or None."""
    name = key.rsplit("/", 1)[-1]
    found = _DATE_AND_TIME.search(name)
    if found:
        year, month, day, hour, minute, second = map(int, found.groups())
        return (((year * 12 + month) * 31 + day) * 24 + hour) * 3600 + minute * 60 + second
    found = _TIME.match(name)
    if found:
        hour, minute, second = map(int, found.groups())
        return hour * 3600 + minute * 60 + second
    return None


def _by_time(times_s: np.ndarray) -> Sessions:
    order = np.argsort(times_s, kind="stable")
    starts = np.concatenate([[True], np.diff(times_s[order]) > GAP_S])
    first_s = times_s[order][starts][np.cumsum(starts) - 1]
    names = np.empty(len(times_s), "U24")
    names[order] = [_clock(int(second)) for second in first_s]
    blocks = np.array([f"{second // BLOCK_S}" for second in times_s])
    return Sessions(
        names, f"by the time in the file name (a pause of over {GAP_S // 60} min)", blocks
    )


def _clock(second: int) -> str:
    day, rest = divmod(second, 24 * 3600)
    clock = f"{rest // 3600:02}-{rest // 60 % 60:02}-{rest % 60:02}"
    return f"{day:06}_{clock}" if day else clock


def split(sessions: Sessions, labels: np.ndarray) -> Split:
    """Return sides that share no session, and stay what they are when newer images are added.

    Sessions take their side by age: of each five, the second validates and the third tests. With
    two, the second tests; what validates then, or where there is one or none, is cut by a hash.

    Args:
        labels: int (N,); every class keeps at least one image to learn from.
    """
    found = np.unique(sessions.names) if sessions.how else np.array([])
    if len(found) >= 3:
        side_of = {name: _CYCLE[k % len(_CYCLE)] for k, name in enumerate(found)}
        sides = np.array([side_of[name] for name in sessions.names], object)
        how = f"{len(found)} sessions, {sessions.how}"
        return Split(_learnable(sides, labels), how, _missing(sides, labels))
    sides = np.array([_hashed_side(block) for block in sessions.blocks], object)
    if len(found) == 2:
        sides[sides == "test"] = "train"
        sides[sessions.names == found[1]] = "test"
        how = f"2 sessions, {sessions.how}; validation is a part of the first"
        warning = "there are two sessions: validation shares one with training"
    else:
        how = f"{sessions.how or 'no session could be told apart'}; cut by a hash"
        warning = (
            "one session: the accuracy is optimistic for any other"
            if len(found)
            else "no sessions could be told apart: twins may stand on both sides, and the accuracy "
            "is optimistic; put images into <class>/<session>/ or keep capture times in their names"
        )
    return Split(_learnable(sides, labels), how, warning)


_CYCLE = ("train", "validation", "test", "train", "train")


def _hashed_side(text: str) -> str:
    share = int(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) / 16**8
    return "train" if share < 0.6 else "validation" if share < 0.8 else "test"


def _learnable(sides: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give every side at least one image of every class, as long as the class has enough.

    Only tiny data sets need this: it may move an image when the next is added.
    """
    sides = sides.copy()
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        for side in SIDES:
            if not (sides[rows] == side).any():
                counts = {other: int((sides[rows] == other).sum()) for other in SIDES}
                richest = max(SIDES, key=lambda other: counts[other])
                if counts[richest] > 1 or side == "train":
                    sides[rows[sides[rows] == richest][0]] = side
    return sides


def _missing(sides: np.ndarray, labels: np.ndarray) -> str:
    short = [
        side for side in SIDES if len(np.unique(labels[sides == side])) < len(np.unique(labels))
    ]
    if not short:
        return ""
    return f"a class has no session of its own for {' and '.join(short)}: some images share one"
