"""Objects cut out of even backgrounds, and what is put behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lib import samples
from lib.training import augment, cutout
from lib.training.dataset import Batches, Dataset

ONLY_MOVED = augment.Limits(
    rotation_deg=0, zoom=(1, 1), shift=0, stretch=0, shear=0, flip_share=0, invert_share=0,
    percentile_share=0, gamma=(1, 1), contrast=(1, 1), brightness=0, curve_share=0, grey_share=0,
    permute_share=0, hue_share=0, saturation=(1, 1), shade_share=0, blur_share=0, noise_share=0,
    erase_share=0, background_share=1, relief_share=0,
)  # fmt: skip


def drawn(n_fingers: int, seed: int, backdrop: str) -> samples.Drawing:
    scene = samples.fresh_scene(np.random.default_rng(seed))
    return samples.draw(n_fingers, seed, scene=replace(scene, backdrop=backdrop))


def is_object(mask: np.ndarray) -> np.ndarray:
    large = Image.fromarray(mask).resize((224, 224), Image.Resampling.BILINEAR)
    return np.asarray(large) >= cutout.OUTLINE


@pytest.mark.parametrize("backdrop", ["wall", "gradient"])
def test_a_hand_before_a_wall_is_found_whole_and_nothing_far_from_it(backdrop: str) -> None:
    hands = [drawn(k % 4, k, backdrop) for k in range(24)]
    masks = [cutout.mask(hand.image) for hand in hands]
    found = [
        (hand.mask, is_object(m)) for hand, m in zip(hands, masks, strict=True) if m is not None
    ]
    assert len(found) > 18
    overlaps = []
    for hand, cut in found:
        assert (cut & hand).sum() > 0.95 * hand.sum()
        fingers = np.s_[: int(np.flatnonzero(hand.any(1)).mean())]  # no forearm up there
        overlaps.append((cut & hand)[fingers].sum() / (cut | hand)[fingers].sum())
    assert np.median(overlaps) > 0.85


def disc(radius_px: int, wall: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:224, :224]
    image = wall.copy()
    image[(y - 112) ** 2 + (x - 112) ** 2 < radius_px**2] = (200, 40, 40)
    return image


EVEN = np.full((224, 224, 3), 90, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "is_found"),
    [
        (disc(50, EVEN), True), (disc(20, EVEN), False), (disc(100, EVEN), False), (EVEN, False),
        (NOISE, False), (drawn(2, 3, "foliage").image, False), (drawn(2, 3, "shelf").image, False),
    ],
    ids=["disc", "small", "large", "nothing", "noise", "foliage", "shelf"],
)  # fmt: skip
def test_only_one_object_before_an_even_background_is_cut_out(
    image: np.ndarray, is_found: bool
) -> None:
    assert (cutout.mask(image) is not None) == is_found


def test_small_holes_belong_to_the_object_and_other_things_do_not() -> None:
    image = disc(50, EVEN)
    image[110:118, 110:118] = 90
    image[:20, :20] = 0
    found = is_object(cutout.mask(image))
    assert found[114, 114]
    assert not found[10, 10]


@pytest.mark.parametrize("shape", [(224, 224), (150, 201), (96, 64)])
def test_any_size_has_a_mask_that_fits_it(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 90, np.uint8)
    height, width = shape
    image[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = (200, 40, 40)
    mask = cutout.mask(image)
    assert mask.shape == (-(-height // 4), -(-width // 4))
    assert augment.view(image, np.random.default_rng(0), mask=mask).shape == image.shape


@pytest.mark.parametrize("busy_share", [0, 1])
def test_backgrounds_differ_from_each_other(busy_share: float) -> None:
    drawn = [
        np.asarray(cutout.background(np.random.default_rng(s), (224, 120), busy_share), int)
        for s in range(40)
    ]
    assert {picture.shape for picture in drawn} == {(120, 224, 3)}
    assert np.std([picture.mean() for picture in drawn]) > 20
    rough = np.median([np.abs(np.diff(picture, axis=1)).mean() for picture in drawn])
    assert (rough > 1) == bool(busy_share)


def test_the_object_stays_and_what_is_behind_it_goes() -> None:
    image = disc(50, EVEN)
    mask = cutout.mask(image)
    views = [
        augment.view(image, np.random.default_rng(s), ONLY_MOVED, mask).astype(int)
        for s in range(30)
    ]
    for view in views:
        assert np.abs(view[90:134, 90:134] - (200, 40, 40)).max() <= 2
    assert np.median([np.abs(view[:40] - 90).mean() for view in views]) > 20
    untouched = augment.view(image, np.random.default_rng(0), ONLY_MOVED)
    np.testing.assert_array_equal(untouched, image)


def test_an_object_that_leaves_the_frame_goes_on_where_the_view_shows_more() -> None:
    image = EVEN.copy()
    image[80:, 90:150] = (200, 40, 40)
    smaller = replace(ONLY_MOVED, zoom=(0.7, 0.7))
    view = augment.view(image, np.random.default_rng(1), smaller, cutout.mask(image)).astype(int)
    assert np.abs(view[-1, 112] - (200, 40, 40)).max() <= 2


def test_an_object_lit_from_one_side_is_darker_on_the_other() -> None:
    image = disc(50, EVEN)
    lit = replace(ONLY_MOVED, relief_share=1)
    view = augment.view(image, np.random.default_rng(1), lit, cutout.mask(image)).astype(int)
    rim = [view[112 + dy, 112 + dx, 0] for dy, dx in ((-42, 0), (42, 0), (0, -42), (0, 42))]
    assert max(rim) - min(rim) > 20


def test_batches_put_the_objects_of_their_images_elsewhere() -> None:
    images = np.stack([disc(50, EVEN), EVEN])
    dataset = Dataset(images, np.arange(2), [], np.full(2, np.nan), [])
    seen = {}

    def change(image: np.ndarray, _: np.random.Generator, mask: np.ndarray | None) -> np.ndarray:
        seen[int(image[112, 112, 0])] = mask
        return image

    ((pixels, _),) = Batches(dataset, np.arange(2), batch_size=2, seed=0, change=change)
    assert len(pixels) == 2
    assert seen[90] is None
    np.testing.assert_array_equal(seen[200], cutout.mask(images[0]))
    assert dataset.mask(0) is dataset.mask(0)


@pytest.mark.parametrize("by", [2, 4])
def test_an_object_is_looked_for_in_the_large_image_and_cut_out_of_the_small_one(by: int) -> None:
    image = disc(50, EVEN)
    small = Dataset(image[None], np.zeros(1, np.int64), [], np.full(1, np.nan), []).shrunk(by)
    mask = small.mask(0)
    np.testing.assert_array_equal(mask, cutout.mask(image))
    views = [
        augment.view(small.images[0], np.random.default_rng(s), ONLY_MOVED, mask).astype(int)
        for s in range(30)
    ]
    inside, above = np.s_[90 // by : 134 // by, 90 // by : 134 // by], np.s_[: 40 // by]
    assert max(np.abs(view[inside] - (200, 40, 40)).max() for view in views) <= 2
    assert np.median([np.abs(view[above] - 90).mean() for view in views]) > 20
