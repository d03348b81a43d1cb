"""Numbers that are checked against a calculation by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jobs import evaluation
from lib import metrics


def one_hot(answers: list[int], n_classes: int = 3, score: float = 1.0) -> np.ndarray:
    scores = np.full((len(answers), n_classes), (1 - score) / (n_classes - 1))
    scores[np.arange(len(answers)), answers] = score
    return scores


def test_the_interval_is_wilsons() -> None:
    labels = np.zeros(10, int)
    found = metrics.accuracy(labels, one_hot([0] * 9 + [1]))
    assert found.value == pytest.approx(0.9)
    assert (found.low, found.high) == (
        pytest.approx(0.5958, abs=1e-4),
        pytest.approx(0.9821, abs=1e-4),
    )


def test_a_perfect_score_on_few_images_is_not_certain() -> None:
    found = metrics.accuracy(np.zeros(5, int), one_hot([0] * 5))
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(0.5655, abs=1e-4)


def test_no_image_says_nothing() -> None:
    found = metrics.accuracy(np.zeros(0, int), np.zeros((0, 3)))
    assert (found.low, found.high, found.n_images) == (0.0, 1.0, 0)


def test_confusion_has_the_truth_in_rows() -> None:
    counts = metrics.confusion(np.array([0, 0, 1, 2]), one_hot([0, 1, 1, 1]))
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]


def test_per_class_figures() -> None:
    rows = metrics.per_class(np.array([0, 0, 1, 2]), one_hot([0, 1, 1, 1]))
    assert rows[1] == {"precision": pytest.approx(1 / 3), "recall": 1.0, "n_images": 1}
    assert rows[2] == {"precision": 0.0, "recall": 0.0, "n_images": 1}


def test_calibration_error_is_the_gap_between_score_and_truth() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    assert metrics.calibration_error(labels, one_hot([0] * 10, score=0.8)) == pytest.approx(
        0, abs=1e-9
    )
    assert metrics.calibration_error(labels, one_hot([0] * 10, score=0.95)) == pytest.approx(0.15)


def test_temperature_undoes_what_was_multiplied() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 3))
    labels = np.array([random.choice(3, p=p) for p in metrics.softmax(logits)])
    assert metrics.best_temperature(labels, logits) == pytest.approx(1, rel=0.1)
    assert metrics.best_temperature(labels, logits * 3) == pytest.approx(3, rel=0.1)


def test_threshold_rises_until_answers_are_right() -> None:
    labels = np.array([0] * 99 + [1])
    sure = np.array([0.6] * 50 + [0.8] * 49 + [0.7])
    scores = np.column_stack([sure, 1 - sure])
    assert metrics.best_threshold(labels, scores, wanted=1.0) == pytest.approx(0.71)
    assert metrics.best_threshold(labels, scores, wanted=0.9) == pytest.approx(0.6)


def test_threshold_is_as_high_as_the_right_answers_allow_and_never_over_nine_tenths() -> None:
    labels = np.zeros(200, int)
    sure = np.array([0.55] + [0.84] * 199)
    assert metrics.best_threshold(labels, np.column_stack([sure, 1 - sure])) == pytest.approx(0.84)
    assert metrics.best_threshold(labels, one_hot([0] * 200)) == 0.9
    assert metrics.best_threshold(labels, one_hot([1] * 200)) == 0.9


def test_mistakes_come_with_the_surest_first() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    scores = np.array([[0.1, 0.9], [0.4, 0.6], [0.8, 0.2], [0.05, 0.95], [0.8, 0.2]])
    assert metrics.mistakes(labels, scores).tolist() == [3, 0, 2, 4]
    assert metrics.mistakes(scores.argmax(1), scores).tolist() == []


def test_the_figures_of_a_card_tell_the_sure_answers_from_the_others() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    told = evaluation.figures(labels, scores, 0.7, ("cat", "dog"))
    assert told["accuracy"]["value"] == 0.75
    assert (told["sure_share"], told["sure_accuracy"]) == (0.75, 1.0)
    assert told["class_mix"] == {"cat": 0.25, "dog": 0.75}
    assert sum(told["scores_histogram"]) == 4
    sessions = np.array(["a", "a", "b", "b"])
    assert evaluation.per_session(labels, scores, sessions) == {
        "a": {"accuracy": 0.5, "n_images": 2},
        "b": {"accuracy": 1.0, "n_images": 2},
    }
