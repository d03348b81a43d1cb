"""What the doctor finds in a data set, what it leaves out, and what it will not train on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import doctor, photos, train
from jobs.doctor import Finding
from lib import bundle, images, registry
from lib.failures import BadData
from lib.records import ErrorRow, Example, ImageRule

ROOT = Path(__file__).parents[1]


def made(per_class: dict[str, int], ending: str = ".png") -> list[Example]:
    return [
        Example(f"album/{name}/{k}{ending}", "e", "album", f"{name}/{k}{ending}", name)
        for name, n_images in per_class.items()
        for k in range(n_images)
    ]


def pixels(n_images: int) -> np.ndarray:
    """Small images, every one another."""
    return np.random.default_rng(0).integers(0, 256, (n_images, 4, 4, 3), np.uint8)


def examined(
    examples: list[Example],
    shown: np.ndarray | None = None,
    unreadable: tuple[ErrorRow, ...] = (),
    ignored: dict[str, int] | None = None,
) -> doctor.Checkup:
    found = photos.Photos(examples, 0, Counter(ignored or {}))
    shown = pixels(len(examples)) if shown is None else shown
    digests = [hashlib.sha256(image).hexdigest() for image in shown]
    return doctor.examine(found, digests, examples, unreadable)


def test_a_clean_data_set_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    checkup = examined(made({"a": 30, "b": 25}), ignored={"hidden": 2, "LICENSE": 1, ".txt": 3})
    doctor.tell("data", checkup.findings)
    assert capsys.readouterr().err == "data: no findings\n"
    assert checkup.rows.tolist() == list(range(55))


def test_findings_are_a_table_with_an_example_or_two(capsys: pytest.CaptureFixture[str]) -> None:
    found = Finding(
        "unreadable", 1200, "left out: damaged 1,200", ("a/1.jpg", "a/2.jpg", "a/3.jpg")
    )
    doctor.tell("data", [found, Finding("tiny_class", 9, "few")])
    assert capsys.readouterr().err.splitlines() == [
        "data: 2 findings",
        "  unreadable        1,200  left out: damaged 1,200 (a/1.jpg, a/2.jpg)",
        "  tiny_class            9  few",
    ]


def test_unreadable_files_are_counted_by_code() -> None:
    rows = [ErrorRow(f"a/{k}.jpg", "e", {"code": code, "message": "m"})
            for k, code in enumerate(["truncated", "not_an_image", "truncated"])]  # fmt: skip
    (found,) = examined(made({"a": 30, "b": 30}), unreadable=tuple(rows)).findings
    assert (found.finding, found.n_images) == ("unreadable", 3)
    assert found.says == "left out: not_an_image 1, truncated 2"
    assert found.examples == ("a/0.jpg", "a/1.jpg", "a/2.jpg")


def test_what_keras_would_drop_is_told_by_ending() -> None:
    examples = made({"a": 30, "b": 30}) + made({"c": 20}, ".WEBP") + made({"d": 21}, ".tiff")
    (found,) = examined(examples).findings
    assert (found.finding, found.n_images) == ("dropped_by_keras", 41)
    assert found.says.endswith("drops them silently: .tiff 21, .webp 20")
    assert len(found.examples) == doctor.N_EXAMPLES
    assert found.examples[0] == "album/c/0.WEBP"


def test_keras_takes_the_endings_that_it_is_said_to_take(tmp_path: Path) -> None:
    import keras

    for k, ending in enumerate(sorted(images.EXTENSIONS)):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[k % 2] / f"image{ending}").write_bytes(b"only its name is looked at")
    listed = keras.utils.image_dataset_from_directory(tmp_path, verbose=False).file_paths
    assert {Path(path).suffix for path in listed} == doctor.KERAS_ENDINGS


def test_photographs_in_formats_that_are_not_read_are_told() -> None:
    examples = made({"a": 30, "b": 30})
    (found,) = examined(examples, ignored={".heic": 7, ".avif": 2, ".txt": 5}).findings
    assert (found.finding, found.n_images) == ("not_read", 9)
    assert found.says.endswith(".avif 2, .heic 7")
    assert not doctor.UNREAD_PICTURES & images.EXTENSIONS


def test_of_the_copies_in_a_class_the_first_stays() -> None:
    examples, shown = made({"a": 30, "b": 30}), pixels(60)
    shown[[7, 9]] = shown[4]
    checkup = examined(examples, shown)
    (found,) = checkup.findings
    assert (found.finding, found.n_images) == ("copies", 2)
    assert found.examples == ("album/a/4.png = album/a/7.png = album/a/9.png",)
    assert checkup.rows.tolist() == [row for row in range(60) if row not in (7, 9)]


def test_of_the_copies_in_two_classes_none_stays() -> None:
    examples, shown = made({"a": 30, "b": 30}), pixels(60)
    shown[[5, 40]] = shown[2]
    checkup = examined(examples, shown)
    (found,) = checkup.findings
    assert (found.finding, found.n_images) == ("label_conflict", 3)
    assert found.examples == ("album/a/2.png = album/a/5.png = album/b/10.png",)
    assert not {2, 5, 40} & set(checkup.rows.tolist())
    assert len(checkup.rows) == 57


def test_images_that_differ_in_one_pixel_are_no_copies() -> None:
    examples, shown = made({"a": 30, "b": 30}), pixels(60)
    shown[7] = shown[4]
    shown[7, 0, 0, 0] += 1
    assert examined(examples, shown).findings == []


def test_tiny_and_uneven_classes_are_told() -> None:
    tiny, uneven = examined(made({"a": 200, "b": 19, "c": 20})).findings
    assert (tiny.finding, tiny.n_images) == ("tiny_class", 19)
    assert tiny.says.endswith(": b 19")
    assert (uneven.finding, uneven.n_images) == ("imbalance", 19)
    assert uneven.says.startswith("in b, against 200 in a")
    assert examined(made({"a": 100, "b": 20})).findings == []
    assert [f.finding for f in examined(made({"a": 101, "b": 20})).findings] == ["imbalance"]


def test_classes_are_counted_without_what_is_left_out() -> None:
    shown = pixels(50)
    shown[20:30] = shown[19]
    findings = examined(made({"a": 30, "b": 20}), shown).findings
    assert [f.finding for f in findings] == ["copies"]
    shown[19:30] = shown[40]
    findings = examined(made({"a": 30, "b": 20}), shown).findings
    assert [(f.finding, f.n_images) for f in findings] == [
        ("label_conflict", 12),
        ("tiny_class", 38),
    ]


# --- labels, by the scores of a model that had not seen the image -----------------------------


def scores_of(labels: np.ndarray, n_classes: int, own: float = 0.8) -> np.ndarray:
    """A score of `own` for the label of each image, the rest shared by the others."""
    scores = np.full((len(labels), n_classes), (1 - own) / (n_classes - 1))
    scores[np.arange(len(labels)), labels] = own
    return scores


def test_a_wrong_label_is_suspect_and_a_doubtful_image_is_not() -> None:
    examples = made({"a": 30, "b": 30, "c": 30})
    labels = np.repeat([0, 1, 2], 30)
    scores = scores_of(labels, 3)
    scores[3] = (0.05, 0.9, 0.05)  # says b, as surely as of any b: its label is wrong
    scores[33] = (0.01, 0.01, 0.98)
    scores[7] = (0.3, 0.6, 0.1)  # says b, less surely than of a b: the image is hard
    scores[65] = (0.81, 0.1, 0.09)
    (found,) = doctor.suspects(labels, scores, examples, ("a", "b", "c"))
    assert (found.finding, found.n_images) == ("label_suspect", 3)
    assert found.examples == (
        "album/b/3.png (b, looks like c)",
        "album/a/3.png (a, looks like b)",
        "album/c/5.png (c, looks like a)",
    )


def test_each_class_has_its_own_bar() -> None:
    examples, labels = made({"a": 40, "b": 40}), np.repeat([0, 1], 40)
    scores = scores_of(labels, 2, own=0.95)
    scores[40:, 1], scores[40:, 0] = 0.6, 0.4  # the model is never very sure of a b
    scores[0] = (0.35, 0.65)
    scores[41] = (0.65, 0.35)
    (found,) = doctor.suspects(labels, scores, examples, ("a", "b"))
    assert found.examples == ("album/a/0.png (a, looks like b)",)


def test_a_model_that_guesses_is_not_asked() -> None:
    examples, labels = made({"a": 40, "b": 40}), np.repeat([0, 1], 40)
    wrong = np.random.default_rng(0).random(80) < 0.3
    scores = scores_of(np.where(wrong, 1 - labels, labels), 2)
    assert doctor.suspects(labels, scores, examples, ("a", "b")) == []
    assert doctor.suspects(labels, scores_of(labels, 2), examples, ("a", "b")) == []


def test_a_class_of_which_nothing_was_measured_calls_nothing_its_own() -> None:
    examples, labels = made({"a": 30}), np.zeros(30, int)
    scores = scores_of(labels, 2)
    scores[4] = (0.0, 1.0)
    assert doctor.suspects(labels, scores, examples, ("a", "b")) == []


# --- what is not trained on -------------------------------------------------------------------


@pytest.fixture
def album(hands: Path, tmp_path: Path) -> Path:
    """A copy of the drawn hands that a test may spoil."""
    return Path(shutil.copytree(hands, tmp_path / "album"))


def images_of(album: Path, name: str) -> list[Path]:
    return sorted((album / name).iterdir())


def two_images(album: Path) -> None:
    for path in images_of(album, "3")[2:]:
        path.unlink()


def the_same_images(album: Path) -> None:
    """Class 3 becomes what class 2 is, in other files of another format."""
    shutil.rmtree(album / "3")
    (album / "3").mkdir()
    for path in images_of(album, "2"):
        Image.open(path).save(album / "3" / f"{path.stem}.bmp")


def a_part_of_another(album: Path) -> None:
    the_same_images(album)
    for path in images_of(album, "3")[5:]:
        path.unlink()


def nearly_the_same_images(album: Path) -> None:
    for path in images_of(album, "3")[2:]:
        shutil.copy(path, album / "1")


def one_image_again_and_again(album: Path) -> None:
    first, *others = images_of(album, "0")
    for path in others:
        shutil.copy(first, path)


@pytest.mark.parametrize(("spoil", "line"), [
    (two_images, r"a class needs at least 3 images. Received: 2 \(3\)"),
    (the_same_images, r"two classes must be different images. Received: 2, of which every image is in 3 too"),
    (a_part_of_another, r"two classes must be different images. Received: 3, of which every image is in 2 too"),
    (nearly_the_same_images, r"at least 3 different images of its own. Received: 2 \(3\)"),
    (one_image_again_and_again, r"at least 3 different images of its own. Received: 1 \(0\)"),
])  # fmt: skip
def test_what_training_would_be_meaningless_on_is_refused(
    album: Path, tmp_path: Path, spoil: object, line: str
) -> None:
    spoil(album)
    with pytest.raises(BadData, match=f"{line}$"):
        train.main([str(album), "--registry", str(tmp_path / "registry")])
    assert not (tmp_path / "registry").exists()


def test_two_classes_with_the_same_images_are_one_line_and_exit_3(album: Path) -> None:
    the_same_images(album)
    told = subprocess.run(
        [sys.executable, "-m", "jobs.train", album, "--registry", album / "registry"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (told.returncode, told.stdout) == (3, "")
    errors = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: two classes must be different images. Received: 2, of which every image is in 3 too"
    ]
    assert "Traceback" not in told.stderr


def test_extra_copies_of_measured_images_are_not_learned_from(album: Path, tmp_path: Path) -> None:
    """An extra source that repeats what is measured would tell the answers."""
    from lib.training import dataset

    extra = shutil.copytree(album, tmp_path / "extra")
    found = photos.find([str(album)], [str(extra)])
    loaded = dataset.load(found.examples, found.classes, ImageRule(size_px=32))
    checkup = doctor.examine(found, loaded.digests, loaded.examples, [])
    kept = loaded.only(checkup.rows)
    assert {example.source for example in kept.examples} == {str(album)}
    assert len(kept) == 36
    doctor.check(found, loaded.examples, checkup)


# --- a training on what a person might have ---------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """What a training left: its data, its registry, what it told, and its version."""

    album: Path
    registry: Path
    told: str

    @property
    def folder(self) -> Path:
        return Path(registry.resolve(str(self.registry / "mobilenet")))

    @property
    def card(self) -> dict:
        return json.loads((self.folder / "card.json").read_text())


@pytest.fixture(scope="module")
def learned(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """A training on drawn hands of which some are damaged, doubled or in two classes."""
    folder = tmp_path_factory.mktemp("spoilt")
    album = Path(shutil.copytree(hands, folder / "album"))
    zero, one, three = (images_of(album, name) for name in "013")
    (album / "0" / "08-30-00-000000.jpg").write_text("a text file called .jpg")
    Image.open(zero[1]).save(zero[1].with_suffix(".webp"), lossless=True)
    zero[1].unlink()
    shutil.copy(one[-1], three[-1].with_name(f"{three[-1].stem}1.png"))  # of the test session
    shutil.copy(one[2], one[2].with_name(f"{one[2].stem}1.png"))
    for name, other in ("23", "32"):  # a wrong label on the test side is a sure mistake
        path = images_of(album, name)[-2]
        path.rename(album / other / f"{path.stem}-{name}.png")
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        train.main([str(album), "--registry", str(folder / "registry"), "--models", "mobilenet",
                    "--frozen", "--no-pictures", "--backbone", str(train.SHIPPED)])  # fmt: skip
    return Learned(album, folder / "registry", told.getvalue())


@pytest.mark.slow
def test_training_goes_on_and_tells_what_it_found(learned: Learned) -> None:
    lines = learned.told.splitlines()
    start = lines.index("data: 5 findings")
    told = [line.split(maxsplit=2) for line in lines[start + 1 : start + 6]]
    assert [(word, n) for word, n, _ in told] == [
        ("unreadable", "1"), ("dropped_by_keras", "1"), ("label_conflict", "2"), ("copies", "1"),
        ("tiny_class", "35"),
    ]  # fmt: skip
    assert told[0][2].endswith("08-30-00-000000.jpg)")
    assert start < lines.index(next(line for line in lines if line.startswith("split: ")))


@pytest.mark.slow
def test_what_was_found_is_in_the_card_and_in_the_report(learned: Learned) -> None:
    findings = {f["finding"]: f for f in learned.card["data"]["findings"]}
    assert list(findings)[:5] == [
        "unreadable", "dropped_by_keras", "label_conflict", "copies", "tiny_class",
    ]  # fmt: skip
    (pair,) = findings["label_conflict"]["examples"]
    assert "/1/" in pair.split(" = ")[0] and "/3/" in pair.split(" = ")[1]
    report = (learned.folder / "report.md").read_text()
    for name, found in findings.items():
        assert f"| {name} | {found['n_images']} | {found['says']} | " in report


@pytest.mark.slow
def test_what_was_left_out_is_neither_learned_from_nor_measured_on(learned: Learned) -> None:
    data = learned.card["data"]
    assert data["n_images"] == 35
    assert data["per_class"] == {"0": 9, "1": 8, "2": 9, "3": 9}
    assert sum(learned.card["sessions"]["n_images"].values()) == 35
    doubted = images_of(learned.album, "1")[-1].read_bytes()
    digest = hashlib.sha256(images.decode(doubted, ImageRule())).hexdigest()
    measured = bundle.measured(bundle.load(str(learned.folder)))
    assert len(measured) == learned.card["metrics"]["accuracy"]["n_images"]
    assert digest not in measured


@pytest.mark.slow
def test_pixels_stay_with_their_names_when_some_are_left_out(learned: Learned) -> None:
    from lib.training import dataset

    found = photos.find([str(learned.album)])
    loaded = dataset.load(found.examples, found.classes, ImageRule(size_px=64))
    kept = loaded.only(doctor.examine(found, loaded.digests, loaded.examples, []).rows)
    assert len(kept) == len(loaded) - 3
    for shown, label, example in zip(kept.images, kept.labels, kept.examples, strict=True):
        expected = images.decode(Path(example.uri).read_bytes(), ImageRule(size_px=64))
        np.testing.assert_array_equal(shown, expected)
        assert found.classes[label] == example.label


def test_a_bundle_shows_its_worst_mistakes(trained: Path) -> None:
    folder = Path(registry.resolve(str(trained / "cnn")))  # of 36 images it learns next to nothing
    digest = hashlib.sha256((folder / "mistakes.png").read_bytes()).hexdigest()
    assert json.loads((folder / "card.json").read_text())["files"]["mistakes.png"] == digest
    assert "(mistakes.png)" in (folder / "report.md").read_text()


@pytest.mark.slow
def test_a_bundle_for_others_keeps_no_photograph(learned: Learned) -> None:
    assert learned.card["metrics"]["accuracy"]["value"] < 1
    pictures = {path.name for path in learned.folder.glob("*.png")}
    assert pictures == {"confusion.png", "curves.png"}
    report = (learned.folder / "report.md").read_text()
    assert "mistakes.png" not in report
    assert "were wrong; this bundle keeps no photograph of them" in report


def test_a_version_without_photographs_is_something_new(trained: Path, hands: Path) -> None:
    """Who asks for none, to give the model away, must not be left with the one that has some."""
    words = [str(hands), "--registry", str(trained), "--frozen", "--backbone", str(train.SHIPPED)]
    found = photos.find([str(hands)])
    with_some, with_none = map(train._parser().parse_args, (words, [*words, "--no-pictures"]))
    assert train._with_something_new(with_some, found) == []
    assert train._with_something_new(with_none, found) == ["cnn", "mobilenet"]
