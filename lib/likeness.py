"""Images that are nearly the same picture, told by what a trained backbone makes of them."""

from __future__ import annotations

import numpy as np

TWIN_COSINE = 0.9
"""Two images are twins if the cosine of their features reaches this. Of 1,380 webcam frames, 93 %
have a twin in their own session and 11 % in another."""

TIGHTER_COSINES = (0.93, 0.96)
"""For images that all look alike, where `TWIN_COSINE` would join nearly all of them."""

N_NEAREST = 8
"""Each image is joined to this many of its nearest at the most."""

N_ROWS = 1024
"""Rows whose likeness to all others is held at a time."""


def clusters(features: np.ndarray) -> np.ndarray:
    """Return the cluster of each image, int (N,): chains of twins, none with over half the images.

    Where even the strictest likeness leaves one such cluster, nothing is told apart and every image
    is a cluster of its own.

    Args:
        features: float (N, D), of a pooled backbone: none of them negative.
    """
    for cosine in (TWIN_COSINE, *TIGHTER_COSINES):
        found = _chains(features, cosine)
        if np.bincount(found).max() <= len(features) / 2:
            return found
    return np.arange(len(features))


def twin_share(features: np.ndarray, rows: np.ndarray, among: np.ndarray) -> float:
    """Return the share, 0 to 1, of the images `rows` that have a twin among the images `among`."""
    if not len(rows) or not len(among):
        return 0.0
    unit = _unit(features)
    best = [
        (unit[part] @ unit[among].T).max(1)
        for part in np.split(rows, range(N_ROWS, len(rows), N_ROWS))
    ]
    return float((np.concatenate(best) >= TWIN_COSINE).mean())


def _unit(features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)


def _chains(features: np.ndarray, cosine: float) -> np.ndarray:
    """Return the number of its first image for all that are joined by a chain of twins."""
    unit = _unit(features)
    first = np.arange(len(unit))
    n_nearest = min(N_NEAREST + 1, len(unit))  # the image itself is one of them
    for start in range(0, len(unit), N_ROWS):
        likeness = unit[start : start + N_ROWS] @ unit.T
        nearest = np.argpartition(likeness, -n_nearest, axis=1)[:, -n_nearest:]
        near = np.take_along_axis(likeness, nearest, axis=1) >= cosine
        for row, column in np.argwhere(near):
            _join(first, start + row, nearest[row, column])
    return np.array([_root(first, row) for row in range(len(first))])


def _join(first: np.ndarray, one: int, other: int) -> None:
    one, other = _root(first, one), _root(first, other)
    first[max(one, other)] = min(one, other)


def _root(first: np.ndarray, row: int) -> int:
    while first[row] != row:
        first[row] = first[first[row]]  # halve the way for whoever asks next
        row = first[row]
    return int(row)
