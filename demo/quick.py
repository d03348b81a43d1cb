"""Gradio, imported in half the time and without files written beside sources: here, nowhere else.

At each import Gradio parses the source of every component to write a type stub beside it, also for
components of ours. Nobody here reads the stubs; the parsing is half of the start-up.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _no_source_files() -> Iterator[None]:
    """Let `inspect.getfile` find nothing: Gradio then takes a component for one without a file."""
    getfile = inspect.getfile

    def refuse(_: object) -> str:
        raise OSError("no source file")

    inspect.getfile = refuse
    try:
        yield
    finally:
        inspect.getfile = getfile


with _no_source_files():
    import gradio as gr
    from gradio import (
        component_meta,
        mcp,
        processing_utils,
        queueing,
        route_utils,
        tunneling,
        utils,
    )
    from gradio.components.file import ListFiles
    from gradio.data_classes import FileData, ImageData

component_meta.create_or_modify_pyi = lambda *_: None

__all__ = [
    "FileData",
    "ImageData",
    "ListFiles",
    "gr",
    "mcp",
    "processing_utils",
    "queueing",
    "route_utils",
    "tunneling",
    "utils",
]
