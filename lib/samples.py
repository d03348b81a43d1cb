"""Drawn hands that hold up 0 to 3 fingers, for trying everything without data.

    python -m lib.samples FOLDER [--images-per-class N] [--seed N] [--varied]

writes FOLDER/<class>/HH-MM-SS-micro.png: three sessions, hours apart, each with its own light,
background and skin; with --varied every image has its own, to learn from. The same seed gives the
same bytes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lib import drawing, images
from lib.commands import Parser, Progress, run
from lib.drawing import Array, Light, blur, linear, moved, texture
from lib.failures import Misuse
from lib.records import ImageRule

CLASSES = ("0", "1", "2", "3")

# Which of thumb, index, middle, ring and little finger are up, and how often people do it so.
POSES = {
    0: (((0, 0, 0, 0, 0), 1.0),),
    1: (((0, 1, 0, 0, 0), 1.0),),
    2: (((0, 1, 1, 0, 0), 0.85), ((1, 1, 0, 0, 0), 0.15)),
    3: (((0, 1, 1, 1, 0), 0.75), ((1, 1, 1, 0, 0), 0.25)),
}

OVERSAMPLING = 1.5


@dataclass(frozen=True)
class Drawing:
    """A picture and where its hand is: fingers and palm; the forearm does not count."""

    image: Array
    """uint8 (size_px, size_px, 3)"""
    mask: Array
    """bool (size_px, size_px)"""


@dataclass(frozen=True)
class Scene:
    """What the pictures of one session share."""

    backdrop: str
    """One of the names in `BACKDROPS`."""
    palette: tuple[tuple[float, float, float], ...]
    """Three sRGB colours, 0 to 255, that the background is made of."""
    tone: float
    """Skin, from 0, very light, to 1, very dark; each picture strays a little."""
    light: Light
    wall_gain: float
    """How bright the background is lit; the hand has `light.gain`."""
    blur_px: float
    """Softness of the lens, at 224 px."""
    noise: float
    """Standard deviation of the sensor's noise, as a share of full scale."""
    jpeg_quality: int
    """1 to 95; 95 and above leaves the picture alone."""


def draw(n_fingers: int, seed: int, size_px: int = 224, scene: Scene | None = None) -> Drawing:
    """Return a hand that holds up `n_fingers`, 0 to 3; without `scene`, each seed has its own."""
    if n_fingers not in POSES:
        raise Misuse(f"n_fingers must be 0 to 3. Received: {n_fingers}")
    rng = np.random.default_rng([seed, n_fingers])
    scene = scene or fresh_scene(rng)
    layer = _hand(rng, n_fingers, size_px, scene)
    behind = BACKDROPS[scene.backdrop](rng, size_px, scene.palette) * np.float32(scene.wall_gain)
    behind = behind * np.array(scene.light.tint, np.float32)
    behind = _legible(rng, behind, layer) * _shadow(rng, layer.alpha, scene)[..., None]
    light = layer.rgb + behind * (1 - layer.alpha)[..., None]
    return Drawing(_photograph(rng, light, scene), layer.hand > 0.5)


def not_a_hand(seed: int, size_px: int = 224) -> Array:
    """Return a picture without a hand, uint8 (size_px, size_px, 3): rooms, walls, text, noise."""
    rng = np.random.default_rng([seed, len(CLASSES)])
    scene = fresh_scene(rng)
    kind = rng.choice(["backdrop", "text", "shapes", "static"], p=[0.55, 0.15, 0.2, 0.1])
    if kind == "static":
        return rng.integers(0, 256, (size_px, size_px, 3), np.uint8)
    light = BACKDROPS[scene.backdrop](rng, size_px, scene.palette) * np.float32(scene.wall_gain)
    if kind == "text":
        light = _written_on(rng, light)
    if kind == "shapes":
        light = _littered(rng, light)
    return _photograph(rng, light, scene)


# --- the scene --------------------------------------------------------------------------------


