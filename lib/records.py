"""The nouns that cross between rooms, and their JSON: the card, the rows, the champion pointer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

from lib.failures import Broken

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
"""A spreadsheet takes a cell of CSV that begins so for a formula."""

FORMAT = 1
"""The version of the JSON written here; a reader refuses any other."""

SEAL = "seal"
"""The last field of every JSON file: SHA-256, in hex, of all others, so that no damage is believed.

Take it out of a card to change the card by hand; no other file may be without."""

MAX_SIZE_PX = 2048
"""The largest square that a model may take."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One classified image: a line of `predictions/part-*.jsonl`."""

    uri: str
    etag: str
    model: str
    version: str
    label: str
    """The class with the highest score."""
    score: float
    """That score, 0 to 1."""
    confident: bool
    """Whether the score reaches the card's threshold; if not, the answer is "not sure"."""
    scores: dict[str, float]
    """A score for every class, in the card's order; they sum to 1."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One image that could not be classified: a line of `errors/part-*.jsonl`."""

    uri: str
    etag: str
    error: dict[str, str]
    """`code`, a word to count by, and `message`, a sentence."""


@dataclass(frozen=True, slots=True)
class Example:
    """One image to learn from, not read yet."""

    uri: str
    etag: str
    source: str
    """Where it was listed; sessions are told apart within one source."""
    key: str
    """Its place below the source: `<class>/<file>` or `<class>/<session>/<file>`."""
    label: str
    uploaded_s: float = 0.0
    """When it was last written, Unix time."""
    session: str = ""
    """Its session as `sessions.csv` names it."""


@dataclass(frozen=True, slots=True)
class ImageRule:
    """How any image becomes the pixels a model sees; written in the card, the same everywhere."""

    size_px: int = 224
    """Height and width of the square that the model takes."""
    resize: str = "fit"
    """`fit`: shrunk or enlarged until the whole image fits, centred, the rest mid-grey."""


@dataclass(frozen=True)
class Card:
    """What a bundle says of itself: `card.json`."""

    name: str
    """The model: `cnn` or `mobilenet`."""
    version: str
    """UTC time of training and a digest, so that versions sort by age."""
    classes: tuple[str, ...]
    """The classes, in the order of the scores."""
    image: ImageRule
    threshold: float
    """A best score under this is "not sure"."""
    temperature: float
    """The logits were divided by this before the softmax; it is part of the graph already."""
    metrics: dict[str, Any]
    """Accuracy with its interval, how it was split, and what the pictures show."""
    data: dict[str, Any]
    """The fingerprint and counts of the images it learned from."""
    sessions: dict[str, Any]
    """How images were grouped, and which groups were held out."""
    config: dict[str, Any]
    """The recipe and the command."""
    libraries: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256, in hex, of every file beside the card."""
    format: int = FORMAT


def to_json(record: Any, *, indent: int | None = None) -> str:
    """Return a record as JSON, its fields in the order they are declared."""
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    text = json.dumps(fields, indent=indent, ensure_ascii=False, default=dataclasses.asdict)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is no UTF-8, held in surrogates
        return json.dumps(fields, indent=indent, default=dataclasses.asdict)
    return text


def to_line(record: Any) -> bytes:
    """Return a record as one line of JSON."""
    return to_json(record).encode() + b"\n"


def to_file(record: Any) -> bytes:
    """Return a record as a JSON file that a person can read, sealed."""
    seal = _seal(json.loads(to_json(record)))
    text = to_json(record, indent=2).removesuffix("\n}")
    return f'{text},\n  "{SEAL}": "{seal}"\n}}\n'.encode()


def _seal(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def parse_file(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the fields of a sealed JSON file; `where` names it if it is damaged.

    Raises:
        Broken: it is not what was written, or of another format.
    """
    fields = parse_object(text, where)
    if SEAL not in fields:
        raise Broken(f"{where}: damaged, it has no {SEAL}")
    return _of_our_format(_unsealed(fields, where), where)


def _unsealed(fields: dict[str, Any], where: str) -> dict[str, Any]:
    seal = fields.pop(SEAL)
    if seal != _seal(fields):
        raise Broken(f"{where}: damaged, it is not what was written (its {SEAL} differs)")
    return fields


def _of_our_format(fields: dict[str, Any], where: str) -> dict[str, Any]:
    if fields.get("format") != FORMAT:
        raise Broken(f"{where}: format must be {FORMAT}. Received: {fields.get('format')!r}")
    return fields


def is_plain(name: object) -> bool:
    """Return whether a name is one step of a path and can lead nowhere else."""
    return (
        isinstance(name, str)
        and bool(name)
        and not name.startswith(".")
        and not any(c in "/\\" or not c.isprintable() for c in name)
    )


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in `text`; `where` names it if it is damaged.

    Raises:
        Broken: `text` is not one JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Broken(f"{where}: damaged, it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise Broken(f"{where}: damaged, a JSON object is expected. Received: {value!r:.60}")
    return value


def parse_card(text: str | bytes, where: str) -> Card:
    """Return the card in `text`; `where` names the file in messages.

    Raises:
        Broken: the card is damaged, of another format, or contradicts itself.
    """
    fields = parse_object(text, where)
    if SEAL in fields:
        fields = _unsealed(fields, where)
    _of_our_format(fields, where)
    try:
        card = Card(
            **fields
            | {
                "classes": tuple(fields["classes"]),
                "image": ImageRule(**fields["image"]),
                "threshold": float(fields["threshold"]),
                "temperature": float(fields["temperature"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Broken(
            f"{where}: damaged, a field is missing or of the wrong kind ({error})"
        ) from error
    _check_card(card, where)
    return card


def _check_card(card: Card, where: str) -> None:
    objects = ("metrics", "data", "sessions", "config", "libraries", "files")
    if not all(isinstance(getattr(card, name), dict) for name in objects):
        raise Broken(f"{where}: {', '.join(objects)} must be objects")
    if not all(map(is_plain, (card.name, card.version, *card.files))):
        names = (card.name, card.version, *card.files)
        raise Broken(f"{where}: name, version and files must be plain names. Received: {names}")
    if not all(isinstance(name, str) and name for name in card.classes):
        raise Broken(f"{where}: classes must be text. Received: {card.classes}")
    if len(set(card.classes)) != len(card.classes) or len(card.classes) < 2:
        raise Broken(
            f"{where}: classes must be at least 2, all different. Received: {card.classes}"
        )
    if not 0 <= card.threshold <= 1 or not 0 < card.temperature < math.inf:
        raise Broken(
            f"{where}: threshold must be 0 to 1 and temperature above 0. "
            f"Received: {card.threshold}, {card.temperature}"
        )
    size_px = card.image.size_px
    is_size = isinstance(size_px, int) and 0 < size_px <= MAX_SIZE_PX
    if card.image.resize != "fit" or not is_size:
        raise Broken(
            f"{where}: the resize rule must be fit at a whole size, 1 to {MAX_SIZE_PX}. "
            f"Received: {card.image}"
        )


def prediction(uri: str, etag: str, card: Card, scores: list[float]) -> Prediction:
    """Return the row for one image's scores, which are in the order of the card's classes."""
    rounded = {name: round(score, 7) for name, score in zip(card.classes, scores, strict=True)}
    label = max(rounded, key=rounded.__getitem__)
    return Prediction(
        uri=uri,
        etag=etag,
        model=card.name,
        version=card.version,
        label=label,
        score=rounded[label],
        confident=rounded[label] >= card.threshold,
        scores=rounded,
    )
