"""What rows add up to: counted for a part, added up for a shard and for a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lib.records import ErrorRow, Prediction

N_BINS = 10
"""Equal bins, 0 to 1, in which best scores are counted; the card's histogram has as many."""

MAX_EXAMPLES = 3
"""How many images of each error code are named."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of rows; the same whatever the order in which parts are added."""

    predicted: int = 0
    errors: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    not_sure: int = 0
    score_sum: float = 0.0
    scores_histogram: list[int] = field(default_factory=lambda: [0] * N_BINS)
    errors_by_code: dict[str, int] = field(default_factory=dict)
    error_examples: dict[str, list[str]] = field(default_factory=dict)


def of(predictions: Sequence[Prediction], errors: Sequence[ErrorRow]) -> Counts:
    """Return the counts of some rows."""
    bins = Counter(min(int(row.score * N_BINS), N_BINS - 1) for row in predictions)
    return Counts(
        predicted=len(predictions),
        errors=len(errors),
        classes=_total([{row.label: 1} for row in predictions]),
        not_sure=sum(not row.confident for row in predictions),
        score_sum=round(sum(row.score for row in predictions), 6),
        scores_histogram=[bins[b] for b in range(N_BINS)],
        errors_by_code=_total([{row.error["code"]: 1} for row in errors]),
        error_examples=_examples([{row.error["code"]: [row.uri]} for row in errors]),
    )


def total(counts: Sequence[Counts]) -> Counts:
    """Return the sum of some counts; the examples are those of the first."""
    return Counts(
        predicted=sum(c.predicted for c in counts),
        errors=sum(c.errors for c in counts),
        classes=_total(c.classes for c in counts),
        not_sure=sum(c.not_sure for c in counts),
        score_sum=round(sum(c.score_sum for c in counts), 6),
        scores_histogram=[sum(c.scores_histogram[b] for c in counts) for b in range(N_BINS)],
        errors_by_code=_total(c.errors_by_code for c in counts),
        error_examples=_examples(c.error_examples for c in counts),
    )


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums = Counter[str]()
    for count in counts:
        for name, n in count.items():
            sums[name] += n
    return dict(sorted(sums.items()))


def _examples(named: Iterable[Mapping[str, list[str]]]) -> dict[str, list[str]]:
    examples: dict[str, list[str]] = {}
    for codes in named:
        for code, uris in codes.items():
            examples[code] = [*examples.get(code, []), *uris][:MAX_EXAMPLES]
    return dict(sorted(examples.items()))
