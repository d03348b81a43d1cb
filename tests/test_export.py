"""From Keras to a bundle: the two agree, or there is no bundle."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from lib import bundle
from lib.failures import Broken
from lib.records import Card, Example, ImageRule
from lib.training import export, models, pictures, report
from lib.training.dataset import Dataset
from lib.training.measure import Trained

SIZE_PX = 32


def trained(model: keras.Model, kind: type[Trained] = Trained) -> Trained:
    history = [
        {
            "stage": "all",
            "epoch": 1,
            "loss": 1.0,
            "accuracy": 0.5,
            "val_loss": "",
            "val_accuracy": "",
        }
    ]
    measured = np.full((3, 3), 1 / 3, np.float32)
    return kind(model, 2.0, 0.5, history, np.arange(3), measured, "not at all", 1)


def card(name: str) -> Card:
    measured = {
        "accuracy": {"value": 0.75, "low": 0.6, "high": 0.9, "n_images": 4},
        "how": "on the test side",
        "per_session": {"12-00-00": {"accuracy": 0.75, "n_images": 4}},
        "per_class": {c: {"precision": 0.5, "recall": 1.0, "n_images": 2} for c in "abc"},
        "twin_share": 0.04,
        "random_split": {"value": 1.0, "low": 0.9, "high": 1.0, "n_images": 9, "twin_share": 0.95},
        "confusion": [[2, 0, 0], [1, 1, 0], [0, 0, 0]],
        "calibration_error": 0.02, "sure_share": 0.8, "sure_accuracy": 0.97,
    }  # fmt: skip
    return Card(
        name=name, version="v", classes=("a", "b", "c"), image=ImageRule(SIZE_PX), threshold=0.5,
        temperature=2.0, metrics=measured, sessions={"how": "3 sessions", "warning": ""},
        data={"n_images": 9, "n_extra": 2, "per_class": {"a": 3, "b": 3, "c": 3}},
        config={"command": "python -m jobs.train photos"}, libraries={},
    )  # fmt: skip


@pytest.fixture
def shown() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def test_a_bundle_gives_the_scores_of_keras(tmp_path: Path, shown: np.ndarray) -> None:
    keras.utils.set_random_seed(0)
    model = models.cnn(3, SIZE_PX)
    models.round_weights(model)
    learned = trained(model)
    export.write(learned, card("cnn"), tmp_path, shown)
    served = bundle.load(str(tmp_path))
    np.testing.assert_allclose(served.predict(shown), learned.scores(shown), atol=1e-4)
    n_parameters = model.count_params()
    assert (tmp_path / "model.tflite").stat().st_size < 2.5 * n_parameters  # float16, kept once


def test_the_report_tells_the_honest_figures(tmp_path: Path, shown: np.ndarray) -> None:
    export.write(trained(models.cnn(3, SIZE_PX)), card("cnn"), tmp_path, shown)
    told = (tmp_path / "report.md").read_text()
    assert "**Accuracy 0.750 [0.600, 0.900], 4 images** (95 % interval), on the test side." in told
    assert "| 12-00-00 | 4 | 0.750 |" in told
    assert "4% of these images have a near twin among those learned from." in told
    assert "With a random split it is 95%, and the accuracy looks like 1.000" in told
    assert 'Under 0.50 the answer is "not sure": 20.0% of these images' in told
    for picture in ("confusion.png", "curves.png"):
        assert picture in told
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


RED, GREEN, BLUE = (220, 10, 10), (10, 220, 10), (10, 10, 220)


def mistake(colour: tuple[int, int, int], name: str = "12-00-00-000000.png") -> pictures.Mistake:
    image = np.full((SIZE_PX, SIZE_PX, 3), colour, np.uint8)
    return pictures.Mistake(image, name, "a", "b", 0.9)


def middle_of(path: Path, colour: tuple[int, int, int]) -> np.ndarray:
    """Return where a picture shows a colour, (down, across), 0 to 1."""
    with Image.open(path) as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    places = np.argwhere(np.abs(shown - colour).max(2) < 8)
    assert len(places) > 5_000
    return places.mean(0) / shown.shape[:2]


def test_the_worst_mistakes_are_the_surest_with_their_names() -> None:
    scores = np.eye(3)[np.arange(20) % 3] * 0.7 + 0.1
    labels = (np.arange(20) + 1) % 3  # every answer is wrong, but the first
    labels[0] = 0
    scores[5] = (0.01, 0.01, 0.98)
    examples = [Example(f"p/{k}", "", "p", f"a/s/{k}.png", "a") for k in range(40)]
    images = np.repeat(np.arange(40, dtype=np.uint8), SIZE_PX**2 * 3).reshape(
        40, SIZE_PX, SIZE_PX, 3
    )
    dataset = Dataset(images, np.concatenate([np.zeros(20, int), labels]), examples, None, [])
    learned = replace(trained(models.cnn(3, SIZE_PX)), rows=np.arange(20, 40), measured=scores)
    worst = pictures.worst(dataset, learned, ("x", "y", "z"))
    assert len(worst) == 12
    assert (worst[0].name, worst[0].truth, worst[0].answer, worst[0].score) == (
        "25.png",
        "x",
        "z",
        0.98,
    )
    assert "20.png" not in [mistake.name for mistake in worst]
    for mistake in worst:
        assert mistake.image.mean() == int(mistake.name.split(".")[0])


def test_mistakes_are_a_picture_in_their_order(tmp_path: Path) -> None:
    pictures.mistakes(
        [mistake(RED), mistake(GREEN), *[mistake((90, 90, 90))] * 2, mistake(BLUE)],
        tmp_path / "m.png",
    )
    (red_y, red_x), (green_y, green_x), (blue_y, blue_x) = (
        middle_of(tmp_path / "m.png", c) for c in (RED, GREEN, BLUE)
    )
    assert red_x == pytest.approx(0.125, abs=0.02) and green_x == pytest.approx(0.375, abs=0.02)
    assert blue_x == pytest.approx(red_x, abs=0.01)
    assert red_y == pytest.approx(green_y, abs=0.01) and red_y < 0.5 < blue_y


@pytest.mark.parametrize(
    "name",
    ["a$_{b$.png", "手\N{OK HAND SIGN}.png", "not-utf-8-\udcff.png", "\n\x1b.png", "x" * 200],
)
def test_any_file_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    pictures.mistakes([mistake(RED, name)], tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        assert image.width == 800
    assert len(pictures._caption(mistake(RED, name)).splitlines()[0]) <= 28


def test_the_report_shows_the_mistakes_that_the_bundle_keeps(
    tmp_path: Path, shown: np.ndarray
) -> None:
    learned = trained(models.cnn(3, SIZE_PX))
    found = export.write(learned, card("cnn"), tmp_path, shown, mistakes=[mistake(RED)])
    assert (
        found.files["mistakes.png"]
        == hashlib.sha256((tmp_path / "mistakes.png").read_bytes()).hexdigest()
    )
    told = (tmp_path / "report.md").read_text()
    assert "1 of 4 were wrong; the surest of them:" in told
    assert "(mistakes.png)" in told


def test_where_nothing_was_wrong_the_report_says_so() -> None:
    sound = card("cnn")
    sound.metrics["confusion"] = [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    told = report.markdown(sound, n_mistakes_shown=0)
    assert "None of 3 was wrong." in told
    assert "mistakes.png" not in told


def test_the_report_tells_what_is_wrong_with_the_data() -> None:
    assert "Nothing was found wrong with the data." in report.markdown(card("cnn"), 0)
    spoilt = card("cnn")
    spoilt.data["findings"] = [
        {
            "finding": "copies",
            "n_images": 1200,
            "says": "left out",
            "examples": ["a|b", "c", "d", "e"],
        }
    ]
    assert "| copies | 1,200 | left out | a/b, c, d |" in report.markdown(spoilt, 0)


class Surer(Trained):
    """A network that answers the same in Keras as its LiteRT model does, by other scores."""

    def scores(self, images: np.ndarray) -> np.ndarray:
        scores = super().scores(images)
        return 0.5 * scores + 0.5 * np.eye(3)[scores.argmax(1)]


class Undecided(Trained):
    """A network whose scores in Keras are those of its LiteRT model, and whose answers are not."""

    def scores(self, images: np.ndarray) -> np.ndarray:
        return super().scores(images) + [0, 0, 1e-5]


@pytest.mark.parametrize("kind", [Surer, Undecided])
def test_a_network_that_litert_changes_is_not_exported(
    tmp_path: Path, shown: np.ndarray, kind: type[Trained]
) -> None:
    model = models.cnn(3, SIZE_PX)
    kernel = model.get_layer("logits").kernel
    kernel.assign(np.zeros(kernel.shape))  # three equal scores: whatever differs tips the answer
    with pytest.raises(Broken, match="LiteRT must be within 0.0001 of Keras"):
        export.write(trained(model, kind), card("cnn"), tmp_path, shown)
    assert not (tmp_path / "card.json").exists()


def test_a_bundle_that_nobody_could_load_is_refused_by_who_wrote_it(
    tmp_path: Path, shown: np.ndarray
) -> None:
    impossible = replace(card("cnn"), threshold=1.5)
    with pytest.raises(Broken, match="threshold"):
        export.write(trained(models.cnn(3, SIZE_PX)), impossible, tmp_path, shown)


@pytest.mark.parametrize("times", [1, 2, 4])
def test_what_a_cnn_learned_of_small_images_is_spread_over_the_same_place_of_large_ones(
    times: int,
) -> None:
    keras.utils.set_random_seed(0)
    small, large = models.cnn(3, 32), models.cnn(3, 32 * times)
    models.transplant(small, large)
    for layer in ("conv1", "conv2", "conv3", "dense2", "logits"):
        for a, b in zip(
            small.get_layer(layer).get_weights(), large.get_layer(layer).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    map_of_small = np.random.default_rng(0).random((1, 4, 4, 16), np.float32)
    map_of_large = map_of_small.repeat(times, axis=1).repeat(times, axis=2)
    said = [
        keras.Model(model.get_layer("last_map").output, model.output)(map_)
        for model, map_ in ((small, map_of_small), (large, map_of_large))
    ]
    np.testing.assert_allclose(said[0], said[1], atol=1e-5)


def test_batchnorm_never_learns() -> None:
    model = models.mobilenet(3, SIZE_PX, "none")
    models.unfreeze(model, after=models.CUT)
    learning = [layer.name for layer in model.layers if layer.trainable and layer.weights]
    assert "block_13_expand" in learning
    assert "block_12_project" not in learning
    assert not [name for name in learning if "BN" in name or "bn" in name]
