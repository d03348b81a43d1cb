"""Sessions, and splits that keep them together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lib import likeness, sessions
from lib.records import Example


def examples(*keys: str) -> list[Example]:
    return [Example(f"photos/{key}", "", "photos", key, key.split("/")[0]) for key in keys]


def burst(label: str, clock: str, n: int = 5) -> list[Example]:
    """Frames of one class, a second apart."""
    hour, minute = clock.split(":")
    return examples(*[f"{label}/{hour}-{minute}-{second:02}-123456.png" for second in range(n)])


def labels_of(taken: list[Example]) -> np.ndarray:
    names = sorted({example.label for example in taken})
    return np.array([names.index(example.label) for example in taken])


def sides(taken: list[Example]) -> dict[str, str]:
    split = sessions.split(sessions.find(taken), labels_of(taken))
    return dict(zip([example.key for example in taken], split.sides.tolist(), strict=True))


def days(*clocks: str) -> list[Example]:
    return [example for clock in clocks for label in "ab" for example in burst(label, clock)]


@pytest.mark.parametrize("name", [
    "IMG_20260102_030405.jpg", "PXL_20260102_030405123.jpg", "2026-01-02 03.04.05.png",
    "Photo 2026-01-02T03-04-05.jpeg", "03-04-05-998877.png", "WIN_20260102_03_04_05_Pro.jpg",
])  # fmt: skip
def test_capture_times_are_read_from_usual_names(name: str) -> None:
    found = sessions.find(examples(f"a/{name}", f"b/{name}"))
    assert found.how.startswith("by the time in the file name")
    assert len(set(found.names)) == 1


def test_a_pause_ends_a_session_and_a_class_does_not() -> None:
    found = sessions.find(burst("a", "12:00") + burst("b", "12:05") + burst("a", "12:30"))
    assert len(set(found.names[:10])) == 1
    assert set(found.names[10:]) == {"12-30-00"}


def test_sub_folders_are_sessions_whatever_the_names_say() -> None:
    found = sessions.find(examples("a/kitchen/12-00-00.png", "a/hall/12-00-01.png"))
    assert found.how == "by sub-folder"
    assert found.names.tolist() == ["kitchen", "hall"]


def test_three_sessions_give_one_to_each_side() -> None:
    taken = days("12:00", "13:00", "14:00")
    split = sessions.split(sessions.find(taken), labels_of(taken))
    assert split.warning == ""
    assert split.sides.tolist() == ["train"] * 10 + ["validation"] * 10 + ["test"] * 10


@pytest.mark.parametrize("clocks", [
    ("09:00",), ("09:00", "10:00"), ("09:00", "10:00", "11:00"),
    ("09:00", "10:00", "11:00", "12:00", "13:00", "14:00", "15:00"),
])  # fmt: skip
def test_no_side_shares_a_session_once_there_are_three(clocks: tuple[str, ...]) -> None:
    taken = days(*clocks)
    found = sessions.find(taken)
    split = sessions.split(found, labels_of(taken))
    for side in sessions.SIDES:
        for label in (0, 1):
            assert ((split.sides == side) & (labels_of(taken) == label)).any()
    shared = [name for name in set(found.names) if len(set(split.sides[found.names == name])) > 1]
    assert bool(shared) == (len(clocks) < 3) == bool(split.warning)


def test_of_two_sessions_the_second_tests_and_nothing_else_does() -> None:
    taken = [*days("09:00"), *days("09:02"), *days("09:04"), *days("09:06"), *days("10:00")]
    split = sessions.split(sessions.find(taken), labels_of(taken))
    assert split.sides[-10:].tolist() == ["test"] * 10
    assert set(split.sides[:-10]) == {"train", "validation"}


def test_a_lone_session_is_cut_by_blocks_of_half_a_minute() -> None:
    clocks = [f"09-{minute:02}-{second:02}" for minute in range(9) for second in range(0, 60, 2)]
    taken = examples(*[f"{label}/{clock}-000000.png" for label in "ab" for clock in clocks])
    split = sessions.split(sessions.find(taken), labels_of(taken))
    assert "cut by blocks of 30 s" in split.how
    assert set(split.sides) == set(sessions.SIDES)
    for side in split.sides.reshape(2, 18, 15):
        assert (side == side[:, :1]).all()


def test_newer_images_move_none_of_the_old_ones() -> None:
    old = days("09:00", "10:00", "11:00")
    before, after = sides(old), sides(old + days("11:01", "12:00", "13:00", "14:00"))
    assert {key: after[key] for key in before} == before


def test_images_without_a_session_move_none_of_the_others_and_bring_a_warning() -> None:
    def taken(n: int) -> list[Example]:
        return examples(*[f"{label}/cat{k}.jpg" for label in "ab" for k in range(n)])

    before, after = sides(taken(50)), sides(taken(80))
    assert {key: after[key] for key in before} == before
    split = sessions.split(sessions.find(taken(50)), labels_of(taken(50)))
    assert "optimistic" in split.warning
    assert 0.4 < np.mean(split.sides == "train") < 0.8


def test_every_side_of_a_tiny_data_set_has_every_class() -> None:
    taken = examples(*[f"{label}/{k}.jpg" for label in "abc" for k in range(3)])
    split = sessions.split(sessions.find(taken), labels_of(taken))
    for label in range(3):
        assert sorted(split.sides[labels_of(taken) == label]) == sorted(sessions.SIDES)


def test_a_class_without_a_session_of_its_own_is_told() -> None:
    taken = days("09:00", "10:00", "11:00") + burst("c", "09:00")
    split = sessions.split(sessions.find(taken), labels_of(taken))
    assert "some images share one" in split.warning
    assert set(split.sides[labels_of(taken) == 2]) == set(sessions.SIDES)


def test_a_list_of_sessions_goes_before_everything_else() -> None:
    kitchen, hall = examples("a/x/12-00-00.png", "a/y/12-00-01.png")
    found = sessions.find([replace(kitchen, session="K"), hall])
    assert found.names.tolist() == ["K", "y"]
    assert found.how == "by sessions.csv; by sub-folder"


def test_capture_times_in_the_images_tell_sessions_where_names_do_not() -> None:
    taken = examples(*[f"{label}/cat{k}.jpg" for label in "ab" for k in range(6)])
    taken_s = np.tile([0, 10, 5_000, 5_010, 9_000, np.nan], 2)
    found = sessions.find(taken, taken_s)
    assert found.how.startswith("by the capture time in the image")
    assert found.names[:5].tolist() == ["00-00-00"] * 2 + ["01-23-20"] * 2 + ["02-30-00"]
    assert found.names[5] == sessions.UNKNOWN
    assert found.how.endswith("those of which nothing is known are one")


def test_pauses_between_uploads_are_the_last_thing_to_ask() -> None:
    taken = examples("a/cat.jpg", "b/dog.jpg", "a/12-00-00.png", "b/12-00-01.png")
    uploaded = [replace(one, uploaded_s=1_000.0 * k) for k, one in enumerate(taken)]
    assert sessions.find(uploaded[:2]).how.startswith("by the time of upload")
    assert sessions.find(uploaded[2:]).how.startswith("by the time in the file name")
    at_once = [replace(one, uploaded_s=5.0) for one in taken[:2]]
    assert sessions.find(at_once).how == ""


def bursts(n_bursts: int, n_frames: int) -> np.ndarray:
    """Features of frames that are nearly the same within a burst."""
    random = np.random.default_rng(0)
    scenes = random.random((n_bursts, 64)) ** 4
    return np.repeat(scenes, n_frames, axis=0) + random.random((n_bursts * n_frames, 64)) * 0.02


def test_near_twins_stay_on_one_side_where_nothing_else_is_known() -> None:
    taken = examples(*[f"{label}/cat{k}.jpg" for label in "ab" for k in range(60)])
    features, labels = bursts(12, 10), labels_of(taken)
    found = sessions.find(taken)
    assert found.needs_likeness
    found = sessions.with_likeness(found, features)
    split = sessions.split(found, labels)
    for burst in range(12):
        assert len(set(split.sides[burst * 10 : burst * 10 + 10])) == 1
    for label in (0, 1):
        of_class = split.sides[labels == label].tolist()
        assert [of_class.count(side) for side in sessions.SIDES] == [40, 10, 10]
    assert "twins were kept together" in split.warning
    assert likeness.twin_share(features, split.rows("test"), split.rows("train")) == 0
    drawn = np.random.default_rng(1).permutation(120)
    assert likeness.twin_share(features, drawn[:24], drawn[24:]) == 1


def test_images_that_all_look_alike_are_not_put_into_one_cluster() -> None:
    alike = np.ones((40, 64)) + np.random.default_rng(0).random((40, 64)) * 0.01
    found = sessions.find(examples(*[f"a/{k}.jpg" for k in range(40)]))
    assert sessions.with_likeness(found, alike).block == ""


@pytest.mark.parametrize("added", [
    days("08:00"), days("10:30"), days("09:09"), days("09:00", "10:00", "10:09", "14:00", "15:00"),
])  # fmt: skip
def test_images_from_before_keep_their_side_whatever_is_added(added: list[Example]) -> None:
    """An older session, one between two others, one that joins two."""
    old = days("09:00", "10:00", "11:00")
    before = sides(old)
    new = {example.key: example for example in [*old, *added]}
    taken = list(new.values())
    known = np.array([before.get(key, "") for key in new], object)
    split = sessions.split(sessions.find(taken), labels_of(taken), known)
    after = dict(zip(new, split.sides.tolist(), strict=True))
    assert {key: after[key] for key in before} == before


def test_a_session_added_to_two_brings_the_side_that_was_missing() -> None:
    old = days("09:00", "10:00")
    before = sides(old)
    taken = old + days("12:00")
    known = np.array([before.get(example.key, "") for example in taken], object)
    split = sessions.split(sessions.find(taken), labels_of(taken), known)
    assert set(split.sides[-10:]) == {"validation"}
    assert "1 sessions stand on two sides" in split.warning
