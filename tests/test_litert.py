"""Frozen layers give in LiteRT what they give in Keras: a conversion can lose weights in silence."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from jobs.train import SHIPPED
from lib import bundle
from lib.training import litert, models


@pytest.mark.parametrize("layer", [models.CUT, models.POOLED])
def test_the_layers_of_a_backbone_keep_their_weights(layer: str) -> None:
    model = models.mobilenet(2, 64, bundle.weights(str(SHIPPED)))
    frozen = keras.Model(model.input, model.get_layer(layer).output)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    expected = np.asarray(frozen(images))
    assert expected.std() > 1e-3
    call = litert.function(litert.convert_function(frozen))
    for image, output in zip(images, expected, strict=True):
        np.testing.assert_allclose(call(image), output, atol=1e-4 * np.abs(expected).max())
