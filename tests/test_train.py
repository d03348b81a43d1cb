"""Training from the command line: what is found, what is refused, what is left behind."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs import judge, photos, predict, train
from lib import bundle, commands, images, registry, samples, storage
from lib.failures import BadData, Broken, Misuse
from lib.records import Example
from lib.training import fit, models
from lib.training.dataset import Dataset

ROOT = Path(__file__).parents[1]


@pytest.fixture
def album(hands: Path, tmp_path: Path) -> Path:
    """A copy of the drawn hands that a test may spoil."""
    return Path(shutil.copytree(hands, tmp_path / "album"))


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def test_the_networks_have_the_published_sizes() -> None:
    assert models.cnn(4, 224).count_params() == 3_253_068
    assert models.mobilenet(4, 224, "none").count_params() == 538_712


def test_the_scaling_is_a_layer_of_each_graph() -> None:
    pixels = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1).repeat(3, axis=3)
    for model, low in ((models.cnn(2, 32), 0), (models.mobilenet(2, 32, "none"), -1)):
        scaled = np.asarray(model.get_layer("scale")(pixels))
        np.testing.assert_allclose(scaled[0, 0, :, 0], (low, 1), atol=1e-6)


def test_the_small_cnn_sees_the_same_object_in_any_light() -> None:
    away = models.cnn(2, 56).get_layer("from_background")
    hand = samples.draw(2, seed=1, size_px=56).image[None] / np.float32(255)
    seen = np.asarray(away(hand))
    negative, pale, red = 1 - hand, 0.5 * hand + 0.3, hand[..., [2, 1, 0]]
    np.testing.assert_allclose(away(negative), seen, atol=1e-4)
    np.testing.assert_allclose(away(pale), seen, atol=0.15)
    np.testing.assert_allclose(away(red), seen[..., [2, 1, 0]], atol=1e-4)
    assert seen.max() > 1
    assert float(np.max(away(np.full((1, 56, 56, 3), 0.7, np.float32)))) < 1e-3


def test_both_models_are_left_in_the_registry_as_champions(trained: Path) -> None:
    for name in ("cnn", "mobilenet"):
        card = bundle.load(registry.resolve(str(trained / name))).card
        assert registry.champion(str(trained), name).version == card.version
        assert card.metrics["accuracy"]["n_images"] == 12
        assert card.data["n_images"] == 36
        assert 0.5 <= card.threshold <= 0.9
        assert card.config["command"].startswith("python -m jobs.train ")


def test_the_history_tells_train_and_validation(trained: Path) -> None:
    uri = registry.resolve(str(trained / "mobilenet"))
    header, first, *_ = (Path(uri) / "history.csv").read_text().splitlines()
    assert header == "stage,epoch,loss,accuracy,val_loss,val_accuracy"
    assert all(float(figure) >= 0 for figure in first.split(",")[2:])
    assert (Path(uri) / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_training_decodes_what_predicting_decodes(
    trained: Path, hands: Path, tmp_path: Path
) -> None:
    """The same bytes give the same scores, by training's decode and by jobs.predict."""
    from lib.training import dataset

    found = photos.find([str(hands)])
    loaded = dataset.load(found.examples, found.classes, images.ImageRule())
    model = bundle.load(registry.resolve(str(trained / "mobilenet")))
    here = model.predict(loaded.images)
    predict.main([str(hands), str(tmp_path), "--model", model.uri, "--run", "r"])
    rows = storage.read(f"{tmp_path}/r/predictions/part-00000.jsonl").data.splitlines()
    there = {row["uri"]: list(row["scores"].values()) for row in map(json.loads, rows)}
    for example, scores in zip(loaded.examples, here, strict=True):
        np.testing.assert_allclose(there[example.uri], scores, atol=1e-6)


@pytest.mark.slow
def test_cross_validation_measures_on_all_and_the_random_split_beside_it_on_a_fold(
    hands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path / "cache"))
    where = str(tmp_path / "registry")
    command = [str(hands), "--registry", where, "--models", "mobilenet", "--frozen"]
    train.main([*command, "--backbone", str(train.SHIPPED), "--cross-validate"])
    card = bundle.load(registry.resolve(f"{where}/mobilenet")).card
    assert card.metrics["how"] == "each of 3 sessions left out in turn"
    assert card.metrics["accuracy"]["n_images"] == 36
    assert card.metrics["random_split"]["n_images"] == 12


