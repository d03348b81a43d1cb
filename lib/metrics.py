"""How good a model is, and how sure we are of that: numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959964
"""The normal quantile of a two-sided 95 % interval."""

CALIBRATION_BINS = 15

SIGNIFICANCE = 0.05
"""A challenger is better where chance alone would make the same difference less often than this."""

CLASS_MARGIN = 0.05
"""The share of a class's images that a new champion may lose; one image is always forgiven."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of right answers, 0 to 1, with its 95 % interval and the images it was counted on."""

    value: float
    low: float
    high: float
    n_images: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], {self.n_images} images"


def accuracy(labels: np.ndarray, scores: np.ndarray) -> Accuracy:
    """Return the accuracy of scores (N, C) against labels, int (N,).

    The interval is Wilson's (1927), which stays inside 0 to 1 and is right for few images. It takes
    images for independent; images of one session are not, so the truth is wider.
    """
    n = len(labels)
    if n == 0:
        return Accuracy(0.0, 0.0, 1.0, 0)
    p = float(np.mean(scores.argmax(1) == labels))
    middle = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 * np.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2)) / (1 + Z_95**2 / n)
    return Accuracy(p, max(0.0, float(middle - half)), min(1.0, float(middle + half)), n)


def mistakes(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the rows, int (n,), of scores (N, C) that are wrong, the surest of them first."""
    rows = np.flatnonzero(scores.argmax(1) != labels)
    return rows[np.argsort(-scores[rows].max(1), kind="stable")]


def confusion(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return counts, int (C, C): row the true class, column the answer."""
    n_classes = scores.shape[1]
    counts = np.zeros((n_classes, n_classes), int)
    np.add.at(counts, (labels, scores.argmax(1)), 1)
    return counts


def per_class(labels: np.ndarray, scores: np.ndarray) -> list[dict[str, float]]:
    """Return precision, recall and n_images of each class; 0 where nothing was told or shown."""
    counts = confusion(labels, scores)
    right = counts.diagonal()
    shown, answered = counts.sum(1), counts.sum(0)
    return [
        {
            "precision": float(right[c] / max(answered[c], 1)),
            "recall": float(right[c] / max(shown[c], 1)),
            "n_images": int(shown[c]),
        }
        for c in range(len(right))
    ]


def calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the expected calibration error, 0 to 1: how far best scores are from the truth.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, with equal bins.
    """
    best = scores.max(1)
    right = scores.argmax(1) == labels
    bins = np.minimum((best * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [
        abs(right[bins == b].mean() - best[bins == b].mean()) * np.mean(bins == b)
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return scores, rows summing to 1, for logits (N, C)."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def log_loss(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean negative log of the true class's score."""
    true = scores[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, 1e-12)).mean())


def best_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature, 0.25 to 8, under which logits (N, C) tell the least log loss.

    Temperature scaling (Guo et al. 2017); a grid is exact enough for one smooth number.
    """
    grid = np.geomspace(0.25, 8, 101)
    losses = [log_loss(labels, softmax(logits, t)) for t in grid]
    return float(grid[int(np.argmin(losses))])


def best_threshold(labels: np.ndarray, scores: np.ndarray, wanted: float = 0.99) -> float:
    """Return the best score, 0.5 to 0.9, under which the answer is to be "not sure".

    Answers above it are right in a share of `wanted`, as far as 0.9 allows; and it is as high as it
    can be while a share of `wanted` of the right answers stays above, because what the model was
    never trained on scores below what it knows.
    """
    best, right = scores.max(1), scores.argmax(1) == labels
    grid = np.arange(50, 91) / 100
    trusted = next(
        (t for t in grid if (best >= t).any() and right[best >= t].mean() >= wanted), grid[-1]
    )
    usual = np.quantile(best[right], 1 - wanted) if right.any() else 0.0
    return float(np.clip(np.floor(usual * 100) / 100, trusted, grid[-1]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a challenger may replace the champion, and the figures behind it."""

    promote: bool
    reason: str
    """A phrase for a person, with the figures."""
    p_value: float
    """McNemar's, 0 to 1."""
    n_better: int
    """Images that only the challenger gets right."""
    n_worse: int
    """Images that only the champion gets right."""


def mcnemar(n_better: int, n_worse: int) -> float:
    """Return how likely chance alone splits two models' differences so unevenly, 0 to 1.

    The exact, two-sided test of McNemar (1947): the images that only one of two models gets right
    are coin tosses if the models are equally good. It is right for few images too.
    """
    n = n_better + n_worse
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(min(n_better, n_worse) + 1)
    log_choices = log_factorials[n] - log_factorials[k] - log_factorials[n - k]
    return float(min(1.0, 2 * np.exp(log_choices - n * np.log(2)).sum()))


def gate(
    labels: np.ndarray,
    champion_scores: np.ndarray,
    challenger_scores: np.ndarray,
    classes: Sequence[str],
    *,
    more_data: bool,
    margin: float = CLASS_MARGIN,
) -> Verdict:
    """Decide whether a challenger may replace the champion, from the same held-out images.

    It may if it is better by McNemar's test, or gets no fewer images right and learned from more;
    and if no class loses more than `margin` of its images (or one image, where that is more), and
    if it is surely better than always giving the most frequent answer: with shuffled labels both
    models guess, and neither may win.

    Args:
        labels: int (N,).
        champion_scores, challenger_scores: (N, C), of the same images in the same order.
        classes: C names, for the reason.
        more_data: whether the challenger learned from more images than the champion.
        margin: 0 to 1.
    """
    before = champion_scores.argmax(1) == labels
    after = challenger_scores.argmax(1) == labels
    n_better, n_worse = int((after & ~before).sum()), int((before & ~after).sum())
    p_value = mcnemar(n_better, n_worse)
    refusal = _refusal(labels, challenger_scores, before, after, classes, margin)
    better = n_better > n_worse and p_value < SIGNIFICANCE
    not_worse = more_data and n_better >= n_worse
    figures = (
        f"right on {after.sum()} of {len(labels)} held-out images, the champion on {before.sum()} "
        f"({n_better} only the new one, {n_worse} only the champion, p = {p_value:.2g})"
    )
    why = refusal or (
        "better" if better else "not worse, from more images" if not_worse else "not surely better"
    )
    promote = not refusal and (better or not_worse)
    return Verdict(promote, f"{why}: {figures}", p_value, n_better, n_worse)


def _refusal(
    labels: np.ndarray,
    scores: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    classes: Sequence[str],
    margin: float,
) -> str:
    """Return why a challenger may not win whatever the paired test says, or nothing."""
    most_frequent = np.bincount(labels).max() / len(labels) if len(labels) else 1.0
    if accuracy(labels, scores).low <= most_frequent:
        return "not surely better than guessing"
    for label, name in enumerate(classes):
        shown = labels == label
        n_shown, n_lost = int(shown.sum()), int(before[shown].sum() - after[shown].sum())
        if n_lost > max(1, margin * n_shown):
            return f"class {name} loses {n_lost} of {n_shown} images, at most {margin:.0%} may be"
    return ""
