"""Which images were taken together, and splits that keep them together.

Frames of one burst are nearly the same picture: with one in training and its twin in validation, a
model that has learned nothing but the burst looks perfect.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lib import likeness
from lib.records import Example

GAP_S = 600
"""A pause longer than this, in seconds, ends a session."""

BLOCK_S = 30
"""Where there are fewer than three sessions, they are cut into blocks of this many seconds."""

SIDES = ("train", "validation", "test")

TOLD = ("by sessions.csv", "by sub-folder")
"""Ways that a person chose, to which a split from before has to give way."""

MIN_SESSIONS = len(SIDES)

CLUSTERS = "clusters of near twins"
"""A way to cut by blocks."""

UNKNOWN = "unknown"
"""The session of images of which nothing is known, beside others that are."""

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
        block: what a block is, a phrase; empty where every image is its own.
    """

    names: np.ndarray
    how: str
    blocks: np.ndarray
    block: str = ""

    @property
    def n_found(self) -> int:
        """How many sessions there are; 0 where none could be found."""
        return len(np.unique(self.names)) if self.how else 0

    @property
    def needs_likeness(self) -> bool:
        """Whether only the likeness of the images can tell which belong together."""
        return self.n_found < MIN_SESSIONS and not self.block


@dataclass(frozen=True)
class Split:
    """The side of each image, text (N,) of `SIDES`, how it was made, and what is wrong with it."""

    sides: np.ndarray
    how: str
    warning: str = ""

    def rows(self, *sides: str) -> np.ndarray:
        """Return the rows, int (n,), of the images on these sides."""
        return np.flatnonzero(np.isin(self.sides, sides))


def find(examples: Sequence[Example], taken_s: np.ndarray | None = None) -> Sessions:
    """Tell sessions apart, source by source.

    In this order: by `sessions.csv`, by sub-folder, by the time in the file name, by the capture
    time in the image. Where none of them tells anything, by pauses between uploads.

    Args:
        taken_s: the capture time in each image, float (N,), seconds from any start, NaN where
            unknown; None before the images were read.
    """
    taken_s = np.full(len(examples), np.nan) if taken_s is None else taken_s
    sources = list(dict.fromkeys(example.source for example in examples))
    if len(sources) == 1:
        return _find(examples, taken_s)
    names, blocks = np.empty(len(examples), object), np.empty(len(examples), object)
    hows, cuts = [], []
    for k, source in enumerate(sources):
        rows = [row for row, example in enumerate(examples) if example.source == source]
        found = _find([examples[row] for row in rows], taken_s[rows])
        start = f"source {k + 1}"
        names[rows] = [f"{start}, {name}" for name in found.names] if found.how else start
        blocks[rows] = [f"{start}, {block}" for block in found.blocks]
        hows.append(found.how or "a source of which nothing is known is one")
        cuts.append(found.block)
    block = cuts[0] if all(cuts) else ""
    return Sessions(names.astype(str), "; ".join(dict.fromkeys(hows)), blocks.astype(str), block)


def _find(examples: Sequence[Example], taken_s: np.ndarray) -> Sessions:
    keys = np.array([example.key for example in examples])
    names, blocks, hows = np.full(len(keys), "", object), keys.astype(object), []

    def tell(how: str, told: Sequence[str], finer: Sequence[str] = keys) -> None:
        new = (names == "") & (np.array(told, object) != "")
        if new.any():
            names[new], blocks[new] = np.array(told, object)[new], np.array(finer, object)[new]
            hows.append(how)

    tell("by sessions.csv", [example.session for example in examples])
    tell("by sub-folder", ["/".join(key.split("/")[1:-1]) for key in keys])
    pause = f"(a pause of over {GAP_S // 60} min)"
    tell(f"by the time in the file name {pause}", *_by_time([_time_s(key) for key in keys]))
    tell(f"by the capture time in the image {pause}", *_by_time(taken_s))
    if not hows:
        uploads, finer = _by_time([example.uploaded_s for example in examples])
        if len(set(uploads)) > 1:
            tell(f"by the time of upload {pause}", uploads, finer)
    if not hows:
        return Sessions(keys, "", keys)
    if (names == "").any():
        names[names == ""] = UNKNOWN
        hows.append("those of which nothing is known are one")
    in_time = (blocks != keys).all()
    return Sessions(
        names.astype(str),
        "; ".join(hows),
        blocks.astype(str),
        f"blocks of {BLOCK_S} s" if in_time else "",
    )


def _time_s(key: str) -> float:
    """Return the seconds that a file name tells, from any fixed start, or NaN."""
    name = key.rsplit("/", 1)[-1]
    found = _DATE_AND_TIME.search(name)
    if found:
        year, month, day, hour, minute, second = map(int, found.groups())
        return (((year * 12 + month) * 31 + day) * 24 + hour) * 3600 + minute * 60 + second
    found = _TIME.match(name)
    if found:
        hour, minute, second = map(int, found.groups())
        return hour * 3600 + minute * 60 + second
    return float("nan")


