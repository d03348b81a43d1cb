"""Sessions, and splits that keep them together."""

from __future__ import annotations

import numpy as np
import pytest

from lib import sessions
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