def fresh_scene(rng: np.random.Generator) -> Scene:
    """Return light, background, skin and camera, drawn anew."""
    return Scene(
        backdrop=str(rng.choice(list(BACKDROPS), p=BACKDROP_SHARES)),
        palette=_palette(rng),
        tone=float(rng.uniform(0, 1)),
        light=_light(rng),
        wall_gain=float(np.exp(rng.normal(-0.1, 0.5))),
        blur_px=float(
            rng.choice([0, rng.uniform(0.3, 0.9), rng.uniform(0.9, 1.8)], p=[0.4, 0.4, 0.2])
        ),
        noise=float(rng.choice([0.004, rng.uniform(0.005, 0.015), rng.uniform(0.015, 0.04)])),
        jpeg_quality=int(
            rng.choice([95, rng.integers(60, 92), rng.integers(18, 60)], p=[0.5, 0.35, 0.15])
        ),
    )


def _palette(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    # Walls are mostly pale and grey; the rest of the world is not.
    bright, muted = rng.uniform(25, 250), rng.uniform(0.05, 1) ** 1.5
    hues = rng.uniform(-1, 1, (3, 3)) * np.array([[40], [90], [110]]) * muted
    level = np.clip(bright + np.array([[0], [-40], [40]]) * rng.normal(0, 1, (3, 1)), 15, 245)
    return tuple(map(tuple, np.clip(level + hues, 5, 255).round().tolist()))


def _light(rng: np.random.Generator) -> Light:
    around, up = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(12, 75))
    flat = np.cos(up)
    direction = (flat * np.cos(around), flat * (np.sin(around) - 0.5), np.sin(up))
    warmth = rng.normal(0.03, 0.08)
    green = rng.normal(0, 0.02)
    ranges = [(0.16, 0.32), (0.3, 0.6), (0.6, 1.0), (1.0, 1.35)]
    low, high = ranges[int(rng.choice(4, p=[0.18, 0.22, 0.4, 0.2]))]
    return Light(
        direction=tuple(float(part) for part in direction),
        ambient=float(rng.uniform(0.15, 0.75)),
        tint=(float(np.exp(warmth)), float(np.exp(green)), float(np.exp(-warmth))),
        gain=float(rng.uniform(low, high)),
    )


# --- the hand in the scene --------------------------------------------------------------------


def _hand(rng: np.random.Generator, n_fingers: int, size_px: int, scene: Scene) -> drawing.Layer:
    poses, shares = zip(*POSES[n_fingers], strict=True)
    raised = tuple(bool(up) for up in poses[int(rng.choice(len(poses), p=shares))])
    hand = drawing.pose(rng, raised)
    # A fist counts from any side; of raised fingers none may hide behind another.
    hand = drawing.turned(hand, _turn(rng, yaw_deg=16 if n_fingers else 26))
    hand = drawing.seen(hand, rng.uniform(4, 12))
    canvas_px = round(size_px * OVERSAMPLING)
    hand, palm_px = _framed(rng, hand, canvas_px)
    tone = scene.tone + rng.normal(0, 0.03)
    large = drawing.render(rng, hand, canvas_px, palm_px, tone, scene.light)
    return drawing.Layer(
        *(_shrunk(plane, size_px) for plane in (large.rgb, large.alpha, large.hand))
    )


def _turn(rng: np.random.Generator, yaw_deg: float) -> Array:
    """Return a rotation, (3, 3): either hand, palm or back to the camera, leaning as hands do."""
    away = 180 * rng.integers(0, 2)
    roll = rng.normal(0, 17) if rng.random() < 0.88 else rng.uniform(-90, 90)
    yaw = away + np.clip(rng.normal(0, yaw_deg), -2.5 * yaw_deg, 2.5 * yaw_deg)
    pitch = np.clip(rng.normal(-2, 13), -30, 30)
    yaw, pitch, roll = np.radians((yaw, pitch, roll))
    shape = np.diag([rng.choice([-1, 1]) * rng.uniform(0.92, 1.08), 1, 1])
    shape[0, 1] = rng.normal(0, 0.05)
    return _spin(roll, 0, 1) @ _spin(pitch, 1, 2) @ _spin(yaw, 2, 0) @ shape


