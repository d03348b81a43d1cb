"""How good and how fast a training is, beside the ways that people train.

    python -m tests.benchmarks.training PHOTOS [--seeds 3] [--only WORD...] [--backbone imagenet|FILE|BUNDLE]

PHOTOS need three sessions. Accuracies are of sessions that were never seen, the mean over the seeds;
what is compared stands side by side in one run, on all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

from jobs import photos
from lib import metrics, samples
from lib.records import ImageRule
from lib.training import augment, dataset, fit, measure, models
from lib.training.dataset import Batches, Dataset
from tests.benchmarks.peak import Peak
from tests.benchmarks.told import tell

N_NEW = 50
N_SHORT = 3
"""Trainings that take seconds are measured so often."""

N_DRAWN_PER_CLASS = 500
N_FEW_PER_CLASS = 10

N_DRAWS = 200
"""Of labels, which tell what chance alone does."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    folder: str
    backbone: str
    seeds: range
    data: Dataset
    sessions: np.ndarray
    drawn: str = ""
    """A folder of images that are learned from and never measured on."""

    def student(self, name: str, seed: int = 0, **recipe: object) -> fit.Student:
        """Return one that learns from all of the photographs."""
        n_classes = len(np.unique(self.data.labels))
        return fit.Student(
            name, self.data, n_classes, fit.Recipe(seed=seed, **recipe), self.backbone
        )

    def data_of(self, rows: np.ndarray) -> Dataset:
        """Return some of the photographs, which nobody has looked at yet."""
        data = self.data
        examples = [data.examples[row] for row in rows]
        return Dataset(data.images[rows], data.labels[rows], examples, data.taken_s[rows], [])

    @property
    def held(self) -> np.ndarray:
        """The rows of the last session, int (n,)."""
        return np.flatnonzero(self.sessions == np.unique(self.sessions)[-1])

    @property
    def rest(self) -> np.ndarray:
        """The rows of the others, int (n,)."""
        return np.setdiff1d(np.arange(len(self.data)), self.held)


def main() -> None:
    """Run the benchmarks and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.training")
    parser.add_argument("photos")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--backbone", default="imagenet")
    parser.add_argument("--only", nargs="+", default=list(BENCHES), choices=list(BENCHES))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HANDFUL_CACHE"] = cache
        bench = Bench(asked.photos, asked.backbone, range(asked.seeds), *loaded(asked.photos))
        for name in asked.only:
            BENCHES[name](bench)


def loaded(folder: str, *extra: str) -> tuple[Dataset, np.ndarray]:
    """Return the images of folders, and the session of each; extra ones have one of their own."""
    found = photos.find([folder], extra)
    data = dataset.load(found.examples, found.classes, ImageRule())
    return data, photos.find_sessions(data.examples, extra, data.taken_s).names.astype(str)


# ---- How good ----------------------------------------------------------------------------------


def sessions_left_out(bench: Bench, name: str, mean_wanted: float, worst_wanted: float) -> None:
    """Leave each session out in turn, with several seeds."""
    rows = photos.measured_rows(bench.data.examples, [bench.drawn])
    labels, sessions = bench.data.labels[rows], bench.sessions[rows]
    found = np.unique(sessions)
    accuracies, errors = [], []
    for seed in bench.seeds:
        student = bench.student(name, seed)
        logits = np.empty((len(rows), student.n_classes), np.float32)
        for session in found:
            held = sessions == session
            learned = measure.leave_out(student, rows[held], fit.NOBODY)
            logits[held] = measure.logits_of(learned, bench.data, rows[held])
        scores = measure.honest_scores(labels, logits, sessions)
        right = scores.argmax(1) == labels
        accuracies.append([right[sessions == one].mean() for one in found])
        errors.append(
            np.mean([calibration(labels[sessions == o], scores[sessions == o]) for o in found], 0)
        )
        told = ", ".join(f"{one:.3f}" for one in accuracies[-1])
        print(f"  {name}, seed {seed}: {told} on sessions {', '.join(found)}", flush=True)
    by_session = np.mean(accuracies, axis=0)
    mean, worst = by_session.mean(), by_session.min()
    more = f"{len(bench.seeds)} seeds: " + ", ".join(f"{one:.3f}" for one in by_session)
    tell(f"{name}, each session left out, mean", mean, f"≥ {mean_wanted}", more, places=3)
    tell(f"{name}, each session left out, worst", worst, f"≥ {worst_wanted}", places=3)
    error, by_chance = np.mean(errors, axis=0)
    more = f"scores that are exactly true would have {by_chance:.3f} on so few images"
    tell(f"{name}, calibration error on the unseen session", error, "≤ 0.03", more, places=3)


def calibration(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the calibration error, and what it would be on average if the scores were true."""
    random = np.random.default_rng(0)
    if_true = [
        (scores.cumsum(axis=1) > random.random((len(scores), 1))).argmax(axis=1)
        for _ in range(N_DRAWS)
    ]
    by_chance = statistics.mean(metrics.calibration_error(drawn, scores) for drawn in if_true)
    return metrics.calibration_error(labels, scores), by_chance


