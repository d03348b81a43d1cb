"""What frozen layers make of an image never changes: it is computed once and kept.

    <cache>/<what was looked through, and at which views>/<digest of the pixels>.npy
                                                         /frozen.tflite

The next training on the same images, or on some more, computes only what is new.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import queue
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import keras
import numpy as np

from lib.bundle import N_INTERPRETERS
from lib.commands import Progress
from lib.training import augment, cutout, models
from lib.training.dataset import Dataset
from lib.training.litert import convert_function, function

if TYPE_CHECKING:
    from lib.training.fit import Recipe


@dataclass(frozen=True)
class Looked:
    """Activations of every view of every image.

    Attributes:
        outputs: float16 (N, V, ...), mapped from an unnamed temporary file; view 0 is the image.
        labels: int64 (N,).
    """

    outputs: np.ndarray
    labels: np.ndarray


def cache_folder() -> Path:
    """Return where activations are kept: `HANDFUL_CACHE`, or a folder in the user's cache."""
    chosen = os.environ.get("HANDFUL_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "handful"


def look(model: keras.Model, layer: str, dataset: Dataset, recipe: Recipe, n_views: int) -> Looked:
    """Return what a model's layers up to `layer` make of each image and of other views of it.

    All cores work through LiteRT, which runs frozen layers several times faster than TensorFlow.
    """
    frozen = keras.Model(model.input, model.get_layer(layer).output)
    key = _key(frozen, layer, recipe, n_views)
    if dataset.looked.get(layer, ("", None))[0] != key:
        dataset.looked[layer] = key, _look(frozen, dataset, recipe.seed, n_views, key)
    return dataset.looked[layer][1]


def _look(frozen: keras.Model, dataset: Dataset, seed: int, n_views: int, key: str) -> Looked:
    shape = (len(dataset), n_views, *frozen.output_shape[1:])
    with tempfile.TemporaryFile() as file:
        outputs = np.memmap(file, np.float16, "w+", shape=shape)
    kept = cache_folder() / key
    kept.mkdir(parents=True, exist_ok=True)
    paths = [kept / f"{digest}.npy" for digest in dataset.digests]
    missing = [row for row, path in enumerate(paths) if not _recall(path, outputs[row])]
    if missing:
        _compute(frozen, dataset, seed, outputs, paths, missing)
    return Looked(outputs, dataset.labels)


def features(dataset: Dataset, recipe: Recipe, start: str | Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what a backbone makes of each image, float32 (N, D).

    Args:
        start: the backbone, as `models.mobilenet` takes it.

    Raises:
        NoWeights: ImageNet's weights cannot be found.
    """
    model = models.mobilenet(2, dataset.images.shape[1], start)
    return look(model, models.POOLED, dataset, recipe, n_views=1).outputs[:, 0].astype(np.float32)


def _key(frozen: keras.Model, layer: str, recipe: Recipe, n_views: int) -> str:
    """Return a digest of all that the activations depend on but the image."""
    digest = hashlib.sha256(repr((layer, n_views, recipe.seed, frozen.input_shape)).encode())
    if n_views > 1:
        for drawing in (augment, cutout):
            digest.update(inspect.getsource(drawing).encode())
    for weight in frozen.weights:
        digest.update(np.asarray(weight).tobytes())
    return digest.hexdigest()[:32]


def _recall(path: Path, output: np.ndarray) -> bool:
    """Fill in what was kept, and tell whether it was there whole."""
    try:
        kept = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    if kept.shape != output.shape or kept.dtype != output.dtype:
        return False
    output[:] = kept
    return True


def _compute(
    frozen: keras.Model,
    dataset: Dataset,
    seed: int,
    outputs: np.ndarray,
    paths: list[Path],
    rows: list[int],
) -> None:
    n_views = outputs.shape[1]
    runners: queue.SimpleQueue[Any] = queue.SimpleQueue()
    content = _converted(frozen, paths[0].parent / "frozen.tflite")
    for _ in range(N_INTERPRETERS):
        runners.put(function(content))
    with (
        Progress("looking", len(rows) * n_views, "views") as progress,
        ThreadPoolExecutor(N_INTERPRETERS) as pool,
    ):

        def look_at(row: int) -> None:
            image = dataset.images[row]
            mask = dataset.mask(row) if n_views > 1 else None
            runner = runners.get()
            try:
                for view in range(n_views):
                    random = _random(paths[row], seed, view)
                    pixels = augment.view(image, random, mask=mask) if view else image
                    outputs[row, view] = runner(pixels)
            finally:
                runners.put(runner)  # or the other threads would wait for it for ever
            _keep(paths[row], lambda file: np.save(file, outputs[row], allow_pickle=False))
            progress.add(n_views)

        list(pool.map(look_at, rows))


def _random(path: Path, seed: int, view: int) -> np.random.Generator:
    """Return the random numbers of one view: of the image's content, wherever it stands."""
    return np.random.default_rng((int(path.stem[:16], 16), seed, view))


def _converted(frozen: keras.Model, path: Path) -> bytes:
    """Return frozen layers as a LiteRT model; the conversion takes seconds, so it is kept too."""
    if not path.exists():
        content = convert_function(frozen)
        _keep(path, lambda file: file.write(content))
    return path.read_bytes()


def _keep(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        write(file)
    os.replace(file.name, path)  # whole or absent, whoever else writes it


class ActivationBatches:
    """Activations and labels in a new order every epoch.

    To iterate over it is an epoch, which shows every view of each image once.
    """

    dtype = np.float32

    def __init__(self, looked: Looked, rows: np.ndarray, *, batch_size: int, seed: int) -> None:
        self.shape = looked.outputs.shape[2:]
        self._looked = looked
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._n_shown = len(rows) * looked.outputs.shape[1]
        self._n_epochs = 0

    def __len__(self) -> int:
        return -(-self._n_shown // self._batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = np.random.default_rng((self._seed, self._n_epochs)).permutation(self._n_shown)
        self._n_epochs += 1
        for start in range(0, self._n_shown, self._batch_size):
            shown = order[start : start + self._batch_size]
            images, views = np.divmod(shown, self._looked.outputs.shape[1])
            rows = self._rows[images]
            yield self._looked.outputs[rows, views].astype(self.dtype), self._looked.labels[rows]
