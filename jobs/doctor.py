"""What is wrong with a data set, as a short table: before the training, and from its scores."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from jobs.photos import MIN_IMAGES_PER_CLASS, Photos
from lib import metrics
from lib.commands import say
from lib.failures import BadData
from lib.records import ErrorRow, Example

KERAS_ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png"})
"""What Keras' image_dataset_from_directory lists; it drops all else without a word."""

UNREAD_PICTURES = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".nef"}
)
"""Endings of photographs that are not read: whoever has them takes them for part of the data."""

TINY_CLASS = 20
"""Of fewer images than this, one more that is wrong moves a class's recall by over 5 %."""

MAX_IMBALANCE = 5
"""How many times the images of the smallest class the largest may have without a word."""

MIN_ACCURACY = 0.8
"""Of a model that is right less often, a mistake says more about the model than about the label."""

N_EXAMPLES, N_TOLD = 12, 2
"""Examples of a finding that are kept, and that are printed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the data that a person should know: a line of the table."""

    finding: str
    """A word to count by."""
    n_images: int
    """How many images it is about."""
    says: str
    """A phrase for a person: what it is and what became of it."""
    examples: tuple[str, ...] = ()
    """Where to look, at most `N_EXAMPLES`."""


@dataclass(frozen=True)
class Checkup:
    """What is wrong with a data set, and what of it is fit to learn from.

    Attributes:
        findings: none where all is well.
        rows: the images to learn from, int (n,), ascending.
        conflicts: images with the same pixels in more than one class, a group each.
    """

    findings: list[Finding]
    rows: np.ndarray
    conflicts: list[list[Example]]


def examine(
    found: Photos,
    digests: Sequence[str],
    examples: Sequence[Example],
    unreadable: Sequence[ErrorRow],
) -> Checkup:
    """Look at the listing and the pixels of a data set, before anything is learned from it.

    Of the copies of an image one is fit to learn from, the first: twice it would count twice, and
    could be learned from and measured on. Of copies in several classes none is, because nobody
    knows which of the labels is right.

    Args:
        digests: of the pixels of the images that could be decoded, N.
        examples: where they came from, N.
    """
    groups = _same_pixels(digests)
    is_conflict = [len({examples[row].label for row in group}) > 1 for group in groups]
    conflicts = [group for group, is_one in zip(groups, is_conflict, strict=True) if is_one]
    copies = [group for group, is_one in zip(groups, is_conflict, strict=True) if not is_one]
    left_out = [row for group in conflicts for row in group]
    left_out += [row for group in copies for row in group[1:]]
    rows = np.setdiff1d(np.arange(len(examples)), np.array(left_out, int))
    per_class = Counter(dict.fromkeys(found.classes, 0))
    per_class.update(examples[row].label for row in rows)
    findings = [
        _unreadable(unreadable),
        _dropped_by_keras(found.examples),
        _not_read(found.ignored),
        _label_conflict(_named(examples, conflicts)),
        _copies(_named(examples, copies)),
        _tiny_class(per_class),
        _imbalance(per_class),
    ]
    return Checkup([f for f in findings if f is not None], rows, _named(examples, conflicts))


def check(found: Photos, examples: Sequence[Example], checkup: Checkup) -> None:
    """Refuse a data set of which too little is fit to learn from.

    Raises:
        BadData: a class is the same images as another, or has too few of its own.
    """
    measured = {example.uri for example in found.measured}
    own = Counter(examples[row].label for row in checkup.rows if examples[row].uri in measured)
    for name in found.classes:
        others = _others(name, checkup.conflicts)
        if not own[name] and others:
            raise BadData(
                "two classes must be different images. "
                f"Received: {name}, of which every image is in {' or '.join(others)} too"
            )
        if own[name] < MIN_IMAGES_PER_CLASS:
            raise BadData(
                f"a class needs at least {MIN_IMAGES_PER_CLASS} different images of its own. "
                f"Received: {own[name]} ({name})"
            )


def suspects(
    labels: np.ndarray, scores: np.ndarray, examples: Sequence[Example], classes: Sequence[str]
) -> list[Finding]:
    """Return a finding about the images whose label is likely wrong, or none.

    Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068): an image is
    suspect where the best score is another class's, and as high as that class's own images have it
    in the mean. Only of a model that is good enough to be asked.

    Args:
        labels: int (n,).
        scores: (n, C), by a model that had not seen the image.
        examples: where the images came from, n.
        classes: C names.
    """
    if metrics.accuracy(labels, scores).value < MIN_ACCURACY:
        return []
    usual = np.array([_mean(scores[labels == c, c]) for c in range(len(classes))])
    answers, rows = scores.argmax(1), metrics.mistakes(labels, scores)
    rows = [row for row in rows if scores[row, answers[row]] >= usual[answers[row]]]
    shown = [
        f"{examples[row].uri} ({classes[labels[row]]}, looks like {classes[answers[row]]})"
        for row in rows
    ]
    says = f"of {len(labels):,} measured on look like another class: are their labels right?"
    return [Finding("label_suspect", len(rows), says, _first(shown))] if rows else []


