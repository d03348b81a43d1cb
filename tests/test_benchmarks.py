"""The line and the table that benchmarks tell their figures in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import told


@pytest.mark.parametrize(("value", "wanted", "is_met"), [
    (8.0, "≥ 8", True), (7.99, "≥ 8", False), (0.2, "≤ 0.2", True), (0.21, "≤ 0.2", False),
    (0.95, "0.9 to 1.1", True), (1.2, "0.9 to 1.1", False), (-0.004, "-0.005 to 0.005", True),
    (1e9, "", True), (-0.006, "≥ -0.005", False),
])  # fmt: skip
def test_a_figure_is_met_or_not(value: float, wanted: str, is_met: bool) -> None:
    assert told.tell("what", value, wanted) == is_met


def test_a_line_tells_the_verdict_and_a_row_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(told.ROWS, str(tmp_path / "rows"))
    told.tell("start ÷ start", 0.31, "≤ 0.2", "1 and 3 s")
    told.tell("images/s", 1234.5)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == [
        "start",
        "÷",
        "start",
        "0.31",
        "≤",
        "0.2",
        "NOT",
        "MET",
        "1",
        "and",
        "3",
        "s",
    ]
    assert second.split() == ["images/s", "1,234.50"]
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text("utf-8").splitlines()]
    assert "| start ÷ start | 0.31 | ≤ 0.2 | NOT MET | 1 and 3 s |" in benchmarks.table(rows)


def test_a_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{benchmarks.START}\nold\n{benchmarks.END}\nbelow\n", "utf-8")
    benchmarks.write(page, "new")
    benchmarks.write(page, "newer")
    text = page.read_text("utf-8")
    assert text == f"above\n{benchmarks.START}\nnewer\n{benchmarks.END}\nbelow\n"


def test_a_page_without_marks_is_not_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("all of it", "utf-8")
    with pytest.raises(SystemExit, match="must hold"):
        benchmarks.write(page, "new")
    assert page.read_text("utf-8") == "all of it"