def _spin(angle: float, first: int, second: int) -> Array:
    turn = np.eye(3)
    turn[[first, second], [first, second]] = np.cos(angle)
    turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
    return turn


def _framed(
    rng: np.random.Generator, hand: drawing.Hand, canvas_px: int
) -> tuple[drawing.Hand, float]:
    """Return the hand placed in the frame, all fingers visible, and its palm's width in px."""
    left, top, right, bottom = drawing.bounds(hand)
    largest = 0.92 / max(right - left, bottom - top)
    palm = min(rng.uniform(0.21, 0.42), largest)
    free_x, free_y = 1 - palm * (right - left), 1 - palm * (bottom - top)
    across = free_x * np.clip(rng.normal(0.5, 0.25), 0.02, 0.98) - palm * left
    down = free_y * np.clip(rng.normal(0.55, 0.25), 0.02, 1.0) - palm * top
    if rng.random() < 0.25:  # the frame may cut the wrist, never a finger
        deepest = 0.98 - palm * drawing.bounds(hand, (drawing.FINGER,))[3]
        down = max(down, min(down + palm * rng.uniform(0, 0.35), deepest))
    scale = palm * canvas_px
    return drawing.placed(hand, scale, (across * canvas_px, down * canvas_px)), scale


def _shrunk(plane: Array, size_px: int) -> Array:
    if plane.ndim == 3:
        return np.dstack([_shrunk(np.ascontiguousarray(plane[..., i]), size_px) for i in range(3)])
    small = Image.fromarray(plane).resize((size_px, size_px), Image.Resampling.HAMMING)
    return np.asarray(small)


def _legible(rng: np.random.Generator, behind: Array, layer: drawing.Layer) -> Array:
    # A hand that melts into its wall teaches nothing: light the wall until the two differ.
    weight = layer.alpha[..., None]
    hand = (layer.rgb.sum((0, 1)) / weight.sum()) ** (1 / 2.2)
    near = blur(layer.alpha, layer.alpha.shape[0] / 12)[..., None].clip(0, 1) * (1 - weight)
    gap = np.abs(behind.clip(0, 1.5) ** (1 / 2.2) - hand).max(axis=2, keepdims=True)
    alike = ((gap < 0.17) * near).sum() / near.sum()
    if alike < 0.3:
        return behind
    if hand.mean() > 0.5 or (hand.mean() > 0.3 and rng.random() < 0.5):
        return behind * np.float32(0.35)
    return behind * np.float32(3) + np.float32(0.04)


def _shadow(rng: np.random.Generator, alpha: Array, scene: Scene) -> Array:
    if rng.random() < 0.4:
        return np.ones_like(alpha)
    size_px, (x, y, _) = len(alpha), scene.light.direction
    reach = rng.uniform(0.03, 0.2) * size_px
    cast = moved(alpha, round(-y * reach), round(-x * reach))
    soft = blur(cast, reach * rng.uniform(0.3, 1)).clip(0, 1)
    return 1 - np.float32(rng.uniform(0.15, 0.6)) * soft


def _photograph(rng: np.random.Generator, light: Array, scene: Scene) -> Array:
    """Return linear light, float32 (H, W, 3), as a camera saves it, uint8 sRGB."""
    size_px = len(light)
    exposure = (0.2 / max(float(light.mean()), 1e-3)) ** rng.uniform(0.1, 0.6)
    srgb = np.clip(light * np.float32(exposure), 0, 1) ** np.float32(1 / 2.2)
    grey = srgb.mean(axis=2, keepdims=True)
    srgb = grey + (srgb - grey) * np.float32(rng.uniform(0.85, 1.25))
    srgb = _softened(rng, srgb, scene.blur_px * size_px / 224)
    grain = rng.standard_normal(srgb.shape, np.float32) * np.float32(scene.noise)
    stain = np.dstack([texture(rng, srgb.shape[:2], (56, 56)) for _ in range(3)])
    srgb = srgb + grain + stain * np.float32(0.4 * scene.noise)
    return _compressed((srgb * 255).round().clip(0, 255).astype(np.uint8), scene.jpeg_quality)


