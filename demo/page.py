"""The whole page."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile

from demo import pieces, tab_classify, tab_many, tab_models
from demo.feedback import Corrections
from demo.quick import gr
from demo.shelf import Shelf

EMPTY_CACHE_EVERY_S = 600
KEEP_UPLOADS_S = 3600
"""How long an upload is kept, in seconds."""

MAX_WAITING = 256
"""How many requests may wait; more are told that it is busy."""


def build(
    shelf: Shelf, corrections: Corrections | None = None, *, show_data: bool = False
) -> gr.Blocks:
    """Return the page for some models.

    With `corrections`, visitors may correct them; with `show_data`, they may see training photos.

    Raises:
        Misuse, Broken: a model is missing or damaged.
    """
    _own_cache()
    with gr.Blocks(
        title="Handful", analytics_enabled=False, delete_cache=(EMPTY_CACHE_EVERY_S, KEEP_UPLOADS_S)
    ) as page:
        chosen = gr.State({})
        head = gr.HTML(_masthead(shelf, {}), elem_classes="plain")
        gr.on(
            [page.load, chosen.change],
            functools.partial(_masthead, shelf),
            chosen,
            head,
            api_visibility="private",
            show_progress="hidden",
        )
        with gr.Tabs():
            with gr.Tab("Classify", id="classify"):
                tab_classify.build(page, shelf, corrections, chosen)
            with gr.Tab("Many", id="many"):
                tab_many.build(shelf, chosen)
            with gr.Tab("Models", id="models") as models:
                tab_models.build(shelf, models, chosen, show_data)
    return page.queue(max_size=MAX_WAITING)


def _masthead(shelf: Shelf, chosen: dict[str, str]) -> str:
    cards = [b.card for b in shelf.pick(chosen)]
    return pieces.masthead(cards, shelf.classes(chosen))


def _own_cache() -> None:
    """Keep uploads where nobody else of the machine looks, and nowhere after the process."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="handful-demo-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
