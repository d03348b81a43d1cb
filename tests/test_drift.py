"""Drift: the index, what chance alone makes of it, and what is said of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs import drift
from jobs.counts import Counts

HISTOGRAM = [0, 0, 0, 5, 10, 20, 40, 80, 160, 185]
MIX = {"cat": 0.5, "dog": 0.5}


def counted(histogram: list[int], cats: int, dogs: int) -> Counts:
    return Counts(
        predicted=cats + dogs, scores_histogram=histogram, classes={"cat": cats, "dog": dogs}
    )


def test_the_index_of_the_same_shares_is_nothing() -> None:
    assert drift.stability_index([10, 20, 70], [10, 20, 70]) == 0
    assert drift.stability_index([100_000, 200_000], [1, 2]) == pytest.approx(0, abs=0.02)


def test_the_index_of_large_counts_is_the_formula() -> None:
    found, expected = [600_000, 400_000], [500_000, 500_000]
    by_hand = 0.1 * math.log(0.6 / 0.5) - 0.1 * math.log(0.4 / 0.5)
    assert drift.stability_index(found, expected) == pytest.approx(by_hand, rel=1e-4)
    assert drift.stability_index(expected, found) == pytest.approx(by_hand, rel=1e-4)


def test_an_empty_bin_is_rare_and_not_impossible() -> None:
    assert math.isfinite(drift.stability_index([0, 10], [10, 0]))


@pytest.mark.parametrize(("n_bins", "quantile"), [(2, 3.84), (4, 7.81), (10, 16.92), (31, 43.77)])
def test_chance_is_a_quantile_of_chi_squared(n_bins: int, quantile: float) -> None:
    half = drift.index_by_chance(n_bins, 2000, 2000) * 1000
    assert half == pytest.approx(quantile, rel=0.03)


def test_two_samples_of_one_population_rarely_pass_for_drift() -> None:
    rng = np.random.default_rng(0)
    shares = np.array(HISTOGRAM) / sum(HISTOGRAM)
    n_alarms = 0
    for _ in range(300):
        few, many = rng.multinomial(40, shares), rng.multinomial(500, shares)
        index = drift.stability_index(few.tolist(), many.tolist())
        n_alarms += index > max(drift.LARGE, drift.index_by_chance(10, 40, 500))
    assert n_alarms < 0.1 * 300


def test_images_like_the_validation_images_are_said_to_be_so() -> None:
    told = drift.measure(
        counted(HISTOGRAM, 250, 250), {"scores_histogram": HISTOGRAM, "class_mix": MIX}
    )
    assert (told.scores, told.class_mix) == (0, 0)
    assert told.sentence == "the answers look like those on the validation images"


def test_what_moved_is_named() -> None:
    metrics = {"scores_histogram": HISTOGRAM, "class_mix": MIX}
    told = drift.measure(counted(HISTOGRAM[::-1], 250, 250), metrics)
    assert told.scores > 1
    assert "how sure the model is" in told.sentence
    assert "how often each class is seen" not in told.sentence
    told = drift.measure(counted(HISTOGRAM, 490, 10), metrics)
    assert told.class_mix > 1
    assert "how often each class is seen" in told.sentence


@pytest.mark.parametrize("metrics", [{}, {"scores_histogram": None}, {"class_mix": {}}])
def test_without_a_baseline_nothing_is_claimed(metrics: dict) -> None:
    told = drift.measure(counted(HISTOGRAM, 250, 250), metrics)
    assert (told.scores, told.class_mix) == (None, None)
    assert told.sentence == "no baseline in the model's card, drift is not measured"


def test_without_predictions_nothing_is_claimed() -> None:
    told = drift.measure(Counts(), {"scores_histogram": HISTOGRAM, "class_mix": MIX})
    assert told.sentence == "no predictions, drift is not measured"


def test_half_a_baseline_is_used() -> None:
    told = drift.measure(counted(HISTOGRAM, 250, 250), {"class_mix": MIX})
    assert (told.scores, told.class_mix) == (None, 0)


@pytest.mark.parametrize(("n_images", "is_told"), [(4, False), (160, True)])
def test_what_chance_makes_of_a_few_images_is_not_called_drift(
    n_images: int, is_told: bool
) -> None:
    told = drift.measure(
        Counts(predicted=n_images, classes={"a": n_images}), {"class_mix": {"a": 0.5, "b": 0.5}}
    )
    assert told.class_mix > drift.LARGE
    assert told.sentence.startswith("these images are not like") == is_told