def _softened(rng: np.random.Generator, srgb: Array, blur_px: float) -> Array:
    if rng.random() < 0.1:
        down, right = rng.normal(0, 0.9, 2) * len(srgb) / 224
        moves = [(round(down * i), round(right * i)) for i in range(-2, 3)]
        srgb = sum(moved(srgb, *move) for move in moves) / np.float32(len(moves))
    if blur_px < 0.3:
        return srgb
    return np.dstack([_gaussian(srgb[..., i], blur_px) for i in range(3)])


def _gaussian(plane: Array, sigma_px: float) -> Array:
    reach = int(np.ceil(2.5 * sigma_px))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2).astype(np.float32)
    weights /= weights.sum()
    for axis in (0, 1):
        wide = np.pad(plane, [(reach, reach) if i == axis else (0, 0) for i in (0, 1)], "edge")
        size = plane.shape[axis]
        plane = sum(w * wide.take(range(i, i + size), axis) for i, w in enumerate(weights))
    return plane


def _compressed(image: Array, quality: int) -> Array:
    if quality >= 95:
        return image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return images.decode(buffer.getvalue(), ImageRule(size_px=len(image)))


# --- backgrounds: linear light, float32 (size, size, 3) ---------------------------------------

Palette = tuple[tuple[float, float, float], ...]


def _shaded(rng: np.random.Generator, light: Array) -> Array:
    """Return `light` with a slope of brightness across it, as every real wall has."""
    size = len(light)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    down, right = rng.normal(0, 0.35, 2)
    slope = 1 + np.float32(down) * ramp[:, None] + np.float32(right) * ramp
    uneven = slope + 0.05 * texture(rng, (size, size), (4, 4))
    return light * uneven.clip(0.3, 2)[..., None]


