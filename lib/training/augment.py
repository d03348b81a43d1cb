"""Views of an image as it might have been taken elsewhere: Pillow and numpy, about 3 ms each.

What keeps a model from working on another day is light and polarity (the hand darker than the wall,
or brighter) more than geometry, so tone and colour go far from the original; and what keeps it from
working in another room is what stands behind the object. Always uint8 (H, W, 3) in and out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from lib.training import cutout

GREY = np.array([[0.299, 0.587, 0.114]] * 3)
"""The matrix that takes all colour away (ITU-R BT.601)."""

SHARPER = [min(max(4 * (value - cutout.OUTLINE) + 128, 0), 255) for value in range(256)]
"""The table that takes a mask between whose values lie four pixels to an outline about one wide."""

RELIEF_PX = 56
"""The least width at which the slope of an outline is taken; a larger one is reduced first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a view may go from the image; a `_share` is how many views are changed so."""

    rotation_deg: float = 60.0
    zoom: tuple[float, float] = (0.6, 1.6)
    shift: float = 0.12
    """Of the side, either way."""
    stretch: float = 0.25
    """Width against height, either way."""
    shear: float = 0.1
    flip_share: float = 0.5
    background_share: float = 0.5
    """Of an image that is one object before an even background: it stands before another."""
    busy_share: float = 0.5
    """Of the other backgrounds: not only a wall."""
    relief_share: float = 0.3
    """Of the objects before another background: lit from one side, as if they were round."""
    relief: float = 0.9
    """The side away from the lamp loses this much of its light at the most."""
    plain_edge_share: float = 0.3
    """What a shift uncovers gets one colour; in the other views the edge is repeated."""
    invert_share: float = 0.3
    percentile_share: float = 0.35
    """The darkest and brightest parts are cut off and the rest stretched over the whole range."""
    gamma: tuple[float, float] = (0.4, 2.2)
    contrast: tuple[float, float] = (0.6, 1.5)
    brightness: float = 0.2
    """Of the range, either way."""
    curve_share: float = 0.1
    """A smooth curve of its own for each channel, not always rising."""
    grey_share: float = 0.25
    permute_share: float = 0.25
    hue_share: float = 0.5
    hue_deg: float = 180.0
    saturation: tuple[float, float] = (0.0, 2.0)
    shade_share: float = 0.4
    shade: float = 0.6
    """The darkest part of a soft shadow takes this much of the light."""
    blur_share: float = 0.15
    blur_px: tuple[float, float] = (0.5, 2.0)
    noise_share: float = 0.3
    noise: float = 12.0
    """Standard deviation, in levels of 255, at the most."""
    erase_share: float = 0.3
    erase: tuple[float, float] = (0.05, 0.25)
    """Sides of the covered rectangle, of the image's."""


LIMITS = Limits()

NEAR_LIMITS = Limits(
    rotation_deg=15,
    zoom=(0.8, 1.25),
    shift=0.1,
    stretch=0.1,
    shear=0.05,
    curve_share=0,
    grey_share=0.3,
    permute_share=0,
    hue_deg=30,
    saturation=(0.0, 1.3),
    gamma=(0.5, 2.0),
    blur_share=0.1,
    noise_share=0.1,
    noise=6.0,
    erase_share=0,
    background_share=0.75,
    busy_share=0,
    relief_share=0.75,
)
"""For a network that starts from nothing: the wide ones are more than it can hold."""


