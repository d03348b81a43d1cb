"""The page with the models that ship, where Gradio's tools and Hugging Face Spaces look for it."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # As a script, Python looks for modules beside this file instead of beside the rooms.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from demo import page
from demo.shelf import Shelf

shelf = Shelf()
demo = page.build(shelf)

if __name__ == "__main__":
    from demo import server
    from lib import commands

    commands.run(lambda _: server.serve(demo, shelf, server.Options()))
