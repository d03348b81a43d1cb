"""A bundle verifies itself, and gives the same scores to whoever asks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib import bundle, registry, samples
from lib.failures import Broken

MODELS = ("cnn", "mobilenet")


@pytest.fixture(params=MODELS)
def folder(request: pytest.FixtureRequest, trained: Path, tmp_path: Path) -> Path:
    """A copy of a bundle that a test may damage."""
    return Path(
        shutil.copytree(registry.resolve(str(trained / request.param)), tmp_path / "bundle")
    )


@pytest.fixture(scope="session")
def pictures() -> np.ndarray:
    return np.stack([samples.draw(n % 4, seed=n).image for n in range(6)])


def test_scores_are_probabilities_in_the_order_of_the_card(
    folder: Path, pictures: np.ndarray
) -> None:
    model = bundle.load(str(folder))
    scores = model.predict(pictures)
    assert scores.shape == (6, 4)
    assert scores.dtype == np.float32
    assert model.card.classes == ("0", "1", "2", "3")
    np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)


def test_an_image_scores_the_same_alone_in_a_batch_and_in_any_thread(
    folder: Path, pictures: np.ndarray
) -> None:
    model = bundle.load(str(folder))
    together = model.predict(pictures)
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda k: model.predict(pictures[k % 6][None])[0], range(48)))
    for k, scores in enumerate(alone):
        np.testing.assert_array_equal(scores, together[k % 6])


def test_no_image_gives_no_scores(folder: Path) -> None:
    assert bundle.load(str(folder)).predict(np.empty((0, 224, 224, 3), np.uint8)).shape == (0, 4)


@pytest.mark.parametrize("images", [
    np.zeros((1, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8),
    np.zeros((1, 96, 96, 3), np.uint8),
])  # fmt: skip
def test_wrongly_scaled_or_sized_pixels_are_refused(folder: Path, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match="images must be uint8"):
        bundle.load(str(folder)).predict(images)


def test_heat_is_between_0_and_1(folder: Path, pictures: np.ndarray) -> None:
    heat = bundle.load(str(folder)).explain(pictures[:1])
    assert heat.ndim == 2
    assert 0 <= heat.min() <= heat.max() <= 1 + 1e-6


def test_every_file_beside_the_card_is_named_with_its_digest(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    assert set(card["files"]) == {path.name for path in folder.iterdir()} - {"card.json"}
    assert {"model.tflite", "golden.npz", "history.csv", "curves.png"} <= set(card["files"])


@pytest.mark.parametrize("name", ["model.tflite", "golden.npz", "history.csv", "curves.png"])
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_flipped_byte_anywhere_is_refused_by_name(
    folder: Path, name: str, place: float
) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(place * len(data)) if place > 0 else int(place)] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(Broken, match=f"{name}: is not the file its card names"):
        bundle.load(str(folder))


@pytest.mark.parametrize("name", ["card.json", "model.tflite", "golden.npz"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(Broken, match=name):
        bundle.load(str(folder))


def change_card(folder: Path, **fields: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    card.pop("seal")
    (folder / "card.json").write_text(json.dumps(card | fields))


@pytest.mark.parametrize(("fields", "words"), [
    ({"classes": ["0", "0", "1", "2"]}, "all different"),
    ({"classes": ["0"]}, "at least 2"),
    ({"format": 2}, "format must be 1"),
    ({"threshold": 1.5}, "threshold must be 0 to 1"),
    ({"temperature": 0}, "temperature above 0"),
    ({"image": {"size_px": 224, "resize": "crop"}}, "resize rule must be fit"),
    ({"surprise": 1}, "damaged"),
    ({"files": {}}, "names no model.tflite"),
])  # fmt: skip
def test_a_damaged_card_is_refused(folder: Path, fields: dict[str, object], words: str) -> None:
    change_card(folder, **fields)
    with pytest.raises(Broken, match=words):
        bundle.load(str(folder))


@pytest.mark.parametrize("change", [
    lambda scores: 1 - scores, lambda scores: scores + 0.005, lambda scores: scores[:, :3],
    lambda scores: scores * np.nan,
])  # fmt: skip
def test_a_model_that_answers_otherwise_than_its_golden_scores_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    with np.load(folder / "golden.npz") as golden:
        np.savez(tmp_path / "golden.npz", images=golden["images"], scores=change(golden["scores"]))
    data = (tmp_path / "golden.npz").read_bytes()
    (folder / "golden.npz").write_bytes(data)
    card = json.loads((folder / "card.json").read_text())
    change_card(folder, files=card["files"] | {"golden.npz": hashlib.sha256(data).hexdigest()})
    with pytest.raises(Broken, match="does not give the scores of its golden images"):
        bundle.load(str(folder))


@pytest.mark.parametrize("name", [bundle.WEIGHTS, bundle.SPLIT, bundle.MEASURED])
def test_what_is_read_after_a_bundle_is_loaded_is_verified_then(
    trained: Path, tmp_path: Path, name: str
) -> None:
    source = registry.resolve(str(trained / "mobilenet"))
    folder = Path(shutil.copytree(source, tmp_path / "bundle"))
    loaded = bundle.load(str(folder))
    with (folder / name).open("ab") as file:
        file.write(b"one more byte")
    reads = {bundle.WEIGHTS: bundle.weights, bundle.SPLIT: bundle.sides}
    with pytest.raises(Broken, match=f"{name}: .*SHA-256 differs"):
        reads[name](str(folder)) if name in reads else bundle.measured(loaded)


def test_the_weights_to_go_on_from_are_kept_by_the_one_that_has_one(trained: Path) -> None:
    weights = bundle.weights(registry.resolve(str(trained / "mobilenet")))
    assert weights["Conv1/kernel"].shape == (3, 3, 3, 16)
    assert weights["logits/kernel"].shape == (100, 4)
    with pytest.raises(Broken, match="a bundle of cnn keeps no weights"):
        bundle.weights(registry.resolve(str(trained / "cnn")))


# --- why it says so: the heat of the models that ship, on drawn hands whose place is known --------

SHIPPED = Path(__file__).parents[1] / "demo" / "models"

COVER_PX = 64
"""The side of a square that covers a part of an image of 224 px."""

GREY = 128

HOTTER, GAIN = 1.5, 0.25
"""What heat has to reach, and what the same heat reshuffled (about 1 and 0) must not."""


@pytest.fixture(scope="module")
def drawn_hands() -> list[samples.Drawing]:
    return [samples.draw(n % 4, seed=1000 + n) for n in range(24)]


def full_size(heat: np.ndarray, size_px: int) -> np.ndarray:
    image = Image.fromarray(heat.astype(np.float32))
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR))


def sums_of_squares(heat: np.ndarray) -> np.ndarray:
    """Return the heat in every square of `COVER_PX` a side, by its upper left corner."""
    above = np.pad(heat.cumsum(0, float).cumsum(1), ((1, 0), (1, 0)))
    tall = above[COVER_PX:] - above[:-COVER_PX]
    return tall[:, COVER_PX:] - tall[:, :-COVER_PX]


def covered(image: np.ndarray, corner: np.intp, n_corners: int) -> np.ndarray:
    down, across = divmod(int(corner), n_corners)
    image = image.copy()
    image[down : down + COVER_PX, across : across + COVER_PX] = GREY
    return image


def how_much_hotter_hands_are(hands: list[samples.Drawing], heats: list[np.ndarray]) -> float:
    inside = np.mean([heat[hand.mask].mean() for hand, heat in zip(hands, heats, strict=True)])
    outside = np.mean([heat[~hand.mask].mean() for hand, heat in zip(hands, heats, strict=True)])
    return float(inside / outside)


def how_much_more_the_hottest_part_matters(
    model: bundle.Bundle, hands: list[samples.Drawing], heats: list[np.ndarray]
) -> float:
    """Return by how much, 0 to 1, covering it lowers the answer's score more than the coldest."""
    gains = []
    for hand, heat in zip(hands, heats, strict=True):
        squares = sums_of_squares(heat)
        corners = (squares.argmax(), squares.argmin())
        shown = [hand.image, *(covered(hand.image, c, squares.shape[1]) for c in corners)]
        whole, without_hottest, without_coldest = model.predict(np.stack(shown))
        answer = whole.argmax()
        gains.append(without_coldest[answer] - without_hottest[answer])
    return float(np.mean(gains))


@pytest.mark.parametrize("name", MODELS)
def test_heat_lies_on_the_hand_and_on_what_the_answer_hangs_on(
    name: str, drawn_hands: list[samples.Drawing]
) -> None:
    model = bundle.load(str(SHIPPED / name))
    maps = [model.explain(hand.image[None]) for hand in drawn_hands]
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(heat.ravel()).reshape(heat.shape) for heat in maps]
    size_px = model.card.image.size_px
    heats, nonsense = ([full_size(heat, size_px) for heat in kind] for kind in (maps, shuffled))
    assert how_much_hotter_hands_are(drawn_hands, heats) > HOTTER
    assert how_much_hotter_hands_are(drawn_hands, nonsense) < HOTTER
    assert how_much_more_the_hottest_part_matters(model, drawn_hands, heats) > GAIN
    assert how_much_more_the_hottest_part_matters(model, drawn_hands, nonsense) < GAIN