def few_images(bench: Bench, name: str, wanted: str) -> None:
    """Learn from ten images of each class alone, and answer for a session that was never seen."""
    accuracies = []
    for seed in bench.seeds:
        order = np.random.default_rng(seed).permutation(bench.rest)
        classes = (order[bench.data.labels[order] == c] for c in np.unique(bench.data.labels))
        few = np.sort(np.concatenate([rows[:N_FEW_PER_CLASS] for rows in classes]))
        student = replace(bench.student(name, seed), dataset=bench.data_of(few))
        learned = student.learn(np.arange(len(few)))
        accuracies.append(accuracy_by(bench, learned.model, bench.held))
    told = f"{len(bench.seeds)} seeds: " + ", ".join(f"{one:.3f}" for one in accuracies)
    what = f"{name}, {N_FEW_PER_CLASS} images of each class, an unseen session"
    tell(what, statistics.mean(accuracies), wanted, told, places=3)


def small_cnn(bench: Bench) -> None:
    """Leave each session out of what the small CNN learns, which are drawn hands besides."""
    with tempfile.TemporaryDirectory() as drawn:
        samples.write(Path(drawn), N_DRAWN_PER_CLASS, seed=7, varied=True)
        more = loaded(bench.folder, drawn)
        bench = replace(bench, data=more[0], sessions=more[1], drawn=drawn)
        sessions_left_out(bench, "cnn", mean_wanted=0.9, worst_wanted=0.8)


