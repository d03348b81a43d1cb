"""The images of a training run: read and decoded once, kept on disk, served in batches."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from lib import images, storage
from lib.commands import Progress
from lib.failures import Unreadable
from lib.records import ErrorRow, Example, ImageRule
from lib.training import cutout

N_READERS = 8
"""Threads that read and decode; the reading waits for storage, the decoding lets go of the GIL."""


@dataclass(frozen=True)
class Dataset:
    """Decoded images with their labels.

    Attributes:
        images: uint8 (N, size_px, size_px, 3), mapped from an unnamed temporary file, so that
            memory does not grow with the number of images.
        labels: int64 (N,), the index of each image's class.
        examples: where each image came from, N of them.
        taken_s: when each was taken by its EXIF, float (N,), in seconds; NaN if unknown.
        unreadable: the images that could not be decoded, with their reasons.
        looked: what the frozen layers up to a layer made of the images, and at which views; it is
            mapped once for all trainings of a run.
    """

    images: np.ndarray
    labels: np.ndarray
    examples: list[Example]
    taken_s: np.ndarray
    unreadable: list[ErrorRow]
    looked: dict[str, tuple[str, Any]] = field(default_factory=dict, init=False, repr=False)
    _masks: dict[int, np.ndarray | None] = field(default_factory=dict, init=False, repr=False)
    _larger: Dataset | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digests(self) -> list[str]:
        """The SHA-256 of each image's pixels, in hex: what an image is, wherever it lies."""
        return [hashlib.sha256(image).hexdigest() for image in self.images]

    def mask(self, row: int) -> np.ndarray | None:
        """Return where the object of an image is, as `cutout.mask` does; found once, then kept."""
        if self._larger:
            return self._larger.mask(row)
        if row not in self._masks:
            self._masks[row] = cutout.mask(self.images[row])
        return self._masks[row]

    def only(self, rows: np.ndarray) -> Dataset:
        """Return the dataset of some rows, int (n,), ascending.

        It takes over the pixels: the one that it is made from is not to be used any more.
        """
        if len(rows) == len(self):
            return self
        examples = [self.examples[row] for row in rows]
        pixels, labels = _packed(self.images, rows), self.labels[rows]
        return Dataset(pixels, labels, examples, self.taken_s[rows], self.unreadable)

    def shrunk(self, by: int) -> Dataset:
        """Return the same images, each square of `by` pixels a side as its mean.

        Where their objects are is looked for in the larger ones.
        """
        if by == 1:
            return self
        n, height, width, _ = self.images.shape
        with tempfile.TemporaryFile() as file:
            small = np.memmap(file, np.uint8, "w+", shape=(n, height // by, width // by, 3))
        for row, image in enumerate(self.images):
            squares = image.reshape(height // by, by, width // by, by, 3)
            small[row] = squares.mean((1, 3), dtype=np.float32).round()
        return replace(self, images=small, _larger=self)


def load(examples: Sequence[Example], classes: Sequence[str], rule: ImageRule) -> Dataset:
    """Read and decode all examples, through the same door as every prediction.

    Raises:
        Broken: the storage failed; a bad image does not raise, it is listed in `unreadable`.
    """
    shape = (len(examples), rule.size_px, rule.size_px, 3)
    with tempfile.TemporaryFile() as file:
        pixels = np.memmap(file, np.uint8, "w+", shape=shape)
    taken_s = np.full(len(examples), np.nan)
    with Progress("reading", len(examples)) as progress, ThreadPoolExecutor(N_READERS) as pool:

        def fill(row: int) -> ErrorRow | None:
            try:
                blob = storage.read(examples[row].uri, max_bytes=images.MAX_BYTES)
                pixels[row] = images.decode(blob.data, rule)
                taken_s[row] = images.taken_s(blob.data)
            except Unreadable as error:
                return _error_row(examples[row], error)
            finally:
                progress.add()
            return None

        errors = list(pool.map(fill, range(len(examples))))
    readable = [row for row, error in enumerate(errors) if error is None]
    kept = [examples[row] for row in readable]
    index = {name: c for c, name in enumerate(classes)}
    labels = np.array([index[example.label] for example in kept], np.int64)
    unreadable = [error for error in errors if error]
    return Dataset(_packed(pixels, readable), labels, kept, taken_s[readable], unreadable)


def _packed(pixels: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return some images, their rows ascending, moved up in their own file: none is copied."""
    for new, old in enumerate(rows):
        if new != old:
            pixels[new] = pixels[old]
    return pixels[: len(rows)]


def _error_row(example: Example, error: Unreadable) -> ErrorRow:
    return ErrorRow(example.uri, example.etag, {"code": error.code, "message": error.message})


class Batches:
    """Images and labels in a new order every epoch, each image changed by `change` on the way.

    To iterate over it is an epoch.

    Args:
        rows: which rows of the dataset, int (n,).
        n_passes: how often an epoch shows each of them.
        change: a function of one image, uint8 (H, W, 3), a random generator, and `mask`, which
            tells where the image's object is.
    """

    dtype = np.uint8

    def __init__(
        self,
        dataset: Dataset,
        rows: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        n_passes: int = 1,
        change: Callable[..., np.ndarray] | None = None,
    ) -> None:
        self.shape = dataset.images.shape[1:]
        self._dataset = dataset
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._n_passes = n_passes
        self._change = change
        self._n_epochs = 0

    def __len__(self) -> int:
        return -(-len(self._rows) * self._n_passes // self._batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self._n_epochs += 1
        random = np.random.default_rng((self._seed, self._n_epochs))
        order = np.concatenate([random.permutation(self._rows) for _ in range(self._n_passes)])
        for batch in range(len(self)):
            rows = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield self._pixels(rows, batch), self._dataset.labels[rows]

    def _pixels(self, rows: np.ndarray, batch: int) -> np.ndarray:
        pixels = self._dataset.images[rows]
        if not self._change:
            return pixels
        random = np.random.default_rng((self._seed, self._n_epochs, batch))
        masks = map(self._dataset.mask, rows.tolist())
        return np.stack(
            [self._change(x, random, mask=m) for x, m in zip(pixels, masks, strict=True)]
        )
