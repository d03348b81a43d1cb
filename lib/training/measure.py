"""Honest numbers: every score counted here is of an image whose session the model never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from lib import metrics
from lib.sessions import Split
from lib.training.dataset import Dataset
from lib.training.fit import NOBODY, Learned, Student

N_AT_ONCE = 16
"""Images that are predicted at once: with 64 it takes 300 MB more, and no less time."""

ON_TEST_SIDE = "on the test side"


@dataclass(frozen=True)
class Trained:
    """A network that has learned, with what it answered on sessions it had not seen.

    Attributes:
        model: uint8 (N, H, W, 3) -> logits (N, C).
        temperature: divides the logits before the softmax.
        threshold: a best score under this is "not sure".
        history: a row for each epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy.
        rows: the images it was measured on, int (n,).
        measured: their scores, float (n, C), by a model that never saw their session.
        how: a phrase for how they were held out.
        n_epochs: how long it learned.
    """

    model: keras.Model
    temperature: float
    threshold: float
    history: list[dict[str, Any]]
    rows: np.ndarray
    measured: np.ndarray
    how: str
    n_epochs: int

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Return scores, float (N, C), rows summing to 1, for images, uint8 (N, H, W, 3)."""
        return metrics.softmax(_predict(self.model, images), self.temperature)


def on_held_out(student: Student, split: Split) -> Trained:
    """Train on all but the test side, and measure on that.

    Validation chooses when to stop, the temperature and the threshold; its images are learned from
    in the end too.
    """
    train, validation, test = (split.rows(side) for side in ("train", "validation", "test"))
    first = student.learn(train, validation)
    labels = student.dataset.labels[validation]
    logits = logits_of(first, student.dataset, validation)
    temperature = metrics.best_temperature(labels, logits)
    threshold = metrics.best_threshold(labels, metrics.softmax(logits, temperature))
    final = student.learn(np.concatenate([train, validation]), n_epochs=first.n_epochs)
    measured = metrics.softmax(logits_of(final, student.dataset, test), temperature)
    return Trained(
        final.model,
        temperature,
        threshold,
        first.history,
        test,
        measured,
        ON_TEST_SIDE,
        first.n_epochs,
    )


def gone_on(student: Student, split: Split, temperature: float, threshold: float) -> Trained:
    """Let an earlier version learn some new images too, and measure on the test side.

    It has seen the validation side already: temperature and threshold stay what they were then. The
    test side it has not, as long as no image changes sides.
    """
    test = split.rows("test")
    learned = student.learn(split.rows("train", "validation"), test)
    measured = metrics.softmax(logits_of(learned, student.dataset, test), temperature)
    return Trained(
        learned.model,
        temperature,
        threshold,
        learned.history,
        test,
        measured,
        ON_TEST_SIDE,
        learned.n_epochs,
    )


def on_random_split(
    student: Student, rows: np.ndarray, n_test: int, n_epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train once more, measure as most people do, and return the rows tested on and their scores.

    Args:
        rows: the images to draw the test from, int (n,); all others are only learned from.
    """
    test = np.sort(np.random.default_rng(student.recipe.seed).permutation(rows)[:n_test])
    rest = np.setdiff1d(np.arange(len(student.dataset)), test)
    logits = logits_of(student.learn(rest, n_epochs=n_epochs), student.dataset, test)
    return test, metrics.softmax(logits)


def cross_validated(student: Student, sessions: np.ndarray, rows: np.ndarray) -> Trained:
    """Leave each session out in turn to measure, then train on everything.

    Args:
        sessions: the session of each image of the dataset, text (N,).
        rows: the images to measure on, int (n,); all others are only learned from.
    """
    labels, names = student.dataset.labels[rows], sessions[rows]
    found = np.unique(names)
    logits = np.empty((len(rows), student.n_classes), np.float32)
    histories, n_epochs = [], []
    for k, name in enumerate(found):
        held, watched = rows[names == name], rows[names == found[(k + 1) % len(found)]]
        learned = leave_out(student, held, watched)
        logits[names == name] = logits_of(learned, student.dataset, held)
        histories.append(learned.history)
        n_epochs.append(learned.n_epochs)
    measured = honest_scores(labels, logits, names)
    n_epochs = round(np.mean(n_epochs))
    final = student.learn(np.arange(len(student.dataset)), n_epochs=n_epochs)
    return Trained(
        final.model,
        metrics.best_temperature(labels, logits),
        metrics.best_threshold(labels, measured),
        histories[0],
        rows,
        measured,
        f"each of {len(found)} sessions left out in turn",
        n_epochs,
    )


def honest_scores(labels: np.ndarray, logits: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Return scores, float32 (n, C), of logits: each image's temperature is that of other sessions.

    Args:
        names: the session of each image, text (n,).
    """
    scores = np.empty_like(logits)
    for name in np.unique(names):
        held = names == name
        temperature = metrics.best_temperature(labels[~held], logits[~held])
        scores[held] = metrics.softmax(logits[held], temperature)
    return scores


def leave_out(student: Student, held: np.ndarray, watch: np.ndarray) -> Learned:
    """Train on everything but some rows, int (n,).

    Args:
        watch: the rows, of all others, that say when to stop where the recipe asks that.
    """
    rest = np.setdiff1d(np.arange(len(student.dataset)), held)
    if not student.stops_early:
        return student.learn(rest, held)
    first = student.learn(np.setdiff1d(rest, watch), watch)
    final = student.learn(rest, NOBODY, n_epochs=first.n_epochs)
    return Learned(final.model, first.history, first.n_epochs)


def logits_of(learned: Learned, dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return what a network says of some images, float32 (n, C), before the softmax."""
    return _predict(learned.model, dataset.images[rows])


def _predict(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            model.predict_on_batch(images[at : at + N_AT_ONCE])
            for at in range(0, len(images), N_AT_ONCE)
        ]
    )
