"""The tab about the models: what each learned from, how good it is where that was never seen."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from demo import cells, pieces
from demo.doors import refusal
from demo.quick import gr
from demo.shelf import Shelf, Version
from lib import storage
from lib.bundle import Bundle
from lib.failures import Failure
from lib.records import Card

CURVES = "curves.png"
UNSEEN = "sessions it never saw: pictures of another time than those it learned from"
HELD_OUT = "pictures held out (read the warning)"
OPTIMISTIC = "Too optimistic: pictures of one burst lie on both sides of it."
RANDOM = "a random split of all pictures"

TELL_CELL = """element.addEventListener('click', event => {
    const cell = event.target.closest('[data-truth]');
    if (cell) trigger('click', {...cell.dataset});
})"""

_TIME = re.compile(r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)")


def build(shelf: Shelf, tab: gr.Tab, chosen: gr.State, show_data: bool) -> None:
    """Lay out the tab; a version that is chosen here answers on the whole page of this visitor.

    With `show_data`, a cell of a confusion matrix shows its images: training photos.
    """
    version = gr.Dropdown(
        [],
        label="Version",
        info="What you choose answers on the whole page, for you alone.",
        filterable=False,
        elem_id="version",
        visible=False,
    )
    sheets = gr.HTML("", elem_classes="plain", elem_id="sheets", js_on_load=TELL_CELL)
    if show_data:
        _cell_gallery(shelf, sheets, chosen)
    tab.select(
        functools.partial(show, shelf),
        chosen,
        [version, sheets],
        api_visibility="private",
        show_progress="minimal",
    )
    version.input(
        functools.partial(choose, shelf),
        [version, chosen],
        [chosen, sheets],
        api_visibility="private",
        show_progress="minimal",
    )


def _cell_gallery(shelf: Shelf, sheets: gr.HTML, chosen: gr.State) -> None:
    said = gr.Markdown("", elem_classes="heading", elem_id="cell-said")
    gallery = gr.Gallery(
        label="Images of the cell",
        show_label=False,
        columns=6,
        object_fit="cover",
        height="auto",
        interactive=False,
        elem_id="cell",
        elem_classes="album",
        visible=False,
        buttons=[],
    )

    def images_of(chosen: dict[str, str], event: gr.EventData) -> tuple[str, gr.Gallery]:
        return open_cell(shelf, chosen, event.model, event.truth, event.said)

    sheets.click(
        images_of, chosen, [said, gallery], api_visibility="private", scroll_to_output=True
    )


def open_cell(
    shelf: Shelf, chosen: dict[str, str], model: str, truth: str, said: str
) -> tuple[str, gr.Gallery]:
    """Return a line about a cell, and its images."""
    found = next((b for b in shelf.pick(chosen) if b.card.name == model), None)
    if found is None or truth not in found.card.classes or said not in found.card.classes:
        raise refusal("There is no such cell.")
    pictures = cells.pictures(found, truth, said)
    if pictures is None:
        return "The images that this was counted on are not at hand here.", gr.Gallery(
            visible=False
        )
    cell = f"{pieces.plain(truth)} that {model} takes for {pieces.plain(said)}"
    line = f"{len(pictures)} images of {cell}:"
    return line, gr.Gallery(pictures, visible=True)


def show(shelf: Shelf, chosen: dict[str, str]) -> tuple[gr.Dropdown, str]:
    """Return the versions to choose from and the sheets of the models that answer now."""
    versions = shelf.versions()
    choices = [(_title(version), version.uri) for version in versions]
    picked = next((v.uri for v in versions if chosen.get(v.model) == v.uri), versions[0].uri)
    many = len(versions) > len(shelf.bundles)
    return gr.Dropdown(choices, value=picked, visible=many), _sheets(shelf.pick(chosen))


def choose(shelf: Shelf, uri: str, chosen: dict[str, str]) -> tuple[dict[str, str], str]:
    """Return the visitor's choice with one version more, and the sheets."""
    version = next((v for v in shelf.versions() if v.uri == uri), None)
    if version is None:
        raise refusal("This version is not there any more.")
    chosen = {name: u for name, u in chosen.items() if name != version.model}
    if not version.is_shown:
        chosen[version.model] = version.uri
    try:
        return chosen, _sheets(shelf.pick(chosen))
    except Failure as failure:
        raise refusal("This version cannot be loaded.") from failure


def _title(version: Version) -> str:
    return f"{version.model} · {_date(version.version)}{' · champion' if version.is_shown else ''}"


def _date(version: str) -> str:
    found = _TIME.match(version)
    return "{}-{}-{} {}:{} UTC".format(*found.groups()) if found else version


def _sheets(bundles: Sequence[Bundle]) -> str:
    return "".join(map(_sheet, bundles))


