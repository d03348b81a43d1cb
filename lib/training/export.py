"""From a trained network to a bundle: LiteRT, checked against Keras."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lib import bundle, records, samples
from lib.failures import Broken
from lib.records import Card
from lib.training import models, pictures, report
from lib.training.litert import convert
from lib.training.measure import Trained

FLOAT32_TOLERANCE = 1e-4
FLOAT16_TOLERANCE = 0.01
"""How far a score of LiteRT may be from Keras' before the export fails."""

LIBRARIES = ("tensorflow", "tensorflow-cpu", "keras", "ai-edge-litert", "numpy", "pillow")

N_GOLDEN = 4


def write(
    trained: Trained,
    card: Card,
    folder: Path,
    check_images: np.ndarray,
    sides: Mapping[str, str] | None = None,
    mistakes: Sequence[pictures.Mistake] = (),
) -> Card:
    """Write a bundle into an empty folder, the card last, and return the card with its digests.

    The weights are float16 where that changes no answer, float32 otherwise.

    Args:
        check_images: uint8 (n, H, W, 3), that the network was measured on: here LiteRT has to
            agree with Keras. Only their digests are kept.
        sides: the side of the split that each image was on, by the digest of its pixels.
        mistakes: photographs to keep as a picture; none where the bundle is given to others.

    Raises:
        Broken: LiteRT does not give the scores of Keras.
    """
    golden = _golden_images(card.image.size_px)
    model_bytes, predict = _checked(trained, np.concatenate([golden, check_images]))
    (folder / bundle.MODEL).write_bytes(model_bytes)
    np.savez_compressed(folder / bundle.GOLDEN, images=golden, scores=predict(golden))
    _write_memory(trained, folder, check_images, sides or {})
    if card.name == "mobilenet":  # the small CNN always starts from nothing
        np.savez(folder / bundle.WEIGHTS, **models.weights(trained.model))
    _write_report(trained, card, folder, mistakes)
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }
    card = replace(card, files=files)
    (folder / bundle.CARD).write_bytes(records.to_file(card))
    bundle.load(str(folder))
    return card


def _write_memory(
    trained: Trained, folder: Path, check_images: np.ndarray, sides: Mapping[str, str]
) -> None:
    """Write what the next training needs: the scores measured, and the sides of all images."""
    np.savez_compressed(
        folder / bundle.MEASURED,
        digests=np.array([hashlib.sha256(image).hexdigest() for image in check_images]),
        scores=trained.measured.astype(np.float32),
    )
    if sides:
        np.savez_compressed(
            folder / bundle.SPLIT,
            digests=np.array(list(sides)),
            sides=np.array(list(sides.values())),
        )


def _write_report(
    trained: Trained, card: Card, folder: Path, mistakes: Sequence[pictures.Mistake]
) -> None:
    """Write what people read: the report with its pictures, and the history."""
    _write_history(trained.history, folder)
    pictures.confusion(card.metrics["confusion"], card.classes, folder / "confusion.png")
    if mistakes:
        pictures.mistakes(mistakes, folder / "mistakes.png")
    told = report.markdown(card, n_mistakes_shown=len(mistakes))
    (folder / "report.md").write_text(told, encoding="utf-8", errors="backslashreplace")


def _checked(
    trained: Trained, images: np.ndarray
) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    """Return the smallest LiteRT model that agrees with Keras on all images, and its predict."""
    expected = trained.scores(images)
    for float16, tolerance in ((True, FLOAT16_TOLERANCE), (False, FLOAT32_TOLERANCE)):
        model_bytes = convert(serving(trained.model, trained.temperature), float16=float16)
        predict = _predict_with(model_bytes)
        scores = predict(images)
        worst = float(np.abs(scores - expected).max())
        if worst <= tolerance and np.array_equal(scores.argmax(1), expected.argmax(1)):
            return model_bytes, predict
    raise Broken(f"LiteRT must be within {FLOAT32_TOLERANCE} of Keras. Received: {worst:.2g}")


def _predict_with(model_bytes: bytes) -> Callable[[np.ndarray], np.ndarray]:
    runner = bundle.signatures(model_bytes, "predict")["predict"]
    return lambda images: np.concatenate([runner(images=image[None])["scores"] for image in images])


def _golden_images(size_px: int) -> np.ndarray:
    """Return a few made-up images, uint8 (N, H, W, 3): a bundle never keeps one it learned from."""
    return np.stack([samples.draw(n, seed=n, size_px=size_px).image for n in range(N_GOLDEN)])


def _write_history(history: Sequence[dict[str, Any]], folder: Path) -> None:
    with (folder / "history.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    pictures.curves(history, folder / "curves.png")


def libraries() -> dict[str, str]:
    """Return the versions that a bundle was made with."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def serving(model: keras.Model, temperature: float) -> Callable[[keras.export.ExportArchive], None]:
    """Return what adds the signatures `predict` and `explain` of a network to an archive."""
    size_px = model.input_shape[1]
    to_map_and_logits = keras.Model(model.input, [_last_map(model), model.output])

    def predict(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"scores": tf.nn.softmax(model(images, training=False) / temperature)}

    def explain(images: tf.Tensor) -> dict[str, tf.Tensor]:
        last_map, logits = to_map_and_logits(images, training=False)
        return {"heat": _heat(model, last_map, logits)}

    def add(archive: keras.export.ExportArchive) -> None:
        archive.track(model)
        archive.add_endpoint("predict", predict, [_images_spec(None, size_px)])
        archive.add_endpoint("explain", explain, [_images_spec(1, size_px)])

    return add


def _images_spec(n: int | None, size_px: int) -> tf.TensorSpec:
    return tf.TensorSpec((n, size_px, size_px, 3), tf.uint8, name="images")


def _last_map(model: keras.Model) -> Any:
    return model.get_layer("last_map" if model.name == "cnn" else "out_relu").output


def _heat(model: keras.Model, last_map: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return where the best class's logit comes from, (h, w), 0 to 1.

    Gradient times activation at the last map, summed over channels (HiResCAM, Draelos and Carin
    2020, https://arxiv.org/abs/2011.08891); behind a global average it is exactly Grad-CAM. The
    head is a chain of dense layers, so its gradient is written out: LiteRT has no tape.
    """
    pooled = model.name == "mobilenet"
    x = tf.reduce_mean(last_map, (1, 2)) if pooled else tf.reshape(last_map, (1, -1))
    chain = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    masks = []
    for layer in chain[:-1]:
        x = layer(x)
        masks.append(tf.cast(x > 0, tf.float32))
    gradient = tf.one_hot(tf.argmax(logits, 1), logits.shape[1])
    for layer, mask in zip(reversed(chain), [None, *reversed(masks)], strict=True):
        gradient = gradient if mask is None else gradient * mask
        # A matmul would keep the kernel a second time, the other way round: 6 MB of the small CNN.
        gradient = tf.reduce_sum(tf.transpose(layer.kernel) * tf.reshape(gradient, (-1, 1)), 0)
    shape = (1, 1, 1, -1) if pooled else (1, *last_map.shape[1:])
    heat = tf.nn.relu(tf.reduce_sum(last_map * tf.reshape(gradient, shape), -1))[0]
    return heat / tf.maximum(tf.reduce_max(heat), 1e-9)
