"""One picture in, what each model says out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from demo.doors import Upload
from lib import images, records
from lib.bundle import Bundle
from lib.records import Card, Prediction


@dataclass(frozen=True)
class Answer:
    """What one model says of one picture."""

    card: Card
    row: Prediction
    milliseconds: float
    """How long the model took, without the decoding."""
    image: np.ndarray
    """uint8 (size_px, size_px, 3): what the model saw."""
    heat: np.ndarray | None
    """float32 (h, w), 0 to 1: where it shows its class; None unless asked for."""

    def as_json(self) -> dict[str, Any]:
        """Return what a program wants to know."""
        return {
            **asdict(self.row),
            "threshold": self.card.threshold,
            "milliseconds": round(self.milliseconds, 2),
        }


def ask(bundles: Sequence[Bundle], upload: Upload, *, why: bool = False) -> list[Answer]:
    """Return the answer of each model, in their order.

    Raises:
        Unreadable: the picture cannot be used.
    """
    data = upload.read()
    etag = fingerprint(data)
    pixels: dict[records.ImageRule, np.ndarray] = {}
    answers = []
    for model in bundles:
        rule = model.card.image
        if rule not in pixels:
            pixels[rule] = images.decode(data, rule)
        answers.append(_answer(model, pixels[rule], upload.name, etag, why))
    return answers


def _answer(model: Bundle, image: np.ndarray, uri: str, etag: str, why: bool) -> Answer:
    started_s = time.perf_counter()
    scores = model.predict(image[None])[0]
    milliseconds = 1000 * (time.perf_counter() - started_s)
    row = records.prediction(uri, etag, model.card, scores.tolist())
    heat = model.explain(image[None]) if why else None
    return Answer(model.card, row, milliseconds, image, heat)


def fingerprint(data: bytes) -> str:
    """Return the etag of an upload: other bytes have another one."""
    return hashlib.sha256(data).hexdigest()[:32]


def agree(answers: Sequence[Answer]) -> bool:
    """Return whether all models are sure of the same class."""
    sure = all(answer.row.confident for answer in answers)
    return sure and len({answer.row.label for answer in answers}) == 1