def _sheet(model: Bundle) -> str:
    card = model.card
    return (
        f'<section class="sheet" aria-label="{escape(card.name)}"><h3>{escape(card.name)}</h3>'
        f'<p class="version">trained {escape(_date(card.version))} · '
        f"version {escape(card.version)}</p>"
        f'{_figures(card)}{_warning(card)}<div class="pair"><div>{_learned(card)}</div>'
        f"<div>{_confusion(card)}</div></div>{_curves(model)}</section>"
    )


def _figures(card: Card) -> str:
    """Return the honest accuracy first, and the optimistic one, fainter, beside it."""
    figures = []
    honest, optimistic = (card.metrics.get(key) for key in ("accuracy", "random_split"))
    if honest:
        held_out = HELD_OUT if card.sessions.get("warning") else UNSEEN
        twins = _twins(card.metrics.get("twin_share"), "")
        figures.append(_figure(honest, f"right on {held_out}", twins, ""))
    if optimistic:
        twins = _twins(optimistic.get("twin_share"), "Too optimistic: ")
        figures.append(_figure(optimistic, f"right on {RANDOM}", twins or OPTIMISTIC, "faint"))
    figures.append(
        f'<div class="faint"><b>{card.threshold:.0%}</b>'
        "<span>is the score under which it says “not sure”</span></div>"
    )
    return f'<div class="figures">{"".join(figures)}</div>'


def _figure(accuracy: dict[str, Any], text: str, twins: str, kind: str) -> str:
    known = []
    if accuracy.get("n_images"):
        known.append(f"{accuracy['n_images']:,} pictures")
    if accuracy.get("low") is not None and accuracy.get("high") is not None:
        known.append(f"likely between {accuracy['low']:.1%} and {accuracy['high']:.1%}")
    counted = f" ({', '.join(known)})" if known else ""
    lines = f"<span>{text}{counted}.</span>" + (f"<span>{twins}</span>" if twins else "")
    return f'<div class="{kind}"><b>{accuracy["value"]:.1%}</b>{lines}</div>'


def _twins(share: float | None, verdict: str) -> str:
    """Return how many of the pictures have a near twin in training, 0 to 1, or nothing."""
    if share is None:
        return ""
    return f"{verdict}{share:.0%} of them are nearly the same as one it learned from."


def _warning(card: Card) -> str:
    text = card.sessions.get("warning")
    return f'<p class="warning">{escape(str(text))}</p>' if text else ""


def _learned(card: Card) -> str:
    counts, recalls = card.data.get("per_class", {}), card.metrics.get("per_class", {})
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{counts.get(name, 0):,}</td>"
        f"<td>{_share(recalls, name, 'precision')}</td>"
        f"<td>{_share(recalls, name, 'recall')}</td></tr>"
        for name in card.classes
    )
    how = escape(str(card.sessions.get("how", "")))
    return (
        f'<h4>What it learned from</h4><p class="quiet">{card.data.get("n_images", 0):,} images'
        f"{'; ' + how if how else ''}</p>"
        '<table class="plain-table"><thead><tr><th>class</th><th>images</th><th>precision</th>'
        f"<th>recall</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _share(per_class: dict[str, dict[str, float]], name: str, kind: str) -> str:
    return f"{per_class[name][kind]:.1%}" if name in per_class else "–"


def _confusion(card: Card) -> str:
    counts = card.metrics.get("confusion")
    if not counts:
        return ""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in card.classes)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_cells(card, index, row))}</tr>'
        for index, (name, row) in enumerate(zip(card.classes, counts, strict=True))
    )
    return (
        "<h4>What it takes for what</h4>"
        '<p class="quiet">Each row is what a picture shows, each column what the model says.</p>'
        f'<div class="scroll"><table class="confusion"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(card: Card, index: int, row: Sequence[int]) -> list[str]:
    return [_cell(card, index, column, n / max(sum(row), 1), n) for column, n in enumerate(row)]


def _cell(card: Card, row: int, column: int, share: float, n: int) -> str:
    colour = "var(--color-accent)" if row == column else "#d97706"
    truth, said = escape(card.classes[row]), escape(card.classes[column])
    return (
        f'<td style="background:color-mix(in srgb, {colour} {75 * share:.0f}%, transparent)">'
        f"<button "
        f'data-model="{escape(card.name)}" data-truth="{truth}" data-said="{said}" '
        f'aria-label="{n} of {truth} taken for {said}">{n}</button></td>'
    )


def _curves(model: Bundle) -> str:
    data = _picture(model.uri, model.card.files.get(CURVES))
    if data is None:
        return ""
    url = pieces.bytes_url(data, "image/png")
    name = escape(model.card.name)
    return (
        f'<h4>How it learned</h4><img class="curves" src="{url}" '
        f'alt="Accuracy and loss of {name} over the epochs, training beside validation">'
    )


@functools.lru_cache(maxsize=16)
def _picture(uri: str, sha256: str | None) -> bytes | None:
    """Return the curves of a bundle, or None where it has none or not those its card names."""
    if sha256 is None:
        return None
    try:
        data = storage.read(storage.join(uri, CURVES)).data
    except storage.Missing:
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None
