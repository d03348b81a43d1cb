"""Batch runs: rows, counts, resuming, and what happens to bad images and bad systems."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import earlier, patience, pipeline, plan, predict, shard, summary
from jobs.limit import Limit
from jobs.rows import Rows
from jobs.sources import Image
from lib import bundle, images, records, registry, storage
from lib.commands import Progress
from lib.failures import BadData, Broken, Misuse
from lib.records import ErrorRow, Prediction


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


def test_a_model_is_found_in_a_bucket(photos: Path, tmp_path: Path, trained: Path, s3: Any) -> None:
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
    ["summary.json", "done/shard-00000.json", "errors/part-00000.jsonl",
     "predictions/part-00000.jsonl"],
    ["summary.json", "done/shard-00000.json", "errors/part-00000.jsonl",
     "predictions/part-00000.jsonl", "plan.json"],
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


@pytest.mark.parametrize("lost", [[], ["errors/part-00000.jsonl"]])
def test_what_is_stored_is_not_read_again(
    photos: Path, tmp_path: Path, model: Path, lost: list[str]
) -> None:
    run(photos, tmp_path / "out", model)
    root = tmp_path / "out" / "r"
    for name in ["summary.json", "done/shard-00000.json", *lost]:
        (root / name).unlink()
    shutil.rmtree(photos)
    loaded = bundle.load(registry.resolve(str(model)))
    with Progress("classifying", 36) as progress:
        done = shard.run(plan.find(str(root)), str(root), 0, loaded, progress, Limit(0.0, 36))
    assert (done.counts.predicted, done.counts.errors) == (36, 0)


def test_a_done_shard_is_believed_and_its_errors_count(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    (photos / "0" / "bad.png").write_bytes(b"not a picture")
    run(photos, tmp_path / "out", model)
    root, limit = tmp_path / "out" / "r", Limit(1.0, 37)
    shutil.rmtree(root / "predictions")
    shutil.rmtree(photos)
    loaded = bundle.load(registry.resolve(str(model)))
    with Progress("classifying", 37) as progress:
        done = shard.run(plan.find(str(root)), str(root), 0, loaded, progress, limit)
    assert (done.counts.predicted, done.counts.errors, limit.n_errors) == (36, 1, 1)
    assert not (root / "predictions").exists()


def test_an_image_replaced_between_two_tries_still_adds_up(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    run(photos, tmp_path / "out", model)
    root = tmp_path / "out" / "r"
    for name in ("summary.json", "done/shard-00000.json", "errors/part-00000.jsonl"):
        (root / name).unlink()
    first = next(iter(sorted(photos.rglob("*.png"))))
    first.write_bytes(b"another picture")
    the_plan = plan.find(str(root))
    model_again = bundle.load(registry.resolve(str(model)))
    with Progress("classifying", 36) as progress:
        done = shard.run(the_plan, str(root), 0, model_again, progress, Limit(0.1, 36))
    assert (done.counts.predicted, done.counts.errors) == (36, 0)


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


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a b", "a\\b", "a\nb"])
def test_the_name_of_a_run_leads_nowhere_else(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        predict.main([str(tmp_path), str(tmp_path / "out"), "--model", "m", "--run", name])
    assert ended.value.code == 2
    assert "must be letters, digits, - _ and ." in capsys.readouterr().err


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
    with pytest.raises(BadData, match="at most 10% of the 45 images may be errors"):
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
    the_plan, root = plan.make(str(photos), str(tmp_path / "out"), loaded, plan.Options())
    first, second, third, *_ = sorted(photos.rglob("*.png"))
    first.unlink()
    second.write_bytes(third.read_bytes())
    with Progress("classifying", 36) as progress:
        done = shard.run(the_plan, root, 0, loaded, progress, Limit(0.1, 36))
    assert done.counts.errors_by_code == {"changed": 1, "missing": 1}
    assert done.counts.predicted == 34


def test_images_larger_than_what_may_be_held_come_one_at_a_time(
    photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room that is never freed would stop a run for good: a thread, to see that it does not."""
    monkeypatch.setattr(pipeline, "READ_AHEAD_BYTES", 1)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.0)
    loaded = bundle.load(registry.resolve(str(model)))
    todo = [Image(e.uri, e.etag, e.size_bytes) for e in storage.entries(str(photos))]
    gone, endless, *_ = (Path(image.uri) for image in todo)
    gone.unlink()
    told: list[object] = []

    def classify() -> None:
        try:
            told.extend(pipeline.rows(todo, loaded))
        except Broken as error:
            told.append(error)

    def in_a_thread() -> None:
        thread = threading.Thread(target=classify, daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()

    in_a_thread()
    assert len(told) == 36
    endless.unlink()
    endless.symlink_to(endless)  # says nothing of any image: the store is broken
    in_a_thread()
    assert isinstance(told[-1], Broken)


@pytest.mark.parametrize("name", ["plan.json", "summary.json", "done/shard-00000.json"])
@pytest.mark.parametrize(("changes", "words"), [
    ({"format": 9}, "format must be 1. Received: 9"),
    ({"surprise": 1}, "a field is missing or unknown .*surprise"),
    ({"run": None, "shard": None}, "a field is missing or unknown .*(run|shard)"),
    ({"options": 5, "drift": 5, "counts": 5}, "a field is missing or unknown"),
])  # fmt: skip
def test_a_sealed_state_object_of_other_fields_is_refused_by_name(
    photos: Path, tmp_path: Path, model: Path, name: str, changes: dict[str, Any], words: str
) -> None:
    """None takes a field away; what an object does not have is not changed."""
    run(photos, tmp_path / "out", model)
    root = tmp_path / "out" / "r"
    fields = records.parse_file((root / name).read_bytes(), name)
    changes = {k: v for k, v in changes.items() if k in fields or k == "surprise"}
    told = {k: v for k, v in (fields | changes).items() if v is not None}
    (root / name).write_bytes(records.to_file(make_dataclass("Record", list(told))(**told)))
    if name != "summary.json":
        (root / "summary.json").unlink()
    with pytest.raises(Broken, match=f"{name}: .*{words}"):
        run(photos, tmp_path / "out", model)


@pytest.mark.parametrize(
    "name", ["plan.json", "summary.json", "done/shard-00000.json", "plan/shard-00000.jsonl"]
)
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


def test_a_part_that_lost_a_row_ends_in_no_summary(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    run(photos, tmp_path / "out", model)
    root = tmp_path / "out" / "r"
    part = root / "predictions/part-00000.jsonl"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:-1]))
    for name in ("done/shard-00000.json", "summary.json"):
        (root / name).unlink()
    with pytest.raises(Broken, match=r"listed must be .* Received: 36 and 35 \+ 0 \+ 0"):
        run(photos, tmp_path / "out", model)
    assert not (root / "summary.json").exists()


