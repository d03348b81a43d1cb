"""Versions and the champion: written once, swapped whole, only ever to something sound and better."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import make_dataclass
from pathlib import Path

import numpy as np
import pytest

from lib import bundle, metrics, records, registry, storage
from lib.failures import Broken, Misuse

NAMES = ("cat", "dog", "owl", "pig")

V1 = {"version": "v1"}


def sealed(**fields: object) -> bytes:
    """A state file whose seal is right, whatever its fields are."""
    return records.to_file(make_dataclass("Record", list(fields))(**fields))


def make_version(folder: Path, source: Path, version: str, **changes: object) -> Path:
    """Write a sound bundle that differs from `source` in its card alone."""
    shutil.copytree(source, folder)
    card = json.loads((folder / bundle.CARD).read_text("utf-8"))
    card.pop("seal", None)
    (folder / bundle.CARD).write_text(json.dumps(card | {"version": version} | changes), "utf-8")
    return folder


@pytest.fixture
def sound(trained: Path) -> Path:
    """A bundle's folder."""
    return Path(registry.resolve(str(trained / "cnn")))


@pytest.fixture
def publish(sound: Path, tmp_path: Path, place: str) -> Callable[..., str]:
    """Publish versions by name, promoted in this order, in a folder and in a bucket."""

    def publish(*versions: str, promoted: bool = True) -> str:
        for version in versions:
            registry.publish(
                place, make_version(tmp_path / version, sound, version), "cnn", version
            )
            if promoted:
                registry.promote(place, "cnn", version, f"{version} is better")
        return place

    return publish


def test_a_version_is_written_once(publish: Callable[..., str], sound: Path) -> None:
    where = publish("v1")
    with pytest.raises(storage.AlreadyThere):
        registry.publish(where, sound, "cnn", "v1")
    assert registry.versions(where, "cnn") == ["v1"]


def test_versions_cards_and_names_are_read_cheaply(publish: Callable[..., str]) -> None:
    where = publish("v1", "v2")
    registry.claim(where, "2026-11-23T03:00:00Z", "job")
    assert registry.names(where) == ["cnn"]
    assert registry.versions(where, "cnn") == ["v1", "v2"]
    assert registry.versions(where, "none") == []
    assert registry.card(where, "cnn", "v2").version == "v2"
    with pytest.raises(Misuse, match="has no version v9"):
        registry.card(where, "cnn", "v9")


def test_a_name_stands_for_the_version_promoted_last(publish: Callable[..., str]) -> None:
    where = publish("v1", "v2")
    assert registry.resolve(storage.join(where, "cnn")).endswith("/cnn/v2")
    found = registry.champion(where, "cnn")
    assert [(c["version"], c["reason"]) for c in found.history] == [
        ("v1", "v1 is better"),
        ("v2", "v2 is better"),
    ]


def test_rollback_walks_back_and_a_promotion_goes_on_from_there(
    publish: Callable[..., str],
) -> None:
    where = publish("v1", "v2", "v3")
    assert registry.rollback(where, "cnn", "wrong").version == "v2"
    assert registry.rollback(where, "cnn", "wrong").version == "v1"
    with pytest.raises(Misuse, match="there is no champion before this one"):
        registry.rollback(where, "cnn", "wrong")
    registry.promote(where, "cnn", "v3", "right after all")
    found = registry.rollback(where, "cnn", "no")
    assert found.version == "v1"
    assert [c["version"] for c in found.history] == ["v1", "v2", "v3", "v2", "v1", "v3", "v1"]


def test_promoting_the_champion_changes_nothing(publish: Callable[..., str]) -> None:
    where = publish("v1")
    before = storage.read(storage.join(where, "cnn", registry.POINTER))
    registry.promote(where, "cnn", "v1", "again")
    assert storage.read(storage.join(where, "cnn", registry.POINTER)) == before


