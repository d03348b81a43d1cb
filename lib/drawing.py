"""A hand drawn from bones: posed in 3-D, cast into a height field, then shaded.

Every bone is a tapered capsule. Seen from the front, capsules give one height per pixel; slopes of
that field catch the light, and hollows in it are dark, which is what makes a fist read as a fist.
Hand coordinates: palm widths, wrist at the origin, fingers up (+y), thumb at -x, palm facing +z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray

FOREARM, PALM, FINGER, SLEEVE = range(4)

KNUCKLES = np.array([[-0.37, 0.94, 0.0], [-0.12, 1.0, 0.0], [0.13, 0.96, 0.0], [0.36, 0.86, 0.0]])
FINGER_LENGTHS = np.array([1.0, 1.1, 1.02, 0.8])
FINGER_RADII = np.array([0.132, 0.136, 0.13, 0.115])
PHALANGES = np.array([0.45, 0.30, 0.25])
FAN_DEG = np.array([-8.0, 0.0, 7.0, 16.0])

# Light skin to dark, sRGB.
SKIN = np.array(
    [
        [250, 222, 206],
        [238, 194, 168],
        [214, 158, 124],
        [172, 114, 80],
        [122, 76, 53],
        [80, 50, 38],
        [54, 36, 30],
    ]
)
PALM_PINK = np.array([226, 164, 146])
NAIL_PAINTS = np.array(
    [[170, 20, 40], [230, 110, 150], [40, 40, 60], [120, 40, 110], [230, 225, 215]]
)


@dataclass(frozen=True)
class Light:
    """Where light comes from: `direction` points to the lamp (x right, y down, z to the viewer)."""

    direction: tuple[float, float, float]
    ambient: float
    """Share of light that comes from everywhere, 0 to 1."""
    tint: tuple[float, float, float]
    gain: float
    """How bright the hand is lit; 1 leaves its skin at its own colour."""


@dataclass(frozen=True)
class Bone:
    """A capsule from `start` to `end`; `palmar` is the unit vector out of its palm side."""

    start: Array
    end: Array
    radii: tuple[float, float]
    palmar: Array
    part: int
    folds: bool = False
    nail: bool = False


@dataclass(frozen=True)
class Hand:
    """Bones and palm lines, in hand coordinates or, once seen by a camera, in pixels."""

    bones: tuple[Bone, ...]
    lines: tuple[Array, ...]


@dataclass(frozen=True)
class Surface:
    """What each pixel of a canvas sees: float32 (H, W) each; `height` is `NOTHING` off the hand."""

    height: Array
    part: Array
    palmar: Array
    crease: Array
    nail: Array


@dataclass(frozen=True)
class Layer:
    """A picture of the hand: linear `rgb` float32 (H, W, 3), `alpha` and `hand` in 0 to 1 (H, W);
    `rgb` is already multiplied by `alpha`."""

    rgb: Array
    alpha: Array
    hand: Array


NOTHING = np.float32(-1e4)


def linear(srgb: Array) -> Array:
    """Return light, float32 0 to 1, for sRGB values 0 to 255 (gamma 2.2)."""
    return (np.asarray(srgb, np.float32) / 255) ** 2.2


def blur(field: Array, radius_px: float) -> Array:
    """Return float32 (H, W) smoothed over `radius_px`: shrunk and enlarged, which is fast."""
    if radius_px < 1:
        return field
    height, width = field.shape
    small = (max(1, round(width / radius_px)), max(1, round(height / radius_px)))
    shrunk = Image.fromarray(field).resize(small, Image.Resampling.BILINEAR)
    return np.asarray(shrunk.resize((width, height), Image.Resampling.BICUBIC))


def texture(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Return smooth noise, float32 of `shape`, mean 0, from `cells` (down, across) values."""
    values = rng.standard_normal(cells).astype(np.float32)
    return np.asarray(Image.fromarray(values).resize(shape[::-1], Image.Resampling.BICUBIC))


def moved(field: Array, down_px: int, right_px: int) -> Array:
    """Return (H, W, ...) moved down and right; its edge pixels fill what is left free."""
    rows = (np.arange(field.shape[0]) - down_px).clip(0, field.shape[0] - 1)
    columns = (np.arange(field.shape[1]) - right_px).clip(0, field.shape[1] - 1)
    return field[rows][:, columns]


