"""A figure, what is wanted of it, and whether it is met: a line on the screen, a row in the table."""

from __future__ import annotations

import json
import os
from pathlib import Path

ROWS = "HANDFUL_BENCHMARK_ROWS"
"""The variable that names a file for the rows, one JSON object a line."""


def tell(what: str, value: float, wanted: str = "", more: str = "", *, places: int = 2) -> bool:
    """Print a figure and return whether it is met.

    Args:
        wanted: `≥ 8`, `≤ 0.2`, `0.9 to 1.1`, or nothing where a figure is only told.
        more: what the figure was made of.
    """
    is_met = _is_met(value, wanted)
    verdict = "" if not wanted else "met" if is_met else "NOT MET"
    figure = f"{value:,.{places}f}"
    print(f"{what:<62} {figure:>9}  {wanted:<11} {verdict:<7}  {more}".rstrip(), flush=True)
    if rows := os.environ.get(ROWS):
        row = {"what": what, "figure": figure, "wanted": wanted, "verdict": verdict, "more": more}
        with Path(rows).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return is_met


def _is_met(value: float, wanted: str) -> bool:
    if " to " in wanted:
        low, high = map(float, wanted.split(" to "))
        return low <= value <= high
    sign, _, bound = wanted.partition(" ")
    return {"": True, "≥": value >= float(bound or 0), "≤": value <= float(bound or 0)}[sign]
