"""The images behind a cell of a confusion matrix, where the data of the training is at hand."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from demo.quick import utils
from lib import bundle, images, storage
from lib.bundle import Bundle
from lib.failures import Failure, Unreadable

MAX_SHOWN = 60
"""How many images of a cell are shown."""


def pictures(model: Bundle, truth: str, said: str) -> list[tuple[str, str]] | None:
    """Return path and name of the images of class `truth` that were taken for `said`.

    They are told by their pixels, whatever their names are now, and what they were taken for is
    what the accuracy in the card was counted on. None where none of them is at hand.
    """
    column = model.card.classes.index(said)
    try:
        known = list(_measured(model, truth))
    except Failure:
        return None
    if not known:
        return None
    folder = Path(utils.get_upload_folder()) / "cells" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    taken = [row for row in known if int(row[2].argmax()) == column]
    return [_shown(folder / f"{n:03}.jpg", *row) for n, row in enumerate(taken[:MAX_SHOWN])]


def _measured(model: Bundle, truth: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield name, pixels and scores of each image of a class that the model was measured on."""
    scores = bundle.measured(model)
    for source in model.card.data.get("sources", []):
        for entry in storage.entries(storage.join(source, truth)):
            try:
                data = storage.read(entry.uri, max_bytes=images.MAX_BYTES).data
                image = images.decode(data, model.card.image)
            except Unreadable:
                continue
            found = scores.get(hashlib.sha256(image).hexdigest())
            if found is not None:
                yield entry.uri.rsplit("/", 1)[-1], image, found


def _shown(path: Path, name: str, image: np.ndarray, scores: np.ndarray) -> tuple[str, str]:
    Image.fromarray(image).save(path, "JPEG", quality=85)
    return str(path), f"{name} · {scores.max():.0%}"