def _wall(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    rough = 1 + rng.uniform(0, 0.04) * texture(rng, (size, size), (70, 70))
    plain = linear(palette[0]) * rough[..., None].astype(np.float32)
    return _shaded(rng, plain)


def _gradient(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    share = ramp * np.float32(np.cos(angle)) + ramp[:, None] * np.float32(np.sin(angle)) + 0.5
    share = share.clip(0, 1)[..., None] ** np.float32(rng.uniform(0.5, 2))
    first, second = linear(palette[0]), linear(palette[2])
    return (first + (second - first) * share).astype(np.float32)


def _wood(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    n_planks = int(rng.integers(2, 12))
    grain = texture(rng, (size, size), (int(rng.integers(40, 110)), 4))
    plank = np.arange(size) * n_planks // size
    level = 1 + 0.22 * rng.standard_normal(n_planks)[plank][:, None] + 0.16 * grain
    seam = np.diff(plank, prepend=plank[0]) > 0
    level[seam] *= 0.4
    boards = linear(palette[1]) * level.clip(0.15, 2)[..., None].astype(np.float32)
    return _shaded(rng, boards.swapaxes(0, 1) if rng.random() < 0.5 else boards)


def _checks(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    period = rng.uniform(0.05, 0.3) * size
    phase = np.arange(size) / period
    bands = (phase % 1 < rng.uniform(0.3, 0.7)).astype(np.float32)
    both = bands[:, None] * (bands if rng.random() < 0.5 else 0) + bands * rng.uniform(0.3, 1)
    share = (both / max(float(both.max()), 1e-3))[..., None].astype(np.float32)
    first, second = linear(palette[0]), linear(palette[1])
    return _shaded(rng, first + (second - first) * share)


def _shelf(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    image, pen = _sheet(size, palette[0])
    row_px = size / int(rng.integers(2, 5))
    for bottom in np.arange(row_px, size + row_px, row_px):
        x = 0.0
        while x < size:
            thick, tall = rng.uniform(0.015, 0.07) * size, rng.uniform(0.55, 0.95) * row_px
            pen.rectangle((x, bottom - tall, x + thick, bottom), fill=_near(rng, palette, 70))
            x += thick if rng.random() < 0.93 else 3 * thick
        pen.rectangle((0, bottom - 0.05 * row_px, size, bottom), fill=_near(rng, palette[:1], 10))
    return _unfocused(rng, image)


def _foliage(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    green = tuple(np.array(palette[0]) * (0.35, 0.55, 0.25))
    image, pen = _sheet(size, green)
    for _ in range(int(rng.integers(80, 220))):
        x, y = rng.uniform(-0.05, 1.05, 2) * size
        long, wide = rng.uniform(0.02, 0.14) * size, rng.uniform(0.01, 0.05) * size
        angle = rng.uniform(0, np.pi)
        bend = np.linspace(0, 2 * np.pi, 10)
        ends = np.column_stack([long * np.cos(bend), wide * np.sin(bend)])
        spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        leaf = ends @ spin + (x, y)
        pen.polygon([tuple(p) for p in leaf.tolist()], fill=_near(rng, (green,), 45))
    return _shaded(rng, _unfocused(rng, image))


def _room(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    image, pen = _sheet(size, palette[0])
    if rng.random() < 0.6:
        pen.rectangle((0, rng.uniform(0.6, 0.95) * size, size, size), fill=_near(rng, palette, 40))
    for _ in range(int(rng.integers(1, 7))):
        x, y = rng.uniform(-0.2, 0.9, 2) * size
        wide, tall = rng.uniform(0.08, 0.6, 2) * size
        pen.rectangle((x, y, x + wide, y + tall), fill=_near(rng, palette, 60))
        edge = 0.04 * min(wide, tall)
        pen.rectangle(
            (x + edge, y + edge, x + wide - edge, y + tall - edge), fill=_near(rng, palette, 60)
        )
    return _shaded(rng, _unfocused(rng, image))


def _person(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    image, pen = _sheet(size, palette[0])
    tone = rng.uniform(0, len(drawing.SKIN) - 1)
    skin = tuple(drawing.SKIN[int(tone)])
    x, width = rng.uniform(0.1, 0.9) * size, rng.uniform(0.13, 0.24) * size
    y, chin = rng.uniform(0.05, 0.35) * size, 1.35 * width
    hair = _near(rng, ((45, 32, 25),), 35)
    pen.ellipse((x - 1.15 * width, y - 1.2 * width, x + 1.15 * width, y + chin), fill=hair)
    pen.rectangle((x - 0.45 * width, y, x + 0.45 * width, y + 2 * width), fill=skin)
    pen.ellipse((x - width, y - 0.9 * width, x + width, y + chin), fill=skin)
    shoulders = (x - 2.6 * width, y + 1.6 * width, x + 2.6 * width, y + 9 * width)
    pen.rounded_rectangle(shoulders, width, fill=_near(rng, palette[1:], 60))
    for eye in (-0.4, 0.4):
        left = x + (eye - 0.15) * width
        pen.ellipse((left, y, left + 0.3 * width, y + 0.15 * width), fill=hair)
    return _shaded(rng, _unfocused(rng, image))


def _lights(rng: np.random.Generator, size: int, palette: Palette) -> Array:
    image, pen = _sheet(size, tuple(0.4 * np.array(palette[0])))
    for _ in range(int(rng.integers(6, 30))):
        x, y = rng.uniform(0, size, 2)
        radius = rng.uniform(0.01, 0.1) * size
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_near(rng, palette, 90))
    return _unfocused(rng, image)


def _sheet(size: int, colour: tuple[float, ...]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (size, size), tuple(round(float(part)) for part in colour))
    return image, ImageDraw.Draw(image)


def _near(rng: np.random.Generator, palette: Palette, stray: float) -> tuple[int, int, int]:
    colour = np.array(palette[int(rng.integers(len(palette)))])
    strayed = colour + rng.normal(0, stray) + rng.normal(0, stray / 2, 3)
    return tuple(int(part) for part in strayed.clip(0, 255))


def _unfocused(rng: np.random.Generator, image: Image.Image) -> Array:
    light = linear(np.asarray(image))
    radius = rng.uniform(0, 0.06) * len(light) * rng.integers(0, 2)
    planes = [blur(np.ascontiguousarray(light[..., i]), radius) for i in range(3)]
    return np.dstack(planes).clip(0, 1)


BACKDROPS: dict[str, Callable[[np.random.Generator, int, Palette], Array]] = {
    "wall": _wall,
    "gradient": _gradient,
    "wood": _wood,
    "checks": _checks,
    "shelf": _shelf,
    "foliage": _foliage,
    "room": _room,
    "person": _person,
    "lights": _lights,
}
BACKDROP_SHARES = (0.28, 0.1, 0.09, 0.06, 0.09, 0.08, 0.14, 0.11, 0.05)


def _written_on(rng: np.random.Generator, light: Array) -> Array:
    size = len(light)
    paper = Image.new("L", (size, size))
    pen = ImageDraw.Draw(paper)
    letters = np.array(list("abcdefghiklmnoprstuvwyz ABC0123"))
    height = int(rng.uniform(0.05, 0.2) * size)
    for y in range(0, size, int(1.3 * height)):
        line = "".join(rng.choice(letters, 60))
        pen.text((rng.uniform(0, 0.1) * size, y), line, fill=255, font_size=height)
    ink = np.asarray(paper, np.float32)[..., None] / 255
    return light * (1 - ink) + linear(rng.uniform(0, 255, 3)) * ink


def _littered(rng: np.random.Generator, light: Array) -> Array:
    size = len(light)
    image = Image.fromarray((light.clip(0, 1) ** (1 / 2.2) * 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 6))):
        x, y = rng.uniform(0, 0.8, 2) * size
        wide, tall = rng.uniform(0.1, 0.5, 2) * size
        shape = (pen.ellipse, pen.rectangle)[int(rng.integers(2))]
        shape((x, y, x + wide, y + tall), fill=_near(rng, ((128, 128, 128),), 90))
    return linear(np.asarray(image))


# --- the folder -------------------------------------------------------------------------------

SESSION_HOURS = (8, 13, 18)
LONGEST_SESSION_S = 7200


@dataclass(frozen=True)
class Frame:
    """One picture to be drawn: which class, from which seed, in which scene, under which name."""

    name: str
    label: str
    seed: int
    scene: Scene | None
    """None: one of its own."""


def write(folder: Path, n_images_per_class: int, seed: int, varied: bool = False) -> int:
    """Write `n_images_per_class` drawings for each class below `folder`; return how many in all.

    They are the frames of three sessions, or, `varied`, each drawn in a scene of its own.

    Raises `Misuse` when either number is out of range or `folder` holds anything else than what
    this same call has written before.
    """
    if n_images_per_class < 1:
        raise Misuse(f"images per class must be at least 1. Received: {n_images_per_class}")
    if seed < 0:
        raise Misuse(f"seed must be at least 0. Received: {seed}")
    frames = (varied_plan if varied else plan)(n_images_per_class, seed)
    _refuse_foreign(folder, {folder / frame.name for frame in frames})
    for label in CLASSES:
        (folder / label).mkdir(parents=True, exist_ok=True)
    with Progress("drawing", len(frames)) as progress:
        for frame in frames:
            image = draw(int(frame.label), frame.seed, scene=frame.scene).image
            Image.fromarray(image).save(folder / frame.name)
            progress.add()
    return len(frames)


def plan(n_images_per_class: int, seed: int) -> list[Frame]:
    """Return the frames of all sessions, in the order of their capture times."""
    rng = np.random.default_rng(seed)
    n_sessions = len(SESSION_HOURS)
    scenes = _session_scenes(rng, n_sessions)
    frames = []
    for i, (hour, scene) in enumerate(zip(SESSION_HOURS, scenes, strict=True)):
        n_frames = n_images_per_class // n_sessions + (i < n_images_per_class % n_sessions)
        labels = [label for label in CLASSES for _ in range(n_frames)]
        times = _capture_times_us(rng, hour, len(labels))
        seeds = rng.integers(0, 2**32, len(labels)).tolist()
        for label, time_us, frame_seed in zip(labels, times, seeds, strict=True):
            frames.append(Frame(f"{label}/{_clock(time_us)}.png", label, frame_seed, scene))
    return frames


def varied_plan(n_images_per_class: int, seed: int) -> list[Frame]:
    """Return frames that have nothing in common, without capture times."""
    seeds = np.random.default_rng(seed).integers(0, 2**32, (n_images_per_class, len(CLASSES)))
    return [
        Frame(f"{label}/{k:05}.png", label, frame_seed, None)
        for k, row in enumerate(seeds.tolist())
        for label, frame_seed in zip(CLASSES, row, strict=True)
    ]


def _session_scenes(rng: np.random.Generator, n_sessions: int) -> list[Scene]:
    # No two sessions share a kind of background or a skin: that is what makes them sessions.
    names = rng.choice(list(BACKDROPS), n_sessions, replace=False, p=BACKDROP_SHARES)
    tones = (rng.permutation(n_sessions) + rng.uniform(0.2, 0.8, n_sessions)) / n_sessions
    return [
        replace(fresh_scene(rng), backdrop=str(name), tone=float(tone))
        for name, tone in zip(names, tones, strict=True)
    ]


def _capture_times_us(rng: np.random.Generator, hour: int, n_frames: int) -> list[int]:
    gaps_s = rng.uniform(0.15, 1.5, n_frames)
    gaps_s *= min(1.0, LONGEST_SESSION_S / max(float(gaps_s.sum()), 1e-9))
    start_s = 3600 * hour + rng.uniform(0, 3600)
    return np.round((start_s + np.cumsum(gaps_s)) * 1e6).astype(int).tolist()


def _clock(time_us: int) -> str:
    seconds, micro = divmod(time_us, 1_000_000)
    return f"{seconds // 3600:02}-{seconds // 60 % 60:02}-{seconds % 60:02}-{micro:06}"


def _refuse_foreign(folder: Path, ours: set[Path]) -> None:
    if folder.exists() and not folder.is_dir():
        raise Misuse(f"FOLDER must be a folder or a new name. Received: {folder} (a file)")
    foreign = sorted(path for path in folder.rglob("*") if path.is_file() and path not in ours)
    if foreign:
        raise Misuse(f"FOLDER must be new or empty. Received: {folder} (holds {foreign[0].name})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return 0; raises `Misuse` when asked for something not allowed."""
    parser = Parser(
        prog="python -m lib.samples",
        description="Write drawn hands that hold up 0 to 3 fingers, one folder per class.",
        example="python -m lib.samples fingers --images-per-class 100 --seed 7",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to write: new or empty")
    parser.add_argument(
        "--images-per-class", type=int, default=100, metavar="N", help="1 or more; default 100"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="0 or more; default 0")
    parser.add_argument(
        "--varied", action="store_true", help="a new scene for every image, instead of 3 sessions"
    )
    asked = parser.parse_args(argv)
    n_images = write(asked.folder, asked.images_per_class, asked.seed, asked.varied)
    sys.stdout.write(f"wrote {n_images} images of {len(CLASSES)} classes to {asked.folder}\n")
    return 0


if __name__ == "__main__":
    run(main)
