"""Keras networks as LiteRT models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import keras
import numpy as np
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


def convert_function(network: keras.Model) -> bytes:
    """Return a LiteRT model of one network, for one image at a time, without a signature.

    Its graph goes to the converter as it is, its weights as constants: by way of a saved model it
    takes seven times as long, with variables half as long again.
    """
    spec = tf.TensorSpec((1, *network.input_shape[1:]), tf.uint8, name="images")
    weights = [
        [tf.constant(np.asarray(variable)) for variable in variables]
        for variables in (network.trainable_variables, network.non_trainable_variables)
    ]
    call = tf.function(lambda images: network.stateless_call(*weights, images)[0], autograph=False)
    with without_greetings():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [call.get_concrete_function(spec)], network
        )
        converter.experimental_lower_to_saved_model = False
        return converter.convert()


def function(model: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Return what `convert_function` made as a function, on an interpreter of one thread.

    It takes one image, uint8 (H, W, 3), and returns the network's output for it, float32 (...).
    """
    from ai_edge_litert.interpreter import Interpreter

    with without_greetings():
        interpreter = Interpreter(model_content=model, num_threads=1)
        interpreter.allocate_tensors()
    (images,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()

    def call(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(images["index"], image[None])
        interpreter.invoke()
        return interpreter.get_tensor(outputs["index"])[0]

    return call