def test_a_missing_bucket_and_a_missing_model_are_said_in_a_line(
    photos: Path, tmp_path: Path, model: Path, s3: Any
) -> None:
    with pytest.raises(Broken, match="s3://no-such-bucket.*no such bucket"):
        run("s3://no-such-bucket/", tmp_path / "out", model)
    with pytest.raises(Misuse, match="a model must be REGISTRY/NAME"):
        run(photos, tmp_path / "out", tmp_path / "nothing")


# ---- Shards -----------------------------------------------------------------------------------


def rows_of(output: Path, kind: str = "predictions") -> list[dict[str, Any]]:
    return [row for path in sorted((output / "r" / kind).iterdir()) for row in lines(str(path))]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_in_any_order_give_the_rows_of_one_and_the_last_writes_the_summary(
    photos: Path, tmp_path: Path, model: Path, order: tuple[int, ...]
) -> None:
    (photos / "0" / "bad.png").write_bytes(b"not a picture")
    run(photos, tmp_path / "one", model)
    run(photos, tmp_path / "out", model, "--shards", "3")
    assert not (tmp_path / "out" / "r" / "predictions").exists()
    for index in order:
        assert summary.find(str(tmp_path / "out" / "r")) is None
        run(photos, tmp_path / "out", model, "--shard", str(index))
    for kind in ("predictions", "errors"):
        assert rows_of(tmp_path / "out", kind) == rows_of(tmp_path / "one", kind)
    one, three = (summary.find(str(tmp_path / name / "r")) for name in ("one", "out"))
    for told in (one, three):
        assert (told.listed, told.predicted, told.errors, told.skipped) == (37, 36, 1, 0)
    assert one.classes == three.classes
    assert one.scores_histogram == three.scores_histogram


