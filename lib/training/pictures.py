"""What a training run shows as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

TRAIN, HELD_OUT = "#2f6f8f", "#d9822b"


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
