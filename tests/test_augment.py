"""Views of an image, and the activations that are kept of them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from lib import samples
from lib.records import Example
from lib.training import activations, augment
from lib.training.activations import ActivationBatches, Looked
from lib.training.dataset import Batches, Dataset
from lib.training.fit import Recipe

LIMITS = (augment.LIMITS, augment.NEAR_LIMITS)


@pytest.fixture(scope="module")
def hand() -> np.ndarray:
    return samples.draw(2, seed=5).image


@pytest.mark.parametrize("limits", LIMITS, ids=["wide", "near"])
def test_a_view_is_a_picture_of_the_same_size_and_the_image_stays_as_it_was(
    hand: np.ndarray, limits: augment.Limits
) -> None:
    before = hand.copy()
    for seed in range(60):
        view = augment.view(hand, np.random.default_rng(seed), limits)
        assert view.shape == hand.shape
        assert view.dtype == np.uint8
    np.testing.assert_array_equal(hand, before)


def test_the_same_numbers_give_the_same_view_and_others_another(hand: np.ndarray) -> None:
    one, same, other = (augment.view(hand, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one.astype(int) - other).mean() > 5


def test_light_and_polarity_go_far_from_the_original() -> None:
    """A dark hand before a bright wall is often a bright one before a dark wall in its views."""
    image = np.full((64, 64, 3), 200, np.uint8)
    image[20:44, 20:44] = 60
    still = augment.Limits(
        rotation_deg=0, zoom=(1, 1), shift=0, stretch=0, shear=0, flip_share=0, erase_share=0
    )
    views = [augment.view(image, np.random.default_rng(s), still).astype(int) for s in range(200)]
    brighter = [view[28:36, 28:36].mean() > view[:8, :8].mean() for view in views]
    assert 0.2 < np.mean(brighter) < 0.5


def test_what_a_turn_uncovers_repeats_the_edge_however_far_that_is() -> None:
    rows = np.repeat(np.linspace(10, 250, 64).round().astype(np.uint8)[:, None], 48, axis=1)
    image = np.stack([rows] * 3, axis=-1)
    matrix = np.array([[1.0, 0.0, -30.0], [0.0, 1.0, -20.0]])
    moved = np.asarray(augment._extended(image, matrix, (48, 64)))
    assert (moved[:20] == 10).all()
    assert (moved[20:] == image[:44]).all()
    everywhere = np.pad(image, [(32, 32), (32, 32), (0, 0)], mode="edge")
    turned = np.array([[0.8, 0.9, -12.5], [-0.7, 1.1, 20.25]])
    expected = augment._warped(
        Image.fromarray(everywhere), turned + [[0, 0, 32]] * 2, (48, 64), None
    )
    assert (np.asarray(augment._extended(image, turned, (48, 64))) == np.asarray(expected)).all()


@pytest.mark.parametrize(("limit", "changed"), [
    ({"rotation_deg": 60.0}, True), ({"zoom": (0.5, 0.6)}, True), ({"shift": 0.3}, True), ({}, False),
])  # fmt: skip
def test_without_any_limit_a_view_is_the_image(
    hand: np.ndarray, limit: dict[str, object], changed: bool
) -> None:
    nothing = {
        "rotation_deg": 0, "zoom": (1, 1), "shift": 0, "stretch": 0, "shear": 0, "flip_share": 0,
        "plain_edge_share": 0, "invert_share": 0, "percentile_share": 0, "gamma": (1, 1),
        "contrast": (1, 1), "brightness": 0, "curve_share": 0, "grey_share": 0, "permute_share": 0,
        "hue_share": 0, "saturation": (1, 1), "shade_share": 0, "blur_share": 0, "noise_share": 0,
        "erase_share": 0, "background_share": 0,
    }  # fmt: skip
    view = augment.view(hand, np.random.default_rng(0), augment.Limits(**nothing | limit))
    assert bool(np.abs(view.astype(int) - hand).mean() > 3) == changed


def dataset(n: int, size_px: int = 32) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, 3), dtype=np.uint8)
    examples = [Example(f"{k}.png", "", ".", f"a/{k}.png", "a") for k in range(n)]
    return Dataset(pixels, np.arange(n) % 2, examples, np.full(n, np.nan), [])


def test_what_frozen_layers_make_of_a_view_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    scaled = keras.layers.Rescaling(1 / 255, name="scale")(images)
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D(name="pooled")(scaled))

    def look(n: int, seed: int = 0) -> tuple[np.ndarray, str]:
        recipe = Recipe(seed=seed)
        outputs = activations.look(model, "pooled", dataset(n), recipe, n_views=3).outputs
        return np.array(outputs), capsys.readouterr().err

    first, told = look(4)
    assert "looking: 12 of 12 views" in told
    expected = dataset(4).images.mean((1, 2)) / 255
    np.testing.assert_allclose(first[:, 0], expected, atol=2e-3)
    again, told = look(4)
    np.testing.assert_array_equal(again, first)
    assert told == ""
    more, told = look(6)
    np.testing.assert_array_equal(more[:4], first)
    assert "looking: 6 of 6 views" in told
    _, told = look(4, seed=1)
    assert "looking: 12 of 12 views" in told
    for kept in tmp_path.rglob("*.npy"):
        kept.write_bytes(b"cut")
    mended, told = look(4)
    assert "looking: 12 of 12 views" in told
    np.testing.assert_array_equal(mended, first)


def test_what_is_kept_belongs_to_one_layer_and_one_number_of_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    images = keras.Input((32, 32, 3), dtype="uint8", name="images")
    scaled = keras.layers.Rescaling(1 / 255, name="scale")(images)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(scaled)
    model = keras.Model(images, keras.layers.Rescaling(2.0, name="doubled")(pooled))
    shown = dataset(3)

    def look(layer: str, n_views: int) -> np.ndarray:
        return activations.look(model, layer, shown, Recipe(), n_views).outputs

    plain = look("pooled", 2)
    np.testing.assert_allclose(look("doubled", 2), 2 * plain.astype(float), atol=2e-3)
    assert [look("pooled", n).shape[1] for n in (1, 2, 3)] == [1, 2, 3]


def test_what_is_kept_belongs_to_one_size_of_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are those of any size, but a network is converted for one."""
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    for size_px in (32, 48):
        images = keras.Input((size_px, size_px, 3), dtype="uint8", name="images")
        model = keras.Model(images, keras.layers.GlobalAveragePooling2D(name="pooled")(images))
        shown = dataset(3, size_px)
        outputs = activations.look(model, "pooled", shown, Recipe(), n_views=1).outputs
        np.testing.assert_allclose(outputs[:, 0], shown.images.mean((1, 2)), rtol=2e-3)


