"""Batch runs: rows, counts, resuming, and what happens to bad images and bad systems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import predict, shard, summary
from lib import bundle, images, registry, storage
from lib.failures import BadData, Broken, Misuse


def lines(uri: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in storage.read(uri).data.splitlines()]


def tree(uri: str) -> dict[str, bytes]:
    return {storage.relative(e.uri, uri): storage.read(e.uri).data for e in storage.entries(uri)}


def run(source: object, output: object, model: object, *more: str) -> None:
    predict.main([str(source), str(output), "--model", str(model), "--run", "r", *more])


@pytest.fixture
def model(trained: Path) -> Path:
    return trained / "mobilenet"


@pytest.fixture
def photos(hands: Path, tmp_path: Path) -> Path:
    """A copy of the drawn hands that a test may spoil."""
    return shutil.copytree(hands, tmp_path / "photos")


def upload(s3: Any, folder: Path) -> None:
    for path in folder.rglob("*.*"):
        s3.upload_file(str(path), "photos", str(path.relative_to(folder)))


def test_every_image_becomes_a_row_in_the_order_of_its_key(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    (photos / "LICENSE").write_text("free")
    run(photos, tmp_path / "out", model)
    root = str(tmp_path / "out" / "r")
    rows = lines(f"{root}/predictions/part-00000.jsonl")
    assert [row["uri"] for row in rows] == sorted(str(path) for path in photos.rglob("*.png"))
    assert list(rows[0]) == [
        "uri", "etag", "model", "version", "label", "score", "confident", "scores",
    ]  # fmt: skip
    for row in rows:
        assert row["score"] == max(row["scores"].values()) == row["scores"][row["label"]]
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)
    told = summary.find(root)
    assert (told.listed, told.predicted, told.errors, told.skipped) == (37, 36, 0, 1)
    assert told.skipped_by_ending == {"no ending": 1}
    assert sum(told.classes.values()) == 36


def test_scores_are_those_of_the_bundle_for_the_decoded_bytes(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    run(photos, tmp_path / "out", model)
    loaded = bundle.load(registry.resolve(str(model)))
    for row in lines(f"{tmp_path}/out/r/predictions/part-00000.jsonl"):
        pixels = images.decode(Path(row["uri"]).read_bytes(), loaded.card.image)
        scores = loaded.predict(pixels[None])[0]
        np.testing.assert_allclose(list(row["scores"].values()), scores, atol=1e-6)


def test_a_bucket_gives_the_rows_of_the_folder(
    photos: Path, tmp_path: Path, model: Path, s3: Any
) -> None:
    upload(s3, photos)
    s3.create_bucket(Bucket="results")
    run(photos, tmp_path / "out", model)
    run("s3://photos/", "s3://results/", model)
    here = lines(f"{tmp_path}/out/r/predictions/part-00000.jsonl")
    there = lines("s3://results/r/predictions/part-00000.jsonl")
    assert [row["uri"] for row in there] == [
        row["uri"].replace(str(photos), "s3://photos") for row in here
    ]
    assert [row["scores"] for row in there] == [row["scores"] for row in here]


def test_a_model_is_found_in_a_bucket(
    photos: Path, tmp_path: Path, trained: Path, s3: Any
) -> None:
    for path in trained.rglob("*.*"):
        s3.upload_file(str(path), "photos", f"registry/{path.relative_to(trained)}")
    run(photos, tmp_path / "out", "s3://photos/registry/cnn")
    assert len(lines(f"{tmp_path}/out/r/predictions/part-00000.jsonl")) == 36


def test_the_same_command_again_does_nothing(
    photos: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    run(photos, out, model)
    before = tree(out)
    first = capsys.readouterr().out
    run(photos, out, model)
    told = capsys.readouterr()
    assert tree(out) == before
    assert told.out == first
    assert "complete already" in told.err


@pytest.mark.parametrize("lost", [
    ["summary.json"], ["summary.json", "done/shard-00000.json"],
    ["summary.json", "done/shard-00000.json", "errors/part-00000.jsonl"],
    ["summary.json", "done/shard-00000.json", "errors/part-00000.jsonl", "predictions/part-00000.jsonl"],
    ["summary.json", "done/shard-00000.json", "errors/part-00000.jsonl", "predictions/part-00000.jsonl",
     "plan.json"],
])  # fmt: skip
def test_a_run_that_stopped_anywhere_ends_with_the_same_rows(
    photos: Path, tmp_path: Path, model: Path, lost: list[str]
) -> None:
    (photos / "0" / "bad.png").write_bytes(b"not a picture")
    run(photos, tmp_path / "out", model)
    root = tmp_path / "out" / "r"
    before = tree(str(root))
    for name in lost:
        (root / name).unlink()
    run(photos, tmp_path / "out", model)
    after = tree(str(root))
    assert set(after) == set(before)
    for name in before:
        if name.startswith(("plan", "predictions", "errors")):
            assert after[name] == before[name], name


def test_an_image_replaced_between_two_tries_still_adds_up(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    run(photos, tmp_path / "out", model)
    root = tmp_path / "out" / "r"
    for name in ("summary.json", "done/shard-00000.json", "errors/part-00000.jsonl"):
        (root / name).unlink()
    first = next(iter(sorted(photos.rglob("*.png"))))
    first.write_bytes(b"another picture")
    the_plan = shard.plan.find(str(root))
    model_again = bundle.load(registry.resolve(str(model)))
    with shard.Progress("classifying", 36) as progress:
        done = shard.run(the_plan, str(root), 0, model_again, progress)
    assert (done.predicted, done.errors) == (36, 0)


def test_a_changed_listing_is_another_run(photos: Path, tmp_path: Path, model: Path) -> None:
    predict.main([str(photos), str(tmp_path / "out"), "--model", str(model)])
    next(photos.rglob("*.png")).unlink()
    predict.main([str(photos), str(tmp_path / "out"), "--model", str(model)])
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_named_run_refuses_another_question(photos: Path, tmp_path: Path, model: Path) -> None:
    run(photos, tmp_path / "out", model)
    next(photos.rglob("*.png")).unlink()
    with pytest.raises(Misuse, match="is a run of another listing, model or options"):
        run(photos, tmp_path / "out", model)


def test_bad_images_are_rows_with_a_reason(photos: Path, tmp_path: Path, model: Path) -> None:
    (photos / "0" / "text.jpg").write_text("hello")
    (photos / "0" / "zero.jpg").write_bytes(b"")
    (photos / "1" / "cut.png").write_bytes(next(photos.rglob("*.png")).read_bytes()[:900])
    run(photos, tmp_path / "out", model)
    rows = lines(f"{tmp_path}/out/r/errors/part-00000.jsonl")
    assert {Path(row["uri"]).name: row["error"]["code"] for row in rows} == {
        "text.jpg": "not_an_image", "zero.jpg": "empty", "cut.png": "truncated",
    }  # fmt: skip
    told = summary.find(str(tmp_path / "out" / "r"))
    assert (told.listed, told.predicted, told.errors) == (39, 36, 3)


def test_every_key_can_be_asked_for(photos: Path, tmp_path: Path, model: Path) -> None:
    (photos / "LICENSE").write_text("free")
    run(photos, tmp_path / "out", model, "--include", "*")
    (row,) = lines(f"{tmp_path}/out/r/errors/part-00000.jsonl")
    assert row["uri"] == str(photos / "LICENSE")
    assert row["error"]["message"] == "the bytes are none of JPEG, PNG, WEBP, GIF, BMP, TIFF"


def test_globs_choose_keys(photos: Path, tmp_path: Path, model: Path) -> None:
    run(photos, tmp_path / "out", model, "--include", "2/*", "3/*")
    told = summary.find(str(tmp_path / "out" / "r"))
    assert (told.predicted, told.skipped) == (18, 18)


def test_too_many_errors_stop_the_run_and_leave_no_rows(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    for k in range(9):
        (photos / "0" / f"bad{k}.jpg").write_text("hello")
    with pytest.raises(BadData, match="at most 10% of the images may be errors"):
        run(photos, tmp_path / "out", model)
    assert not (tmp_path / "out" / "r" / "predictions").exists()
    run(photos, tmp_path / "out2", model, "--max-error-rate", "0.3")


def test_a_folder_without_images_is_a_complete_run(tmp_path: Path, model: Path) -> None:
    (tmp_path / "photos").mkdir()
    run(tmp_path / "photos", tmp_path / "out", model)
    assert summary.find(str(tmp_path / "out" / "r")).listed == 0


def test_an_image_deleted_or_replaced_after_planning_is_a_row(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    loaded = bundle.load(registry.resolve(str(model)))
    the_plan, root = shard.plan.make(
        str(photos), str(tmp_path / "out"), loaded, shard.plan.Options(), None
    )
    first, second, third, *_ = sorted(photos.rglob("*.png"))
    first.unlink()
    second.write_bytes(third.read_bytes())
    with shard.Progress("classifying", 36) as progress:
        done = shard.run(the_plan, root, 0, loaded, progress)
    assert done.error_codes == {"changed": 1, "missing": 1}
    assert done.predicted == 34


@pytest.mark.parametrize("name", ["plan.json", "summary.json", "done/shard-00000.json", "plan/shard-00000.jsonl"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 9}'])
def test_a_damaged_state_object_is_refused_by_name(
    photos: Path, tmp_path: Path, model: Path, name: str, damage: bytes
) -> None:
    run(photos, tmp_path / "out", model)
    root = tmp_path / "out" / "r"
    if name != "summary.json":
        (root / "summary.json").unlink()
    if name.startswith("plan/"):
        (root / "done/shard-00000.json").unlink()
    (root / name).write_bytes(damage)
    with pytest.raises(Broken, match=name):
        run(photos, tmp_path / "out", model)


def test_a_missing_bucket_and_a_missing_model_are_said_in_a_line(
    photos: Path, tmp_path: Path, model: Path, s3: Any
) -> None:
    with pytest.raises(Broken, match="s3://no-such-bucket.*no such bucket"):
        run("s3://no-such-bucket/", tmp_path / "out", model)
    with pytest.raises(Misuse, match="a model must be REGISTRY/NAME"):
        run(photos, tmp_path / "out", tmp_path / "nothing")
