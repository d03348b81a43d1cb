"""What a training takes over from the version before, and what it has to beat."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs import judge, train
from lib import bundle, records, registry
from lib.records import Card

BY_TIME, BY_FOLDER = "by the time in the file name", "by sub-folder"

BEFORE = {f"{k:064x}": side for k, side in enumerate(["train", "validation", "test"] * 4)}

with np.load(train.SHIPPED / bundle.GOLDEN) as golden:
    IMAGES, SCORES = golden["images"], golden["scores"]
LABELS = SCORES.argmax(1)

Publish = Callable[..., Card]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Publish the model that ships as a version that was trained here, and make it the champion."""

    def publish(measured: np.ndarray = SCORES, **changes: object) -> Card:
        folder = Path(shutil.copytree(train.SHIPPED, tmp_path / "made"))
        card = records.parse_card((folder / bundle.CARD).read_bytes(), bundle.CARD)
        np.savez(folder / bundle.SPLIT, digests=list(BEFORE), sides=list(BEFORE.values()))
        digests = [hashlib.sha256(image).hexdigest() for image in IMAGES]
        np.savez(folder / bundle.MEASURED, digests=digests, scores=measured)
        files = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in {*card.files, bundle.SPLIT, bundle.MEASURED}
        }
        card = replace(card, version="v1", files=files, **changes)
        (folder / bundle.CARD).write_bytes(records.to_file(card))
        registry.publish(str(tmp_path), folder, card.name, "v1")
        registry.promote(str(tmp_path), card.name, "v1", "it is the first")
        return card

    return publish


def digest(n: int) -> str:
    return f"{100 + n:064x}"


@pytest.mark.parametrize(
    ("by", "how", "kept"),
    [
        (BY_TIME, BY_TIME, True),
        (BY_FOLDER, BY_FOLDER, True),
        (BY_FOLDER, BY_TIME, True),
        (BY_TIME, BY_FOLDER, False),
        (BY_FOLDER, "by sessions.csv", False),
    ],
)
def test_sides_are_kept_unless_a_person_tells_sessions_apart_anew(
    tmp_path: Path, publish: Publish, by: str, how: str, kept: bool
) -> None:
    publish(sessions={"by": by})
    found = judge.sides_before(str(tmp_path), ["cnn", "mobilenet"], how)
    assert found == (BEFORE if kept else {})


def goes_on(where: Path, card: Card, sides: dict[str, str], **asked: object) -> bool:
    config = {"depth": "top"} | asked
    found = judge.to_go_on_from(str(where), "mobilenet", card.classes, config, sides)
    return found is not None


def test_a_training_goes_on_where_few_images_are_new(tmp_path: Path, publish: Publish) -> None:
    card = publish(config={"depth": "top"})
    assert goes_on(tmp_path, card, BEFORE)
    assert goes_on(tmp_path, card, BEFORE | {digest(k): "test" for k in range(3)})
    assert not goes_on(tmp_path, card, BEFORE | {digest(k): "test" for k in range(4)})
    assert goes_on(tmp_path, card, dict(list(BEFORE.items())[:6])), "some are gone"


def test_a_training_starts_anew_where_an_image_it_knows_has_moved(
    tmp_path: Path, publish: Publish
) -> None:
    card = publish(config={"depth": "top"})
    learned = next(name for name, side in BEFORE.items() if side == "train")
    assert not goes_on(tmp_path, card, BEFORE | {learned: "test"})


def test_a_training_starts_anew_by_another_recipe_or_for_other_classes(
    tmp_path: Path, publish: Publish
) -> None:
    card = publish(config={"depth": "top"})
    assert not goes_on(tmp_path, card, BEFORE, depth="all")
    assert not goes_on(tmp_path, replace(card, classes=("fist", "palm")), BEFORE)
    assert not goes_on(tmp_path / "nothing here", card, BEFORE)


def judged(where: Path, card: Card) -> judge.Verdict:
    """The verdict on a challenger that is right on every image."""
    scores = np.eye(len(card.classes), dtype=np.float32)[LABELS]
    return judge.judge(str(where), card, LABELS, IMAGES, scores)


def test_a_champion_answers_as_it_did_when_it_had_not_seen_the_image(
    tmp_path: Path, publish: Publish
) -> None:
    wrong = np.roll(SCORES, 1, axis=1)
    card = publish(measured=wrong)
    verdict = judged(tmp_path, card)
    assert (verdict.n_better, verdict.n_worse) == (len(IMAGES), 0)


def test_as_many_images_are_not_more(tmp_path: Path, publish: Publish) -> None:
    card = publish(data={"n_images": 100})
    assert judged(tmp_path, card).reason.startswith("not surely better:")
    more = judged(tmp_path, replace(card, data={"n_images": 101}))
    assert more.promote
    assert more.reason.startswith("not worse, from more images:")


def test_a_model_of_other_classes_waits_for_a_person(tmp_path: Path, publish: Publish) -> None:
    card = publish()
    verdict = judged(tmp_path, replace(card, classes=(*card.classes[:-1], "thumb")))
    assert not verdict.promote
    assert verdict.reason.startswith("the champion has other classes (")
