"""How the small CNN learns, from small images to large ones."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from jobs.train import SHIPPED
from lib import bundle, samples
from lib.training import fit, models
from lib.training.dataset import Dataset

QUARTER = fit.Stage("quarter size", 4, rate=2e-3, batch_size=4, n_shown=2, steps=0, n_views=1000)
WHOLE = fit.Stage("whole size", 1, 2e-3, 4, n_shown=1, steps=0, n_views=1000, dense_share=1 / 8)
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
    assert stages == [("quarter size", 1), ("whole size", 1)]
    published = models.cnn(2, 64)
    assert [w.shape for w in learned.model.weights] == [w.shape for w in published.weights]
    assert [type(layer) for layer in learned.model.layers] == [type(x) for x in published.layers]


def test_the_published_recipe_sees_the_pixels_themselves() -> None:
    published = replace(student(), recipe=fit.Recipe(depth="frozen", head_epochs=1))
    layers = {layer.name for layer in published.learn(ROWS, ROWS).model.layers}
    ours = {layer.name for layer in student(QUARTER).learn(ROWS).model.layers}
    assert ours - layers == {"from_background"}


@pytest.mark.slow
def test_few_images_are_learned_as_well_as_many() -> None:
    """Where steps are few and long the head dies: the loss then stays near that of a guess, 1.39."""
    images = np.stack([samples.draw(k % 4, seed=k).image[::3, ::3] for k in range(24)])
    labels = np.arange(24) % 4
    dataset = Dataset(images[:, 5:69, 5:69].copy(), labels, [], np.full(24, np.nan), [])
    start = bundle.weights(str(SHIPPED))
    learned = fit.Student("mobilenet", dataset, 4, fit.Recipe(), start).learn(np.arange(24))
    assert learned.history[-1]["loss"] < 0.5


@pytest.mark.slow
def test_the_head_learns_before_the_top_does() -> None:
    """A top that follows a head which knows nothing is ruined at first: the loss ends at 0.70."""
    images = np.stack([samples.draw(k % 4, seed=k).image for k in range(160)])
    dataset = Dataset(images, np.arange(160) % 4, [], np.full(160, np.nan), [])
    recipe = fit.Recipe(seed=1)
    try:
        learned = fit.Student("mobilenet", dataset, 4, recipe, "imagenet").learn(np.arange(160))
    except models.NoWeights:
        pytest.skip("ImageNet's weights are not here")
    stages = [row["stage"] for row in learned.history]
    assert stages == ["head"] * 5 + ["top"] * 15
    assert learned.history[-1]["loss"] < 0.55


def test_a_folded_network_answers_and_learns_as_the_one_it_shares_its_weights_with() -> None:
    whole = models.mobilenet(4, 96, bundle.weights(str(SHIPPED)))
    models.unfreeze(whole)
    folded = models.folded(whole)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers)
    learning = {id(v): v.path for v in whole.trainable_variables}
    assert learning.keys() == {id(v) for v in folded.trainable_variables}
    images = np.stack([samples.draw(k, seed=k).image[64:160, 64:160] for k in range(4)])
    logits, gradients = zip(*(answer(one, images) for one in (whole, folded)), strict=True)
    np.testing.assert_allclose(*logits, atol=1e-4)
    for at, path in learning.items():
        one, other = (found[at] for found in gradients)
        assert np.linalg.norm(one - other) < 1e-2 * np.linalg.norm(one), path


def answer(model: keras.Model, images: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Return a network's logits, and the gradient of their square by each variable's identity."""
    with tf.GradientTape() as tape:
        logits = model(images)
        loss = tf.reduce_sum(logits**2)
    variables = model.trainable_variables
    found = tape.gradient(loss, [variable.value for variable in variables])
    return logits.numpy(), {
        id(variable): gradient.numpy() for variable, gradient in zip(variables, found, strict=True)
    }


@pytest.fixture(scope="module")
def before() -> keras.Model:
    """The small CNN as it begins its last stage."""
    model = models.cnn(2, 64)
    models.transplant(student(QUARTER).learn(ROWS).model, model)
    models.round_weights(model)
    return model


def moved(before: keras.Model, **changes: object) -> dict[str, float]:
    """Return how far the weights of some layers go in the last stage, by their kernels' largest."""
    after = student(QUARTER, replace(WHOLE, **changes)).learn(ROWS).model
    return {
        name: float(np.abs(before.get_layer(name).kernel - after.get_layer(name).kernel).max())
        for name in ("conv1", "dense1")
    }


@pytest.mark.slow
def test_dense_layers_may_follow_slowly(before: keras.Model) -> None:
    """A step of Adam is as long as its rate, whatever the gradient."""
    same, slow = moved(before, dense_share=1.0), moved(before, dense_share=1 / 8)
    assert same["dense1"] > 0.6 * same["conv1"]
    assert slow["dense1"] < 0.2 * slow["conv1"]


@pytest.mark.slow
def test_a_stage_may_end_with_the_average_of_its_weights(before: keras.Model) -> None:
    """It begins with the first step, so it is near that one."""
    averaged = moved(before, n_shown=4, ema_momentum=0.999)
    assert averaged["conv1"] < 0.6 * moved(before, n_shown=4)["conv1"]


@pytest.mark.parametrize(
    ("n_images", "n_epochs", "n_passes"),
    [(10, 4, 20), (200, 5, 1), (300, 3, 1), (1000, 1, 1)],
)
def test_few_images_are_shown_more_often_and_many_less(
    n_images: int, n_epochs: int, n_passes: int
) -> None:
    stage = fit.Stage("quarter size", 4, 2e-3, 10, n_shown=5, steps=80, n_views=1000)
    assert stage.epochs(n_images) == (n_epochs, n_passes)


def test_an_epoch_of_few_images_shows_each_as_often() -> None:
    history = student(replace(QUARTER, n_shown=30)).learn(ROWS).history
    assert [row["epoch"] for row in history] == [1, 2, 3]
