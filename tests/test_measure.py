"""What a model is measured on it has not seen: told by one that learns by heart, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest

from lib import metrics
from lib.sessions import Split
from lib.training import fit, measure
from lib.training.dataset import Dataset
from lib.training.fit import NOBODY, Learned

SURE = 4.0
"""The logit of every answer, learned or guessed."""

SIDES = np.repeat(["train", "validation", "test"], 4)


@dataclass(frozen=True)
class Memory:
    """Knows the labels of the images it was shown, and says class 0 of all others."""

    labels: dict[str, int]

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """Return logits, float32 (N, 3)."""
        answers = [self.labels.get(hashlib.sha256(image).hexdigest(), 0) for image in images]
        return SURE * np.eye(3, dtype=np.float32)[answers]


class ByHeart(fit.Student):
    """Learns by heart."""

    def learn(
        self, train: np.ndarray, validation: np.ndarray = NOBODY, n_epochs: int | None = None
    ) -> Learned:
        """Remember the rows to train on; the others are only looked at."""
        known = {self.dataset.digests[row]: int(self.dataset.labels[row]) for row in train}
        return Learned(Memory(known), [{"epoch": 1}], n_epochs or 1)


def student(labels: list[int] | None = None, depth: str = "top") -> ByHeart:
    """A student of twelve images, of classes 1 and 2, so that a guess is wrong."""
    images = np.arange(12, dtype=np.uint8).repeat(12).reshape(12, 2, 2, 3)
    labels = np.array(labels or [1, 2] * 6)
    dataset = Dataset(images, labels, [], np.full(12, np.nan), [])
    return ByHeart("mobilenet", dataset, 3, fit.Recipe(depth=depth), "imagenet")


def n_right(one: ByHeart, rows: np.ndarray, scores: np.ndarray) -> int:
    return int((scores.argmax(1) == one.dataset.labels[rows]).sum())


def known_rows(one: ByHeart, model: Memory) -> list[int]:
    return [row for row, digest in enumerate(one.dataset.digests) if digest in model.labels]


def test_the_test_side_is_not_learned_from() -> None:
    one = student()
    trained = measure.on_held_out(one, Split(SIDES, ""))
    assert trained.rows.tolist() == [8, 9, 10, 11]
    assert n_right(one, trained.rows, trained.measured) == 0
    assert known_rows(one, trained.model) == list(range(8))


@pytest.mark.parametrize(
    ("labels", "temperature"),
    [([1] * 8 + [0] * 4, 8.0), ([1] * 4 + [0] * 4 + [1] * 4, 0.25)],
    ids=["validation is wrong, test right", "validation is right, test wrong"],
)
def test_temperature_and_threshold_are_chosen_on_validation_alone(
    labels: list[int], temperature: float
) -> None:
    trained = measure.on_held_out(student(labels), Split(SIDES, ""))
    assert trained.temperature == pytest.approx(temperature)
    logits = SURE * np.eye(3)[[0] * 4]
    np.testing.assert_allclose(trained.measured, metrics.softmax(logits, temperature))
    scores = metrics.softmax(logits, temperature)
    assert trained.threshold == metrics.best_threshold(np.array(labels[4:8]), scores)


def test_a_model_that_goes_on_is_not_shown_the_test_side_and_keeps_its_threshold() -> None:
    one = student()
    trained = measure.gone_on(one, Split(SIDES, ""), temperature=2.0, threshold=0.7)
    assert trained.rows.tolist() == [8, 9, 10, 11]
    assert n_right(one, trained.rows, trained.measured) == 0
    assert (trained.temperature, trained.threshold) == (2.0, 0.7)
    assert known_rows(one, trained.model) == list(range(8))


@pytest.mark.parametrize("depth", ["top", "frozen"])
def test_whoever_is_left_out_in_turn_is_unknown_and_in_the_end_all_are_learned(depth: str) -> None:
    one, rows = student(depth=depth), np.arange(9)
    assert one.stops_early == (depth == "frozen")
    names = np.array(["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["extra"] * 3)
    trained = measure.cross_validated(one, names, rows)
    assert trained.rows.tolist() == rows.tolist()
    assert n_right(one, rows, trained.measured) == 0
    assert known_rows(one, trained.model) == list(range(12))


@pytest.mark.parametrize("depth", ["top", "frozen"])
def test_leaving_some_out_leaves_all_others_in(depth: str) -> None:
    one = student(depth=depth)
    learned = measure.leave_out(one, held=np.array([2, 5]), watch=np.array([0, 1]))
    assert known_rows(one, learned.model) == [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]


def test_the_temperature_of_a_session_is_that_of_the_others() -> None:
    logits, names = SURE * np.eye(3, dtype=np.float32)[[1] * 6], np.repeat(["right", "wrong"], 3)
    labels = np.array([1, 1, 1, 2, 2, 2])
    scores = measure.honest_scores(labels, logits, names)
    np.testing.assert_allclose(scores[:3], metrics.softmax(logits[:3], 8.0), rtol=1e-5)
    np.testing.assert_allclose(scores[3:], metrics.softmax(logits[3:], 0.25), rtol=1e-5)


def test_a_random_split_tests_on_what_it_did_not_learn_and_never_on_extra_images() -> None:
    one, rows = student(), np.arange(6)
    tested, scores = measure.on_random_split(one, rows, n_test=3, n_epochs=1)
    assert len(tested) == 3
    assert set(tested) <= set(rows)
    assert n_right(one, tested, scores) == 0