# --- the pose ---------------------------------------------------------------------------------


def pose(rng: np.random.Generator, raised: tuple[bool, ...]) -> Hand:
    """Return a hand with the `raised` ones of thumb, index, middle, ring and little finger up."""
    stoutness = rng.uniform(0.88, 1.14)
    fingers = _fingers(rng, raised[1:], stoutness)
    bones = [bone for finger in fingers for bone in finger]
    bones += _webs(fingers, raised[1:])
    bones += _thumb(rng, raised, fingers, stoutness)
    bones += _palm(fingers, stoutness) + _arm(rng, stoutness)
    return Hand(tuple(bones), _palm_lines(rng))


def _fingers(
    rng: np.random.Generator, raised: tuple[bool, ...], stoutness: float
) -> list[list[Bone]]:
    lengths = FINGER_LENGTHS * rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, 4)
    radii = FINGER_RADII * stoutness * rng.uniform(0.95, 1.05, 4)
    turns = np.radians(_spread_deg(rng, raised))
    curl = np.radians(rng.normal((82, 100, 52), (7, 7, 14)))
    slant = np.radians(rng.normal(2, 5))  # the index finger of a fist often stands out
    fingers = []
    for i, up in enumerate(raised):
        bends = np.radians(np.abs(rng.normal((3, 6, 4), (6, 5, 4)))) if up else curl
        bends[0] += 0 if up else slant * (i - 1.5)
        bends = bends + np.radians(rng.normal(0, 3, 3))
        knuckle = KNUCKLES[i] + rng.normal(0, 0.008, 3)
        fingers.append(_finger(knuckle, turns[i], bends, lengths[i] * PHALANGES, radii[i]))
    return fingers


def _spread_deg(rng: np.random.Generator, raised: tuple[bool, ...]) -> Array:
    # Held together, fanned evenly, or opened wide: people count in all three ways.
    widest = 4.8 if sum(raised) == 2 else 3.6
    low, high = ((0.2, 0.8), (1.1, 2.2), (2.2, widest))[int(rng.choice(3, p=[0.12, 0.45, 0.43]))]
    fan = FAN_DEG * rng.uniform(low, high) + rng.normal(0, 3.5, 4)
    curled = np.array([2.0, 0.0, -4.0, -9.0]) + rng.normal(0, 2, 4)
    return np.where(raised, np.maximum.accumulate(fan), curled)


def _finger(knuckle: Array, turn: float, bends: Array, lengths: Array, radius: float) -> list[Bone]:
    bones = []
    start, flex = knuckle, 0.0
    widths = radius * np.array([1.05, 0.98, 0.88, 0.72])
    for i in range(3):
        flex += bends[i]
        across = np.array([np.sin(turn), np.cos(turn), 0.0])
        towards = np.array([0.0, 0.0, 1.0])
        along = across * np.cos(flex) + towards * np.sin(flex)
        palmar = towards * np.cos(flex) - across * np.sin(flex)
        end = start + along * (lengths[i] - (widths[3] if i == 2 else 0))
        bones.append(Bone(start, end, (widths[i], widths[i + 1]), palmar, FINGER, True, i == 2))
        start = end
    return bones


def _webs(fingers: list[list[Bone]], raised: tuple[bool, ...]) -> list[Bone]:
    webs = []
    for i in range(3):
        if raised[i] and raised[i + 1]:
            low, high = fingers[i][0], fingers[i + 1][0]
            start, end = (bone.start * 0.72 + bone.end * 0.28 for bone in (low, high))
            webs.append(Bone(start, end, (0.085, 0.085), low.palmar, PALM))
    return webs


