"""Keras networks as LiteRT models: what serves, and what looks through frozen layers."""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lib.bundle import N_INTERPRETERS, signatures
from lib.chatter import without_greetings
from lib.commands import Progress


def convert(
    signatures: Callable[[keras.export.ExportArchive], None], *, float16: bool = False
) -> bytes:
    """Return a LiteRT model with the endpoints that `signatures` adds to an archive."""
    archive = keras.export.ExportArchive()
    signatures(archive)
    with tempfile.TemporaryDirectory() as folder, without_greetings():
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if float16:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


def through(frozen: keras.Model, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return what frozen layers make of images: float32 (n, ...), through LiteRT on all cores.

    Args:
        frozen: a model of uint8 images.
        images: uint8 (N, H, W, 3).
        rows: which of them, int (n,).
    """
    outputs = np.empty((len(rows), *frozen.output_shape[1:]), np.float32)
    idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
    content = convert(_frozen_signature(frozen))
    for _ in range(N_INTERPRETERS):
        idle.put(signatures(content, "frozen")["frozen"])
    with Progress("looking", len(rows)) as progress, ThreadPoolExecutor(N_INTERPRETERS) as pool:

        def look(row: int) -> None:
            runner = idle.get()
            outputs[row] = runner(images=images[rows[row]][None])["outputs"][0]
            idle.put(runner)
            progress.add()

        list(pool.map(look, range(len(rows))))
    return outputs


def _frozen_signature(frozen: keras.Model) -> Callable[[keras.export.ExportArchive], None]:
    """Return what adds the one signature of frozen layers to an archive."""
    spec = tf.TensorSpec((1, *frozen.input_shape[1:]), tf.uint8, name="images")

    def add(archive: keras.export.ExportArchive) -> None:
        archive.track(frozen)
        archive.add_endpoint("frozen", lambda images: {"outputs": frozen(images)}, [spec])

    return add
