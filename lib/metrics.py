"""How good a model is, and how sure we are of that: numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Z_95 = 1.959964
"""The normal quantile of a two-sided 95 % interval."""

CALIBRATION_BINS = 15


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


def confusion(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return counts, int (C, C): row the true class, column the answer."""
    n_classes = scores.shape[1]
    counts = np.zeros((n_classes, n_classes), int)
    np.add.at(counts, (labels, scores.argmax(1)), 1)
    return counts


def per_class(labels: np.ndarray, scores: np.ndarray) -> list[dict[str, float]]:
    """Return precision, recall and n_images of each class; 0 where nothing was answered or shown."""
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
    """Return the least score, at most 0.9, above which a share of `wanted` answers is right.

    Under it the answer is "not sure". At least an even bet, 0.5, is always asked for: images of
    nothing that was trained on end up below.
    """
    best, right = scores.max(1), scores.argmax(1) == labels
    for threshold in np.arange(0.5, 0.9, 0.01):
        sure = best >= threshold
        if not sure.any() or right[sure].mean() >= wanted:
            return float(round(threshold, 2))
    return 0.9
