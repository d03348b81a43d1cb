"""The tab for many pictures: progress, a gallery to filter, a table, and the rows to take home."""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from demo import many
from demo.doors import Photos, Upload, size_text
from demo.many import Outcome, Seen
from demo.quick import gr, utils
from demo.shelf import Shelf
from lib.records import Prediction

TELL_EVERY_S = 0.25
MAX_AT_ONCE = 2
"""How many goes run in parallel; the others wait in the queue."""

KEEP_S = 3600
"""How long a visitor's rows are kept, in seconds."""

MAX_LISTED = 200
"""How many unreadable files are listed on the page; the download has them all."""

ALL, NOT_SURE = "all", "not sure"


@dataclass(frozen=True)
class Album:
    """What one go left behind: its rows, and a small picture for each prediction."""

    outcome: Outcome
    thumbs: tuple[str, ...]
    folder: Path


class Go:
    """What the buttons of one visitor tell the work that goes on; Gradio copies the first one.

    Gradio's own way to cancel ends the work at any moment, and what it still had to say may come
    after the word that it is cancelled.
    """

    is_waiting = False
    """Whether a go is asked for and did not start."""
    is_cancelled = False


def build(shelf: Shelf, chosen: gr.State) -> None:
    """Lay out the tab."""
    files, model, start, stop, status = _inputs([b.card.name for b in shelf.bundles])
    album, go = gr.State(None, time_to_live=KEEP_S), gr.State(Go())
    with gr.Column(visible=False, elem_id="many-result") as result:
        wanted, gallery, table, unreadable, downloads = _result()
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    start.click(prepare, go, status, **quiet).then(
        functools.partial(run, shelf),
        [files, model, chosen, go],
        [status, album, wanted, gallery, table, unreadable, *downloads, result],
        concurrency_limit=MAX_AT_ONCE,
        **quiet,
    )
    stop.click(cancel, go, status, **quiet)
    wanted.change(pick, [album, wanted], gallery, **quiet)
    _endpoint(shelf, files, model)


def _endpoint(shelf: Shelf, files: Photos, model: gr.Radio) -> None:
    def classify_many(files: list[Upload], model: str | None) -> dict[str, object]:
        return classify_all(shelf, files, model)

    gr.Button(visible=False).click(
        classify_many,
        [files, model],
        gr.JSON(visible=False),
        api_name="classify_many",
        concurrency_limit=MAX_AT_ONCE,
        api_description="Classify many pictures or zip archives with a model. Returns predictions "
        "and errors, the rows of a batch run, and skipped: other files in archives, by ending.",
    )


def _inputs(names: list[str]) -> tuple[Photos, gr.Radio, gr.Button, gr.Button, gr.HTML]:
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            files = Photos(
                label=f"Up to {many.MAX_IMAGES:,} pictures or zips, up to {size_text()} each",
                file_count="multiple",
                elem_id="files",
                height=200,
            )
        with gr.Column(scale=6, min_width=300):
            model = gr.Radio(names, value=names[-1], label="Model", elem_id="many-model")
            with gr.Row():
                start = gr.Button("Classify all", variant="primary", min_width=120, elem_id="start")
                stop = gr.Button("Cancel", min_width=120, elem_id="stop")
            status = gr.HTML("", elem_classes="plain", elem_id="many-status")
    return files, model, start, stop, status


def _result() -> tuple[gr.Radio, gr.Gallery, gr.Dataframe, gr.HTML, list[gr.DownloadButton]]:
    with gr.Row():
        downloads = [
            gr.DownloadButton(
                f"↓ {name}", size="sm", min_width=100, elem_id=f"get-{name.replace('.', '-')}"
            )
            for name in ("predictions.csv", "predictions.jsonl", "errors.jsonl")
        ]
    wanted = gr.Radio([ALL], value=ALL, label="Show", elem_id="filter")
    gallery = gr.Gallery(
        label="Pictures",
        show_label=False,
        columns=6,
        object_fit="cover",
        height="auto",
        interactive=False,
        elem_id="album",
        elem_classes="album",
        buttons=[],
    )
    unreadable = gr.HTML("", elem_classes="plain", elem_id="unreadable")
    table = gr.Dataframe(
        headers=["file", "class", "score", "sure"],
        column_widths=["43%", "19%", "20%", "18%"],
        datatype=["str", "str", "number", "str"],
        interactive=False,
        label="Table",
        max_height=420,
        wrap=True,
        elem_id="table",
    )
    return wanted, gallery, table, unreadable, downloads


def prepare(go: Go) -> str:
    """Note that a go is asked for; return what is said while others have their turn."""
    go.is_waiting, go.is_cancelled = True, False
    return _said("Waiting for its turn …")


def cancel(go: Go) -> object:
    """Note that the go is to end, and say so where it did not begin; else it says so itself."""
    go.is_cancelled = True
    return CANCELLED if go.is_waiting else gr.skip()


