"""What a card says of how good a model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from lib import metrics


def figures(
    labels: np.ndarray, scores: np.ndarray, threshold: float, classes: Sequence[str]
) -> dict[str, object]:
    """Return what the scores of images that were never seen tell about a model.

    Args:
        labels: int (n,).
        scores: (n, C).
        threshold: a best score under this is "not sure".
        classes: C names.
    """
    sure = scores.max(1) >= threshold
    predicted = np.bincount(scores.argmax(1), minlength=scores.shape[1]) / max(len(scores), 1)
    return {
        "accuracy": asdict(metrics.accuracy(labels, scores)),
        "calibration_error": round(metrics.calibration_error(labels, scores), 4),
        "log_loss": round(metrics.log_loss(labels, scores), 4),
        "sure_share": round(float(sure.mean()), 4),
        "sure_accuracy": round(metrics.accuracy(labels[sure], scores[sure]).value, 4),
        "per_class": dict(zip(classes, metrics.per_class(labels, scores), strict=True)),
        "confusion": metrics.confusion(labels, scores).tolist(),
        "scores_histogram": np.histogram(scores.max(1), 10, (0, 1))[0].tolist(),
        "class_mix": dict(zip(classes, predicted.round(4).tolist(), strict=True)),
    }


def per_session(
    labels: np.ndarray, scores: np.ndarray, sessions: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """Return accuracy and number of images of each session.

    Args:
        sessions: the session of each image, text (n,); None where none could be told apart.
    """
    if sessions is None:
        sessions = np.full(len(labels), "all")
    return {
        str(name): {
            "accuracy": metrics.accuracy(labels[sessions == name], scores[sessions == name]).value,
            "n_images": int((sessions == name).sum()),
        }
        for name in np.unique(sessions)
    }
