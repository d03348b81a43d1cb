"""The commands around the champion: what they print and what they leave in the registry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_registry import make_version

from jobs import models
from lib import registry
from lib.failures import Misuse


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> str:
    """A registry with a champion, v2, that came after v1, and a candidate, v3."""
    source = Path(registry.resolve(str(trained / "cnn")))
    metrics = json.loads((source / "card.json").read_text("utf-8"))["metrics"]
    for version, changes in (
        ("v1", {}),
        ("v2", {"data": {"n_images": 1234, "fingerprint": "other"}}),
        ("v3", {"metrics": metrics | {"verdict": {"reason": "not surely better: 1 of 9"}}}),
    ):
        folder = make_version(tmp_path / version, source, version, **changes)
        registry.publish(str(tmp_path / "registry"), folder, "cnn", version)
    for version in ("v1", "v2"):
        registry.promote(str(tmp_path / "registry"), "cnn", version, f"{version} is better")
    return str(tmp_path / "registry")


def champion(place: str) -> str:
    return registry.champion(place, "cnn").version


def test_list_marks_the_champion_and_says_why(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models.main(["list", place])
    head, *rows, _ = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows] == [["cnn", "v3"], ["*", "cnn"], ["cnn", "v1"]]
    assert "not surely better: 1 of 9" in rows[0]
    assert "1234  v2 is better" in rows[1]
    models.main(["list", place, "cnn", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row["champion"] for row in found] == [False, True, False]


def test_show_tells_of_the_champion_or_of_a_version(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models.main(["show", place, "cnn"])
    told = capsys.readouterr().out
    assert "version            v2" in told
    assert told.rstrip().endswith("v2 is better")
    models.main(["show", place, "cnn", "v3"])
    assert "gate               not surely better: 1 of 9" in capsys.readouterr().out


def test_compare_sets_two_versions_side_by_side_and_draws_them(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "compare.svg"
    models.main(["compare", place, "cnn", "v1", "v2", "--picture", str(picture)])
    told = capsys.readouterr().out
    assert "learned from       36 images                    1,234 images" in told
    assert "+0.000" in told
    assert "measured on other data" in told
    drawn = ElementTree.parse(picture).getroot()
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"cnn: recall of each class", "0", "1", "2", "3"} <= set(words)


def test_promote_and_rollback_are_told_and_recorded(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    models.main(["promote", place, "cnn", "v3", "--reason", "seen by hand"])
    models.main(["rollback", place, "cnn"])
    models.main(["rollback", place, "cnn"])
    assert capsys.readouterr().out.splitlines() == [
        "cnn: v2 -> v3",
        "cnn: v3 -> v2",
        "cnn: v2 -> v1",
    ]
    history = registry.champion(place, "cnn").history
    assert [(c["version"], c["reason"]) for c in history[2:]] == [
        ("v3", "seen by hand"),
        ("v2", "rolled back by hand"),
        ("v1", "rolled back by hand"),
    ]


def test_promoting_the_champion_says_so(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    models.main(["promote", place, "cnn", "v2"])
    assert capsys.readouterr().out == "cnn: v2 is the champion already\n"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["promote", "cnn", "v3"], "cnn: would go from v2 to v3"),
        (["rollback", "cnn"], "cnn: would go from v2 back to v1"),
    ],
)
def test_a_dry_run_changes_nothing(
    place: str, argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    action, *rest = argv
    models.main([action, place, *rest, "--dry-run"])
    assert capsys.readouterr().out.strip() == told
    assert champion(place) == "v2"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["list", "{}", "owl"], "owl: there is no version of a model"),
        (["show", "{}", "owl"], "owl: has no champion; name a version"),
        (["show", "{}", "cnn", "v9"], "has no version v9"),
        (["promote", "{}", "cnn", "v9"], "has no version v9"),
        (["compare", "{}", "cnn", "v1", "v9"], "has no version v9"),
    ],
)
def test_what_is_not_there_is_said(place: str, argv: list[str], message: str) -> None:
    with pytest.raises(Misuse, match=message):
        models.main([word.format(place) for word in argv])


def test_the_command_exits_with_2_where_it_was_used_wrongly(place: str) -> None:
    command = [sys.executable, "-m", "jobs.models", "rollback", place, "owl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "no champion before this one" in done.stderr