def run(
    shelf: Shelf, files: list[Upload], model: str | None, chosen: dict[str, str], go: Go
) -> Iterator[tuple[object, ...]]:
    """Classify the files and yield what the page shows, over and over while it goes on."""
    go.is_waiting, skip = False, [gr.skip()] * 9
    if go.is_cancelled or not files:
        yield (CANCELLED if go.is_cancelled else _said("Choose some pictures first."), *skip)
        return
    found = many.find(files)
    folder = Path(utils.get_upload_folder()) / "albums" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    rows, thumbs, told_s = [], [], 0.0
    yield (_meter(0, len(found.pictures)), None, *skip[:-2], gr.Column(visible=False))
    with contextlib.closing(many.classify(found, shelf.named(model, chosen))) as work:
        for seen in work:
            if go.is_cancelled:
                yield (CANCELLED, *skip)
                return
            rows.append(seen.row)
            if seen.image is not None:
                thumbs.append(_thumb(seen, folder, len(rows)))
            if time.monotonic() - told_s > TELL_EVERY_S:
                told_s = time.monotonic()
                yield (_meter(len(rows), len(found.pictures)), *skip)
    album = Album(many.outcome(found, rows), tuple(thumbs), folder)
    yield (_tally(album.outcome), album, *_shown(album))


def _thumb(seen: Seen, folder: Path, number: int) -> str:
    path = folder / f"{number:05}.jpg"
    Image.fromarray(seen.image).save(path, "JPEG", quality=85)
    return str(path)


def _shown(album: Album) -> tuple[object, ...]:
    """Return filter, gallery, table, unreadable files, three downloads and the whole, filled."""
    outcome = album.outcome
    counts = Counter(row.label for row in outcome.predictions if row.confident)
    n_unsure = len(outcome.predictions) - counts.total()
    choices = [(f"All ({len(outcome.predictions)})", ALL)]
    choices += [(f"{label} ({n})", f"is {label}") for label, n in sorted(counts.items())]
    choices += [(f"Not sure ({n_unsure})", NOT_SURE)] if n_unsure else []
    table = [
        [r.uri, r.label, round(r.score, 3), "yes" if r.confident else "no"]
        for r in outcome.predictions
    ]
    is_any = bool(outcome.predictions)
    return (
        gr.Radio(choices, value=ALL, visible=is_any),
        gr.Gallery(_pictures(album, ALL), visible=is_any),
        gr.Dataframe(table, visible=is_any),
        _unreadable(outcome),
        *_downloads(album),
        gr.Column(visible=True),
    )


def pick(album: Album | None, wanted: str) -> list[tuple[str, str]]:
    """Return the pictures of one class, of all, or those that the model was not sure of."""
    return _pictures(album, wanted) if album else []


def _pictures(album: Album, wanted: str) -> list[tuple[str, str]]:
    pairs = zip(album.thumbs, album.outcome.predictions, strict=True)
    return [(path, _caption(row)) for path, row in pairs if _is_wanted(row, wanted)]


def _is_wanted(row: Prediction, wanted: str) -> bool:
    if wanted == NOT_SURE:
        return not row.confident
    return wanted == ALL or (row.confident and wanted == f"is {row.label}")


def _caption(row: Prediction) -> str:
    return f"{row.label} · {row.score:.0%}" if row.confident else f"{row.label}? {row.score:.0%}"


def _downloads(album: Album) -> list[gr.DownloadButton]:
    outcome, buttons = album.outcome, []
    table = many.to_csv(outcome.predictions) if outcome.predictions else b""
    for name, data in (
        ("predictions.csv", table),
        ("predictions.jsonl", many.to_jsonl(outcome.predictions)),
        ("errors.jsonl", many.to_jsonl(outcome.errors)),
    ):
        path = album.folder / name
        path.write_bytes(data)
        buttons.append(gr.DownloadButton(value=str(path), visible=bool(data)))
    return buttons


def _said(text: str) -> str:
    return f'<p class="tally" role="status">{text}</p>'


CANCELLED = _said("Cancelled.")


def _meter(n_done: int, n_total: int) -> str:
    share = n_done / max(n_total, 1)
    return (
        f'<p class="tally" role="status">{n_done:,} of {n_total:,} pictures</p>'
        f'<div class="meter"><span style="width:{share:.1%}"></span></div>'
    )


def _tally(outcome: Outcome) -> str:
    n_unsure = sum(not row.confident for row in outcome.predictions)
    text = f"{len(outcome.predictions):,} classified"
    if outcome.predictions:
        text += f", {n_unsure:,} of them not sure"
    if outcome.errors:
        text += f"; {len(outcome.errors):,} unreadable"
    if outcome.skipped:
        n_skipped = sum(outcome.skipped.values())
        endings = ", ".join(f"{escape(name)} {n}" for name, n in sorted(outcome.skipped.items()))
        text += f"; {n_skipped:,} other files left out ({endings})"
    return _said(f"<strong>Done.</strong> {text}.")


def _unreadable(outcome: Outcome) -> str:
    if not outcome.errors:
        return ""
    rows = "".join(
        f"<tr><td>{escape(row.uri)}</td><td>{escape(row.error['message'])}</td></tr>"
        for row in outcome.errors[:MAX_LISTED]
    )
    return (
        '<div class="sheet"><h3>Unreadable</h3><table class="plain-table"><thead><tr><th>file</th>'
        f"<th>reason</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def classify_all(shelf: Shelf, files: list[Upload], model: str | None) -> dict[str, object]:
    """Return the rows of many pictures, for programs."""
    found = many.find(files)
    rows = [seen.row for seen in many.classify(found, shelf.named(model, {}))]
    return many.outcome(found, rows).as_json()
