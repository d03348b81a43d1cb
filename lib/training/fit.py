"""How the two networks learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from lib import metrics
from lib.commands import Progress
from lib.training import augment, models
from lib.training.dataset import Batches, Dataset
from lib.training.litert import through

MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers behind a training; written in the card."""

    fine_tune: bool = False
    """Whether every convolution of MobileNetV2 learns too, at a low rate, once the head has."""
    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    """Adam's rate while layers learn from nothing."""
    n_epochs: int = 50
    """Epochs at the most; early stopping ends sooner."""
    patience_epochs: int = 3
    """Epochs without a lower validation loss before it stops; the best weights are restored."""
    fine_tune_rate: float = 1e-4
    """Adam's rate, falling to 0 by half a cosine, while convolutions go on from what they know."""
    fine_tune_epochs: int = 10


@dataclass(frozen=True)
class Trained:
    """A network that has learned.

    Attributes:
        model: uint8 (N, H, W, 3) -> logits (N, C).
        temperature: divides the logits before the softmax.
        threshold: a best score under this is "not sure".
        history: a row for each epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy.
    """

    model: keras.Model
    temperature: float
    threshold: float
    history: list[dict[str, Any]]

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Return scores, float32 (N, C), rows summing to 1, for images, uint8 (N, H, W, 3)."""
        return metrics.softmax(self.model.predict(images, verbose=0), self.temperature)


@dataclass(frozen=True)
class Sides:
    """The rows of a dataset to learn from and to stop by, int (n,) each."""

    train: np.ndarray
    validation: np.ndarray


def cnn(dataset: Dataset, sides: Sides, n_classes: int, recipe: Recipe) -> Trained:
    """Train the small CNN from nothing."""
    keras.utils.set_random_seed(recipe.seed)
    model = models.cnn(n_classes, dataset.images.shape[1])
    history = _fit(model, _batches(dataset, sides.train, recipe), _held_out(dataset, sides), recipe)
    return _calibrated(model, history, dataset, sides)


def mobilenet(
    dataset: Dataset,
    sides: Sides,
    n_classes: int,
    recipe: Recipe,
    backbone: str | Mapping[str, np.ndarray],
) -> Trained:
    """Train a head on the frozen backbone and, where the recipe says so, then the convolutions.

    The frozen layers see each image once: the head learns from what they made of it.

    Args:
        backbone: as `models.mobilenet` takes it. From `none` all layers learn at once.
    """
    keras.utils.set_random_seed(recipe.seed)
    model = models.mobilenet(n_classes, dataset.images.shape[1], backbone)
    if backbone == "none":
        history = _fit(
            model, _batches(dataset, sides.train, recipe), _held_out(dataset, sides), recipe
        )
        return _calibrated(model, history, dataset, sides)
    history = _fit_head(model, dataset, sides, recipe)
    if recipe.fine_tune:
        history += _fine_tune(model, dataset, sides, recipe)
    return _calibrated(model, history, dataset, sides)


def _fit_head(
    model: keras.Model, dataset: Dataset, sides: Sides, recipe: Recipe
) -> list[dict[str, Any]]:
    pooled = model.get_layer(models.POOLED).output
    rows = np.concatenate([sides.train, sides.validation])
    features = through(keras.Model(model.input, pooled), dataset.images, rows)
    n_train = len(sides.train)
    labels = dataset.labels[rows]
    return _fit(
        keras.Model(pooled, model.output, name="mobilenet"),
        (features[:n_train], labels[:n_train]),
        (features[n_train:], labels[n_train:]),
        recipe,
        stage="head",
    )


def _fine_tune(
    model: keras.Model, dataset: Dataset, sides: Sides, recipe: Recipe
) -> list[dict[str, Any]]:
    models.unfreeze(model)
    batches = _batches(dataset, sides.train, recipe, augment.view)
    rate = keras.optimizers.schedules.CosineDecay(
        recipe.fine_tune_rate, recipe.fine_tune_epochs * len(batches)
    )
    return _fit(
        model,
        batches,
        _held_out(dataset, sides),
        recipe,
        stage="convolutions",
        rate=rate,
        n_epochs=recipe.fine_tune_epochs,
    )


def _batches(
    dataset: Dataset,
    rows: np.ndarray,
    recipe: Recipe,
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
) -> Batches:
    return Batches(dataset, rows, batch_size=recipe.batch_size, seed=recipe.seed, change=change)


def _held_out(dataset: Dataset, sides: Sides) -> Batches:
    return Batches(dataset, sides.validation, batch_size=64, seed=0)


def _fit(
    model: keras.Model,
    train: Any,
    validation: Any,
    recipe: Recipe,
    *,
    stage: str = "all",
    rate: Any = None,
    n_epochs: int | None = None,
) -> list[dict[str, Any]]:
    """Fit until the validation loss stops falling, go back to its lowest, return a row an epoch."""
    n_epochs = n_epochs or recipe.n_epochs
    model.compile(
        keras.optimizers.Adam(rate or recipe.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    stopping = keras.callbacks.EarlyStopping(
        patience=recipe.patience_epochs, restore_best_weights=True, start_from_epoch=0
    )
    with Progress(f"training {model.name}, {stage}", n_epochs, "epochs") as progress:
        telling = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs: progress.add(
                note=f"loss {logs['loss']:.3f}, validation accuracy {logs['val_accuracy']:.3f}"
            )
        )
        x, y = train if isinstance(train, tuple) else (train, None)
        told = model.fit(
            x,
            y,
            validation_data=validation,
            batch_size=None if y is None else recipe.batch_size,
            epochs=n_epochs,
            callbacks=[stopping, telling],
            verbose=0,
        )
    return [
        {
            "stage": stage,
            "epoch": epoch + 1,
            **{name: round(told.history[name][epoch], 6) for name in MEASURES},
        }
        for epoch in told.epoch
    ]


def _calibrated(
    model: keras.Model, history: list[dict[str, Any]], dataset: Dataset, sides: Sides
) -> Trained:
    """Choose temperature and threshold on the images that were held out."""
    labels = dataset.labels[sides.validation]
    logits = model.predict(dataset.images[sides.validation], verbose=0)
    temperature = metrics.best_temperature(labels, logits)
    threshold = metrics.best_threshold(labels, metrics.softmax(logits, temperature))
    return Trained(model, temperature, threshold, history)
