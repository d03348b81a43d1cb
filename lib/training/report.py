"""A card as a page that a person reads: `report.md`."""

from __future__ import annotations

from typing import Any

from lib.metrics import Accuracy
from lib.records import Card

N_EXAMPLES = 3
"""Of each finding about the data; the card keeps more."""


def markdown(card: Card, n_mistakes_shown: int) -> str:
    """Return the report of a bundle, in Markdown; its pictures lie beside it.

    Args:
        n_mistakes_shown: how many mistakes `mistakes.png` shows; with 0 there is no such file.
    """
    measured = card.metrics
    accuracy = Accuracy(**measured["accuracy"])
    parts = [
        f"# {card.name} {card.version}",
        f"**Accuracy {accuracy}** (95 % interval), {measured['how']}. "
        f"Split: {card.sessions['how']}.",
        f"Warning: {card.sessions['warning']}." if card.sessions["warning"] else "",
        _leak(measured),
        _table(("session", "images", "accuracy"), _sessions(card)),
        _table(("class", "images", "precision", "recall"), _classes(card)),
        "![Which class was taken for which](confusion.png)",
        _mistakes(card, n_mistakes_shown),
        f"Scores are calibrated with temperature {card.temperature:.2f}: the expected calibration "
        f"error is {measured['calibration_error']:.3f}. Under {card.threshold:.2f} the answer is "
        f'"not sure": {1 - measured["sure_share"]:.1%} of these images; of the others '
        f"{measured['sure_accuracy']:.1%} are right.",
        "![Accuracy and loss, train against validation](curves.png)",
        f"Learned from {card.data['n_images']:,} images, {card.data['n_extra']:,} of them extra: "
        f"{', '.join(f'{name} {n:,}' for name, n in card.data['per_class'].items())}.",
        *_findings(card),
        f"    {card.config['command']}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _leak(measured: dict[str, Any]) -> str:
    random = measured["random_split"]
    return (
        f"{measured['twin_share']:.0%} of these images have a near twin among those learned from. "
        f"With a random split it is {random['twin_share']:.0%}, and the accuracy looks like "
        f"{Accuracy(**{key: random[key] for key in measured['accuracy']})}."
    )


def _sessions(card: Card) -> list[tuple[str, ...]]:
    sessions = card.metrics["per_session"].items()
    return [(name, f"{s['n_images']:,}", f"{s['accuracy']:.3f}") for name, s in sessions]


def _classes(card: Card) -> list[tuple[str, ...]]:
    classes = card.metrics["per_class"].items()
    return [
        (name, f"{c['n_images']:,}", f"{c['precision']:.3f}", f"{c['recall']:.3f}")
        for name, c in classes
    ]


def _mistakes(card: Card, n_shown: int) -> str:
    counts = card.metrics["confusion"]
    n_images = sum(map(sum, counts))
    n_wrong = n_images - sum(row[c] for c, row in enumerate(counts))
    if not n_wrong:
        return f"None of {n_images:,} was wrong."
    told = f"{n_wrong:,} of {n_images:,} were wrong"
    if not n_shown:
        return f"{told}; this bundle keeps no photograph of them."
    return f"{told}; the surest of them:\n\n![{n_shown} mistakes, the surest first](mistakes.png)"


def _findings(card: Card) -> list[str]:
    findings = card.data.get("findings", [])
    if not findings:
        return ["Nothing was found wrong with the data."]
    rows = [
        (f["finding"], f"{f['n_images']:,}", f["says"], ", ".join(f["examples"][:N_EXAMPLES]))
        for f in findings
    ]
    return [
        "What was found wrong with the data:",
        _table(("finding", "images", "what it is", "for example"), rows),
    ]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