def tell(about: str, findings: Sequence[Finding]) -> None:
    """Print findings as a table on stderr, or one line where there are none."""
    n = len(findings)
    say(f"{about}: {n or 'no'} finding{'' if n == 1 else 's'}")
    for found in findings:
        examples = f" ({', '.join(found.examples[:N_TOLD])})" if found.examples else ""
        say(f"  {found.finding:<16} {found.n_images:>6,}  {found.says}{examples}")


def _same_pixels(digests: Sequence[str]) -> list[list[int]]:
    """Return the rows that share all their pixels, a group each, in the order of the first."""
    groups = defaultdict(list)
    for row, digest in enumerate(digests):
        groups[digest].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def _named(examples: Sequence[Example], groups: Sequence[Sequence[int]]) -> list[list[Example]]:
    return [[examples[row] for row in group] for group in groups]


def _others(name: str, conflicts: Sequence[Sequence[Example]]) -> list[str]:
    """Return the classes that share images with a class."""
    labels = [{example.label for example in group} for group in conflicts]
    return sorted(set().union(*(group for group in labels if name in group)) - {name})


def _unreadable(rows: Sequence[ErrorRow]) -> Finding | None:
    codes = Counter(row.error["code"] for row in rows)
    says = f"left out: {_counts(codes)}"
    return _finding("unreadable", len(rows), says, [row.uri for row in rows])


def _dropped_by_keras(examples: Sequence[Example]) -> Finding | None:
    others = [e for e in examples if _ending(e) not in KERAS_ENDINGS]
    endings = Counter(map(_ending, others))
    says = f"read here; Keras' image_dataset_from_directory drops them silently: {_counts(endings)}"
    return _finding("dropped_by_keras", len(others), says, [e.uri for e in others])


def _not_read(ignored: Mapping[str, int]) -> Finding | None:
    endings = {ending: n for ending, n in ignored.items() if ending in UNREAD_PICTURES}
    says = f"photographs in formats that are not read; save them as JPEG: {_counts(endings)}"
    return _finding("not_read", sum(endings.values()), says)


def _label_conflict(groups: Sequence[Sequence[Example]]) -> Finding | None:
    says = "the same picture in several classes, which is right nobody knows: all left out"
    return _finding("label_conflict", sum(map(len, groups)), says, list(map(_equal, groups)))


def _copies(groups: Sequence[Sequence[Example]]) -> Finding | None:
    says = "copies of another image of their class: left out, one of each stays"
    return _finding("copies", sum(len(g) - 1 for g in groups), says, list(map(_equal, groups)))


def _tiny_class(per_class: Mapping[str, int]) -> Finding | None:
    tiny = {name: n for name, n in per_class.items() if n < TINY_CLASS}
    says = f"in classes of fewer than {TINY_CLASS}, whose figures are a guess: {_counts(tiny)}"
    return _finding("tiny_class", sum(tiny.values()), says)


def _imbalance(per_class: Mapping[str, int]) -> Finding | None:
    fewest, most = (pick(per_class, key=per_class.__getitem__) for pick in (min, max))
    if per_class[most] <= MAX_IMBALANCE * per_class[fewest]:
        return None
    says = f"in {fewest}, against {per_class[most]:,} in {most}: the smaller is seldom answered"
    return Finding("imbalance", per_class[fewest], says)


def _finding(name: str, n_images: int, says: str, examples: Sequence[str] = ()) -> Finding | None:
    return Finding(name, n_images, says, _first(examples)) if n_images else None


def _first(examples: Sequence[str]) -> tuple[str, ...]:
    return tuple(examples[:N_EXAMPLES])


def _equal(group: Sequence[Example]) -> str:
    return " = ".join(example.uri for example in group[:3]) + (" = …" if len(group) > 3 else "")


def _ending(example: Example) -> str:
    return PurePosixPath(example.key).suffix.lower()


def _counts(counts: Mapping[str, int], n_shown: int = 6) -> str:
    told = [f"{name} {n:,}" for name, n in sorted(counts.items())]
    return ", ".join(told[:n_shown]) + (", …" if len(told) > n_shown else "")


def _mean(scores: np.ndarray) -> float:
    return float(scores.mean()) if len(scores) else np.inf
