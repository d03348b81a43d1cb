"""What a training run shows as pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from lib import metrics

if TYPE_CHECKING:
    from lib.training.dataset import Dataset
    from lib.training.measure import Trained

TRAIN, HELD_OUT = "#2f6f8f", "#d9822b"

N_MISTAKES, N_ACROSS = 12, 4
"""Mistakes on one picture, and in one of its rows."""


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for something else.

    Attributes:
        image: uint8 (H, W, 3).
        name: of its file.
        truth, answer: classes.
        score: of the answer, 0 to 1.
    """

    image: np.ndarray
    name: str
    truth: str
    answer: str
    score: float


def worst(dataset: Dataset, trained: Trained, classes: Sequence[str]) -> list[Mistake]:
    """Return the `N_MISTAKES` surest mistakes among the images that a model was measured on."""
    rows, scores = trained.rows, trained.measured
    wrong = metrics.mistakes(dataset.labels[rows], scores)[:N_MISTAKES]
    return [
        Mistake(
            dataset.images[rows[k]],
            dataset.examples[rows[k]].key.rsplit("/", 1)[-1],
            classes[dataset.labels[rows[k]]],
            classes[scores[k].argmax()],
            float(scores[k].max()),
        )
        for k in wrong
    ]


def mistakes(shown: Sequence[Mistake], path: Path) -> None:
    """Draw mistakes to a PNG, each under its file's name, the truth, the answer and its score."""
    n_down = -(-len(shown) // N_ACROSS)
    figure = Figure(figsize=(2 * N_ACROSS, 2.5 * n_down), layout="constrained")
    places = figure.subplots(n_down, N_ACROSS, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, mistake in zip(places, shown, strict=False):
        axes.imshow(mistake.image)
        axes.set_title(_caption(mistake), fontsize=7, parse_math=False)
    with warnings.catch_warnings():  # a file's name may be in a script that the font has not
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(path, dpi=100, metadata={"Software": None})


def _caption(mistake: Mistake) -> str:
    truth, answer = _shortened(mistake.truth, 12), _shortened(mistake.answer, 12)
    return f"{_shortened(mistake.name, 28)}\n{truth} → {answer}, {mistake.score:.3f}"


def _shortened(name: str, n_letters: int) -> str:
    """Return a name without its middle where it is too long, and without what no font can draw."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    if len(name) <= n_letters:
        return name
    n_kept = (n_letters - 1) // 2
    return f"{name[:n_kept]}…{name[-n_kept:]}"


def curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw accuracy and loss over the epochs, train against validation, to a PNG."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    epochs = range(1, len(history) + 1)
    for axes, measure in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        axes.plot(epochs, [row[measure] for row in history], color=TRAIN, label="train")
        axes.plot(
            epochs, [row[f"val_{measure}"] for row in history], color=HELD_OUT, label="validation"
        )
        _mark_stages(axes, history)
        axes.set(xlabel="epoch", title=measure)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _mark_stages(axes: Any, history: Sequence[dict[str, Any]]) -> None:
    """Draw a line where another part of the network begins to learn."""
    stages = [row["stage"] for row in history]
    for epoch in range(1, len(stages)):
        if stages[epoch] != stages[epoch - 1]:
            axes.axvline(epoch + 0.5, color="grey", linestyle=":", linewidth=1)
            axes.annotate(
                stages[epoch], (epoch + 0.6, axes.get_ylim()[0]), fontsize=8, color="grey"
            )


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> None:
    """Draw which class was taken for which to a PNG: row the truth, column the answer."""
    side = 1.6 + 0.55 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    shares = [[n / max(sum(row), 1) for n in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, numbers in enumerate(counts):
        for column, n in enumerate(numbers):
            colour = "white" if shares[row][column] > 0.5 else "black"
            axes.text(column, row, f"{n:,}" if n else "·", ha="center", va="center", color=colour)
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=45 if max(map(len, classes)) > 3 else 0)
    axes.set_yticks(places, classes)
    axes.set(xlabel="answer", ylabel="truth")
    figure.savefig(path, dpi=110, metadata={"Software": None})
