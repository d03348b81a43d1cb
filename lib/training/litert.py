"""Keras networks as LiteRT models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import keras
import tensorflow as tf

from lib.chatter import without_greetings


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