@pytest.mark.timeout(60)
def test_what_a_view_fails_with_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDFUL_CACHE", str(tmp_path))
    images = keras.Input((48, 48, 3), dtype="uint8", name="images")
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D(name="pooled")(images))
    with pytest.raises(ValueError, match="[Dd]imension"):
        activations.look(model, "pooled", dataset(12, size_px=32), Recipe(), n_views=1)


def test_every_epoch_shows_each_view_once_in_another_order() -> None:
    outputs = np.arange(5 * 4, dtype=np.float16).reshape(5, 4, 1)
    rows = np.array([0, 2, 4])
    batches = ActivationBatches(Looked(outputs, np.arange(5)), rows, batch_size=5, seed=0)
    orders = []
    for _ in range(2):
        shown = list(batches)
        assert [len(y) for _, y in shown] == [5, 5, 2]
        assert len(batches) == len(shown)
        orders.append([])
        for x, y in shown:
            assert x.dtype == np.float32
            np.testing.assert_array_equal(x[:, 0] // 4, y)
            orders[-1] += x[:, 0].tolist()
    assert sorted(orders[0]) == sorted(orders[1]) == [*range(4), *range(8, 12), *range(16, 20)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("n_passes", [1, 3])
def test_every_epoch_shows_each_image_as_often_in_another_order(n_passes: int) -> None:
    images, rows = dataset(10), np.arange(3, 9)
    batches = Batches(images, rows, batch_size=4, seed=0, n_passes=n_passes)
    orders = []
    for _ in range(2):
        shown = [pixels for pixels, _ in batches]
        assert len(batches) == len(shown)
        orders += [
            [int(np.flatnonzero((images.images == p).all((1, 2, 3)))[0]) for p in passed]
            for passed in np.split(np.concatenate(shown), n_passes)
        ]
    assert all(sorted(order) == rows.tolist() for order in orders)
    assert len(set(map(tuple, orders))) == len(orders)


def test_shrinking_takes_the_mean_of_each_square() -> None:
    pixels = np.array([[0, 10], [20, 30]], np.uint8).repeat(3).reshape(1, 2, 2, 3)
    whole = Dataset(pixels, np.zeros(1, np.int64), [], np.full(1, np.nan), [])
    assert whole.shrunk(2).images.tolist() == [[[[15, 15, 15]]]]
    assert whole.shrunk(1) is whole