def random_split(bench: Bench) -> None:
    """Measure as the published notebook did: a fifth of the frames, drawn at random."""
    rows = np.arange(len(bench.data))
    recipes = {"frozen": "published recipe (then: 0.991)", "top": "default recipe"}
    for depth, recipe in recipes.items():
        accuracies = []
        for seed in bench.seeds:
            drawn = np.random.default_rng(seed).permutation(rows)
            tested, watched = np.split(drawn[: 2 * (len(rows) // 5)], 2)
            learned = measure.leave_out(
                bench.student("mobilenet", seed, depth=depth), tested, watched
            )
            right = (
                measure.logits_of(learned, bench.data, tested).argmax(1)
                == bench.data.labels[tested]
            )
            accuracies.append(float(right.mean()))
        told = f"{len(bench.seeds)} seeds: " + ", ".join(f"{one:.4f}" for one in accuracies)
        value = statistics.mean(accuracies)
        tell(f"mobilenet, random split, {recipe}", value, "≥ 0.999", told, places=4)


# ---- How fast ----------------------------------------------------------------------------------


def frozen(bench: Bench) -> None:
    """Train the head alone, as published: through kept activations, and as Keras does it."""
    student = bench.student("mobilenet", depth="frozen")
    watch, train = bench.rest[::5], np.setdiff1d(bench.rest, bench.rest[::5])
    rows = np.arange(len(bench.rest))  # the same ones, where no others are looked at
    seen, shown = rows[::5], np.setdiff1d(rows, rows[::5])
    trainings = []
    for _ in range(N_SHORT):
        first, again = alone(bench, student), alone(bench, student)
        with own_cache():
            first_s, learned = timed(partial(first.learn, shown, seen))
            again_s, _ = timed(partial(again.learn, shown, seen))
        trainings.append((first_s, again_s))
    first_s, again_s = np.mean(trainings, axis=0)
    plain_s, model = timed(
        lambda: whole_network(bench, student, train, watch, len(learned.history))
    )
    n_epochs = len(learned.history)
    figures = f"{plain_s:.1f} and {first_s:.1f} s, mean of {N_SHORT}, for {n_epochs} epochs"
    tell("--frozen, Keras fit through the whole network ÷ ours", plain_s / first_s, "≥ 30", figures)
    figures = f"{plain_s:.1f} and {again_s:.1f} s"
    tell(
        "the same where activations are kept: next fold, next run",
        plain_s / again_s,
        "≥ 30",
        figures,
    )
    ours, theirs = (accuracy_by(bench, one, watch) for one in (learned.model, model))
    figures = f"{ours:.4f} and {theirs:.4f}, as published: on a random fifth of the same sessions"
    tell("the same, accuracy, ours - Keras'", ours - theirs, "-0.005 to 0.005", figures, places=4)


def alone(bench: Bench, student: fit.Student) -> fit.Student:
    """Return a student that knows of no images but those of the first sessions."""
    return replace(student, dataset=bench.data_of(bench.rest))


def whole_network(
    bench: Bench, student: fit.Student, train: np.ndarray, watch: np.ndarray, n_epochs: int
) -> keras.Model:
    """Train the head with every image through the whole network in every epoch."""
    keras.utils.set_random_seed(0)
    model = models.mobilenet(student.n_classes, bench.data.images.shape[1], bench.backbone)
    model.compile(
        keras.optimizers.Adam(student.recipe.head_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    stopping = keras.callbacks.EarlyStopping(patience=n_epochs, restore_best_weights=True)
    images, labels = bench.data.images, bench.data.labels
    model.fit(
        np.array(images[train]), labels[train], batch_size=32, epochs=n_epochs, verbose=0,
        validation_data=(np.array(images[watch]), labels[watch]), callbacks=[stopping],
    )  # fmt: skip
    return model


def default_recipe(bench: Bench) -> None:
    """Fine-tune the top: from kept activations, and the ordinary way."""
    seconds: list[tuple[float, float]] = []
    accuracies: list[tuple[float, float]] = []
    for seed in bench.seeds:
        student = bench.student("mobilenet", seed)
        learns = alone(bench, student).learn
        with own_cache():
            ours_s, learned = timed(partial(learns, np.arange(len(bench.rest))))
        plain_s, model = timed(partial(every_view, bench, student, OrdinaryBatches))
        seconds.append((plain_s, ours_s))
        accuracies.append(
            tuple(accuracy_by(bench, one, bench.held) for one in (learned.model, model))
        )
    plain_s, ours_s = np.mean(seconds, axis=0)
    figures = f"{plain_s:.0f} and {ours_s:.0f} s, mean of {len(bench.seeds)} seeds"
    tell("default, every view through the whole network ÷ ours", plain_s / ours_s, "≥ 5", figures)
    ours, theirs = np.mean(accuracies, axis=0)
    told = ", ".join(f"{one:.4f} and {other:.4f}" for one, other in accuracies)
    what = "the same, accuracy, ours - the ordinary way's"
    tell(what, ours - theirs, "≥ -0.005", f"on an unseen session, by seed: {told}", places=4)
    streamed_s, _ = timed(lambda: every_view(bench, student, fit.stream))
    figures = f"{streamed_s:.0f} and {ours_s:.0f} s: Keras' own wrapping idles between epochs"
    tell("the same, batches streamed as ours are", streamed_s / ours_s, more=figures)


class OrdinaryBatches(keras.utils.PyDataset):
    """Batches as a data set of Keras, which is how people feed images that they change."""

    def __init__(self, batches: Batches) -> None:
        super().__init__(workers=1)
        self._batches = batches
        self._epoch = iter(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        return next(self._epoch)

    def on_epoch_begin(self) -> None:
        """Begin a new order."""
        self._epoch = iter(self._batches)


def every_view(bench: Bench, student: fit.Student, fed: Callable[[Batches], object]) -> keras.Model:
    """Fine-tune the same layers at the same rates, a new view of each image in every epoch."""
    recipe = student.recipe
    keras.utils.set_random_seed(recipe.seed)
    model = models.mobilenet(student.n_classes, bench.data.images.shape[1], bench.backbone)
    change = partial(augment.view, limits=augment.LIMITS)
    size = recipe.top_batch_size
    batches = Batches(bench.data, bench.rest, batch_size=size, seed=recipe.seed, change=change)
    for after, rate, n_epochs in (
        (models.POOLED, recipe.head_rate, -(-recipe.head_steps // len(batches))),
        (models.CUT, recipe.top_rate, recipe.top_epochs * recipe.n_views),
    ):
        models.unfreeze(model, after)
        n_steps = n_epochs * len(batches)
        falling = keras.optimizers.schedules.CosineDecay(
            0.0, n_steps - n_steps // 20, warmup_target=rate, warmup_steps=n_steps // 20
        )
        model.compile(
            keras.optimizers.Adam(falling, global_clipnorm=1.0),
            fit.SmoothedCrossentropy(student.n_classes, recipe.label_smoothing),
        )
        model.fit(fed(batches), epochs=n_epochs, verbose=0, shuffle=False)
    return model


def accuracy_by(bench: Bench, model: keras.Model, rows: np.ndarray) -> float:
    """Return the share of right answers on some rows, 0 to 1."""
    answers = model.predict(np.array(bench.data.images[rows]), verbose=0).argmax(1)
    return float(np.mean(answers == bench.data.labels[rows]))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds that work took, and what it returned."""
    started_s = time.monotonic()
    result = work()
    return time.monotonic() - started_s, result


@contextmanager
def own_cache() -> Iterator[None]:
    """Forget all activations that were kept.

    They go when all is over: for minutes after thousands of files were deleted, ext4 takes several
    times as long to create one.
    """
    before = os.environ["HANDFUL_CACHE"]
    os.environ["HANDFUL_CACHE"] = tempfile.mkdtemp(dir=before)
    yield
    os.environ["HANDFUL_CACHE"] = before


def new_images(bench: Bench) -> None:
    """Run jobs.train on all but 50 images, then on all, as processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        some = Path(shutil.copytree(bench.folder, f"{folder}/photos"))
        paths = sorted(path for path in some.rglob("*") if path.suffix == ".png")
        late = random.Random(0).sample(paths, N_NEW)
        for path in late:
            path.rename(f"{folder}/{path.parent.name} {path.name}")
        first_s, first_mb, first = train(bench, folder)
        for path in late:
            Path(f"{folder}/{path.parent.name} {path.name}").rename(path)
        second_s, second_mb, second = train(bench, folder)
    share = second_s / first_s
    figures = f"{second_s:.0f} and {first_s:.0f} s; accuracy {second:.3f} and {first:.3f}"
    tell(f"mobilenet, a training with {N_NEW} new images ÷ the first", share, "≤ 0.333", figures)
    peak_gb = max(first_mb, second_mb) / 1000
    tell("mobilenet, peak memory of a training in GB", peak_gb, "≤ 2")


def train(bench: Bench, folder: str) -> tuple[float, float, float]:
    """Return the seconds, the megabytes at the peak and the accuracy of a run of jobs.train."""
    command = [
        sys.executable, "-m", "jobs.train", f"{folder}/photos", "--registry", f"{folder}/registry",
        "--models", "mobilenet", "--backbone", bench.backbone, "--json",
    ]  # fmt: skip
    environment = os.environ | {"HANDFUL_CACHE": f"{folder}/cache"}
    seconds, (told, peak_mb) = timed(lambda: ran(command, environment))
    (outcome,) = json.loads(told)
    return seconds, peak_mb, outcome["accuracy"]["value"]


def ran(command: list[str], environment: dict[str, str]) -> tuple[str, float]:
    """Run a process to its end; return what it printed and the megabytes it held at the most."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        with Peak(process.pid) as peak:
            told = process.stdout.read()
        if process.wait():
            errors.seek(0)
            sys.exit(errors.read())
    return told, peak.mb


def memory(bench: Bench) -> None:
    """Train for a third and for all of the epochs, each in a process of its own."""
    peaks_mb = []
    for n_epochs in (fit.Recipe().top_epochs // 3, fit.Recipe().top_epochs):
        program = (
            "import sys; from tests.benchmarks import training; "
            f"training.only_train(sys.argv[1], sys.argv[2], {n_epochs})"
        )
        command = [sys.executable, "-c", program, bench.folder, bench.backbone]
        peaks_mb.append(ran(command, dict(os.environ))[1])
    growth = peaks_mb[1] / peaks_mb[0]
    figures = f"{peaks_mb[1]:,.0f} and {peaks_mb[0]:,.0f} MB"
    tell("mobilenet, peak memory of all epochs ÷ of a third", growth, "≤ 1.05", figures)


def only_train(folder: str, backbone: str, n_epochs: int) -> None:
    """Load the photographs and train on all of them."""
    found = photos.find([folder])
    data = dataset.load(found.examples, found.classes, ImageRule())
    student = fit.Student(
        "mobilenet", data, len(found.classes), fit.Recipe(top_epochs=n_epochs), backbone
    )
    student.learn(np.arange(len(data)))


BENCHES: dict[str, Callable[[Bench], None]] = {
    "mobilenet": partial(sessions_left_out, name="mobilenet", mean_wanted=0.985, worst_wanted=0.97),
    "few": partial(few_images, name="mobilenet", wanted="≥ 0.9"),
    "random": random_split,
    "frozen": frozen,
    "default": default_recipe,
    "second": new_images,
    "memory": memory,
    "cnn": small_cnn,
    "cnn-few": partial(few_images, name="cnn", wanted=""),
}

if __name__ == "__main__":
    main()