def test_of_many_promotions_at_once_one_wins_and_the_others_hear_of_it(
    publish: Callable[..., str],
) -> None:
    where = publish("v0")
    challengers = [f"v{k}" for k in range(1, 7)]
    publish(*challengers, promoted=False)
    barrier, told = threading.Barrier(len(challengers)), {}

    def promote(version: str) -> None:
        barrier.wait()
        try:
            registry.promote(where, "cnn", version, "better")
            told[version] = "won"
        except storage.Changed as error:
            told[version] = str(error)

    threads = [threading.Thread(target=promote, args=(version,)) for version in challengers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [version for version in challengers if told[version] == "won"]
    found = registry.champion(where, "cnn")
    # Whoever read the pointer after another's swap may win as well, but none is lost in silence.
    assert {c["version"] for c in found.history[1:]} == set(winners)
    assert found.version in winners
    for version in set(challengers) - set(winners):
        assert "somebody else changed the champion in this moment" in told[version]


def test_a_promotion_against_a_pointer_that_moved_is_told(
    publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = publish("v1")
    publish("v2", "v3", promoted=False)
    load = bundle.load

    def meanwhile(uri: str) -> bundle.Bundle:
        monkeypatch.setattr(bundle, "load", load)
        registry.promote(where, "cnn", "v3", "I was faster")
        return load(uri)

    monkeypatch.setattr(bundle, "load", meanwhile)
    with pytest.raises(storage.Changed, match="nothing was done here"):
        registry.promote(where, "cnn", "v2", "too late")
    assert registry.champion(where, "cnn").version == "v3"


def test_a_flipped_byte_keeps_a_version_from_the_throne(publish: Callable[..., str]) -> None:
    where = publish("v1")
    publish("v2", promoted=False)
    uri = storage.join(where, "cnn", "v2", bundle.MODEL)
    data = bytearray(storage.read(uri).data)
    data[len(data) // 2] ^= 1
    storage.write(uri, bytes(data))
    with pytest.raises(Broken, match="SHA-256 differs"):
        registry.promote(where, "cnn", "v2", "better")
    assert registry.champion(where, "cnn").version == "v1"


def test_a_damaged_version_is_not_rolled_back_to(publish: Callable[..., str]) -> None:
    where = publish("v1", "v2")
    storage.write(storage.join(where, "cnn", "v1", bundle.GOLDEN), b"spoilt")
    with pytest.raises(Broken, match="SHA-256 differs"):
        registry.rollback(where, "cnn", "wrong")
    assert registry.champion(where, "cnn").version == "v2"


def test_a_training_killed_before_its_card_leaves_no_version(
    publish: Callable[..., str], sound: Path
) -> None:
    where = publish("v1")
    storage.write(
        storage.join(where, "cnn", "v2", bundle.MODEL), (sound / bundle.MODEL).read_bytes()
    )
    assert registry.versions(where, "cnn") == ["v1"]
    with pytest.raises(Misuse, match="has no version v2"):
        registry.promote(where, "cnn", "v2", "better")
    assert registry.resolve(storage.join(where, "cnn")).endswith("v1")


def test_a_publication_that_breaks_off_leaves_no_version(
    place: str, sound: Path, tmp_path: Path
) -> None:
    folder = make_version(tmp_path / "v1", sound, "v1")
    (folder / "zzz").mkdir()  # no file, and so it cannot be copied
    with pytest.raises(IsADirectoryError):
        registry.publish(place, folder, "cnn", "v1")
    assert registry.versions(place, "cnn") == []


def test_a_training_killed_before_its_pointer_leaves_the_champion(
    publish: Callable[..., str],
) -> None:
    where = publish("v1")
    publish("v2", promoted=False)
    assert registry.resolve(storage.join(where, "cnn")).endswith("v1")
    assert registry.versions(where, "cnn") == ["v1", "v2"]


def test_a_lost_pointer_names_the_way_back(sound: Path, tmp_path: Path) -> None:
    registry.publish(str(tmp_path), sound, "cnn", sound.name)
    registry.promote(str(tmp_path), "cnn", sound.name, "first")
    (tmp_path / "cnn" / registry.POINTER).unlink()
    with pytest.raises(Misuse, match="but 1 versions .*`jobs.models promote` makes one champion"):
        registry.resolve(str(tmp_path / "cnn"))
    registry.promote(str(tmp_path), "cnn", sound.name, "again")
    assert registry.resolve(str(tmp_path / "cnn")).endswith(sound.name)


@pytest.mark.parametrize(("damage", "words"), [
    (b"", "it is not JSON"), (b"{", "it is not JSON"), (b"[]", "a JSON object is expected"),
    (b'{"version": "v1", "history": [], "format": 1}', "it has no seal"),
    (sealed(version="v1", history=[])[:-5] + b'0"\n}\n', "its seal differs"),
    (sealed(version="v1", history=[], format=9), "format must be 1. Received: 9"),
    (sealed(version="v1", history=[]), "format must be 1. Received: None"),
    (sealed(version="v1", format=1), "a field is missing or wrong .*history"),
    (sealed(version="v1", history=[], sceptre=1, format=1), "a field is missing or wrong .*sceptre"),
    (sealed(version="v1", history=5, format=1), "a field is missing or wrong .*not iterable"),
    (sealed(version="v1", history=["v1"], format=1), "a field is missing or wrong .*no attribute"),
    (sealed(version="v1", history=[{"reason": "why not"}], format=1), "a field is .*'version'"),
    (sealed(version="v1", history=[{"change": "rollback"}], format=1), "a field is .*empty list"),
    (sealed(version="v2", history=[V1], format=1), "it contradicts itself"),
    (sealed(version="v1", history=[V1, {"change": "rollback"}], format=1), "it contradicts itself"),
    (sealed(version=5, history=[V1], format=1), "it contradicts itself"),
    (sealed(version=5, history=[{"version": 5}], format=1), "must be a plain name"),
    (sealed(version="v1", history=[{"version": "../v0"}, V1], format=1), "must be a plain name"),
])  # fmt: skip
def test_a_damaged_pointer_is_refused_by_name(tmp_path: Path, damage: bytes, words: str) -> None:
    (tmp_path / "cnn").mkdir()
    (tmp_path / "cnn" / registry.POINTER).write_bytes(damage)
    with pytest.raises(Broken, match=f"{registry.POINTER}: .*{words}"):
        registry.champion(str(tmp_path), "cnn")


def test_a_claim_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "monday.json").write_bytes(sealed(owner="job-1", at="now", format=9))
    with pytest.raises(Broken, match="monday.json: format must be 1. Received: 9"):
        registry.claim(str(tmp_path), "monday", "job-1")


def test_a_scheduled_run_belongs_to_whoever_claims_it_first(place: str) -> None:
    assert registry.claim(place, "2026-11-23T03:00:00Z", "job-1")
    assert not registry.claim(place, "2026-11-23T03:00:00Z", "job-2")
    assert registry.claim(place, "2026-11-23T03:00:00Z", "job-1"), "the same job, tried again"
    assert registry.claim(place, "2026-11-30T03:00:00Z", "job-2")


# ---- The gate ---------------------------------------------------------------------------------


def answers(labels: np.ndarray, wrong: list[int]) -> np.ndarray:
    """Return scores that are right but for some rows."""
    given = labels.copy()
    given[wrong] = (given[wrong] + 1) % len(NAMES)
    return np.eye(len(NAMES))[given]


@pytest.mark.parametrize(
    ("n_better", "n_worse", "expected"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (8, 2, 0.109375), (10, 2, 0.03857)],
)
def test_the_paired_test_is_mcnemars_exact_one(
    n_better: int, n_worse: int, expected: float
) -> None:
    assert metrics.mcnemar(n_better, n_worse) == pytest.approx(expected, abs=1e-5)
    assert metrics.mcnemar(n_worse, n_better) == metrics.mcnemar(n_better, n_worse)


def test_the_paired_test_takes_many_images() -> None:
    assert 0 < metrics.mcnemar(5000, 5200) < 0.05


LABELS = np.repeat(np.arange(4), 25)


@pytest.mark.parametrize(
    ("before", "after", "more_data", "promote", "why"),
    [
        (range(0, 100, 5), [], False, True, "better"),
        (range(0, 100, 5), range(0, 100, 7), False, False, "not surely better"),
        (range(0, 100, 5), range(0, 100, 7), True, True, "not worse, from more images"),
        ([], [], False, False, "not surely better"),
        ([], [], True, True, "not worse, from more images"),
        ([], [50], True, False, "not surely better"),
        (range(50, 100), range(3), True, False, "class cat loses 3 of 25 images"),
        (range(50, 100), range(1), True, True, "better"),
        (range(100), range(20, 100), True, False, "not surely better than guessing"),
    ],
)
def test_the_gate_lets_only_what_is_better_through(
    before: list[int], after: list[int], more_data: bool, promote: bool, why: str
) -> None:
    verdict = metrics.gate(
        LABELS, answers(LABELS, list(before)), answers(LABELS, list(after)), NAMES,
        more_data=more_data,
    )  # fmt: skip
    assert verdict.promote == promote, verdict.reason
    assert verdict.reason.startswith(why)
    assert f"right on {100 - len(after)} of 100 held-out images" in verdict.reason


MANY = np.repeat(np.arange(4), 100)


@pytest.mark.parametrize(("n_lost", "promote"), [(5, True), (6, False)])
def test_a_class_may_lose_five_of_a_hundred_images(n_lost: int, promote: bool) -> None:
    before, after = answers(MANY, list(range(300, 400))), answers(MANY, list(range(n_lost)))
    assert metrics.gate(MANY, before, after, NAMES, more_data=False).promote == promote


@pytest.mark.parametrize(("n_better", "promote"), [(5, False), (6, True)])
def test_better_is_what_chance_makes_once_in_twenty_times(n_better: int, promote: bool) -> None:
    before, after = answers(MANY, list(range(n_better))), answers(MANY, [])
    assert metrics.gate(MANY, before, after, NAMES, more_data=False).promote == promote


@pytest.mark.parametrize("more_data", [False, True])
def test_what_is_surely_worse_by_a_little_in_every_class_does_not_lead(more_data: bool) -> None:
    wrong = [row for label in range(4) for row in range(100 * label, 100 * label + 5)]
    before, after = answers(MANY, []), answers(MANY, wrong)
    verdict = metrics.gate(MANY, before, after, NAMES, more_data=more_data)
    assert verdict.p_value < metrics.SIGNIFICANCE
    assert verdict.reason.startswith("not surely better:")
    assert not verdict.promote


def test_the_gate_forgives_a_small_class_one_image() -> None:
    labels = np.repeat(np.arange(4), [40, 40, 40, 3])
    before, after = answers(labels, list(range(0, 80, 4))), answers(labels, [120])
    assert metrics.gate(labels, before, after, NAMES, more_data=False).promote
    after = answers(labels, [120, 121])
    assert not metrics.gate(labels, before, after, NAMES, more_data=False).promote


def test_the_margin_of_a_class_can_be_stated() -> None:
    before, after = answers(LABELS, list(range(50, 100))), answers(LABELS, [0, 1, 2])
    assert metrics.gate(LABELS, before, after, NAMES, more_data=False, margin=0.2).promote


def test_shuffled_labels_make_no_champion() -> None:
    random, promoted = np.random.default_rng(7), 0
    for _ in range(200):
        labels = random.permutation(LABELS)
        guesses = [np.eye(4)[random.integers(0, 4, 100)] for _ in range(2)]
        promoted += metrics.gate(labels, *guesses, NAMES, more_data=True).promote
    assert promoted <= 10


def test_no_image_makes_no_champion() -> None:
    nothing = np.zeros((0, 4))
    verdict = metrics.gate(np.zeros(0, int), nothing, nothing, NAMES, more_data=True)
    assert not verdict.promote
