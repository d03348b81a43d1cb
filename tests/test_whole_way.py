"""The whole way on real photographs, where somebody has put them beside this repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lib import bundle, registry

ROOT = Path(__file__).parents[1]

FINGERS = Path(os.environ.get("HANDFUL_FINGERS", ROOT.parent / "shared" / "data" / "fingers"))
"""1,380 webcam frames of 0 to 3 fingers in three sessions, and a stray file LICENSE."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not FINGERS.is_dir(), reason=f"no photographs in {FINGERS}"),
]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def bucket(s3: Any) -> Any:
    """A bucket `photos` that holds the photographs, and an empty one, `out`."""
    s3.create_bucket(Bucket="out")
    paths = [path for path in FINGERS.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(4) as pool:
        keys = [path.relative_to(FINGERS).as_posix() for path in paths]
        list(pool.map(lambda p, k: s3.upload_file(str(p), "photos", k), paths, keys))
    return s3


def test_both_models_learn_from_photographs(tmp_path: Path) -> None:
    told = command("jobs.train", FINGERS, "--registry", tmp_path, "--frozen", "--json")
    assert told.returncode == 0, told.stderr
    assert "ignored 1 other files: LICENSE 1" in told.stderr
    assert "split: 3 sessions, by the time in the file name" in told.stderr
    accuracies = {o["model"]: o["accuracy"]["value"] for o in json.loads(told.stdout)}
    assert set(accuracies) == {"cnn", "mobilenet"}
    assert accuracies["mobilenet"] > 0.75
    for name in accuracies:
        card = bundle.load(registry.resolve(str(tmp_path / name))).card
        assert card.data["n_images"] == 1380
        assert card.metrics["accuracy"]["n_images"] == 535


def test_a_bucket_of_photographs_gives_a_row_each(bucket: Any) -> None:
    words = ("jobs.predict", "s3://photos/", "s3://out/", "--model", "demo/models/mobilenet")
    told = command(*words, "--json")
    assert told.returncode == 0, told.stderr
    assert "skipped 1 keys" in told.stderr
    counts = json.loads(told.stdout)
    assert (counts["listed"], counts["predicted"], counts["errors"], counts["skipped"]) == (
        1381, 1380, 0, 1,
    )  # fmt: skip
    told = command(*words, "--json", "--include", "*")
    counts = json.loads(told.stdout)
    assert (counts["predicted"], counts["errors"], counts["skipped"]) == (1380, 1, 0)
    assert counts["errors_by_code"] == {"not_an_image": 1}