def _thumb(
    rng: np.random.Generator,
    raised: tuple[bool, ...],
    fingers: list[list[Bone]],
    stoutness: float,
) -> list[Bone]:
    root = np.array([-0.2, 0.2, 0.1])
    target, dorsal = (
        _thumb_out(rng) if raised[0] else _thumb_tucked(rng, raised, fingers, stoutness)
    )
    ahead = np.array([-0.75, 0.62, 0.1]) if raised[0] else np.array([-0.36, 0.62, 0.5])
    base = root + 0.44 * _unit(_unit(ahead) * 0.7 + _unit(target - root) * 0.45)
    joint, tip = _reach(base, target, (0.42, 0.3), _unit(np.array([-0.7, 0.5, 0.5])))
    radii = np.array([0.21, 0.17, 0.132, 0.105]) * stoutness
    points = (root, base, joint, tip)
    bones = []
    for i in range(3):
        along = _unit(points[i + 1] - points[i])
        out = _unit(dorsal - along * (dorsal @ along))
        part = PALM if i == 0 else FINGER
        pair = (radii[i], radii[i + 1])
        bones.append(Bone(points[i], points[i + 1], pair, -out, part, i > 0, i == 2))
    return bones


def _thumb_out(rng: np.random.Generator) -> tuple[Array, Array]:
    angle = np.radians(rng.uniform(28, 68))
    target = np.array([-0.4, 0.45, 0.1]) + 0.9 * np.array([-np.sin(angle), np.cos(angle), 0.05])
    return target, np.array([-0.5, 0.4, -0.6])


def _thumb_tucked(
    rng: np.random.Generator,
    raised: tuple[bool, ...],
    fingers: list[list[Bone]],
    stoutness: float,
) -> tuple[Array, Array]:
    curled = [finger for finger, up in zip(fingers, raised[1:], strict=True) if not up]
    if len(curled) == 4 and rng.random() < 0.45:
        beside = (rng.uniform(-0.18, 0.02), rng.uniform(-0.14, 0.04), rng.uniform(-0.06, 0.14))
        return curled[0][1].start + np.array(beside), np.array([-0.6, 0.1, 0.8])
    first = 1 if len(curled) == 4 else 0
    held = curled[min(len(curled) - 1, first + int(rng.integers(0, 2)))][1]
    point = held.start + (held.end - held.start) * rng.uniform(0.3, 0.9)
    depth = held.radii[0] + 0.08 * stoutness
    return point - held.palmar * depth, np.array([-0.4, 0.3, 0.85])


def _reach(
    base: Array, target: Array, lengths: tuple[float, float], bow: Array
) -> tuple[Array, Array]:
    """Return the middle joint and the tip of two links from `base` to, or towards, `target`."""
    first, second = lengths
    gap = target - base
    distance = float(np.clip(np.linalg.norm(gap), 0.35, 0.995 * (first + second)))
    ahead = _unit(gap)
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    out = _unit(bow - ahead * (bow @ ahead))
    joint = base + ahead * along + out * np.sqrt(max(first**2 - along**2, 0.0))
    return joint, base + ahead * distance


def _palm(fingers: list[list[Bone]], stoutness: float) -> list[Bone]:
    front = np.array([0.0, 0.0, 1.0])
    bones = []
    for i in range(4):
        knuckle = fingers[i][0].start
        root = np.array([knuckle[0] * 0.5, 0.08, 0.0])
        bones.append(Bone(root, knuckle, (0.19, 0.15 * stoutness), front, PALM))
        top = knuckle + np.array([0.0, 0.02, -0.06])
        bones.append(Bone(top - (0, 0.07, 0.02), top, (0.08, 0.1 * stoutness), front, FINGER))
    heel, side = np.array([0.2, 0.18, 0.07]), np.array([0.32, 0.55, 0.05])
    bones.append(Bone(heel, side, (0.19, 0.17), front, PALM))
    return bones


def _arm(rng: np.random.Generator, stoutness: float) -> list[Bone]:
    front = np.array([0.0, 0.0, 0.2])
    bend, tilt = np.radians(rng.normal((0, 0), (10, 10)))
    down = _unit(np.array([np.sin(bend), -np.cos(bend), np.sin(tilt)]))
    half = np.array([0.11, 0.0, 0.0])
    bones = []
    for side in (-half, half):
        wrist = np.array([0.0, 0.05, 0.0]) + side
        elbow = wrist + down * 3.2 + side * 1.1
        bones.append(Bone(wrist, elbow, (0.23 * stoutness, 0.38 * stoutness), front, FOREARM))
    if rng.random() < 0.45:
        begin, swell = rng.uniform(0.25, 1.2), rng.uniform(1.05, 1.3)
        radii = (0.4 * stoutness * swell, 0.72 * stoutness * swell)
        bones.append(Bone(down * begin, down * 3.2, radii, front, SLEEVE))
    return bones


