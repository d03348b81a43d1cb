"""Before a training, whether there is anything new; after it, whether the new version may lead."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from jobs.photos import Photos
from lib import bundle, metrics, registry, sessions, storage
from lib.failures import BadData
from lib.metrics import Verdict
from lib.records import Card

MAX_NEW_SHARE = 0.2
"""With more new images than this share, a training starts from the start."""

MIN_KEPT_SHARE = 0.5
"""A class with less than this share of the champion's images is taken for an accident."""


def is_nothing_new(where: str, name: str, photos: Photos, config: Mapping[str, object]) -> bool:
    """Return whether the newest version learned from the same images by the same recipe.

    A version that won and never became the champion was left by a run that was killed: that one
    does not count.
    """
    versions, champion = registry.versions(where, name), registry.champion(where, name)
    if not versions or champion is None:
        return False
    newest = registry.card(where, name, versions[-1])
    was_champion = any(change["version"] == newest.version for change in champion.history)
    if newest.metrics.get("verdict", {}).get("promote") and not was_champion:
        return False
    same_recipe = all(newest.config.get(key) == value for key, value in config.items())
    return newest.data.get("fingerprint") == photos.fingerprint and same_recipe


def sides_before(where: str, names: Sequence[str], how: str) -> dict[str, str]:
    """Return the side of each image in the newest version's split, by the digest of its pixels.

    Empty where there is none, or where a person tells sessions apart in another way by now.

    Args:
        how: how sessions are told apart now.
    """
    for name in names:
        for version in reversed(registry.versions(where, name)):
            card = registry.card(where, name, version)
            if bundle.SPLIT in card.files:
                is_told_anew = how.startswith(sessions.TOLD) and card.sessions.get("by") != how
                uri = storage.join(where, name, version)
                return {} if is_told_anew else bundle.sides(uri)
    return {}


def to_go_on_from(
    where: str,
    name: str,
    classes: Sequence[str],
    config: Mapping[str, object],
    sides: Mapping[str, str],
) -> Card | None:
    """Return the champion's card where a training may go on from it, and from nothing but a few.

    It learned by the same recipe, most of the images are the ones it knows, and it has learned none
    of those that are to be tested on.

    Args:
        sides: the side that each image has now, by the digest of its pixels.
    """
    champion = registry.champion(where, name)
    if champion is None:
        return None
    card = registry.card(where, name, champion.version)
    if bundle.SPLIT not in card.files or bundle.WEIGHTS not in card.files:
        return None
    asked = {key: card.config.get(key) for key in config}
    if card.classes != tuple(classes) or asked != dict(config):
        return None
    before = bundle.sides(storage.join(where, name, champion.version))
    n_new = len(sides.keys() - before.keys())
    has_moved = any(sides.get(digest, side) != side for digest, side in before.items())
    return None if has_moved or n_new > MAX_NEW_SHARE * len(sides) else card


def check_not_shrunk(where: str, name: str, photos: Photos) -> None:
    """Stop before a training that would forget a class.

    Raises:
        BadData: a class has lost most of the images that the champion learned from.
    """
    champion = registry.champion(where, name)
    if champion is None:
        return
    before = registry.card(where, name, champion.version).data.get("per_class", {})
    for label, n_before in before.items():
        n_now = photos.per_class[label]
        if n_now < MIN_KEPT_SHARE * n_before:
            raise BadData(
                f"class {label} must keep at least {MIN_KEPT_SHARE:.0%} of the {n_before:,} images "
                f"the champion of {name} learned from. Received: {n_now:,} (--force trains anyway)"
            )


def judge(
    where: str, card: Card, labels: np.ndarray, images: np.ndarray, scores: np.ndarray
) -> Verdict:
    """Return whether a new version may lead, before it is published.

    Champion and challenger are compared image by image on what the challenger was measured on.
    Where the pointer is lost, the newest version stands in for the champion.

    Args:
        labels: int (n,).
        images: uint8 (n, H, W, 3), that the challenger had not seen when it was measured.
        scores: what it answered, (n, C).
    """
    champion = registry.champion(where, card.name)
    versions = registry.versions(where, card.name)
    if champion is None and not versions:
        return Verdict(True, "the first version", 1.0, 0, 0)
    version = champion.version if champion else versions[-1]
    before = bundle.load(storage.join(where, card.name, version))
    if before.card.classes != card.classes:
        classes = ", ".join(before.card.classes)
        return Verdict(False, f"the champion has other classes ({classes})", 1.0, 0, 0)
    more_data = card.data["n_images"] > before.card.data["n_images"]
    theirs = _unseen_scores(before, images)
    return metrics.gate(labels, theirs, scores, card.classes, more_data=more_data)


def _unseen_scores(model: bundle.Bundle, images: np.ndarray) -> np.ndarray:
    """Return a champion's scores, those from when it had not seen an image where there are such.

    A champion that was cross-validated has learned from every image by now.
    """
    scores, unseen = model.predict(images), bundle.measured(model)
    for row, image in enumerate(images):
        scores[row] = unseen.get(hashlib.sha256(image).hexdigest(), scores[row])
    return scores
