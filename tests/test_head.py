"""The head that NumPy trains learns what Keras would have taught it."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
import pytest
from keras import layers

from lib.training.activations import Looked
from lib.training.head import Head

N_CLASSES, N_FEATURES = 3, 8

FEATURES = np.random.default_rng(0).normal(size=(96, N_FEATURES)).astype(np.float32)
LABELS = FEATURES[:, :N_CLASSES].argmax(1)
ROWS = np.arange(96)


def network(dropout: float) -> keras.Model:
    keras.utils.set_random_seed(0)
    features = keras.Input((N_FEATURES,))
    x = layers.Dense(16, activation="relu", name="dense1")(features)
    x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(features, layers.Dense(N_CLASSES, name="logits")(x))


def test_without_dropout_its_steps_are_those_of_keras() -> None:
    ours, theirs = network(0.0), network(0.0)
    adam = keras.optimizers.Adam(1e-2)
    theirs.compile(adam, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    head = Head(ours, rate=1e-2, seed=0)
    for batch in np.split(ROWS, 6) * 3:
        head.step(FEATURES[batch], LABELS[batch])
        theirs.train_on_batch(FEATURES[batch], LABELS[batch])
    before = [np.asarray(weight) for weight in network(0.0).weights]
    head.put_back()
    for start, one, other in zip(before, ours.weights, theirs.weights, strict=True):
        assert np.abs(np.asarray(other) - start).max() > 0.05
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_dropout_leaves_the_hidden_values_what_they_are_on_average() -> None:
    model = network(0.5)
    head = Head(model, rate=0.0, seed=0)
    scores = np.stack([head.step(FEATURES[:4], LABELS[:4]) for _ in range(4000)])
    assert scores.std(axis=0).min() > 0.01
    logits = np.log(scores)
    logits -= logits.mean(axis=-1, keepdims=True)
    expected = np.array(model(FEATURES[:4]))
    expected -= expected.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(logits.mean(axis=0), expected, atol=0.05)


def learned(
    validation: np.ndarray, n_epochs: int, looked: Looked
) -> tuple[keras.Model, int, list[Mapping[str, float]]]:
    model, told = network(0.5), []
    head = Head(model, rate=3e-2, seed=0)
    best_epoch = head.learn(looked, ROWS[:64], validation, n_epochs, 3, told.append)
    head.put_back()
    return model, best_epoch, told


def test_it_stops_when_the_loss_of_others_rises_and_goes_back_to_its_lowest() -> None:
    unlike = np.where(ROWS < 64, LABELS, (LABELS + (ROWS % 2)) % N_CLASSES)  # half of them wrong
    looked = Looked(FEATURES[:, None].astype(np.float16), unlike)
    model, best_epoch, told = learned(ROWS[64:], 200, looked)
    losses = [measured["val_loss"] for measured in told]
    assert len(told) == best_epoch + 3 < 200
    assert losses[best_epoch - 1] == min(losses)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    loss = loss_of(unlike[64:], model(FEATURES[64:].astype(np.float16).astype(np.float32)))
    assert float(loss) == pytest.approx(min(losses), abs=1e-5)


def test_without_others_it_learns_to_the_end() -> None:
    looked = Looked(FEATURES[:, None].astype(np.float16), LABELS)
    model, best_epoch, told = learned(ROWS[:0], 30, looked)
    assert best_epoch == len(told) == 30
    assert set(told[0]) == {"loss", "accuracy"}
    assert told[-1]["loss"] < told[0]["loss"] / 2
    assert np.mean(np.asarray(model(FEATURES[64:])).argmax(1) == LABELS[64:]) > 0.8
