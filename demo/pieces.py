"""Pieces of the page as HTML. Every text that is not ours is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from demo import answers
from demo.answers import Answer
from demo.look import MARK
from lib.records import Card

N_TOP = 4
"""How many classes an answer lists."""

HEAT_COLOUR = np.array([255, 80, 0], np.float32)
HEAT_STRENGTH = 0.62

EMPTY = (
    '<div class="empty"><strong>The answers appear here</strong>'
    "Choose a picture, use the camera, or try one of the examples.</div>"
)


def masthead(cards: Sequence[Card], classes: Sequence[str]) -> str:
    """Return the title, who looks, and what there is to see."""
    names = _listed([escape(card.name) for card in cards], "and")
    seen = escape(_listed(list(classes[:12]), "or") + (" …" if len(classes) > 12 else ""))
    who = (
        f"Two models, {names}, say"
        if len(cards) == 2
        else f"{names} says"
        if len(cards) == 1
        else f"{names} say"
    )
    return (
        f'<div class="masthead">{MARK}<div><h1>Handful</h1><p>Show a picture. {who} which class it '
        f"belongs to ({seen}), or that they are not sure.</p></div></div>"
    )


def verdict(found: Sequence[Answer]) -> str:
    """Return the line above the answers: do the models agree?"""
    sure = [answer for answer in found if answer.row.confident]
    if answers.agree(found):
        who = "Both models say" if len(found) == 2 else "All models say"
        text = f"{who if len(found) > 1 else 'It is'} {escape(found[0].row.label)}."
        return f'<p class="verdict agree">{text}</p>'
    if not sure:
        text = "Not sure." if len(found) == 1 else "No model is sure."
    elif len({answer.row.label for answer in sure}) > 1:
        said = [f"{escape(a.card.name)} says {escape(a.row.label)}" for a in sure]
        text = f"They disagree: {_listed(said, 'and')}."
    else:
        unsure = [escape(a.card.name) for a in found if not a.row.confident]
        verb = "is" if len(unsure) == 1 else "are"
        label = escape(sure[0].row.label)
        text = (
            f"{escape(sure[0].card.name)} says {label}; {_listed(unsure, 'and')} {verb} not sure."
        )
    return f'<p class="verdict">{text}</p>'


def _listed(texts: Sequence[str], word: str) -> str:
    return f"{', '.join(texts[:-1])} {word} {texts[-1]}" if len(texts) > 1 else "".join(texts)


def answered(found: Sequence[Answer]) -> str:
    """Return the answers of all models, side by side."""
    cards = "".join(map(_answer, found))
    return (
        f'<div role="status" aria-live="polite">{verdict(found)}'
        f'<div class="answers">{cards}</div></div>'
    )


def _answer(answer: Answer) -> str:
    row, name = answer.row, escape(answer.card.name)
    threshold = f"{answer.card.threshold:.0%}"
    if row.confident:
        kind, label, note = "sure", escape(row.label), f"{row.score:.1%} sure"
    else:
        kind, label = "unsure", "Not sure"
        guess = f"Its best guess, {escape(row.label)}, has {row.score:.0%}"
        note = f"{guess}; it speaks up from {threshold}."
    return (
        f'<section class="answer {kind}" aria-label="{name}"><header><h3>{name}</h3>'
        f"<span>{answer.milliseconds:.0f} ms</span></header>"
        f'<p class="label">{label}</p><p class="note">{note}</p>'
        f"{_bars(answer)}{_why(answer)}</section>"
    )


def _bars(answer: Answer) -> str:
    best = sorted(answer.row.scores.items(), key=lambda pair: -pair[1])[:N_TOP]
    short = " short" if max(len(name) for name, _ in best) <= 2 else ""
    tick = f'<span class="tick" style="left:{answer.card.threshold:.1%}"></span>'
    rows = "".join(
        f'<li><span class="name">{escape(name)}</span><span class="track"><span class="fill" '
        f'style="width:{score:.1%}"></span>{tick}</span><span class="share">{score:.1%}</span></li>'
        for name, score in best
    )
    return (
        f'<ul class="bars{short}" aria-label="scores; the tick marks where it is sure">{rows}</ul>'
    )


def _why(answer: Answer) -> str:
    if answer.heat is None:
        return ""
    picture = image_url(overlay(answer.image, answer.heat))
    name, label = escape(answer.card.name), escape(answer.row.label)
    return (
        f'<figure><img src="{picture}" '
        f'alt="The picture as {name} saw it, warm where it speaks for {label}">'
        f"<figcaption>Warm is where {name} saw signs of {label}.</figcaption></figure>"
    )


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the image with the heat, float32 (h, w), 0 to 1, laid over it: uint8 (H, W, 3)."""
    size = image.shape[1::-1]
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    weight = HEAT_STRENGTH * np.asarray(smooth).clip(0, 1)[..., None]
    grey = image.mean(axis=2, keepdims=True)
    muted = 0.55 * grey + 0.45 * image
    return (muted * (1 - weight) + HEAT_COLOUR * weight).round().astype(np.uint8)


def image_url(image: np.ndarray) -> str:
    """Return an image, uint8 (H, W, 3), as a `data:` address."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=88)
    return bytes_url(file.getvalue(), "image/jpeg")


def bytes_url(data: bytes, kind: str) -> str:
    """Return bytes as a `data:` address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def failed(message: str) -> str:
    """Return why a picture was not used."""
    return (
        '<div class="failed" role="alert"><strong>This picture cannot be used</strong>'
        f"{escape(message)}</div>"
    )


def plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|&~$" else c for c in text)