def test_a_child_of_an_array_job_does_the_shard_of_its_number(
    photos: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, tmp_path / "out", model, "--shards", "2")
    monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", "1")
    run(photos, tmp_path / "out", model)
    assert [path.name for path in (tmp_path / "out/r/done").iterdir()] == ["shard-00001.json"]


def test_without_a_flag_the_shards_that_are_left_are_done_here(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    run(photos, tmp_path / "out", model, "--shards", "3")
    run(photos, tmp_path / "out", model, "--shard", "1")
    run(photos, tmp_path / "out", model)
    assert summary.find(str(tmp_path / "out" / "r")).predicted == 36
    assert plan.find(str(tmp_path / "out" / "r")).n_shards == 3


def test_the_number_of_shards_does_not_name_a_run(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    asked = [str(photos), str(tmp_path / "out"), "--model", str(model)]
    predict.main([*asked, "--shards", "2"])
    predict.main([*asked, "--shard", "0"])
    predict.main(asked)
    (root,) = (tmp_path / "out").iterdir()
    assert summary.find(str(root)).predicted == 36


def test_there_may_be_more_shards_than_images(photos: Path, tmp_path: Path, model: Path) -> None:
    run(photos, tmp_path / "out", model, "--shards", "50")
    run(photos, tmp_path / "out", model)
    assert len(rows_of(tmp_path / "out")) == 36
    assert len(list((tmp_path / "out/r/done").iterdir())) == 50


@pytest.mark.parametrize(("planned", "more", "line"), [
    (None, ["--shard", "0"], "a shard belongs to a run that --shards planned"),
    (["--shards", "2"], ["--shard", "2"], "--shard must be 0 to 1. Received: 2"),
    (["--shards", "2"], ["--shards", "3"], "is planned with 2 shards. Received: 3"),
    (["--shards", "2"], ["--shard", "0", "--include", "*"], "of other sources or options"),
    (["--shards", "2"], ["--shard", "0", "--format", "csv"], "of other sources or options"),
])  # fmt: skip
def test_a_shard_that_does_not_fit_its_plan_is_misuse(
    photos: Path, tmp_path: Path, model: Path, planned: list[str] | None, more: list[str], line: str
) -> None:
    if planned:
        run(photos, tmp_path / "out", model, *planned)
    with pytest.raises(Misuse, match=line):
        run(photos, tmp_path / "out", model, *more)


def test_a_model_that_changes_between_plan_and_shard_is_refused(
    photos: Path, tmp_path: Path, trained: Path
) -> None:
    models = shutil.copytree(trained, tmp_path / "registry")
    run(photos, tmp_path / "out", models / "mobilenet", "--shards", "2")
    run(photos, tmp_path / "out", models / "mobilenet", "--shard", "0")
    (card,) = (models / "mobilenet").glob("*/card.json")
    card.write_text(card.read_text().replace('"threshold"', '"threshold" '))
    with pytest.raises(Misuse, match="was planned with mobilenet .* another bundle"):
        run(photos, tmp_path / "out", models / "mobilenet", "--shard", "1")
    assert len(list((tmp_path / "out/r/predictions").iterdir())) == 1


def test_a_large_shard_has_several_parts_and_a_crash_costs_one(
    photos: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, tmp_path / "one", model)
    monkeypatch.setattr(plan, "IMAGES_PER_PART", 5)
    run(photos, tmp_path / "out", model, "--shards", "2")
    run(photos, tmp_path / "out", model)
    root = tmp_path / "out" / "r"
    assert len(list((root / "predictions").iterdir())) == 8
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "one")
    before = tree(str(root))
    kept = (root / "predictions/part-00002.jsonl").stat().st_mtime_ns
    for name in ("summary.json", "done/shard-00000.json", "predictions/part-00001.jsonl",
                 "errors/part-00001.jsonl"):  # fmt: skip
        (root / name).unlink()
    run(photos, tmp_path / "out", model)
    assert (root / "predictions/part-00002.jsonl").stat().st_mtime_ns == kept
    assert tree(str(root / "predictions")) == {
        name.removeprefix("predictions/"): data
        for name, data in before.items()
        if name.startswith("predictions/")
    }


def test_a_planning_that_never_ended_is_begun_anew(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    run(photos, tmp_path / "out", model, "--shards", "2")
    (tmp_path / "out/r/plan.json").unlink()
    run(photos, tmp_path / "out", model, "--shards", "3")
    run(photos, tmp_path / "out", model)
    assert len(rows_of(tmp_path / "out")) == 36


def test_an_error_rate_says_nothing_of_less_than_20_images() -> None:
    Limit(0.1, 19).add(19)
    with pytest.raises(BadData, match="at most 10% of the 20 images may be errors. Received: 3"):
        Limit(0.1, 20).add(3)


def test_the_error_rate_is_that_of_the_whole_run(photos: Path, tmp_path: Path, model: Path) -> None:
    for k in range(3):
        (photos / "0" / f"-bad{k}.jpg").write_text("hello")  # all in the first shard
    run(photos, tmp_path / "out", model, "--shards", "13")
    run(photos, tmp_path / "out", model)
    assert summary.find(str(tmp_path / "out" / "r")).errors == 3


def test_errors_of_all_shards_together_stop_a_run(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    for k in range(8):
        (photos / f"{k % 4}" / f"bad{k}.jpg").write_text("hello")
    run(photos, tmp_path / "out", model, "--shards", "4")
    for index in range(3):
        run(photos, tmp_path / "out", model, "--shard", str(index))
    with pytest.raises(BadData, match="at most 10% of the 44 images may be errors. Received: 8"):
        run(photos, tmp_path / "out", model, "--shard", "3")
    assert summary.find(str(tmp_path / "out" / "r")) is None
    run(photos, tmp_path / "out", model, "--max-error-rate", "0.2")
    assert summary.find(str(tmp_path / "out" / "r")).errors == 8


# ---- Sources ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_list_of_keys_is_a_source(
    photos: Path, tmp_path: Path, model: Path, ending: str, whole: bool
) -> None:
    (photos / "0" / "a, b = 'c'.png").write_bytes(next(photos.rglob("*.png")).read_bytes())
    keys = sorted(str(path.relative_to(photos)) for path in photos.rglob("0/*.png"))
    named = [str(photos / key) if whole else key for key in [*reversed(keys), keys[0]]]
    written = {
        "txt": "\r\n".join(["", *named, "", "notes.md"]),
        "csv": "label,key\n" + "".join(f'0,"{name}"\n' for name in [*named, "notes.md"]),
        "jsonl": "".join(json.dumps({"uri": name}) + "\n" for name in [*named, "notes.md"]),
    }
    (photos / f"list.{ending}").write_text(written[ending])
    run(photos / f"list.{ending}", tmp_path / "out", model)
    assert [row["uri"] for row in rows_of(tmp_path / "out")] == [str(photos / key) for key in keys]
    assert summary.find(str(tmp_path / "out" / "r")).skipped_by_ending == {".md": 1}


def test_a_list_in_a_bucket_names_keys_that_are_there_and_not(
    photos: Path, tmp_path: Path, model: Path, s3: Any
) -> None:
    upload(s3, photos)
    key = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))[0]
    s3.put_object(Bucket="photos", Key="list.txt", Body=f"{key}\ns3://photos/a//b.png".encode())
    run("s3://photos/list.txt", tmp_path / "out", model)
    (predicted,) = rows_of(tmp_path / "out")
    (error,) = rows_of(tmp_path / "out", "errors")
    assert predicted["uri"] == f"s3://photos/{key}"
    assert predicted["etag"] == s3.head_object(Bucket="photos", Key=key)["ETag"]
    assert (error["uri"], error["error"]["code"]) == ("s3://photos/a//b.png", "missing")