def view(
    image: np.ndarray,
    random: np.random.Generator,
    limits: Limits = LIMITS,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Return another view of an image; the same generator state gives the same view.

    Args:
        mask: where the object is, as `cutout.mask` tells it of the image, or of a larger one that
            the image is made from; without one it stays where it is.
    """
    picture = _moved(image, random, limits, mask)
    for change in (_tone, _colour):
        picture = change(picture, random, limits)
    image = np.asarray(picture)
    for change in (_shade, _blur, _grain, _erase):
        image = change(image, random, limits)
    return image


def _factor(random: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Return a factor within bounds, as likely to halve as to double."""
    return float(np.exp(random.uniform(*np.log(bounds))))


def _moved(
    image: np.ndarray, random: np.random.Generator, limits: Limits, mask: np.ndarray | None
) -> Image.Image:
    height, width = image.shape[:2]
    matrix = _affine(random, limits, width, height)
    if mask is not None and random.random() < limits.background_share:
        return _elsewhere(image, mask, matrix, random, limits)
    if random.random() < limits.plain_edge_share:
        edge = np.concatenate([image[0], image[:, 0], image[:, -1]])
        fill = tuple(edge[random.integers(len(edge))].tolist())
        return _warped(Image.fromarray(image), matrix, (width, height), fill)
    return _extended(image, matrix, (width, height))


def _elsewhere(
    image: np.ndarray,
    mask: np.ndarray,
    matrix: np.ndarray,
    random: np.random.Generator,
    limits: Limits,
) -> Image.Image:
    """Put the object before another background, in another light than that."""
    size = image.shape[1], image.shape[0]
    reduction = round(image.shape[1] / mask.shape[1])
    where = _extended(mask, matrix / reduction, size).point(SHARPER)
    colours = _colour_matrix(random, limits) * _factor(random, limits.contrast)
    offset = np.full(3, 255 * random.uniform(-limits.brightness, limits.brightness))
    flat = np.column_stack([colours, offset]).ravel().tolist()
    thing = _extended(image, matrix, size).convert("RGB", tuple(flat))
    if random.random() < limits.relief_share:
        light = _relief(where, random, limits)
        thing = ImageChops.multiply(thing, Image.merge("RGB", [light] * 3))
    behind = cutout.background(random, size, limits.busy_share)
    behind.paste(thing, mask=where)
    return behind


def _relief(where: Image.Image, random: np.random.Generator, limits: Limits) -> Image.Image:
    """Return the light on an object that is lit from one side, 0 to 255.

    The slope of its blurred outline stands in for its own.
    """
    reduced = where.reduce(max(1, where.width // RELIEF_PX))
    outline = reduced.filter(ImageFilter.BoxBlur(random.uniform(1.5, 6)))
    height = np.pad(np.asarray(outline, np.float32), 1, mode="edge")
    angle = random.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * (height[1:-1, 2:] - height[1:-1, :-2])
    slope += np.sin(angle) * (height[2:, 1:-1] - height[:-2, 1:-1])
    loss = random.uniform(0.2, limits.relief) * (1 - slope / (np.abs(slope).max() + 1e-6)) / 2
    return Image.fromarray((255 * (1 - loss)).astype(np.uint8)).resize(where.size)


def _extended(plane: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Return an image or mask moved by a matrix, its edge pixels repeated beyond it."""
    picture = Image.fromarray(plane)
    corners = matrix @ np.array([[0, size[0], 0, size[0]], [0, 0, size[1], size[1]], [1, 1, 1, 1]])
    before, beyond = -corners.min(1), corners.max(1) - picture.size
    most = max(picture.size) // 2
    left, top, right, bottom = (
        np.clip(np.ceil([*before, *beyond]) + 1, 0, most).astype(int).tolist()
    )
    wide = _repeated(picture, left, top, right, bottom)
    return _warped(wide, matrix + np.array([[0, 0, left], [0, 0, top]]), size, None)


def _repeated(picture: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    """Return a picture with its edge pixels repeated so many times on each side."""
    width, height = left + picture.width + right, top + picture.height + bottom
    wide = Image.new(picture.mode, (width, height))
    wide.paste(picture, (left, top))
    below, behind = height - bottom, width - right
    for edge, strip in (
        ((left, top, left + 1, below), (0, top, left, below)),
        ((behind - 1, top, behind, below), (behind, top, width, below)),
        ((0, top, width, top + 1), (0, 0, width, top)),
        ((0, below - 1, width, below), (0, below, width, height)),
    ):
        size = strip[2] - strip[0], strip[3] - strip[1]
        if 0 not in size:
            wide.paste(wide.crop(edge).resize(size, Image.Resampling.NEAREST), strip)
    return wide


def _warped(
    picture: Image.Image,
    matrix: np.ndarray,
    size: tuple[int, int],
    fill: tuple[int, ...] | None,
) -> Image.Image:
    return picture.transform(
        size,
        Image.Transform.AFFINE,
        tuple(matrix.ravel()),
        Image.Resampling.BILINEAR,
        fillcolor=fill,
    )


def _affine(random: np.random.Generator, limits: Limits, width: int, height: int) -> np.ndarray:
    """Return the matrix (2, 3) that takes a place in the view to its place in the image."""
    angle = np.deg2rad(random.uniform(-limits.rotation_deg, limits.rotation_deg))
    zoom = _factor(random, limits.zoom)
    stretch = _factor(random, (1 / (1 + limits.stretch), 1 + limits.stretch))
    flip = -1.0 if random.random() < limits.flip_share else 1.0
    shear = np.array([[1.0, random.uniform(-limits.shear, limits.shear)], [0.0, 1.0]])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    linear = np.diag([flip / (zoom * stretch**0.5), stretch**0.5 / zoom]) @ turn @ shear
    centre = np.array([width, height]) / 2
    shift = random.uniform(-limits.shift, limits.shift, 2) * (width, height)
    return np.column_stack([linear, centre - linear @ (centre + shift)])


def _tone(picture: Image.Image, random: np.random.Generator, limits: Limits) -> Image.Image:
    """Pass every level through one table a channel."""
    level = np.linspace(0.0, 1.0, 256)
    if random.random() < limits.percentile_share:
        levels = np.sort(np.asarray(picture)[::4, ::4], axis=None)
        cut = np.array([random.uniform(0.005, 0.25), random.uniform(0.75, 0.995)])
        low, high = levels[(cut * len(levels)).astype(int)].astype(float)
        level = np.clip((level * 255 - low) / max(high - low, 24), 0, 1)
    middle = random.uniform(0.3, 0.7)
    level = (level ** _factor(random, limits.gamma) - middle) * _factor(random, limits.contrast)
    level = level + middle + random.uniform(-limits.brightness, limits.brightness)
    tables = np.tile(np.clip(level, 0, 1), (3, 1))
    if random.random() < limits.curve_share:
        tables = _bent(tables, random)
    if random.random() < limits.invert_share:
        tables = 1 - tables
    levels = np.round(tables * 255).astype(np.uint8)
    return picture.point(levels.ravel().tolist())


def _bent(tables: np.ndarray, random: np.random.Generator) -> np.ndarray:
    knots = random.uniform(0, 1, (3, 5))
    knots = (knots + knots[:1]) / 2
    places = np.linspace(0, 1, 5)
    return np.stack([np.interp(table, places, k) for table, k in zip(tables, knots, strict=True)])


def _colour(picture: Image.Image, random: np.random.Generator, limits: Limits) -> Image.Image:
    matrix = _colour_matrix(random, limits)
    flat = np.column_stack([matrix, np.zeros(3)]).ravel().tolist()
    return picture.convert("RGB", tuple(flat))


def _colour_matrix(random: np.random.Generator, limits: Limits) -> np.ndarray:
    if random.random() < limits.grey_share:
        return GREY
    matrix = np.eye(3)
    if random.random() < limits.permute_share:
        matrix = matrix[random.permutation(3)]
    if random.random() < limits.hue_share:
        matrix = _turned_hue(np.deg2rad(random.uniform(-limits.hue_deg, limits.hue_deg))) @ matrix
    saturation = random.uniform(*limits.saturation)
    return (GREY + saturation * (np.eye(3) - GREY)) @ matrix


def _turned_hue(angle: float) -> np.ndarray:
    """Return the rotation of colours about the grey axis (Rodrigues' formula)."""
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    return np.cos(angle) * np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) / 3


def _shade(image: np.ndarray, random: np.random.Generator, limits: Limits) -> np.ndarray:
    """Darken softly from one side, as a lamp or a shadow does."""
    if random.random() >= limits.shade_share:
        return image
    height, width = image.shape[:2]
    depth = random.uniform(0.1, limits.shade)
    n_cells = int(random.integers(2, 4))
    cells = Image.fromarray(random.integers(0, 256, (n_cells, n_cells), dtype=np.uint8))
    soft = np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    light = (256 * (1 - depth) + depth * soft).astype(np.uint16)
    return (image * light[:, :, None] >> 8).astype(np.uint8)


def _blur(image: np.ndarray, random: np.random.Generator, limits: Limits) -> np.ndarray:
    if random.random() >= limits.blur_share:
        return image
    return np.asarray(
        Image.fromarray(image).filter(ImageFilter.BoxBlur(random.uniform(*limits.blur_px)))
    )


def _grain(image: np.ndarray, random: np.random.Generator, limits: Limits) -> np.ndarray:
    if random.random() >= limits.noise_share:
        return image
    spread = random.uniform(2, limits.noise) * 3**0.5  # a uniform of this half-width
    grain = random.uniform(-spread, spread, (*image.shape[:2], 1)).astype(np.int16)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def _erase(image: np.ndarray, random: np.random.Generator, limits: Limits) -> np.ndarray:
    """Cover a rectangle with one colour, so that no single part decides."""
    if random.random() >= limits.erase_share:
        return image
    sides = (random.uniform(*limits.erase, 2) * image.shape[:2]).astype(int)
    top, left = random.integers(0, np.array(image.shape[:2]) - sides)
    image = image.copy()
    image[top : top + sides[0], left : left + sides[1]] = random.integers(0, 256, 3, dtype=np.uint8)
    return image
