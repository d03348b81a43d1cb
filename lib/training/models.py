"""The two networks, side by side: a small CNN from nothing, and MobileNetV2 by transfer learning.

Both take pixels as they are, uint8 0 to 255: the scaling each needs is a layer of its graph.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
from keras import layers

from lib.failures import Broken

POOLED = "pooled"
"""The layer of MobileNetV2 behind which only the head stands."""

CUT = "block_12_add"
"""The layer of MobileNetV2 after which it learns from augmented views; those before stay frozen."""

ALPHA = 0.35
"""The width of MobileNetV2, as a share of the published one."""

EDGE_SHARE = 28
"""The edge of an image, where its background shows, is one such part of its side wide."""

FAINTEST = 4 / 255
"""What differs from the background by less than this is noise, and is not made stronger."""

OTHER_WAYS = (
    "other ways: set KERAS_HOME to a folder that has them, --backbone FILE.h5, --backbone BUNDLE, "
    "--backbone none"
)


class NoWeights(Broken):
    """ImageNet's weights are neither in Keras' cache nor to be had."""


class FromBackground(layers.Layer):
    """How far each pixel is from what lies behind the object, whichever of the two is brighter.

    float32 (N, H, W, 3), pixels 0 to 1, becomes the same shape, 0 and up: in each channel the
    distance from the mean of the upper, left and right edges (things enter from below), as a share
    of twice the root mean square over the image. Light, its colour, and whether the object is
    darker or brighter than the wall are gone: a network of this size does not learn that they do
    not matter, not even from views that change them.
    """

    def call(self, pixels: object) -> object:
        """Return the distances; nothing in here learns."""
        width = max(1, pixels.shape[1] // EDGE_SHARE)
        edges = (pixels[:, :width], pixels[:, :, :width], pixels[:, :, -width:])
        behind = sum(keras.ops.mean(edge, (1, 2), keepdims=True) for edge in edges) / len(edges)
        distance = keras.ops.abs(pixels - behind)
        spread = keras.ops.mean(keras.ops.square(distance), (1, 2, 3), keepdims=True)
        return distance / (2 * (keras.ops.sqrt(spread) + FAINTEST))


class Folded(layers.Layer):
    """A convolution and the frozen BatchNorm behind it, as one that shares their weights.

    What the norm multiplies by goes into the kernel: that is thousands of numbers, where what comes
    out of it for a batch is millions. What it adds, and an activation, TensorFlow then makes a part
    of the convolution. A step takes a tenth less for the top blocks, a quarter for all.

    Args:
        convolution: of one or of all channels, without a bias.
        norm: which does not learn.
    """

    def __init__(
        self,
        convolution: layers.Conv2D | layers.DepthwiseConv2D,
        norm: layers.BatchNormalization,
    ) -> None:
        super().__init__(name=f"{convolution.name}_folded")
        self._convolution = convolution
        self._norm = norm

    def call(self, maps: object) -> object:
        """Return what the two layers would, float32 (N, H, W, C), but for rounding."""
        kernel, norm = self._convolution.kernel, self._norm
        factor = norm.gamma / keras.ops.sqrt(norm.moving_variance + norm.epsilon)
        how = {"strides": self._convolution.strides, "padding": self._convolution.padding}
        if isinstance(self._convolution, layers.DepthwiseConv2D):
            maps = keras.ops.depthwise_conv(maps, kernel * factor[:, None], **how)
        else:
            maps = keras.ops.conv(maps, kernel * factor, **how)
        return maps + (norm.beta - norm.moving_mean * factor)


def folded(model: keras.Model) -> keras.Model:
    """Return a model that shares all weights with another one, and learns faster.

    Args:
        model: its BatchNorm layers, each behind its convolution, do not learn.
    """
    norms = {
        layer.name: norm
        for layer, norm in pairwise(model.layers)
        if isinstance(norm, layers.BatchNormalization)
    }

    def call(layer: keras.Layer, maps: object, **more: object) -> object:
        if layer.name in norms:
            return Folded(layer, norms[layer.name])(maps)
        if isinstance(layer, layers.BatchNormalization):
            return maps
        return layer(maps, **more)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def cnn(n_classes: int, size_px: int, *, plain: bool = False) -> keras.Model:
    """Return the small CNN: uint8 (N, size_px, size_px, 3) -> logits float32 (N, n_classes).

    Args:
        plain: it sees the pixels themselves, as published, and not their distance from the
            background. The layers that learn are the published ones either way.
    """
    images = keras.Input((size_px, size_px, 3), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="scale")(images)
    if not plain:
        x = FromBackground(name="from_background")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, 2, padding="same", name="pool1")(x)
    x = layers.Conv2D(16, 4, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(4, 2, padding="same", name="pool2")(x)
    x = layers.Conv2D(16, 5, padding="same", activation="relu", name="conv3")(x)
    x = layers.MaxPooling2D(2, 2, padding="same", name="last_map")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(256, activation="relu", name="dense1")(x)
    x = layers.Dense(128, activation="relu", name="dense2")(x)
    return keras.Model(images, layers.Dense(n_classes, name="logits")(x), name="cnn")


def transplant(small: keras.Model, model: keras.Model) -> None:
    """Give the small CNN what it learned on images several times smaller.

    The convolutions are the same. Where the first dense layer had one place, it now has a square of
    them, which share its weight.
    """
    for layer in small.layers:
        values = layer.get_weights()
        if layer.name == "dense1":
            side = small.get_layer("last_map").output.shape[1]
            times = model.get_layer("last_map").output.shape[1] // side
            kernel = values[0].reshape(side, side, -1, values[0].shape[1])
            kernel = kernel.repeat(times, axis=0).repeat(times, axis=1) / times**2
            values = [kernel.reshape(-1, kernel.shape[-1]), values[1]]
        model.get_layer(layer.name).set_weights(values)


def mobilenet(
    n_classes: int, size_px: int, backbone: str | Mapping[str, np.ndarray]
) -> keras.Model:
    """Return MobileNetV2 0.35 with a head: uint8 (N, size_px, size_px, 3) -> logits (N, n_classes).

    The backbone is frozen. Its BatchNorm layers stay so when convolutions are trained, because the
    statistics of a few hundred images are worse than ImageNet's
    (https://keras.io/guides/transfer_learning/).

    Args:
        backbone: `imagenet`, `none` (from nothing), the path of a Keras `.h5` weights file, or
            weights by the path of their variable, as `bundle.weights` gives them.

    Raises:
        NoWeights: ImageNet's weights cannot be found.
        Broken: the weights given do not fit.
    """
    images = keras.Input((size_px, size_px, 3), dtype="uint8", name="images")
    scaled = layers.Rescaling(1 / 127.5, offset=-1, name="scale")(images)
    base = _backbone(scaled, size_px, backbone)
    for layer in base.layers:
        layer.trainable = backbone == "none"
    x = layers.GlobalAveragePooling2D(name=POOLED)(base.get_layer("out_relu").output)
    x = layers.Dense(100, activation="relu", name="dense1")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    model = keras.Model(images, layers.Dense(n_classes, name="logits")(x), name="mobilenet")
    if isinstance(backbone, Mapping):
        _assign(backbone, base.weights)
    return model


def _backbone(
    scaled: object, size_px: int, backbone: str | Mapping[str, np.ndarray]
) -> keras.Model:
    weights = backbone if isinstance(backbone, str) and backbone != "none" else None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Keras tells of a download
            return keras.applications.MobileNetV2(
                input_shape=(size_px, size_px, 3),
                input_tensor=scaled,
                alpha=ALPHA,
                include_top=False,
                weights=weights,
            )
    except Exception as error:  # Keras raises a bare Exception where a download fails
        if weights != "imagenet":
            raise Broken(
                f"{weights}: does not hold the weights of this backbone ({error})"
            ) from error
        where = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
        raise NoWeights(
            f"ImageNet's weights are not in {where} and cannot be downloaded; {OTHER_WAYS}"
        ) from error


def _assign(values: Mapping[str, np.ndarray], variables: Sequence[keras.Variable]) -> None:
    for variable in variables:
        value = values.get(variable.path)
        if value is None or value.shape != tuple(variable.shape):
            raise Broken(f"the bundle's weights do not fit the network at {variable.path}")
        variable.assign(value.astype(np.float32))


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Return what a later training can go on from: all weights, as float16."""
    return {variable.path: np.asarray(variable).astype(np.float16) for variable in model.weights}


def go_on_from(model: keras.Model, values: Mapping[str, np.ndarray], after: str) -> None:
    """Give every layer behind `after` what an earlier training made of it.

    Raises:
        Broken: the weights given do not fit.
    """
    _assign(values, [v for layer in _behind(model, after) for v in layer.weights])


def _behind(model: keras.Model, after: str) -> list[keras.Layer]:
    names = [layer.name for layer in model.layers]
    return model.layers[names.index(after) + 1 :]


def unfreeze(model: keras.Model, after: str | None = None) -> None:
    """Let every layer behind `after` learn (all of them without one), but no BatchNorm."""
    learning = after is None
    for layer in model.layers:
        layer.trainable = learning and not isinstance(layer, layers.BatchNormalization)
        learning = learning or layer.name == after


def round_weights(model: keras.Model) -> None:
    """Round every weight to what float16 can hold, so that what is measured is what is served."""
    for variable in model.weights:
        variable.assign(np.asarray(variable).astype(np.float16).astype(np.float32))