def _palm_lines(rng: np.random.Generator) -> tuple[Array, ...]:
    life = [[-0.42, 0.72], [-0.16, 0.66], [-0.02, 0.45], [-0.02, 0.18]]
    head = [[-0.4, 0.74], [-0.1, 0.66], [0.16, 0.5], [0.3, 0.42]]
    heart = [[0.42, 0.68], [0.2, 0.72], [-0.02, 0.8], [-0.14, 0.94]]
    wrist = [[-0.26, 0.02], [0.0, -0.02], [0.26, 0.02]]
    lines = []
    for line in (life, head, heart, wrist):
        flat = np.array(line) + rng.normal(0, 0.02, (len(line), 2))
        lines.append(np.column_stack([flat, np.full(len(line), 0.12)]))
    return tuple(lines)


def _unit(vector: Array) -> Array:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


# --- the camera -------------------------------------------------------------------------------


def turned(hand: Hand, turn: Array) -> Hand:
    """Return the hand with the matrix `turn`, (3, 3), applied to every point about mid-palm."""
    pivot = np.array([0.0, 0.75, 0.1])
    bones = tuple(
        replace(
            bone,
            start=turn @ (bone.start - pivot),
            end=turn @ (bone.end - pivot),
            palmar=turn @ bone.palmar,
        )
        for bone in hand.bones
    )
    return Hand(bones, tuple((line - pivot) @ turn.T for line in hand.lines))


def seen(hand: Hand, distance: float) -> Hand:
    """Return the hand in perspective, from a camera `distance` palm widths away, y down."""
    flip = np.array([1.0, -1.0, 1.0])

    def closer(point: Array) -> float:
        return distance / max(distance - float(point[2]), 0.5)

    bones = tuple(
        replace(
            bone,
            start=bone.start * flip * closer(bone.start),
            end=bone.end * flip * closer(bone.end),
            radii=(bone.radii[0] * closer(bone.start), bone.radii[1] * closer(bone.end)),
            palmar=bone.palmar * flip,
        )
        for bone in hand.bones
    )
    return Hand(bones, tuple(line * flip for line in hand.lines))


def placed(hand: Hand, scale: float, shift_px: tuple[float, float]) -> Hand:
    """Return the hand `scale` times as large, moved by `shift_px` (right, down)."""
    shift = np.array([*shift_px, 0.0])
    bones = tuple(
        replace(
            bone,
            start=bone.start * scale + shift,
            end=bone.end * scale + shift,
            radii=(bone.radii[0] * scale, bone.radii[1] * scale),
        )
        for bone in hand.bones
    )
    return Hand(bones, tuple(line * scale + shift for line in hand.lines))


