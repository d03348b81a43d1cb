"""An object cut out of the even background it stands before, and other backgrounds to put behind.

What a model must not learn is the wall behind the object: where the wall is even enough to tell the
two apart, some views of the image show the object somewhere else. numpy and Pillow, about 2 ms a
mask and 0.5 ms a background.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

REDUCTION = 4
"""A mask has one value for so many pixels a side; between them it is interpolated."""

OUTLINE = 128
"""The value of a mask where the object begins; 0 far outside, 255 far inside."""

SMALLEST, LARGEST = 0.05, 0.45
"""An object covers this much of its image; anything else is no object before a background."""

EVEN = 0.35
"""At least this much of an image is background, wherever its object is."""

N_FITS = 4
HOLE = 0.005
"""Holes in an object that are smaller than this, of the image, belong to it."""

MOST_ELSE = 0.05
"""Other things in front of the background cover no more than this of the image."""

LEAST_CONTRAST = 10.0
"""An object differs from the background by so many times what the background differs from even."""


def mask(image: np.ndarray) -> np.ndarray | None:
    """Return where the object of an image, uint8 (H, W, 3), is: uint8 (H / 4, W / 4), or None.

    None where the image is not one object before an even background.
    """
    pixels = np.asarray(Image.fromarray(image).reduce(REDUCTION), np.float64)
    distance, limit, noise = _from_background(pixels)
    differs = distance > limit
    parts = _parts(differs)
    sizes = np.bincount(parts.ravel())
    largest = np.argmax(np.bincount(parts[differs], minlength=len(sizes)))
    inside = parts == largest
    if not (SMALLEST < inside.mean() < LARGEST and (differs & ~inside).mean() < MOST_ELSE):
        return None
    if np.median(distance[inside]) < LEAST_CONTRAST * noise:
        return None
    inside |= ~differs & (sizes[parts] < HOLE * parts.size)
    value = OUTLINE * distance / limit
    value = np.where(inside, value.clip(OUTLINE), value.clip(max=OUTLINE - 1))
    return value.clip(0, 255).astype(np.uint8)


def _from_background(pixels: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return each pixel's distance from an even background, a limit for it, and the noise.

    The background is a quadratic surface in each channel, fitted to the upper edges first and then
    to all that it explains. The limit is half of Otsu's (the brightest part of an object raises
    that above what its darker parts reach), but several times the noise.
    """
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    even = np.zeros((height, width), bool)
    even[: height // 12] = True
    even[: height * 3 // 4, : width // 12] = even[: height * 3 // 4, -(width // 12) :] = True
    for _ in range(N_FITS):
        known = terms[even]  # the normal equations: too few numbers for BLAS to start threads
        surface, *_ = np.linalg.lstsq(known.T @ known, known.T @ pixels[even], rcond=None)
        distance = np.sqrt(((pixels - terms @ surface) ** 2).sum(axis=-1))
        otsu = _otsu(distance)
        n_even = int(EVEN * distance.size)
        noise = float(np.partition(distance, n_even, axis=None)[n_even])
        limit = min(otsu, max(otsu / 2, 5 * noise))
        even = distance <= max(0.8 * limit, noise)
    return distance, limit, noise


def _otsu(values: np.ndarray) -> float:
    """Return the threshold that parts values best into two groups.

    Otsu 1979, https://doi.org/10.1109/TSMC.1979.4310076.
    """
    width = (values.max() + 1) / 128
    counts = np.bincount((values / width).astype(int).ravel(), minlength=128)
    middles = width * (np.arange(128) + 0.5)
    n_below, sum_below = np.cumsum(counts)[:-1], np.cumsum(counts * middles)[:-1]
    n_above, sum_above = counts.sum() - n_below, (counts * middles).sum() - sum_below
    gap = sum_below / np.maximum(n_below, 1) - sum_above / np.maximum(n_above, 1)
    return float(middles[np.argmax(n_below * n_above * gap**2)])


def _parts(inside: np.ndarray) -> np.ndarray:
    """Return for each pixel, inside a mask or outside, the number of its connected part.

    Neighbours that are alike point at the higher of what they point at, and then at what that
    points at, until all of a part point at the same.
    """
    index = np.arange(inside.size).reshape(inside.shape)
    across, down = inside[:, 1:] == inside[:, :-1], inside[1:] == inside[:-1]
    one = np.concatenate([index[:, 1:][across], index[1:][down]])
    other = np.concatenate([index[:, :-1][across], index[:-1][down]])
    points = index.ravel()
    while (points[one] != points[other]).any():
        first, second = points[one], points[other]
        np.maximum.at(points, np.minimum(first, second), np.maximum(first, second))
        points = points[points]
        points = points[points]
    return np.unique(points, return_inverse=True)[1].reshape(inside.shape)


def background(
    random: np.random.Generator, size: tuple[int, int], busy_share: float
) -> Image.Image:
    """Return something to stand before, RGB of `size` (W, H).

    A soft wall or, as often as `busy_share`, one with things on it, often out of focus.
    """
    if random.random() >= busy_share:
        return _wall(random).resize(size, Image.Resampling.BICUBIC)
    finest = random.choice((1, 2, 4))
    picture = _wall(random).resize((size[0] // finest, size[1] // finest), Image.Resampling.BICUBIC)
    BUSY[random.integers(len(BUSY))](picture, random)
    return picture if finest == 1 else picture.resize(size, Image.Resampling.BICUBIC)


def _wall(random: np.random.Generator) -> Image.Image:
    """Return a few cells of a colour that runs into another; most walls are nearly grey."""
    strength = random.uniform(0, 60) * random.random()
    first = random.uniform(15, 240) + random.normal(0, strength, 3)
    second = first + random.normal(0, 40) + random.normal(0, strength, 3)
    n_cells = int(random.integers(2, 5))
    share = random.random((n_cells, n_cells, 1))
    return Image.fromarray((first + share * (second - first)).clip(0, 255).astype(np.uint8))


def _shapes(picture: Image.Image, random: np.random.Generator) -> None:
    """Draw boxes and discs, such as furniture, people and lamps are from afar."""
    pen, side = ImageDraw.Draw(picture), max(picture.size)
    for _ in range(random.integers(2, 16)):
        left, top = random.uniform(-0.2, 1, 2) * side
        wide, tall = random.uniform(0.03, 0.7, 2) * side
        draw = pen.ellipse if random.random() < 0.4 else pen.rectangle
        draw((left, top, left + wide, top + tall), fill=_paint(random))


def _stripes(picture: Image.Image, random: np.random.Generator) -> None:
    """Draw lines side by side, such as shelves, curtains and blinds, perhaps crossed by others."""
    pen, side = ImageDraw.Draw(picture), max(picture.size)
    for angle in random.uniform(0, np.pi, random.integers(1, 3)):
        along = 2 * side * np.array([np.cos(angle), np.sin(angle)])
        gap_px, paint = side * random.uniform(0.03, 0.3), _paint(random)
        width = max(1, round(gap_px * random.uniform(0.2, 0.8)))
        for offset in np.arange(-side, side, gap_px):
            middle = side / 2 + offset * np.array([-along[1], along[0]]) / (2 * side)
            pen.line([*(middle - along), *(middle + along)], paint, width)


def _texture(picture: Image.Image, random: np.random.Generator) -> None:
    """Lay soft spots of several sizes over a wall, such as cloth, plaster and leaves have."""
    depth = random.uniform(0.1, 0.9)
    for n_cells in 2 ** random.integers(3, 6, 2):
        spots = random.integers(0, 256, (n_cells, n_cells, 3), dtype=np.uint8)
        spots = (spots * (0.3 * depth) + spots[:, :, :1] * (0.7 * depth)).astype(np.uint8)
        layer = Image.fromarray(spots).resize(picture.size, Image.Resampling.BILINEAR)
        picture.paste(Image.blend(picture, layer, 0.5 * depth))


def _paint(random: np.random.Generator) -> tuple[int, ...]:
    """Return a colour: any, or one of skin and wood."""
    if random.random() < 0.7:
        return tuple(random.integers(0, 256, 3).tolist())
    colour = random.uniform(0.2, 1) * np.array([250, 190, 150]) + random.normal(0, 12, 3)
    return tuple(colour.clip(0, 255).astype(int).tolist())


BUSY = (_shapes, _stripes, _texture)
