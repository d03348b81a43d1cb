"""How the two networks learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lib.commands import Progress
from lib.training import augment, models
from lib.training.activations import ActivationBatches, Looked, look
from lib.training.dataset import Batches, Dataset
from lib.training.head import Head

MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy")

LEAST_STEPS = 20
"""Of an epoch of the small CNN. While one begins and another ends nothing is learned, so an epoch
shows few images several times."""

STEPS_AT_ONCE = 8
"""Between which Keras does not come back to Python: that takes 2 to 3 ms, of a step of 30. More do
not take less, and a signal has to wait for them."""

NOBODY = np.empty(0, np.int64)
"""The rows of a validation that does not take place."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the small CNN's training, on images of one size."""

    name: str
    shrink: int
    """Each square of so many pixels a side becomes one."""
    rate: float
    """Adam's highest rate; it rises at first and falls by half a cosine."""
    batch_size: int
    n_shown: int
    """Views of each image that are shown."""
    steps: int
    """More views where they would be fewer steps: few images need as many as many do."""
    n_views: int
    """Fewer where they would be more than this of all images, but never less than one of each."""
    dense_share: float = 1.0
    """The rate of the dense layers, as a share of that of the convolutions."""
    ema_momentum: float | None = None
    """Of the moving average of the weights, which are then those that the stage ends with."""

    def epochs(self, n_images: int) -> tuple[int, int]:
        """Return how many epochs it has, and how many views of each image one of them shows."""
        n_shown = max(self.n_shown, -(-self.steps * self.batch_size // n_images))
        n_shown = min(n_shown, max(1, self.n_views // n_images))
        n_passes = min(n_shown, -(-LEAST_STEPS * self.batch_size // n_images))
        return -(-n_shown // n_passes), n_passes


@dataclass(frozen=True, slots=True)
class Recipe:
    """The numbers behind a training; written in the card."""

    depth: str = "top"
    """How much of MobileNetV2 learns: `frozen`, the head alone, by the published recipe; `top`, the
    blocks after the cut too, from augmented views; `all`, every convolution in the end."""
    seed: int = 0
    label_smoothing: float = 0.1
    """Of the true class's score, spread over all; the published recipe has none."""

    head_rate: float = 1e-3
    """Adam's rate for the head while it learns alone."""
    head_epochs: int = 50
    """Epochs of the published recipe at the most; early stopping ends sooner."""
    patience_epochs: int = 3
    """Epochs without a lower validation loss before it stops; the best weights are restored."""

    n_views: int = 4
    """Views of each image, the image itself among them, that the top learns from in every epoch."""
    head_steps: int = 100
    """Steps of the head alone, at least, before the top learns with it. Without them what a head
    that knows nothing asks of the top ruined it in three of four trainings on 160 drawn hands:
    0.43, 0.19, 0.20 of others were right; with them 0.88, 0.90, 0.83."""
    top_rate: float = 1e-3
    """Adam's highest rate while the top learns; it rises at first and falls by half a cosine. At
    3e-3 and 128 images a step the head died in its first steps wherever there were few: of eight
    trainings on 150 photographs seven ended no better than chance."""
    top_batch_size: int = 32
    top_epochs: int = 9
    top_steps: int = 300
    """More epochs where they would be fewer steps: ten photographs a class need as many as a
    hundred."""

    again_rate: float = 3e-4
    """Adam's highest rate where the top goes on from an earlier version."""
    again_epochs: int = 2

    all_rate: float = 3e-5
    """Adam's highest rate while every convolution learns. By 2,000 drawn hands alone, 0.973 of
    the photographs were right before, 0.970 after this, 0.953 after 1e-4 and 0.963 after 2e-4 for
    twice as long: what ImageNet taught the first layers is worth more than what drawings add."""
    all_epochs: int = 2

    new_rate: float = 1e-3
    """Adam's highest rate for a network that starts from nothing."""
    new_epochs: int = 16
    """Epochs of a MobileNetV2 that starts from nothing."""
    stages: tuple[Stage, ...] = (
        Stage("quarter size", 4, 2e-3, 64, n_shown=120, steps=500, n_views=100_000),
        Stage("half size", 2, 1e-3, 64, n_shown=24, steps=150, n_views=20_000),
        Stage(
            "whole size", 1, 3.2e-3, 16, n_shown=18, steps=300, n_views=16_000,
            dense_share=1 / 8, ema_momentum=0.99,
        ),
    )  # fmt: skip
    """Of the small CNN. On small images it sees whole objects, not their texture, learns faster and
    generalises better; on large ones its convolutions then learn to tell it the same, and the dense
    layers follow slowly: what they know of whole objects is what generalises."""


@dataclass(frozen=True)
class Learned:
    """A network after its training.

    Attributes:
        model: uint8 (N, H, W, 3) -> logits (N, C).
        history: a row for each epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy.
        n_epochs: the epoch whose weights these are.
    """

    model: keras.Model
    history: list[dict[str, Any]]
    n_epochs: int


@dataclass(frozen=True)
class Student:
    """What is needed to train one model on any part of a dataset.

    Attributes:
        name: `cnn` or `mobilenet`.
        dataset: all images.
        n_classes: C, of the logits.
        start: where MobileNetV2 starts, as `models.mobilenet` takes it.
        before: the weights of an earlier version, by the path of their variable, where the layers
            that learn go on from it; the frozen ones are those of `start` all the same.
    """

    name: str
    dataset: Dataset
    n_classes: int
    recipe: Recipe
    start: str | Mapping[str, np.ndarray]
    before: Mapping[str, np.ndarray] | None = None

    def learn(
        self, train: np.ndarray, validation: np.ndarray = NOBODY, n_epochs: int | None = None
    ) -> Learned:
        """Train on some rows, int (n,), watching others.

        Args:
            n_epochs: the published recipe stops by itself where there is a validation; without
                one it has to be told when.
        """
        # Keras draws its seeds from here. `keras.utils.set_random_seed` makes TensorFlow forget its
        # kernels too: to build MobileNetV2 then takes half as long again.
        random.seed(self.recipe.seed)
        learned = self._learn(train, validation, n_epochs)
        models.round_weights(learned.model)
        return learned

    def _learn(self, train: np.ndarray, validation: np.ndarray, n_epochs: int | None) -> Learned:
        if self.name == "cnn":
            return self._learn_cnn(train, validation, n_epochs)
        model = models.mobilenet(self.n_classes, self._size_px, self.start)
        if self.start == "none":
            return self._learn_images(model, train, validation, self.recipe.new_epochs)
        if self.recipe.depth == "frozen":
            return self._learn_head(model, train, validation, n_epochs)
        learned = self._learn_top(model, train, validation)
        if self.recipe.depth == "top":
            return learned
        models.unfreeze(model)
        whole = models.folded(model)
        then = self._learn_images(whole, train, validation, self.recipe.all_epochs)
        return Learned(model, learned.history + then.history, then.n_epochs)

    @property
    def stops_early(self) -> bool:
        """Whether a validation decides when this model stops."""
        return self.recipe.depth == "frozen" and self.start != "none"

    @property
    def _size_px(self) -> int:
        return self.dataset.images.shape[1]

    def _learn_cnn(
        self, train: np.ndarray, validation: np.ndarray, n_epochs: int | None
    ) -> Learned:
        if self.recipe.depth == "frozen":
            model = models.cnn(self.n_classes, self._size_px, plain=True)
            batches = Batches(self.dataset, train, batch_size=32, seed=self.recipe.seed)
            watched = Batches(self.dataset, validation, batch_size=64, seed=0)
            return self._until_it_stops(model, "all", stream(batches), stream(watched), n_epochs)
        history: list[dict[str, Any]] = []
        grown: list[keras.Model] = []
        for stage in self.recipe.stages:
            grown.append(models.cnn(self.n_classes, self._size_px // stage.shrink))
            if history:
                models.transplant(*grown[-2:])
            history += self._learn_stage(grown[-1], stage, train, validation)
        return Learned(grown[-1], history, len(history))

    def _learn_stage(
        self, model: keras.Model, stage: Stage, train: np.ndarray, validation: np.ndarray
    ) -> list[dict[str, Any]]:
        """Train the small CNN on views of each image that it never saw before."""
        dataset = self.dataset.shrunk(stage.shrink)
        n_epochs, n_passes = stage.epochs(len(train))
        batches = Batches(
            dataset,
            train,
            batch_size=stage.batch_size,
            seed=self.recipe.seed,
            n_passes=n_passes,
            change=partial(augment.view, limits=augment.NEAR_LIMITS),
        )
        watched = Batches(dataset, validation, batch_size=64, seed=0)
        adam = partial(
            SlowDense,
            dense_share=stage.dense_share,
            use_ema=stage.ema_momentum is not None,
            ema_momentum=stage.ema_momentum,
        )
        return self._for_epochs(model, stage.name, batches, watched, stage.rate, n_epochs, adam)

    def _learn_head(
        self, model: keras.Model, train: np.ndarray, validation: np.ndarray, n_epochs: int | None
    ) -> Learned:
        """Train the head on what the frozen layers made of each image, by the published recipe."""
        looked = look(model, models.POOLED, self.dataset, self.recipe, n_views=1)
        head = Head(model, self.recipe.head_rate, self.recipe.seed)
        watched = NOBODY if n_epochs else validation
        n_most = n_epochs or self.recipe.head_epochs
        history: list[dict[str, Any]] = []
        with Progress(f"training {model.name}, head", n_most, "epochs") as progress:

            def tell(measured: Mapping[str, float]) -> None:
                history.append(_row("head", len(history) + 1, measured))
                progress.add(note=_note(measured))

            patience_epochs = self.recipe.patience_epochs
            best_epoch = head.learn(looked, train, watched, n_most, patience_epochs, tell)
        head.put_back()
        return Learned(model, history, best_epoch)

    def _learn_top(self, model: keras.Model, train: np.ndarray, validation: np.ndarray) -> Learned:
        """Train head and top blocks on what the frozen layers made of each view."""
        looked = look(model, models.CUT, self.dataset, self.recipe, n_views=self.recipe.n_views)
        batches = ActivationBatches(
            looked,
            train,
            batch_size=self.recipe.top_batch_size,
            seed=self.recipe.seed,
        )
        watched = _unchanged(looked, validation)

        def learn(stage: str, after: str, rate: float, n_epochs: int) -> list[dict[str, Any]]:
            models.unfreeze(model, after)
            top = models.folded(self._after(model, models.CUT))
            return self._for_epochs(top, stage, batches, watched, rate, n_epochs)

        recipe = self.recipe
        if self.before:
            models.go_on_from(model, self.before, models.CUT)
            history = learn("top", models.CUT, recipe.again_rate, recipe.again_epochs)
            return Learned(model, history, recipe.again_epochs)
        n_head = -(-recipe.head_steps // len(batches))
        n_top = max(recipe.top_epochs, -(-recipe.top_steps // len(batches)))
        history = learn("head", models.POOLED, recipe.head_rate, n_head)
        history += learn("top", models.CUT, recipe.top_rate, n_top)
        return Learned(model, history, n_top)

    def _learn_images(
        self, model: keras.Model, train: np.ndarray, validation: np.ndarray, n_epochs: int
    ) -> Learned:
        """Train every layer that may learn on a new view of each image in every epoch."""
        batches = Batches(
            self.dataset, train, batch_size=32, seed=self.recipe.seed, change=augment.view
        )
        watched = Batches(self.dataset, validation, batch_size=64, seed=0)
        rate = self.recipe.new_rate if self.start == "none" else self.recipe.all_rate
        history = self._for_epochs(model, "all", batches, watched, rate, n_epochs)
        return Learned(model, history, n_epochs)

    def _after(self, model: keras.Model, layer: str) -> keras.Model:
        return keras.Model(model.get_layer(layer).output, model.output, name=model.name)

    def _until_it_stops(
        self,
        model: keras.Model,
        stage: str,
        batches: tf.data.Dataset,
        watched: tf.data.Dataset,
        n_epochs: int | None,
    ) -> Learned:
        """Fit until the validation loss stops falling and go back to its lowest."""
        stopping = keras.callbacks.EarlyStopping(
            patience=self.recipe.patience_epochs, restore_best_weights=True
        )
        model.compile(
            keras.optimizers.Adam(self.recipe.head_rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        if n_epochs:
            return Learned(model, _fit(model, stage, batches, watched, n_epochs), n_epochs)
        history = _fit(model, stage, batches, watched, self.recipe.head_epochs, stopping)
        return Learned(model, history, stopping.best_epoch + 1)

    def _for_epochs(
        self,
        model: keras.Model,
        stage: str,
        batches: Batches | ActivationBatches,
        watched: Batches | ActivationBatches,
        rate: float,
        n_epochs: int,
        adam: Callable[..., keras.optimizers.Adam] = keras.optimizers.Adam,
    ) -> list[dict[str, Any]]:
        """Fit for so many epochs, the rate rising for the first twentieth of the steps."""
        n_steps = n_epochs * len(batches)
        n_warm = max(1, n_steps // 20)
        falling = keras.optimizers.schedules.CosineDecay(
            rate / n_warm, n_steps - n_warm, warmup_target=rate, warmup_steps=n_warm
        )
        model.compile(
            adam(falling, global_clipnorm=1.0),
            SmoothedCrossentropy(self.n_classes, self.recipe.label_smoothing),
            metrics=["accuracy"],
            steps_per_execution=STEPS_AT_ONCE,
        )
        return _fit(model, stage, stream(batches), stream(watched), n_epochs)


class SlowDense(keras.optimizers.Adam):
    """Adam (Kingma and Ba 2014, https://arxiv.org/abs/1412.6980) with two rates.

    Args:
        dense_share: the rate of dense layers, as a share of that of all others.
    """

    def __init__(self, learning_rate: Any, *, dense_share: float, **more: Any) -> None:
        super().__init__(learning_rate, **more)
        self._dense_share = dense_share

    def build(self, variables: Any) -> None:
        """Remember the share of each variable."""
        super().build(variables)
        dense = ("dense", "logits")
        self._shares = [self._dense_share if v.path.startswith(dense) else 1.0 for v in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Take a step for one variable."""
        share = self._shares[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * share)


class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits with labels that leave a little to the other classes.

    Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7.
    """

    def __init__(self, n_classes: int, smoothing: float) -> None:
        super().__init__(name="smoothed_crossentropy")
        self._n_classes = n_classes
        self._smoothing = smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each image, float32 (N,)."""
        sure = keras.ops.one_hot(keras.ops.reshape(y_true, (-1,)), self._n_classes)
        soft = sure * (1 - self._smoothing) + self._smoothing / self._n_classes
        return keras.losses.categorical_crossentropy(soft, y_pred, from_logits=True)


def stream(batches: Batches | ActivationBatches) -> tf.data.Dataset:
    """Return batches as Keras takes them, the next ones made while one is learned.

    They do not tune themselves: to end an epoch of those that do takes 2 to 3 s, in which nothing
    works. A `keras.utils.PyDataset` is wrapped in one that tunes itself.
    """
    images = tf.TensorSpec((None, *batches.shape), batches.dtype)
    labels = tf.TensorSpec((None,), tf.int64)
    epoch = tf.data.Dataset.from_generator(lambda: batches, output_signature=(images, labels))
    known = tf.data.experimental.assert_cardinality(len(batches))
    options = tf.data.Options()
    options.autotune.enabled = False
    return epoch.apply(known).prefetch(2).with_options(options)


def _unchanged(looked: Looked, rows: np.ndarray) -> ActivationBatches:
    """Return the images themselves, without their other views."""
    alone = Looked(looked.outputs[:, :1], looked.labels)
    return ActivationBatches(alone, rows, batch_size=256, seed=0)


def _fit(
    model: keras.Model,
    stage: str,
    batches: tf.data.Dataset,
    watched: tf.data.Dataset,
    n_epochs: int,
    *callbacks: keras.callbacks.Callback,
) -> list[dict[str, Any]]:
    """Fit and return a row an epoch; what is not watched is empty."""
    with Progress(f"training {model.name}, {stage}", n_epochs, "epochs") as progress:
        telling = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs: progress.add(note=_note(logs))
        )
        told = model.fit(
            batches,
            validation_data=watched if len(watched) else None,
            epochs=n_epochs,
            callbacks=[*callbacks, telling],
            shuffle=False,  # the batches come in an order of their own
            verbose=0,
        )
    return [
        _row(stage, epoch + 1, {name: told.history[name][epoch] for name in told.history})
        for epoch in told.epoch
    ]


def _row(stage: str, epoch: int, measured: Mapping[str, float]) -> dict[str, Any]:
    figures = {name: round(measured[name], 6) if name in measured else "" for name in MEASURES}
    return {"stage": stage, "epoch": epoch, **figures}


def _note(measured: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {measured[name]:.3f}" for name in MEASURES if name in measured)
