"""How far the answers of a run are from those on the validation images: the first sign of drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.counts import Counts

LARGE = 0.25
"""The usual bound: under 0.1 nothing moved, over 0.25 it is another population (Siddiqi 2006)."""

Z_95 = 1.644854
"""The normal quantile of a one-sided 95 % bound."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Population stability indexes against the card, at least 0; None without a baseline."""

    scores: float | None
    """Of the histogram of best scores."""
    class_mix: float | None
    """Of the share of each class among the answers."""
    sentence: str


def measure(counted: Counts, metrics: Mapping[str, Any]) -> Drift:
    """Return the drift of a run's counts from a card's metrics, as far as the card has them.

    `scores_histogram` holds counts of best scores in equal bins, `class_mix` the share of answers
    by class; both on validation images.
    """
    histogram = metrics.get("scores_histogram")
    mix = metrics.get("class_mix")
    if not counted.predicted or not (histogram or mix):
        missing = "no baseline in the model's card" if counted.predicted else "no predictions"
        return Drift(None, None, f"{missing}, drift is not measured")
    n_baseline = sum(histogram) if histogram else 0
    scores = None
    if histogram and len(histogram) == len(counted.scores_histogram):
        scores = _Compared(counted.scores_histogram, histogram)
    classes = None
    if mix:
        answers = [counted.classes.get(name, 0) for name in mix]
        classes = _Compared(
            answers, [share * (n_baseline or counted.predicted) for share in mix.values()]
        )
    return Drift(
        scores.index if scores else None,
        classes.index if classes else None,
        _sentence(scores, classes),
    )


@dataclass(frozen=True, slots=True)
class _Compared:
    """Counts of a run beside the counts they should resemble."""

    found: Sequence[float]
    expected: Sequence[float]

    @property
    def index(self) -> float:
        return round(stability_index(self.found, self.expected), 4)

    @property
    def is_large(self) -> bool:
        chance = index_by_chance(len(self.found), sum(self.found), sum(self.expected))
        return self.index > max(LARGE, chance)


def stability_index(found: Sequence[float], expected: Sequence[float]) -> float:
    """Return the population stability index, at least 0, of two histograms with the same bins.

    The sum of (a - b) ln(a / b) over the shares a and b, which is Jeffreys' divergence (1946). Half
    a count is added to each bin, so that an empty one is rare and not impossible.
    """
    a, b = _shares(found), _shares(expected)
    return sum((x - y) * math.log(x / y) for x, y in zip(a, b, strict=True))


def _shares(histogram: Sequence[float]) -> list[float]:
    whole = sum(histogram) + 0.5 * len(histogram)
    return [(n + 0.5) / whole for n in histogram]


def index_by_chance(n_bins: int, n_found: float, n_expected: float) -> float:
    """Return the index that samples of one population stay under in 95 of 100 cases.

    The index is chi-squared with n_bins - 1 degrees of freedom, scaled by 1/n + 1/m (Yurdakul
    2018); the quantile is Wilson and Hilferty's (1931).
    """
    degrees = max(n_bins - 1, 1)
    step = 2 / (9 * degrees)
    quantile = degrees * (1 - step + Z_95 * math.sqrt(step)) ** 3
    return quantile * (1 / max(n_found, 1) + 1 / max(n_expected, 1))


def _sentence(scores: _Compared | None, classes: _Compared | None) -> str:
    large = [
        f"{what} ({compared.index:.2f})"
        for what, compared in (
            ("how sure the model is", scores),
            ("how often each class is seen", classes),
        )
        if compared and compared.is_large
    ]
    if not large:
        return "the answers look like those on the validation images"
    return (
        f"these images are not like the validation images: {' and '.join(large)} moved by more "
        f"than {LARGE}; look at some, and train on images like these"
    )