def test_the_rows_of_a_run_are_a_list_for_the_next(
    photos: Path, tmp_path: Path, model: Path, trained: Path
) -> None:
    run(photos, tmp_path / "out", model)
    part = tmp_path / "out/r/predictions/part-00000.jsonl"
    run(part, tmp_path / "again", trained / "cnn")
    assert [row["uri"] for row in rows_of(tmp_path / "again")] == [
        row["uri"] for row in rows_of(tmp_path / "out")
    ]


@pytest.mark.parametrize("text", ["label\n0\n", "uri\n,\n"])
def test_a_list_without_keys_is_misuse(tmp_path: Path, model: Path, text: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(Misuse, match="must name a uri or key in each line"):
        run(tmp_path / "list.csv", tmp_path / "out", model)


def test_several_sources_are_one_run_and_an_image_of_two_of_them_one_row(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    for number, sources in enumerate([("0", "1", "."), (".", "1", "0")]):
        places = [str(photos / name) for name in sources]
        predict.main([*places, str(tmp_path / "out"), "--model", str(model)])
        assert len(list((tmp_path / "out").iterdir())) == 1, number
    (root,) = (tmp_path / "out").iterdir()
    assert summary.find(str(root)).predicted == 36


def test_output_below_the_source_is_no_part_of_it(photos: Path, model: Path) -> None:
    asked = [str(photos), str(photos / "results"), "--model", str(model), "--include", "*"]
    predict.main(asked)
    predict.main(asked)
    (root,) = (photos / "results").iterdir()
    assert summary.find(str(root)).listed == 36


def test_output_in_the_place_of_the_source_is_misuse(photos: Path, model: Path) -> None:
    with pytest.raises(Misuse, match="OUTPUT must be another place than SOURCE"):
        run(photos, f"{photos}/", model)


# ---- Incremental ------------------------------------------------------------------------------


def test_an_incremental_run_takes_what_has_no_row_yet(
    photos: Path, tmp_path: Path, model: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0" / "bad.png").write_bytes(b"not a picture")
    asked = [str(photos), str(tmp_path / "out"), "--model", str(model), "--incremental"]
    predict.main([*asked, "--format", "csv"])
    predict.main([*asked, "--json"])
    told = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert (told["listed"], told["predicted"], told["classified_before"]) == (37, 0, 37)
    assert len(list((tmp_path / "out").iterdir())) == 1

    first, second = sorted(photos.rglob("*.png"))[:2]
    second.write_bytes(first.read_bytes())
    (photos / "3" / "new.png").write_bytes(first.read_bytes())
    predict.main([*asked, "--run", "r"])
    assert [row["uri"] for row in rows_of(tmp_path / "out")] == [
        str(second), str(photos / "3" / "new.png"),
    ]  # fmt: skip
    told = summary.find(str(tmp_path / "out" / "r"))
    assert (told.listed, told.predicted, told.skipped) == (38, 2, 36)

    predict.main([*asked[:3], str(trained / "cnn"), "--incremental", "--run", "other"])
    assert summary.find(str(tmp_path / "out" / "other")).predicted == 37


def test_a_row_that_says_nothing_of_the_bytes_keeps_no_image_out(tmp_path: Path) -> None:
    codes, shape, part = ("missing", "changed", "empty"), Rows("jsonl", ()), tmp_path / "part"
    rows = [ErrorRow(code, "e", {"code": code, "message": "why"}) for code in codes]
    part.write_bytes(shape.write(ErrorRow, rows))
    known = earlier.rows([(shape, ErrorRow, str(part))])
    assert [code for code in codes if (code, "e") in known] == ["empty"]
    assert ("empty", "f") not in known


def test_the_rows_of_an_incremental_run_keep_no_image_out_of_itself(
    photos: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(photos), str(tmp_path / "out"), "--model", str(model), "--incremental"]
    told = []
    for _ in range(2):
        predict.main([*asked, "--run", "r", "--json"])
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["predicted"] == 36
    assert told[1] == told[0]


def test_an_incremental_run_that_was_stopped_goes_on(
    photos: Path, tmp_path: Path, model: Path
) -> None:
    asked = [str(photos), str(tmp_path / "out"), "--model", str(model), "--incremental"]
    predict.main(asked)
    (root,) = (tmp_path / "out").iterdir()
    (root / "summary.json").unlink()
    predict.main(asked)
    assert (root / "summary.json").exists()
    assert len(list((tmp_path / "out").iterdir())) == 1


# ---- Formats, dry runs, drift -----------------------------------------------------------------


@pytest.mark.parametrize("format", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_every_format_has_the_same_rows_and_can_be_resumed(
    photos: Path, tmp_path: Path, model: Path, format: str
) -> None:
    (photos / "0" / "bad.png").write_bytes(b"not a picture")
    run(photos, tmp_path / "plain", model)
    run(photos, tmp_path / "out", model, "--format", format)
    root = tmp_path / "out" / "r"
    before = tree(str(root))
    shape = Rows(format, bundle.load(registry.resolve(str(model))).card.classes)
    for kind, folder in ((Prediction, "predictions"), (ErrorRow, "errors")):
        data = before[f"{folder}/part-00000.{format}"]
        found = [json.loads(records.to_line(row)) for row in shape.read(kind, data, folder)]
        assert found == rows_of(tmp_path / "plain", folder)
    for name in ("summary.json", "done/shard-00000.json", f"errors/part-00000.{format}"):
        (root / name).unlink()
    run(photos, tmp_path / "out", model, "--format", format)
    name = f"errors/part-00000.{format}"
    assert tree(str(root))[name] == before[name]


def test_a_dry_run_tells_the_cost_and_writes_nothing(
    photos: Path, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0" / "bad.png").write_bytes(b"not a picture")
    run(photos, tmp_path / "out", model, "--dry-run", "--shards", "3")
    told = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert "37 images" in told
    assert "3 shards" in told
    assert "measured on 37 images (1 unreadable)" in told
    assert "at 0.04048 USD a vCPU-hour and 0.004445 USD a GB-hour" in told
    run(photos, tmp_path / "out", model, "--dry-run", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["cost"]["vcpu_hours"] > 0
    assert told["seconds_here"] == pytest.approx(37 / told["images_per_s"], abs=0.051)


def test_a_dry_run_of_nothing_costs_next_to_nothing(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    run(tmp_path / "photos", tmp_path / "out", model, "--dry-run")
    assert "0 images" in capsys.readouterr().out


def test_drift_is_measured_against_the_card(photos: Path, tmp_path: Path, trained: Path) -> None:
    models = shutil.copytree(trained, tmp_path / "registry")
    (path,) = (models / "mobilenet").glob("*/card.json")
    card = json.loads(path.read_text())
    card.pop("seal")
    card["metrics"] |= {
        "scores_histogram": [500] + [0] * 9, "class_mix": dict.fromkeys(card["classes"], 0.25),
    }  # fmt: skip
    path.write_text(json.dumps(card))
    run(photos, tmp_path / "out", models / "mobilenet")
    told = summary.find(str(tmp_path / "out" / "r")).drift
    assert told.scores > 1
    assert "how sure the model is" in told.sentence
