"""The head of MobileNetV2 by the published recipe, in NumPy.

Two dense layers and a dropout, on what the frozen layers made of each image: a step takes half a
millisecond, and to compile it Keras needs longer than all steps take together. Keras' layers give
the weights and get them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf

import keras
import numpy as np
from threadpoolctl import threadpool_limits

from lib import metrics
from lib.training.activations import Looked

BATCH_SIZE = 32

DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-7
"""Of Adam's moving averages, and what keeps it from dividing by nothing; as in Keras."""


class Head:
    """What stands behind the frozen layers of a network, while it learns.

    Args:
        model: as `models.mobilenet` gives it. It keeps its weights until `put_back`.
        rate: Adam's (Kingma and Ba 2014, https://arxiv.org/abs/1412.6980).
        seed: of the order of the images and of the dropout.
    """

    def __init__(self, model: keras.Model, rate: float, seed: int) -> None:
        self._layers = [model.get_layer(name) for name in ("dense1", "logits")]
        self._dropout = model.get_layer("dropout").rate
        self._weights = [weight for layer in self._layers for weight in layer.get_weights()]
        self._means = [np.zeros_like(weight) for weight in self._weights]
        self._squares = [np.zeros_like(weight) for weight in self._weights]
        self._n_steps = 0
        self._rate = rate
        self._random = np.random.default_rng(seed)

    def put_back(self) -> None:
        """Give the network the weights that were learned."""
        self._layers[0].set_weights(self._weights[:2])
        self._layers[1].set_weights(self._weights[2:])

    @threadpool_limits.wrap(limits=1, user_api="blas")  # two wait for each other most of the time
    def learn(
        self,
        looked: Looked,
        train: np.ndarray,
        validation: np.ndarray,
        n_epochs: int,
        patience_epochs: int,
        tell: Callable[[Mapping[str, float]], None],
    ) -> int:
        """Learn some rows, int (n,), until the loss of others stops falling; go back to its lowest.

        Args:
            validation: without any, it learns to the end.
            n_epochs: at the most.
            patience_epochs: without a lower loss, before it stops.
            tell: gets what was measured in each epoch, as Keras names it.

        Returns:
            The epoch whose weights it ends with, from 1.
        """
        lowest, best_epoch, best = inf, n_epochs, self._weights
        for epoch in range(1, n_epochs + 1):
            measured = self._epoch(looked, train)
            if len(validation):
                measured |= self._watched(looked, validation)
            tell(measured)
            if not len(validation):
                continue
            if measured["val_loss"] < lowest:
                lowest, best_epoch = measured["val_loss"], epoch
                best = [weight.copy() for weight in self._weights]
            elif epoch - best_epoch >= patience_epochs:
                break
        self._weights = best
        return best_epoch

    def step(self, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Learn a batch, float32 (n, D), and return the scores it had before, float32 (n, C)."""
        dense, bias, last, last_bias = self._weights
        kept = self._random.random((len(labels), len(bias)), np.float32) >= self._dropout
        share = kept / np.float32(1 - self._dropout)
        hidden = np.maximum(features @ dense + bias, 0) * share
        scores = metrics.softmax(hidden @ last + last_bias)
        error = scores.copy()
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        before = error @ last.T * share * (hidden > 0)
        self._move((features.T @ before, before.sum(0), hidden.T @ error, error.sum(0)))
        return scores

    def _move(self, gradients: Iterable[np.ndarray]) -> None:
        self._n_steps += 1
        known, known_square = 1 - DECAY**self._n_steps, 1 - SQUARE_DECAY**self._n_steps
        rate = self._rate * known_square**0.5 / known
        moved = zip(self._weights, gradients, self._means, self._squares, strict=True)
        for weight, gradient, mean, square in moved:
            mean += (gradient - mean) * (1 - DECAY)
            square += (gradient * gradient - square) * (1 - SQUARE_DECAY)
            weight -= rate * mean / (np.sqrt(square) + EPSILON)

    def _epoch(self, looked: Looked, rows: np.ndarray) -> dict[str, float]:
        order = self._random.permutation(rows)
        batches = [order[at : at + BATCH_SIZE] for at in range(0, len(order), BATCH_SIZE)]
        scores = [self.step(_features(looked, rows), looked.labels[rows]) for rows in batches]
        return _measures(looked.labels[order], np.concatenate(scores), "")

    def _watched(self, looked: Looked, rows: np.ndarray) -> dict[str, float]:
        dense, bias, last, last_bias = self._weights
        hidden = np.maximum(_features(looked, rows) @ dense + bias, 0)
        return _measures(looked.labels[rows], metrics.softmax(hidden @ last + last_bias), "val_")


def _features(looked: Looked, rows: np.ndarray) -> np.ndarray:
    return looked.outputs[rows, 0].astype(np.float32)


def _measures(labels: np.ndarray, scores: np.ndarray, side: str) -> dict[str, float]:
    right = float(np.mean(scores.argmax(1) == labels))
    return {f"{side}loss": metrics.log_loss(labels, scores), f"{side}accuracy": right}