def test_stray_and_hidden_files_are_ignored_and_reported(
    album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (album / "LICENSE").write_text("free")
    (album / "0" / ".DS_Store").write_bytes(b"\0")
    (album / "0" / "notes.txt").write_text("notes")
    (album / "0" / "photo.heic").write_bytes(b"\0")
    train.main([str(album), "--registry", "nowhere", "--dry-run"])
    told = capsys.readouterr().err
    assert "found 36 images in 4 classes: 0 9, 1 9, 2 9, 3 9" in told
    assert "ignored 4 other files: .heic 1, .txt 1, LICENSE 1, hidden 1" in told
    assert "split: 3 sessions, by the time in the file name" in told


def test_a_bucket_is_listed_like_the_folder(album: Path, s3: Any) -> None:
    for path in album.rglob("*.png"):
        s3.upload_file(str(path), "photos", str(path.relative_to(album)))
    here, there = photos.find([str(album)]), photos.find(["s3://photos"])
    assert [e.key for e in there.examples] == [e.key for e in here.examples]
    assert there.classes == here.classes


def empty(album: Path) -> None:
    shutil.rmtree(album)
    album.mkdir()


def one_class(album: Path) -> None:
    for name in "123":
        shutil.rmtree(album / name)


def one_image(album: Path) -> None:
    for path in sorted((album / "3").iterdir())[1:]:
        path.unlink()


def all_unreadable(album: Path) -> None:
    for path in album.rglob("*.png"):
        path.write_text("a text file")


@pytest.mark.parametrize(("spoil", "line"), [
    (empty, "images must lie in <class>/<image>. Found: no image in any folder"),
    (one_class, "classes must be at least 2. Received: 1 (0)"),
    (one_image, "a class needs at least 3 images. Received: 1 (3)"),
    (all_unreadable, "at most 10% of the images may be unreadable. Received: 36 of 36"),
])  # fmt: skip
def test_bad_data_is_one_line_and_exit_3(
    album: Path, tmp_path: Path, spoil: Any, line: str
) -> None:
    spoil(album)
    told = command("jobs.train", album, "--registry", tmp_path / "registry")
    assert told.returncode == 3
    assert told.stdout == ""
    assert told.stderr.splitlines()[-1].startswith("error: ")
    assert told.stderr.splitlines()[-1].endswith(line)
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize(("words", "code", "line"), [
    (["jobs.train", "no-such-folder", "--registry", "r"], 1, "error: no-such-folder: no such folder"),
    (["jobs.train", "tests"], 2, "the following arguments are required: --registry"),
    (["jobs.train", "tests", "--registry", "r", "--models", "resnet"], 2, "invalid choice: 'resnet'"),
    (["jobs.models", "promote"], 2, "arguments are required: registry, name, version"),
    (["jobs.schedule", "create"], 2, "the following arguments are required: "),
    (["jobs.predict", "tests", "out", "--model", "nothing"], 2, "error: nothing: a model must be"),
    (["jobs.predict", "tests", "out", "--model", "m", "--max-error-rate", "7"], 2, "must be 0 to 1"),
])  # fmt: skip
def test_bad_usage_and_bad_systems_are_one_line(words: list[str], code: int, line: str) -> None:
    told = command(*words)
    assert told.returncode == code
    assert len(told.stderr.splitlines()) == 1
    assert line in told.stderr


def test_a_damaged_bundle_is_one_line_and_exit_1(
    trained: Path, hands: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(registry.resolve(str(trained / "cnn")), tmp_path / "bundle")
    data = bytearray((folder / "model.tflite").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.tflite").write_bytes(data)
    told = command("jobs.predict", hands, tmp_path / "out", "--model", folder)
    assert (told.returncode, len(told.stderr.splitlines())) == (1, 1)
    assert "model.tflite: is not the file its card names" in told.stderr


def test_a_missing_bucket_is_one_line_and_exit_1(s3: Any, tmp_path: Path) -> None:
    told = command("jobs.train", "s3://no-such-bucket/x", "--registry", tmp_path / "registry")
    assert (told.returncode, len(told.stderr.splitlines())) == (1, 1)
    assert "no such bucket" in told.stderr


@pytest.mark.slow
def test_without_a_network_training_goes_on_from_the_backbone_that_ships(
    hands: Path, tmp_path: Path
) -> None:
    told = command(
        "jobs.train", hands, "--registry", tmp_path / "registry", "--models", "mobilenet", "--frozen",
        KERAS_HOME=str(tmp_path), https_proxy="http://127.0.0.1:9",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (line,) = [line for line in told.stderr.splitlines() if line.startswith("WARNING")]
    for way in ("KERAS_HOME", "--backbone FILE", "--backbone BUNDLE", "--backbone none"):
        assert way in line
    card = bundle.load(registry.resolve(str(tmp_path / "registry" / "mobilenet"))).card
    assert card.config["backbone"] == "the finger counter that ships"


def test_the_same_images_and_recipe_again_are_nothing_new(
    trained: Path, hands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(trained.rglob("*"))
    train.main(
        [str(hands), "--registry", str(trained), "--frozen", "--backbone", str(train.SHIPPED)]
    )
    assert "nothing new" in capsys.readouterr().err
    assert sorted(trained.rglob("*")) == before


def test_a_class_that_lost_most_of_its_images_stops_the_run(
    trained: Path, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((album / "3").iterdir())[4:]:
        path.unlink()
    with pytest.raises(BadData, match="class 3 must keep at least 50% of the 9 images"):
        train.main([str(album), "--registry", str(trained), "--frozen"])


def test_a_bad_image_among_good_ones_is_told_and_left_out(
    album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lib.training import dataset

    (album / "0" / "08-30-00-000000.jpg").write_text("a text file called .jpg")
    found = photos.find([str(album)])
    loaded = dataset.load(found.examples, found.classes, images.ImageRule())
    assert len(loaded) == 36
    (row,) = loaded.unreadable
    assert row.uri.endswith("08-30-00-000000.jpg")
    assert row.error["code"] == "not_an_image"
    for pixels, example in zip(loaded.images, loaded.examples, strict=True):
        expected = images.decode(Path(example.uri).read_bytes(), images.ImageRule())
        np.testing.assert_array_equal(pixels, expected)


def test_extra_images_are_learned_from_and_never_measured_on(hands: Path, album: Path) -> None:
    found = photos.find([str(hands)], [str(album)])
    groups = photos.find_sessions(found.examples, [str(album)])
    split = photos.split(groups, found.examples, found.classes, [str(album)])
    assert set(split.sides[36:]) == {"train"}
    assert set(groups.names[36:]) == {"extra"}
    alone = photos.find_sessions(found.examples[:36], [])
    alone_split = photos.split(alone, found.examples[:36], found.classes, [])
    assert split.sides[:36].tolist() == alone_split.sides.tolist()


def test_extra_images_of_another_class_are_refused(hands: Path, album: Path) -> None:
    (album / "3").rename(album / "4")
    with pytest.raises(BadData, match="extra images must be of the classes that are measured"):
        photos.find([str(hands)], [str(album)])


@pytest.mark.parametrize(("backbone", "failure", "words"), [
    ("missing.h5", Misuse, "no file missing.h5"),
    ("no-such-bundle", Misuse, "a model must be REGISTRY/NAME"),
])  # fmt: skip
def test_a_backbone_that_is_not_there_is_refused(
    hands: Path, tmp_path: Path, backbone: str, failure: type[Exception], words: str
) -> None:
    with pytest.raises(failure, match=words):
        train.main([str(hands), "--registry", str(tmp_path), "--models", "mobilenet",
                    "--backbone", backbone])  # fmt: skip


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(Broken, match="do not fit the network at Conv1/kernel"):
        models.mobilenet(4, 32, {"Conv1/kernel": np.zeros((1, 1), np.float16)})


def test_weights_go_round_through_a_bundle(trained: Path) -> None:
    kept = bundle.weights(registry.resolve(str(trained / "mobilenet")))
    again = models.mobilenet(4, 224, kept)
    models.go_on_from(again, kept, models.CUT)
    again = models.weights(again)
    assert kept.keys() == again.keys()
    for path, value in kept.items():
        np.testing.assert_array_equal(again[path], value)


@pytest.mark.slow
def test_a_second_version_leads_only_through_the_gate(
    trained: Path, hands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "registry"))
    before = registry.champion(str(folder), "mobilenet")
    words = [str(hands), "--registry", str(folder), "--models", "mobilenet", "--json",
             "--backbone", str(train.SHIPPED), "--frozen", "--force"]  # fmt: skip
    train.main(words)
    (outcome,) = json.loads(capsys.readouterr().out)
    assert outcome["verdict"].startswith("candidate: not surely better")
    assert registry.champion(str(folder), "mobilenet") == before
    assert len(registry.versions(str(folder), "mobilenet")) == 2


def test_help_has_a_runnable_example() -> None:
    for name in ("jobs.train", "jobs.predict", "lib.samples"):
        told = command(name, "--help")
        assert told.returncode == 0
        assert f"python -m {name} " in told.stdout.split("example:")[1]


def test_progress_is_plain_lines_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with commands.Progress("reading", 3) as progress:
        progress.add(3)
    told = capsys.readouterr().err
    assert told.startswith("reading: 3 of 3 images, ")
    assert "\r" not in told


def test_a_run_killed_before_the_pointer_moved_is_not_nothing_new(
    trained: Path, hands: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "registry"))
    found = photos.find([str(hands)])
    (version,) = registry.versions(str(folder), "mobilenet")
    asked = {"asked": registry.card(str(folder), "mobilenet", version).config["asked"]}
    assert judge.is_nothing_new(str(folder), "mobilenet", found, asked)
    (folder / "mobilenet" / "champion.json").unlink()
    assert not judge.is_nothing_new(str(folder), "mobilenet", found, asked)


def test_with_the_pointer_lost_the_newest_version_is_what_there_is_to_beat(
    trained: Path, hands: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "registry"))
    before = bundle.load(registry.resolve(str(folder / "mobilenet")))
    (folder / "mobilenet" / "champion.json").unlink()
    pictures = np.stack(
        [images.decode(p.read_bytes(), before.card.image) for p in hands.rglob("*.png")]
    )
    scores = before.predict(pictures)
    verdict = judge.judge(str(folder), before.card, scores.argmax(1), pictures, scores)
    assert not verdict.promote
    assert verdict.reason.startswith("not surely better")


def test_sessions_are_named_by_a_list_beside_the_classes(
    album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [path.relative_to(album).as_posix() for path in sorted(album.rglob("*.png"))]
    lines = [f"{key},{'abcd'[k % 4]}" for k, key in enumerate(keys)]
    (album / "sessions.csv").write_text("\n".join(["image,session", *lines, "0/gone.png,a"]))
    train.main([str(album), "--registry", "nowhere", "--dry-run"])
    told = capsys.readouterr().err
    assert "split: 4 sessions, by sessions.csv" in told
    assert "lines of sessions.csv without an image 1" in told


def test_a_list_of_sessions_with_other_columns_is_refused(album: Path) -> None:
    (album / "sessions.csv").write_text("file,day\n0/a.png,1\n")
    with pytest.raises(BadData, match="columns must be image .* and session. Received: file, day"):
        photos.find([str(album)])


@pytest.mark.slow
def test_a_second_training_goes_on_from_the_first_and_moves_no_image(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four hands of an older session come in: sides stay, few epochs follow, the test is unseen."""
    words = [str(album), "--registry", str(tmp_path / "registry"), "--models", "mobilenet",
             "--backbone", str(train.SHIPPED)]  # fmt: skip
    train.main(words)
    uri = registry.resolve(str(tmp_path / "registry" / "mobilenet"))
    before = bundle.sides(uri)
    for label in "0123":
        one = next((album / label).iterdir())
        with Image.open(one) as image:
            image.rotate(7).save(album / label / "07-00-00-000000.png")
    capsys.readouterr()
    train.main(words)
    told = capsys.readouterr()
    (first, second) = registry.versions(str(tmp_path / "registry"), "mobilenet")
    assert f"mobilenet goes on from {first}: few images are new" in told.err
    after = bundle.sides(str(tmp_path / "registry" / "mobilenet" / second))
    assert {digest: after[digest] for digest in before} == before
    assert len(after) == len(before) + 4
    history = (tmp_path / "registry" / "mobilenet" / second / "history.csv").read_text()
    assert len(history.splitlines()) == 1 + fit.Recipe().again_epochs


def run_of(examples: list[Example], extra: list[str]) -> train.Run:
    """A run of which only the images, their sessions and their sides are known."""
    pixels = np.arange(len(examples), dtype=np.uint8).reshape(-1, 1, 1, 1)
    labels = np.zeros(len(examples), np.int64)
    loaded = Dataset(pixels, labels, examples, np.full(len(examples), np.nan), [])
    groups = photos.find_sessions(examples, extra)
    split = photos.split(groups, examples, ("a", "b"), extra)
    asked = argparse.Namespace(extra=extra, cross_validate=False)
    found = photos.Photos(examples, len(extra), Counter())
    return train.Run(asked, "", found, loaded, pixels, groups, split, fit.Recipe(), [])


def test_a_session_that_is_called_extra_is_measured_on() -> None:
    keys = [f"{label}/{day}/{k}.png" for label in "ab" for day in ("extra", "m", "z") for k in "12"]
    run = run_of([Example(key, "", "photos", key, key[0]) for key in keys], [])
    assert run.measured_rows.tolist() == list(range(12))


def test_an_extra_image_stays_on_the_train_side_when_it_is_measured_on_one_day() -> None:
    keys = [f"{label}/{day}/{k}.png" for label in "ab" for day in "xyz" for k in "12"]
    own = [Example(key, "", "photos", key, key[0]) for key in keys]
    drawn = [Example(f"drawn/{key}", "", "drawn", key, key[0]) for key in keys[:3]]
    run = run_of(own + drawn, ["drawn"])
    assert run.measured_rows.tolist() == list(range(12))
    assert [run.sides[digest] for digest in run.dataset.digests[12:]] == ["train"] * 3