def bounds(
    hand: Hand, parts: tuple[int, ...] = (PALM, FINGER)
) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of those `parts` of a hand that has been `seen`."""
    bones = [bone for bone in hand.bones if bone.part in parts]
    points = np.array([point[:2] for bone in bones for point in (bone.start, bone.end)])
    radii = np.array([radius for bone in bones for radius in bone.radii])[:, None]
    left, top = (points - radii).min(axis=0)
    right, bottom = (points + radii).max(axis=0)
    return float(left), float(top), float(right), float(bottom)


# --- from bones to a height field -------------------------------------------------------------


def cast(hand: Hand, shape: tuple[int, int], palm_px: float) -> Surface:
    """Return what a canvas of `shape` (H, W) sees of a placed hand; a palm is `palm_px` wide."""
    surface = Surface(np.full(shape, NOTHING), *(np.zeros(shape, np.float32) for _ in range(4)))
    bones = sorted(hand.bones, key=lambda bone: bone.part == FINGER)
    flesh = [bone for bone in bones if bone.part in (PALM, FOREARM)]
    for bone in flesh:
        _cast_bone(surface, bone)
    inside = surface.height > NOTHING
    for field, reach in ((surface.palmar, 0.25), (surface.height, 0.1)):
        field[...] = _smooth_inside(field, inside, reach * palm_px)
    for bone in bones:
        if bone.part in (FINGER, SLEEVE):
            _cast_bone(surface, bone)
    _melt(surface, palm_px)
    _draw_lines(surface, hand.lines, palm_px)
    return surface


def _melt(surface: Surface, palm_px: float) -> None:
    # Where bones meet at a slant the skin runs on; where one lies over another the step stays.
    smooth = _smooth_inside(surface.height, surface.height > NOTHING, 0.05 * palm_px)
    gap = np.abs(smooth - surface.height) / (0.035 * palm_px)
    surface.height[...] += (smooth - surface.height) * np.clip(1.6 - gap, 0, 1)


def _smooth_inside(field: Array, inside: Array, radius_px: float) -> Array:
    weight = blur(inside.astype(np.float32), radius_px)
    mean = blur(np.where(inside, field, 0), radius_px) / np.maximum(weight, 0.2)
    return np.where(inside, mean, field)


def _cast_bone(surface: Surface, bone: Bone) -> None:
    """Let one bone cover what lies behind it.

    A sphere slides along the bone; the highest point over a pixel belongs to the sphere that lies
    `sqrt(r² - d²) · sin(slope)` further on than the pixel's foot, at distance `d`, on the bone.
    """
    box = _box(bone, surface.height.shape)
    if box is None:
        return
    rows, columns = np.ogrid[box]
    x = columns.astype(np.float32) - np.float32(bone.start[0])
    y = rows.astype(np.float32) - np.float32(bone.start[1])
    gap = (bone.end - bone.start).astype(np.float32)
    flat = max(float(np.hypot(gap[0], gap[1])), 1e-2)
    length = max(float(np.linalg.norm(gap)), 1e-2)
    ux, uy = gap[:2] / np.float32(flat)
    along, beside = x * ux + y * uy, y * ux - x * uy
    first, taper = np.float32(bone.radii[0]), np.float32(bone.radii[1] - bone.radii[0])
    radius = first + taper * np.clip(along / flat, 0, 1)
    reach = np.sqrt(np.maximum(radius**2 - beside**2, 0))
    free = (along + reach * (gap[2] / length)) / flat
    foot = np.clip(free, 0, 1)
    radius = (first + taper * foot) * (1 - (0.2 if bone.folds else 0) * foot * (1 - foot))
    off = along - foot * flat
    rise2 = radius**2 - beside**2 - off**2
    rise = np.sqrt(np.maximum(rise2, 0))
    height = np.float32(bone.start[2]) + foot * gap[2] + rise
    wins = (rise2 > 0) & (height > surface.height[box])
    if bone.part == SLEEVE:
        wins &= free > 0
    normal = (off * ux - beside * uy, off * uy + beside * ux, rise)
    palmar = sum(n * np.float32(p) for n, p in zip(normal, bone.palmar, strict=True)) / radius
    np.copyto(surface.height[box], height, where=wins)
    np.copyto(surface.palmar[box], palmar, where=wins)
    np.copyto(surface.part[box], np.float32(bone.part), where=wins)
    np.copyto(surface.crease[box], _folds(bone, free * length, length), where=wins)
    np.copyto(surface.nail[box], _nail(bone, free * length, length, normal, palmar), where=wins)


def _box(bone: Bone, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    ends = np.array([bone.start[:2], bone.end[:2]])
    low = np.floor(ends.min(axis=0) - max(bone.radii)).astype(int)
    high = np.ceil(ends.max(axis=0) + max(bone.radii)).astype(int) + 1
    left, top = np.maximum(low, 0)
    right, bottom = np.minimum(high, shape[::-1])
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _folds(bone: Bone, place_px: Array, length: float) -> Array:
    if not bone.folds:
        return np.zeros_like(place_px)
    width = bone.radii[0] * 0.14
    near, far = place_px / width, (place_px - length) / width
    folds = np.exp(-(near**2)) + (0 if bone.nail else np.exp(-(far**2)))
    return folds.astype(np.float32)


def _nail(
    bone: Bone, place_px: Array, length: float, normal: tuple[Array, ...], palmar: Array
) -> Array:
    if not bone.nail:
        return np.zeros_like(place_px)
    side = np.cross(bone.palmar, _unit(bone.end - bone.start))
    tip = bone.radii[1]
    lateral = sum(n * np.float32(s) for n, s in zip(normal, side, strict=True)) / tip
    lengthwise = (place_px - length + 0.15 * tip) / (1.0 * tip)
    inside = 1 - lengthwise**2 * np.abs(lengthwise) - (lateral / 0.72) ** 2
    return (np.clip(inside * 3, 0, 1) * (palmar < -0.15)).astype(np.float32)


def _draw_lines(surface: Surface, lines: tuple[Array, ...], palm_px: float) -> None:
    sheet = Image.new("L", surface.height.shape[::-1])
    pen = ImageDraw.Draw(sheet)
    for line in lines:
        points = [(float(x), float(y)) for x, y in line[:, :2]]
        pen.line(points, fill=255, width=max(1, round(0.025 * palm_px)), joint="curve")
    drawn = blur(np.asarray(sheet, np.float32) / 255, 0.03 * palm_px)
    on_palm = (surface.part <= PALM) & (surface.palmar > 0.2)
    surface.crease[on_palm] += 0.9 * drawn[on_palm]


# --- from a height field to a picture ---------------------------------------------------------


def shade(
    rng: np.random.Generator, surface: Surface, palm_px: float, tone: float, light: Light
) -> Layer:
    """Return the hand lit by `light`, its skin `tone` from 0, very light, to 1, very dark."""
    inside = surface.height > NOTHING
    relief = surface.height + _relief(rng, surface, palm_px)
    lit, sheen = _lit(relief, inside, palm_px, light)
    rgb = _colours(rng, surface, tone)
    skin = (surface.part != SLEEVE)[..., None]
    rgb *= np.where(skin, _skin_light(lit), lit[..., None])
    rgb += np.float32(rng.uniform(0, 0.09)) * (skin * sheen[..., None])
    rgb *= np.float32(light.gain) * np.array(light.tint, np.float32)
    hand = inside & ((surface.part == PALM) | (surface.part == FINGER))
    alpha = inside.astype(np.float32)
    return Layer(rgb * alpha[..., None], alpha, hand.astype(np.float32))


def render(
    rng: np.random.Generator, hand: Hand, canvas_px: int, palm_px: float, tone: float, light: Light
) -> Layer:
    """Return a placed hand on a square canvas; only where it lies is anything worked out."""
    boxes = [box for bone in hand.bones if (box := _box(bone, (canvas_px, canvas_px)))]
    top, left = (min(box[axis].start for box in boxes) for axis in (0, 1))
    bottom, right = (max(box[axis].stop for box in boxes) for axis in (0, 1))
    near = placed(hand, 1, (-left, -top))
    layer = shade(rng, cast(near, (bottom - top, right - left), palm_px), palm_px, tone, light)
    margins = ((top, canvas_px - bottom), (left, canvas_px - right))
    return Layer(
        np.pad(layer.rgb, (*margins, (0, 0))),
        np.pad(layer.alpha, margins),
        np.pad(layer.hand, margins),
    )


def _relief(rng: np.random.Generator, surface: Surface, palm_px: float) -> Array:
    # The back of a hand is rougher than its palm: tendons, veins and loose skin.
    shape = surface.height.shape
    n_cells = max(4, round(shape[0] / (0.12 * palm_px)))
    veins = texture(rng, shape, (n_cells, n_cells)) * np.where(surface.palmar < 0, 0.011, 0.004)
    return (veins - 0.02 * surface.crease) * np.float32(palm_px * rng.uniform(0.2, 1.0))


def _skin_light(lit: Array) -> Array:
    # Light that has passed through skin comes back red, so shadows on skin are never grey.
    return lit[..., None] ** np.array([0.92, 1.06, 1.12], np.float32)


def _lit(height: Array, inside: Array, palm_px: float, light: Light) -> tuple[Array, Array]:
    """Return the light that falls on each pixel and the sheen it gives back, float32 (H, W)."""
    filled = np.where(inside, height, blur(np.where(inside, height, 0), 0.2 * palm_px))
    smooth = _smooth_inside(height, inside, max(1.0, 0.025 * palm_px))
    smooth = np.where(inside, smooth, filled)
    down, right = np.gradient(smooth)
    x, y, z = (np.float32(part) for part in _unit(np.array(light.direction)))
    slope = (z - right * x - down * y) / np.sqrt(1 + right**2 + down**2)
    diffuse = np.clip((slope + 0.25) / 1.25, 0, 1)
    shadow = _shadow(height, inside, palm_px, light)
    hollow = _hollow(height, inside, palm_px)
    ambient = np.float32(light.ambient) * (0.75 + 0.25 * np.clip(down, -1, 1))
    lit = np.clip((ambient + (1.35 - light.ambient) * diffuse * shadow) * hollow, 0.02, 1.6)
    half_x, half_y, half_z = (np.float32(part) for part in _unit(np.array((x, y, z + 1))))
    gloss = (half_z - right * half_x - down * half_y) / np.sqrt(1 + right**2 + down**2)
    return lit, np.clip(gloss, 0, 1) ** 12 * shadow * hollow


def _hollow(height: Array, inside: Array, palm_px: float) -> Array:
    light = np.ones_like(height)
    for reach, depth in ((0.05, 0.05), (0.14, 0.16), (0.4, 0.5)):
        around = _smooth_inside(height, inside, reach * palm_px)
        buried = np.clip((around - height) / (depth * palm_px), 0, 1)
        light *= 1 - 0.5 * np.where(inside, buried, 0)
    return light


def _shadow(height: Array, inside: Array, palm_px: float, light: Light) -> Array:
    x, y, z = _unit(np.array(light.direction))
    small = np.where(inside, height, NOTHING)[::2, ::2]
    dark = np.zeros_like(small)
    for step in (0.06, 0.12, 0.2, 0.3, 0.42):
        reach = step * palm_px
        towards = moved(small, -round(y * reach / 2), -round(x * reach / 2))
        dark = np.maximum(dark, np.clip((towards - small - z * reach) / (0.08 * palm_px), 0, 1))
    large = Image.fromarray(blur(dark, 2)).resize(height.shape[::-1], Image.Resampling.BILINEAR)
    return 1 - 0.75 * np.asarray(large)


def _colours(rng: np.random.Generator, surface: Surface, tone: float) -> Array:
    shape = surface.height.shape
    back, palm = _skin_colours(rng, tone)
    inner = np.clip(surface.palmar * 1.5 + 0.5, 0, 1)[..., None]
    rgb = back + (palm - back) * inner
    flush = 0.5 + 0.5 * texture(rng, shape, (9, 9)) + 0.5 * (surface.part == FINGER)
    redness = rng.uniform(0.02, 0.14)
    rgb *= 1 - np.clip(flush, 0, 2)[..., None] * redness * np.array([0.1, 1, 0.9], np.float32)
    mottle = 0.035 * texture(rng, shape, (40, 40)) + 0.02 * texture(rng, shape, (120, 120))
    rgb *= (1 + mottle)[..., None]
    depth = np.where(surface.palmar > 0, 0.45, 0.22) * np.clip(surface.crease, 0, 1)
    rgb *= 1 - depth[..., None] * np.array([0.75, 1, 1], np.float32)
    rgb += (_nail_colour(rng, back) - rgb) * (0.85 * surface.nail[..., None])
    rgb = np.where((surface.part == SLEEVE)[..., None], _cloth(rng, shape), rgb)
    return np.maximum(rgb, 0.004).astype(np.float32)


def _skin_colours(rng: np.random.Generator, tone: float) -> tuple[Array, Array]:
    at = np.clip(tone, 0, 1) * (len(SKIN) - 1)
    stops = np.arange(len(SKIN))
    srgb = np.array([np.interp(at, stops, SKIN[:, channel]) for channel in range(3)])
    back = linear(np.clip(srgb * rng.normal(1, (0.02, 0.02, 0.035)), 0, 255))
    share = 0.15 + 0.3 * float(np.clip(tone, 0, 1))
    return back, back + (linear(PALM_PINK) - back) * np.float32(share)


def _nail_colour(rng: np.random.Generator, skin: Array) -> Array:
    if rng.random() < 0.08:
        return linear(rng.choice(NAIL_PAINTS))
    return skin * np.float32(0.6) + linear([245, 205, 195]) * np.float32(0.4)


def _cloth(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    colour = linear(rng.uniform(15, 235, 3) * rng.uniform(0.5, 1))
    weave = 1 + 0.12 * texture(rng, shape, (14, 14)) + 0.08 * texture(rng, shape, (90, 90))
    return colour * np.clip(weave, 0.3, 1.7)[..., None]
