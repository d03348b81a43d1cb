"""A trained model as a folder: load, verify, predict, explain. LiteRT is imported by `load`."""

from __future__ import annotations

import hashlib
import io
import os
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lib import records, storage
from lib.chatter import without_greetings
from lib.failures import Broken
from lib.records import Card

CARD = "card.json"
MODEL = "model.tflite"
GOLDEN = "golden.npz"
WEIGHTS = "weights.npz"
MEASURED = "measured.npz"
"""The scores behind the card's accuracy, by SHA-256 of the pixels: for the next comparison."""

SPLIT = "split.npz"
"""The side of the split that each image was on, by SHA-256 of the pixels: the next one keeps it."""

GOLDEN_TOLERANCE = 1e-3
"""How far a replayed golden score may be from the stored one; processors differ a little."""

N_INTERPRETERS = os.cpu_count() or 1
"""Interpreters a bundle holds at the most: one a core, one image at a time, is the fastest."""


class Bundle:
    """A verified model. Safe to share between threads: each call borrows an interpreter of its own.

    Attributes:
        card: what the bundle says of itself.
        digest: SHA-256 of the card, which names the digest of every other file: the identity of
            the bundle.
        uri: where it was loaded from.
    """

    def __init__(self, card: Card, model: bytes, *, digest: str, uri: str) -> None:
        self.card = card
        self.digest = digest
        self.uri = uri
        self._model = model
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        self._unmade: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(N_INTERPRETERS):
            self._unmade.put(None)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Return scores, float32 (N, C), rows summing to 1, for images, uint8 (N, H, W, 3).

        An image's scores do not depend on the other images of the batch.
        """
        self._check_images(images)
        scores = np.empty((len(images), len(self.card.classes)), np.float32)
        with self._interpreter() as interpreter:
            for row, image in zip(scores, images, strict=True):
                row[:] = interpreter["predict"](images=image[None])["scores"][0]
        return scores

    def explain(self, image: np.ndarray) -> np.ndarray:
        """Return heat, float32 (h, w), 0 to 1: where an image, uint8 (1, H, W, 3), shows its class.

        Grad-CAM at the last convolution (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391).
        """
        self._check_images(image)
        with self._interpreter() as interpreter:
            return interpreter["explain"](images=image)["heat"].copy()

    def _check_images(self, images: np.ndarray) -> None:
        size_px = self.card.image.size_px
        if images.dtype != np.uint8 or images.shape[1:] != (size_px, size_px, 3):
            raise ValueError(
                f"images must be uint8 (N, {size_px}, {size_px}, 3). "
                f"Received: {images.dtype} {images.shape}"
            )

    @contextmanager
    def _interpreter(self) -> Iterator[dict[str, Any]]:
        runners = self._borrow()
        try:
            yield runners
        finally:
            self._idle.put(runners)

    def _borrow(self) -> dict[str, Any]:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        try:
            self._unmade.get_nowait()
        except queue.Empty:
            return self._idle.get()
        return signatures(self._model, "predict", "explain")


def signatures(model: bytes, *names: str) -> dict[str, Callable[..., dict[str, np.ndarray]]]:
    """Return signatures of a LiteRT model as functions, on an interpreter of one thread."""
    from ai_edge_litert.interpreter import Interpreter

    with without_greetings():
        interpreter = Interpreter(model_content=model, num_threads=1)
        interpreter.allocate_tensors()
        return {name: interpreter.get_signature_runner(name) for name in names}


def load(uri: str) -> Bundle:
    """Return the bundle at `uri`, a folder or `s3://bucket/prefix`, verified.

    Raises:
        Broken: a file is missing or not the one the card names, or the model does not give the
            scores of its golden images.
    """
    card_uri = storage.join(uri, CARD)
    text = storage.read(card_uri).data
    card = records.parse_card(text, card_uri)
    for needed in (MODEL, GOLDEN):
        if needed not in card.files:
            raise Broken(f"{card_uri}: names no {needed}")
    files = {
        name: _verified(storage.join(uri, name), sha256) for name, sha256 in card.files.items()
    }
    bundle = Bundle(card, files[MODEL], digest=hashlib.sha256(text).hexdigest(), uri=uri)
    _replay(bundle, files[GOLDEN])
    return bundle


def _verified(uri: str, sha256: str) -> bytes:
    data = storage.read(uri).data
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Broken(
            f"{uri}: is not the file its card names (SHA-256 differs); the bundle is damaged"
        )
    return data


def _replay(bundle: Bundle, golden: bytes) -> None:
    try:
        with np.load(io.BytesIO(golden), allow_pickle=False) as arrays:
            images, expected = arrays["images"], arrays["scores"]
        scores = bundle.predict(images)
    except (KeyError, ValueError, RuntimeError) as error:
        raise Broken(f"{bundle.uri}: the model does not run ({error})") from error
    if scores.shape != expected.shape or not np.allclose(scores, expected, atol=GOLDEN_TOLERANCE):
        raise Broken(f"{bundle.uri}: the model does not give the scores of its golden images")


def weights(uri: str) -> dict[str, np.ndarray]:
    """Return the weights kept in a bundle to go on training from, by the path of their variable.

    Raises:
        Broken: the bundle keeps none, or they are not the ones its card names.
    """
    card_uri = storage.join(uri, CARD)
    card = records.parse_card(storage.read(card_uri).data, card_uri)
    if WEIGHTS not in card.files:
        raise Broken(f"{uri}: a bundle of {card.name} keeps no weights to go on from")
    data = _verified(storage.join(uri, WEIGHTS), card.files[WEIGHTS])
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {path: arrays[path] for path in arrays.files}


def sides(uri: str) -> dict[str, str]:
    """Return the side that each image was on in a bundle's training, by SHA-256 of its pixels.

    Empty where none was kept.

    Raises:
        Broken: they are not the ones the card names.
    """
    card_uri = storage.join(uri, CARD)
    card = records.parse_card(storage.read(card_uri).data, card_uri)
    if SPLIT not in card.files:
        return {}
    data = _verified(storage.join(uri, SPLIT), card.files[SPLIT])
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(zip(arrays["digests"].tolist(), arrays["sides"].tolist(), strict=True))


def measured(model: Bundle) -> dict[str, np.ndarray]:
    """Return the scores behind the card's accuracy, float32 (C,), by SHA-256 of the image's pixels.

    They are of a model that had not seen the image's session. Empty where none were kept.
    """
    if MEASURED not in model.card.files:
        return {}
    data = _verified(storage.join(model.uri, MEASURED), model.card.files[MEASURED])
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return dict(zip(arrays["digests"].tolist(), arrays["scores"], strict=True))
