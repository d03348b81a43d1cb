"""Every command of the README is run: here in its order, or by the test that is named for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

README = (ROOT / "README.md").read_text("utf-8")

ELSEWHERE = {
    "python3 -m venv": ".ci/run",
    "pip install": ".ci/run",
    "python -m demo": "test_demo.py",
    "URL=": "test_demo.py",
    "IMAGE=": "test_demo.py",
    "curl": "test_demo.py",
    "aws configure": "",
    "infra/deploy": "test_infra.py",
    "aws s3 sync": "test_infra.py",
    "python -m jobs.submit": "test_submit.py",
    "python -m jobs.schedule": "test_schedule.py",
    "python -m jobs.models list s3://": "test_models.py",
    "python -m jobs.models rollback": "test_models.py",
    "python -m tests.benchmarks": "test_benchmarks.py",
}
"""How a command begins that needs an account, an hour or a visitor, and what runs it instead."""


def commands() -> list[str]:
    """Return every command in a block of shell, one a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line]


def is_run_here(command: str) -> bool:
    return not command.startswith(tuple(ELSEWHERE))


def test_the_readme_is_short_and_its_commands_are_all_accounted_for() -> None:
    assert len(README.splitlines()) <= 250
    for start, where in ELSEWHERE.items():
        assert any(line.startswith(start) for line in commands()), f"no command begins with {start}"
        assert not where or (ROOT / where).is_file() or (ROOT / "tests" / where).is_file()
    assert all(line.startswith("python -m ") for line in commands() if is_run_here(line))


def test_every_job_that_is_named_is_there() -> None:
    for module in set(re.findall(r"python -m ((?:jobs|lib|tests)[.\w]*)", README)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_every_file_that_is_named_is_there() -> None:
    for path in re.findall(r"`((?:demo|lib|jobs|infra|tests)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_commands_run_in_their_order(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    hidden = shutil.ignore_patterns(".*", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=hidden)
    ran = [line for line in commands() if is_run_here(line)]
    assert len(ran) >= 4
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for line in ran:
        done = subprocess.run(
            line, shell=True, cwd=clone, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
