"""How the small CNN learns, from small images to large ones."""

from __future__ import annotations

import numpy as np
import pytest

from lib.training import fit, models
from lib.training.dataset import Dataset

QUARTER = fit.Stage("quarter size", 4, rate=2e-3, batch_size=4, epochs=2, n_views=1000)
WHOLE = fit.Stage("whole size", 1, 2e-3, 4, epochs=1, n_views=1000, learns="convolutions")
ROWS = np.arange(8)


def student(*stages: fit.Stage) -> fit.Student:
    images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    recipe = fit.Recipe(stages=stages)
    return fit.Student(
        "cnn", Dataset(images, ROWS % 2, [], np.full(len(images), np.nan), []), 2, recipe, "none"
    )


def test_the_cnn_learns_small_images_first_and_ends_with_the_published_layers() -> None:
    learned = student(QUARTER, WHOLE).learn(ROWS)
    stages = [(row["stage"], row["epoch"]) for row in learned.history]
    assert stages == [("quarter size", 1), ("quarter size", 2), ("whole size", 1)]
    published = models.cnn(2, 64)
    assert [w.shape for w in learned.model.weights] == [w.shape for w in published.weights]
    assert [type(layer) for layer in learned.model.layers] == [type(x) for x in published.layers]


def test_while_convolutions_learn_the_dense_layers_stay() -> None:
    before = models.cnn(2, 64)
    models.transplant(student(QUARTER).learn(ROWS).model, before)
    models.round_weights(before)
    after = student(QUARTER, WHOLE).learn(ROWS).model
    for name in ("dense1", "dense2", "logits"):
        old, new = (np.asarray(m.get_layer(name).kernel) for m in (before, after))
        np.testing.assert_allclose(old, new, rtol=2e-3, atol=1e-6)
    assert np.abs(before.get_layer("conv1").kernel - after.get_layer("conv1").kernel).max() > 1e-3


@pytest.mark.parametrize(("n_views", "n_epochs"), [(1000, 5), (24, 3), (1, 1)])
def test_many_images_are_shown_in_fewer_epochs(n_views: int, n_epochs: int) -> None:
    stage = fit.Stage("quarter size", 4, 2e-3, 4, epochs=5, n_views=n_views)
    assert len(student(stage).learn(ROWS).history) == n_epochs
