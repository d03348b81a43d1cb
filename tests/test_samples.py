"""Drawn hands: the same everywhere for a seed, plainly countable, otherwise as varied as can be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib import drawing, images, samples
from lib.failures import Misuse
from lib.records import ImageRule

N_FINGERS = (0, 1, 2, 3)


def command(*args: object, **environ: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "lib.samples", *map(str, args)]
    root = Path(samples.__file__).parents[1]
    return subprocess.run(
        line, cwd=root, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60
    )


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def capture_s(path: Path) -> float:
    hours, minutes, seconds, micro = map(int, path.stem.split("-"))
    return 3600 * hours + 60 * minutes + seconds + micro / 1e6


def contrast(drawn: samples.Drawing) -> float:
    """Return by how much, 0 to 255, what surrounds a hand differs from it in some channel."""
    near = drawing.blur(drawn.mask.astype(np.float32), 20) > 0.1
    hand = np.median(drawn.image[drawn.mask], axis=0)
    around = drawn.image[near & ~drawn.mask].astype(float)
    return float(np.median(np.abs(around - hand).max(axis=1)))


def count_fingers(mask: np.ndarray) -> int:
    """Count what crosses a circle around the thickest part of the hand."""
    left, depth = mask, 0
    while left.any():
        core, depth = left, depth + 1
        left = core.copy()
        left[1:] &= core[:-1]
        left[:-1] &= core[1:]
        left[:, 1:] &= core[:, :-1]
        left[:, :-1] &= core[:, 1:]
    middle = np.argwhere(core).mean(axis=0)
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    around = middle + 2.0 * depth * np.column_stack([np.sin(angles), np.cos(angles)])
    rows, columns = around.round().astype(int).T
    inside = (rows >= 0) & (rows < len(mask)) & (columns >= 0) & (columns < len(mask))
    crossed = inside & mask[rows.clip(0, len(mask) - 1), columns.clip(0, len(mask) - 1)]
    return int((crossed & ~np.roll(crossed, 1)).sum())


@pytest.fixture(scope="module")
def drawings() -> dict[int, list[samples.Drawing]]:
    return {n: [samples.draw(n, seed) for seed in range(16)] for n in N_FINGERS}


@pytest.fixture(scope="module")
def every_drawing(drawings: dict[int, list[samples.Drawing]]) -> list[samples.Drawing]:
    return [drawn for same_class in drawings.values() for drawn in same_class]


def upright(
    raised: tuple[bool, ...], palm_px: float, turn: np.ndarray | None = None
) -> drawing.Hand:
    """Return a hand for a canvas of 240 px, its palm to the camera unless `turn` says otherwise."""
    hand = drawing.pose(np.random.default_rng(0), raised)
    hand = drawing.turned(hand, np.eye(3) if turn is None else turn)
    return drawing.placed(drawing.seen(hand, distance=20), palm_px, (120, 130))


# --- one drawing ------------------------------------------------------------------------------


@pytest.mark.parametrize("size_px", [64, 160, 224])
def test_a_drawing_has_the_size_that_was_asked_for(size_px: int) -> None:
    drawn = samples.draw(2, seed=5, size_px=size_px)
    assert drawn.image.shape == (size_px, size_px, 3) and drawn.image.dtype == np.uint8
    assert drawn.mask.shape == (size_px, size_px) and drawn.mask.dtype == bool


def test_a_seed_is_one_picture_and_another_seed_is_another() -> None:
    first, again, other = (samples.draw(1, seed).image for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("n_fingers", [-1, 4, 5])
def test_only_0_to_3_fingers_can_be_held_up(n_fingers: int) -> None:
    with pytest.raises(Misuse, match=f"must be 0 to 3. Received: {n_fingers}"):
        samples.draw(n_fingers, seed=0)


def test_a_hand_fills_a_plausible_part_of_the_picture(every_drawing: list) -> None:
    for drawn in every_drawing:
        assert 0.03 < drawn.mask.mean() < 0.5


def test_no_finger_leaves_the_picture(every_drawing: list) -> None:
    for drawn in every_drawing:
        assert not drawn.mask[0].any()
        assert not drawn.mask[:, [0, -1]].any()


def test_a_hand_stands_out_from_what_is_around_it(every_drawing: list) -> None:
    contrasts = [contrast(drawn) for drawn in every_drawing]
    assert min(contrasts) > 15
    assert np.median(contrasts) > 50


@pytest.mark.parametrize("tone", [1, 3, 5])
def test_a_hand_stands_out_even_from_a_wall_of_its_own_colour(tone: int) -> None:
    scene = replace(
        samples.fresh_scene(np.random.default_rng(0)),
        backdrop="wall",
        palette=(tuple(drawing.SKIN[tone].tolist()),) * 3,
        tone=tone / (len(drawing.SKIN) - 1),
        light=drawing.Light((0.2, -0.6, 0.8), ambient=0.6, tint=(1, 1, 1), gain=0.8),
        wall_gain=0.7,
    )
    assert min(contrast(samples.draw(1, seed, 160, scene)) for seed in range(4)) > 30


@pytest.mark.parametrize("n_fingers", N_FINGERS)
def test_the_silhouette_shows_how_many_fingers_are_up(drawings: dict, n_fingers: int) -> None:
    counts = [count_fingers(drawn.mask) for drawn in drawings[n_fingers]]
    assert np.median(counts) == n_fingers
    assert np.mean(np.array(counts) == n_fingers) > 0.7, counts


def test_hands_are_left_and_right_and_show_palm_and_back() -> None:
    rng = np.random.default_rng(0)
    turns = [samples._turn(rng, yaw_deg=16) for _ in range(60)]
    sides = [(np.linalg.det(turn) > 0, turn[2, 2] > 0) for turn in turns]
    assert all(sides.count((left, palm)) > 5 for left in (True, False) for palm in (True, False))


def test_raised_fingers_show_their_nails_on_the_back_only() -> None:
    n_nail_px = []
    for turn in (np.eye(3), np.diag([-1.0, 1.0, -1.0])):
        hand = upright((False, True, True, True, False), 60, turn)
        surface = drawing.cast(hand, (240, 240), palm_px=60)
        n_nail_px.append((surface.nail[:70] > 0.5).sum())
    assert n_nail_px[0] == 0
    assert n_nail_px[1] > 60


def test_light_from_the_left_lights_the_left() -> None:
    hand = upright((False,) * 5, 80)
    surface = drawing.cast(hand, (240, 240), palm_px=80)
    halves = []
    for x in (-1.0, 1.0):
        light = drawing.Light((x, 0.0, 0.4), ambient=0.2, tint=(1, 1, 1), gain=1)
        layer = drawing.shade(np.random.default_rng(0), surface, 80, tone=0.3, light=light)
        halves.append(layer.rgb[:, :120].sum() / layer.rgb[:, 120:].sum())
    assert halves[0] > 1.2 * halves[1]


def test_dark_skin_is_darker_than_light_skin() -> None:
    hand = upright((False,) * 5, 80)
    light = drawing.Light((0.0, -0.5, 0.8), ambient=0.4, tint=(1, 1, 1), gain=1)
    means = []
    for tone in (0.0, 0.5, 1.0):
        layer = drawing.render(np.random.default_rng(0), hand, 240, 80, tone, light)
        means.append(layer.rgb[layer.hand > 0.5].mean())
    assert means[0] > 1.5 * means[1] > 1.5**2 * means[2]


def test_a_scene_keeps_its_background_from_picture_to_picture() -> None:
    scene = samples.fresh_scene(np.random.default_rng(3))
    same = [samples.draw(0, seed, 96, scene).image[:8].mean(axis=(0, 1)) for seed in range(12)]
    fresh = [samples.draw(0, seed, 96).image[:8].mean(axis=(0, 1)) for seed in range(12)]
    assert np.std(same, axis=0).mean() < 0.6 * np.std(fresh, axis=0).mean()


@pytest.mark.parametrize("name", samples.BACKDROPS)
def test_every_background_is_light_that_can_be_photographed(name: str) -> None:
    rng = np.random.default_rng(1)
    light = samples.BACKDROPS[name](rng, 96, samples.fresh_scene(rng).palette)
    assert light.shape == (96, 96, 3)
    assert np.isfinite(light).all() and light.min() >= 0


# --- no hand ----------------------------------------------------------------------------------


def test_pictures_without_a_hand_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    pictures = [samples.not_a_hand(seed, 96) for seed in range(20)]
    assert all(picture.shape == (96, 96, 3) for picture in pictures)
    assert all(picture.dtype == np.uint8 for picture in pictures)
    assert np.array_equal(pictures[4], samples.not_a_hand(4, 96))
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


# --- the folder -------------------------------------------------------------------------------


def test_every_class_gets_as_many_images_as_were_asked_for(tmp_path: Path) -> None:
    assert samples.write(tmp_path / "new", n_images_per_class=4, seed=1) == 16
    for label in samples.CLASSES:
        paths = sorted((tmp_path / "new" / label).iterdir())
        assert len(paths) == 4
        assert all(images.decode(path.read_bytes(), ImageRule()).std() > 5 for path in paths)


def test_capture_times_tell_three_sessions_apart() -> None:
    frames = samples.plan(n_images_per_class=50, seed=2)
    times = [capture_s(Path(frame.name)) for frame in frames]
    gaps = np.diff(times)
    assert (gaps > 0).all() and len(set(times)) == len(times)
    assert (gaps > 3600).sum() == 2
    assert gaps[gaps <= 3600].max() < 10


def test_the_names_are_capture_times_below_their_class() -> None:
    for frame in samples.plan(n_images_per_class=5, seed=2):
        assert re.fullmatch(rf"{frame.label}/\d\d-\d\d-\d\d-\d{{6}}\.png", frame.name)


def test_sessions_differ_in_background_light_and_skin_and_hold_every_class() -> None:
    frames = samples.plan(n_images_per_class=6, seed=4)
    scenes = list(dict.fromkeys(frame.scene for frame in frames))
    assert len(scenes) == len({scene.backdrop for scene in scenes}) == 3
    assert len({scene.light for scene in scenes}) == 3
    assert np.ptp([scene.tone for scene in scenes]) > 0.3
    for scene in scenes:
        assert {frame.label for frame in frames if frame.scene == scene} == set(samples.CLASSES)


def test_even_a_very_long_session_ends_before_the_next_begins() -> None:
    frames = samples.plan(n_images_per_class=9000, seed=0)
    gaps = np.diff([capture_s(Path(frame.name)) for frame in frames])
    assert (gaps > 3600).sum() == 2


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for folder, hash_seed in (("a", "1"), ("b", "2")):
        args = (tmp_path / folder, "--images-per-class", 3, "--seed", 9)
        assert command(*args, PYTHONHASHSEED=hash_seed).returncode == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != {}


def test_the_same_command_may_be_run_again(tmp_path: Path) -> None:
    samples.write(tmp_path, n_images_per_class=2, seed=3)
    before = contents(tmp_path)
    samples.write(tmp_path, n_images_per_class=2, seed=3)
    assert contents(tmp_path) == before


def test_another_seed_gives_other_pictures(tmp_path: Path) -> None:
    samples.write(tmp_path / "a", n_images_per_class=1, seed=0)
    samples.write(tmp_path / "b", n_images_per_class=1, seed=1)
    first, second = (set(contents(tmp_path / name).values()) for name in "ab")
    assert not first & second


# --- the command ------------------------------------------------------------------------------


def test_the_command_says_in_one_line_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samples.main([str(tmp_path / "hands"), "--images-per-class", "1"]) == 0
    assert capsys.readouterr().out == f"wrote 4 images of 4 classes to {tmp_path / 'hands'}\n"


def test_help_shows_a_command_that_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        samples.main(["--help"])
    assert "python -m lib.samples fingers --images-per-class 100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--images-per-class", "0"], "images per class must be at least 1. Received: 0"),
        (["--images-per-class", "-3"], "images per class must be at least 1. Received: -3"),
        (["--seed", "-1"], "seed must be at least 0. Received: -1"),
        (["--images-per-class", "many"], "invalid int value: 'many'"),
        (["--colour", "red"], "unrecognized arguments: --colour red"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(
    tmp_path: Path, args: list[str], message: str
) -> None:
    done = command(tmp_path / "hands", *args)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "hands").exists()


def test_a_folder_is_required() -> None:
    done = command()
    assert done.returncode == 2
    assert "FOLDER" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(Misuse, match=r"new or empty. Received: .* \(holds holiday.png\)"):
        samples.write(tmp_path, n_images_per_class=1, seed=0)
    assert contents(tmp_path) == {"1/holiday.png": b"mine"}


def test_drawings_of_another_seed_are_not_mixed_in(tmp_path: Path) -> None:
    samples.write(tmp_path, n_images_per_class=1, seed=0)
    with pytest.raises(Misuse, match="new or empty"):
        samples.write(tmp_path, n_images_per_class=1, seed=1)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "hands").write_text("mine")
    with pytest.raises(Misuse, match="a file"):
        samples.write(tmp_path / "hands", n_images_per_class=1, seed=0)
    assert (tmp_path / "hands").read_text() == "mine"


def test_varied_drawings_share_no_scene_and_have_no_capture_times(tmp_path: Path) -> None:
    samples.write(tmp_path / "hands", 4, seed=3, varied=True)
    names = sorted(str(p.relative_to(tmp_path / "hands")) for p in tmp_path.rglob("*.png"))
    assert names == sorted(f"{label}/{k:05}.png" for label in samples.CLASSES for k in range(4))
    corners = {images_corner(path) for path in tmp_path.rglob("*.png")}
    assert len(corners) > 12


def images_corner(path: Path) -> tuple[int, ...]:
    return tuple(images.decode(path.read_bytes(), ImageRule(size_px=8))[0, 0].tolist())
