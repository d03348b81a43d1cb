"""The arrows between rooms, and what may not be loaded on the way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROOMS = ("demo", "jobs", "lib")

MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Return every module that a file imports, wherever in the file, with dots."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def reaches(path: Path, room: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for name in imported(path))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_one_way(path: Path) -> None:
    forbidden = {"lib": ("demo", "jobs"), "jobs": ("demo",), "demo": ("jobs",)}[room_of(path)]
    assert not [room for room in forbidden if reaches(path, room)]
    in_training = "training" in path.parts
    if not in_training and path != ROOT / "jobs" / "train.py":
        assert not reaches(path, "lib.training")
    if not in_training:
        assert not any(reaches(path, name) for name in ("tensorflow", "keras", "matplotlib"))
    if path != ROOT / "lib" / "storage.py":
        assert not reaches(path, "obstore")


def test_records_need_nothing_but_the_standard_library() -> None:
    outside = {name.split(".")[0] for name in imported(ROOT / "lib" / "records.py")}
    assert outside - {"lib"} <= sys.stdlib_module_names | {"__future__"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("jobs.predict", ("tensorflow", "keras", "boto3", "gradio", "matplotlib")),
        ("jobs.upload", ("tensorflow", "keras", "boto3", "gradio", "matplotlib")),
        ("jobs.train", ("tensorflow", "keras", "boto3", "gradio", "matplotlib")),
        ("demo.app", ("tensorflow", "keras", "boto3", "matplotlib")),
    ],
)
def test_importing_loads_only_what_is_needed(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(sorted(set(sys.modules) & set({absent!r})))"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip().splitlines()[-1] == "[]"


def test_a_whole_run_never_loads_what_trains(hands: Path, tmp_path: Path) -> None:
    """What is imported late, while images are classified, no import at the top tells of."""
    asked = [str(hands), str(tmp_path / "out"), "--model", str(ROOT / "demo" / "models" / "cnn")]
    code = f"import sys; from jobs import predict; predict.main({asked!r}); print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert list((tmp_path / "out").glob("*/summary.json"))
    loaded = told.stdout.splitlines()[-1].split()
    assert not {"tensorflow", "keras", "lib.training"} & set(loaded)