def _by_time(times_s: Sequence[float]) -> tuple[list[str], list[str]]:
    """Return the session and the block of each image, both empty where its time is unknown."""
    times_s = np.array(times_s, float)
    known = np.sort(times_s[~np.isnan(times_s)])
    starts_s = known[np.concatenate([[True], np.diff(known) > GAP_S])] if len(known) else known
    names, blocks = [], []
    for time_s in times_s:
        is_known = not np.isnan(time_s)
        start_s = starts_s[np.searchsorted(starts_s, time_s, "right") - 1] if is_known else 0
        names.append(_clock(int(start_s)) if is_known else "")
        blocks.append(f"{int(time_s // BLOCK_S)}" if is_known else "")
    return names, blocks


def _clock(second: int) -> str:
    day, rest = divmod(second, 24 * 3600)
    clock = f"{rest // 3600:02}-{rest // 60 % 60:02}-{rest % 60:02}"
    return f"{day:06}_{clock}" if day else clock


def with_likeness(sessions: Sessions, features: np.ndarray) -> Sessions:
    """Return the sessions with clusters of near twins for blocks.

    Args:
        features: what a pooled backbone makes of each image, float (N, D).
    """
    found = likeness.clusters(features)
    if len(np.unique(found)) == len(found):
        return sessions
    return replace(sessions, blocks=found.astype(str), block=CLUSTERS)


def split(sessions: Sessions, labels: np.ndarray, before: np.ndarray | None = None) -> Split:
    """Return sides that share no session, and stay what they are when images are added.

    Sessions take their side by age: of each five, the second validates and the third tests. With
    two, the second tests; what validates then, or where there is one or none, is cut by blocks.

    Args:
        labels: int (N,); every class keeps at least one image to learn from.
        before: the side that each image had in an earlier split, text (N,), empty for new ones.
    """
    before = np.full(len(labels), "", object) if before is None else before.astype(object)
    if sessions.n_found >= MIN_SESSIONS:
        side_of = _side_of_each(sessions.names, before)
        sides = np.array([side_of[name] for name in sessions.names], object)
        how = f"{len(side_of)} sessions, {sessions.how}"
        sides = np.where(before == "", sides, before)
        warning = _torn(sessions.names, sides)
    else:
        sides, how, warning = _cut(sessions, labels, before)
        sides = np.where(before == "", sides, before)
    return Split(_learnable(sides, labels), how, warning or _missing(sides, labels))


def _side_of_each(names: np.ndarray, before: np.ndarray) -> dict[str, str]:
    """Return the side of each session: most of its images' from before, else the next in turn."""
    found = np.unique(names)
    side_of = {}
    for name in found:
        known = Counter(before[(names == name) & (before != "")])
        if known:
            side_of[name] = known.most_common(1)[0][0]
    for name in found:
        if name not in side_of:
            bare = [side for side in SIDES if side not in side_of.values()]
            side_of[name] = bare[0] if bare else _CYCLE[len(side_of) % len(_CYCLE)]
    return side_of


def _cut(sessions: Sessions, labels: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, str, str]:
    """Return sides for fewer sessions than sides, how they were made and what is wrong with it."""
    by_twins = sessions.block == CLUSTERS
    if by_twins:
        sides = _shared_out(sessions.blocks, labels, before)
    else:
        sides = np.array([_hashed_side(block) for block in sessions.blocks], object)
    cut_by = sessions.block or "a hash"
    if sessions.n_found == 2:
        sides[sides == "test"] = "train"
        sides[sessions.names == np.unique(sessions.names)[1]] = "test"
        return (
            sides,
            f"2 sessions, {sessions.how}; validation is a part of the first, cut by {cut_by}",
            "there are two sessions: validation shares one with training",
        )
    how = f"{sessions.how or 'no session could be told apart'}; cut by {cut_by}"
    if sessions.n_found:
        return sides, how, "one session: the accuracy is optimistic for any other"
    twins = "were kept together, but" if by_twins else "may stand on both sides, and"
    return (
        sides,
        how,
        f"no sessions could be told apart: twins {twins} the accuracy is optimistic; put images "
        "into <class>/<session>/, list them in sessions.csv, or keep capture times in their names",
    )


_CYCLE = ("train", "validation", "test", "train", "train")

_SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def _hashed_side(text: str) -> str:
    share = int(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) / 16**8
    return "train" if share < 0.6 else "validation" if share < 0.8 else "test"


def _shared_out(blocks: np.ndarray, labels: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Give whole blocks to the sides, the largest first, until each has its share of each class."""
    sides = before.copy()
    found, block_of, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    for block in np.argsort(-sizes, kind="stable"):
        rows = np.flatnonzero(block_of == block)
        known = Counter(sides[rows][sides[rows] != ""])
        label = np.bincount(labels[rows]).argmax()
        side = known.most_common(1)[0][0] if known else _neediest(sides[labels == label])
        sides[rows] = np.where(sides[rows] == "", side, sides[rows])
    return sides


def _neediest(sides: np.ndarray) -> str:
    """Return the side that lacks most of its share of these images."""
    return max(SIDES, key=lambda side: _SHARES[side] - np.mean(sides == side))


def _torn(names: np.ndarray, sides: np.ndarray) -> str:
    torn = sum(len(set(sides[names == name])) > 1 for name in np.unique(names))
    if not torn:
        return ""
    return f"{torn} sessions stand on two sides: no image leaves the side it once had"


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
