"""Train both models on folders of images, measure them honestly, put them into the registry."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs import doctor, evaluation, judge, outcome, photos
from jobs.doctor import Finding
from jobs.outcome import Outcome
from jobs.photos import Photos
from lib import bundle, commands, likeness, metrics, registry, storage
from lib.commands import say
from lib.failures import Misuse
from lib.records import Card, ImageRule
from lib.sessions import Sessions, Split

if TYPE_CHECKING:
    from lib.training.dataset import Dataset
    from lib.training.fit import Recipe, Student
    from lib.training.measure import Trained

MODELS = ("cnn", "mobilenet")

SHIPPED = Path(__file__).parents[1] / "demo" / "models" / "mobilenet"
"""The finger counter, whose backbone stands in where ImageNet's weights cannot be had."""


FROM_SHIPPED = "the finger counter that ships"


@dataclass(frozen=True)
class Run:
    """What all models of one run share."""

    arguments: argparse.Namespace
    command: str
    photos: Photos
    dataset: Dataset
    features: np.ndarray
    """What a backbone makes of each image, float32 (N, D)."""
    sessions: Sessions
    split: Split
    recipe: Recipe
    findings: list[Finding]

    @property
    def measured_rows(self) -> np.ndarray:
        """The rows of all images but the extra ones, int (n,)."""
        return photos.measured_rows(self.dataset.examples, self.arguments.extra)

    @property
    def sides(self) -> dict[str, str]:
        """The side of each image by the digest of its pixels; empty where all are learned from.

        Extra images are on the train side, and stay there should they be measured on one day.
        """
        if self.arguments.cross_validate:
            return {}
        return dict(zip(self.dataset.digests, self.split.sides.tolist(), strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(argv)
    found = photos.find(arguments.source, arguments.extra)
    _tell_photos(found)
    if arguments.dry_run:
        groups = photos.find_sessions(found.examples, arguments.extra)
        _tell_split(photos.split(groups, found.examples, found.classes, arguments.extra))
        return

    names = _with_something_new(arguments, found)
    if not names:
        say("nothing new: the newest versions learned from these images, by this recipe (--force)")
        outcome.tell([], arguments.json)
        return

    from lib.training import dataset, fit

    loaded = dataset.load(found.examples, found.classes, ImageRule())
    for row in loaded.unreadable:
        say(f"unreadable: {row.uri}: {row.error['message']}")
    photos.check_readable(found, loaded.examples, loaded.unreadable)
    checkup = doctor.examine(found, loaded.digests, loaded.examples, loaded.unreadable)
    doctor.tell("data", checkup.findings)
    doctor.check(found, loaded.examples, checkup)
    loaded = loaded.only(checkup.rows)
    recipe = fit.Recipe(depth=arguments.depth, seed=arguments.seed)
    features = _features(loaded, recipe, arguments.backbone)
    groups, split = _split(arguments, found, loaded, features)
    _tell_split(split)
    command = shlex.join(["python", "-m", "jobs.train", *argv])
    run = Run(arguments, command, found, loaded, features, groups, split, recipe, checkup.findings)
    outcome.tell([_train(name, run) for name in names], arguments.json)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m jobs.train",
        description=__doc__,
        example="python -m jobs.train photos --registry registry",
    )
    layout = (
        "a folder or s3://bucket/prefix that holds <class>/<image> or <class>/<session>/<image>"
    )
    parser.add_argument("source", nargs="+", metavar="SOURCE", help=layout)
    parser.add_argument(
        "--extra",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="more images, such as drawn ones, to learn from and never to measure on",
    )
    parser.add_argument("--registry", required=True, help="where the models go: a folder or s3://…")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument(
        "--frozen",
        dest="depth",
        action="store_const",
        const="frozen",
        help="the published recipes: no augmentation, and of MobileNetV2 the head alone",
    )
    depth.add_argument(
        "--fine-tune",
        dest="depth",
        action="store_const",
        const="all",
        help="train every convolution of MobileNetV2 in the end (slower)",
    )
    parser.set_defaults(depth="top")
    parser.add_argument(
        "--backbone",
        default="imagenet",
        help="where MobileNetV2 starts: imagenet (the default), none, a Keras .h5 FILE or a BUNDLE",
    )
    parser.add_argument(
        "--cross-validate",
        action="store_true",
        help="leave each session out in turn to measure, then learn from all of them",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="train from the start, even where nothing is new, few images are, or a class shrank",
    )
    parser.add_argument(
        "--no-pictures",
        action="store_true",
        help="keep no photograph in the bundle: for models that are given to others",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same numbers")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--dry-run", action="store_true", help="look at the data, train nothing")
    return parser


def _asked(arguments: argparse.Namespace) -> dict[str, object]:
    """Return what of a command changes the bundle, besides the images."""
    names = ("depth", "seed", "backbone", "cross_validate", "no_pictures")
    return {"asked": {name: getattr(arguments, name) for name in names}}


def _with_something_new(arguments: argparse.Namespace, found: Photos) -> list[str]:
    """Return the models that are worth training, after the checks that cost nothing."""
    if arguments.force:
        return arguments.models
    where, asked = arguments.registry, _asked(arguments)
    names = [n for n in arguments.models if not judge.is_nothing_new(where, n, found, asked)]
    for name in names:
        judge.check_not_shrunk(where, name, found)
    return names


def _tell_photos(found: Photos) -> None:
    say(f"found {len(found.examples):,} images in {len(found.classes)} classes: "
        f"{_counts(found.per_class)}")  # fmt: skip
    if found.ignored:
        say(f"ignored {found.ignored.total()} other files: {_counts(found.ignored)}")


def _tell_split(split: Split) -> None:
    say(f"split: {split.how}; {_counts(Counter(split.sides.tolist()))} images")
    if split.warning:
        say(f"warning: {split.warning}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items()))


def _features(dataset: Dataset, recipe: Recipe, backbone: str) -> np.ndarray:
    """Return what a backbone that knows pictures makes of each image, float32 (N, D)."""
    from lib.training import activations, models

    try:
        start = _start("imagenet" if backbone == "none" else backbone)
        return activations.features(dataset, recipe, start)
    except models.NoWeights:
        return activations.features(dataset, recipe, bundle.weights(str(SHIPPED)))


def _split(
    arguments: argparse.Namespace, found: Photos, dataset: Dataset, features: np.ndarray
) -> tuple[Sessions, Split]:
    """Return the sessions and sides of all images; those of an earlier run keep their side."""
    examples, extra = dataset.examples, arguments.extra
    groups = photos.find_sessions(examples, extra, dataset.taken_s)
    if groups.needs_likeness:
        groups = photos.with_likeness(groups, examples, extra, features)
    kept = judge.sides_before(arguments.registry, arguments.models, groups.how)
    before = np.array([kept.get(digest, "") for digest in dataset.digests], object)
    return groups, photos.split(groups, examples, found.classes, extra, before)


def _train(name: str, run: Run) -> Outcome:
    started_s = time.monotonic()
    before = _to_go_on_from(name, run)
    trained, backbone = _go_on(name, run, before) if before else _learn(name, run)
    measured = _measured(run, trained)
    measured["random_split"] = (
        before.metrics["random_split"] if before else _on_random_split(name, run, trained, backbone)
    )
    card = _card(name, run, trained, measured, backbone)
    verdict = _publish(name, run, trained, card)
    return Outcome(
        model=name,
        version=card.version,
        accuracy=metrics.Accuracy(**measured["accuracy"]),
        how=trained.how,
        worst_session=min(one["accuracy"] for one in measured["per_session"].values()),
        twin_share=measured["twin_share"],
        random_split=measured["random_split"],
        seconds=time.monotonic() - started_s,
        verdict=f"{'champion' if verdict.promote else 'candidate'}: {verdict.reason}",
    )


def _measured(run: Run, trained: Trained) -> dict[str, Any]:
    labels, scores = run.dataset.labels[trained.rows], trained.measured
    sessions = run.sessions.names[trained.rows].astype(str) if run.sessions.how else None
    return {
        **evaluation.figures(labels, scores, trained.threshold, run.photos.classes),
        "per_session": evaluation.per_session(labels, scores, sessions),
        "how": trained.how,
        "twin_share": _twin_share(trained, run),
    }


def _publish(name: str, run: Run, trained: Trained, card: Card) -> metrics.Verdict:
    """Put a version into the registry, and let it lead if it may."""
    from lib.training import export, pictures

    where, images = run.arguments.registry, run.dataset.images[trained.rows]
    labels = run.dataset.labels[trained.rows]
    verdict = judge.judge(where, card, labels, images, trained.measured)
    findings = [asdict(finding) for finding in run.findings + _suspects(name, labels, trained, run)]
    card = replace(
        card,
        metrics=card.metrics | {"verdict": asdict(verdict)},
        data=card.data | {"findings": findings},
    )
    keeps_none = run.arguments.no_pictures
    mistakes = [] if keeps_none else pictures.worst(run.dataset, trained, card.classes)
    with tempfile.TemporaryDirectory() as folder:
        export.write(trained, card, Path(folder), images, run.sides, mistakes)
        registry.publish(where, Path(folder), name, card.version)
    if verdict.promote:
        registry.promote(where, name, card.version, verdict.reason)
    return verdict


def _learn(name: str, run: Run) -> tuple[Trained, str]:
    """Train a model and return it with a word on the backbone it started from."""
    from lib.training import models

    if name == "cnn":
        return _measure(name, run, "none"), "none"
    asked = run.arguments.backbone
    try:
        return _measure(name, run, _start(asked)), asked
    except models.NoWeights as error:
        if not (SHIPPED / bundle.CARD).is_file():
            raise
        say(
            "WARNING: MobileNetV2 goes on from the backbone of the finger counter that ships: "
            f"{error}"
        )
        return _measure(name, run, bundle.weights(str(SHIPPED))), FROM_SHIPPED


def _measure(name: str, run: Run, start: str | Mapping[str, np.ndarray]) -> Trained:
    from lib.training import measure

    student = _student(name, run, start)
    if not run.arguments.cross_validate:
        return measure.on_held_out(student, run.split)
    rows = run.measured_rows
    if not run.sessions.how or len(np.unique(run.sessions.names[rows])) < 2:
        raise Misuse("--cross-validate needs at least 2 sessions, and they could not be told apart")
    return measure.cross_validated(student, run.sessions.names.astype(str), rows)


def _student(
    name: str,
    run: Run,
    start: str | Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray] | None = None,
) -> Student:
    from lib.training import fit

    return fit.Student(name, run.dataset, len(run.photos.classes), run.recipe, start, before)


def _to_go_on_from(name: str, run: Run) -> Card | None:
    """Return the card of the champion that a training goes on from, if it may."""
    if name != "mobilenet" or run.arguments.depth != "top" or run.arguments.force or not run.sides:
        return None
    where, asked = run.arguments.registry, _asked(run.arguments)
    return judge.to_go_on_from(where, name, run.photos.classes, asked, run.sides)


def _go_on(name: str, run: Run, before: Card) -> tuple[Trained, str]:
    """Let the champion learn the new images too, and return it with a word on its backbone."""
    from lib.training import measure

    say(f"{name} goes on from {before.version}: few images are new (--force starts anew)")
    uri = storage.join(run.arguments.registry, name, before.version)
    student = _student(name, run, _backbone(before.config["backbone"]), bundle.weights(uri))
    trained = measure.gone_on(student, run.split, before.temperature, before.threshold)
    return trained, before.config["backbone"]


def _backbone(word: str) -> str | Mapping[str, np.ndarray]:
    """Return the backbone that a card names."""
    return bundle.weights(str(SHIPPED)) if word == FROM_SHIPPED else _start(word)


def _on_random_split(name: str, run: Run, trained: Trained, backbone: str) -> dict[str, float]:
    """Return the accuracy that a random split would have shown, and why it is too good."""
    from lib.training import measure

    start = "none" if name == "cnn" else _backbone(backbone)
    n_folds = 1
    if run.arguments.cross_validate:  # every image was left out once
        n_folds = len(np.unique(run.sessions.names[trained.rows]))
    n_test = len(trained.rows) // n_folds
    rows, scores = measure.on_random_split(
        _student(name, run, start), run.measured_rows, n_test, trained.n_epochs
    )
    rest = np.setdiff1d(run.measured_rows, rows)
    accuracy = metrics.accuracy(run.dataset.labels[rows], scores)
    return asdict(accuracy) | {"twin_share": likeness.twin_share(run.features, rows, rest)}


def _twin_share(trained: Trained, run: Run) -> float:
    """Return the share of the images measured on with a near twin among those learned from."""
    names = run.sessions.names[trained.rows]
    held_out = (
        [trained.rows[names == name] for name in np.unique(names)]
        if run.arguments.cross_validate
        else [trained.rows]
    )
    n_twins = sum(
        len(rows) * likeness.twin_share(run.features, rows, np.setdiff1d(run.measured_rows, rows))
        for rows in held_out
    )
    return round(n_twins / len(trained.rows), 4)


def _suspects(name: str, labels: np.ndarray, trained: Trained, run: Run) -> list[Finding]:
    """Return the images whose labels this model doubts, after telling of them."""
    examples = [run.dataset.examples[row] for row in trained.rows]
    found = doctor.suspects(labels, trained.measured, examples, run.photos.classes)
    if found:
        doctor.tell(name, found)
    return found


def _start(backbone: str) -> str | Mapping[str, np.ndarray]:
    if backbone in ("imagenet", "none"):
        return backbone
    if not backbone.endswith(".h5"):
        return bundle.weights(registry.resolve(backbone))
    if not Path(backbone).is_file():
        raise Misuse(
            f"--backbone must be imagenet, none, an .h5 FILE or a BUNDLE: no file {backbone}"
        )
    return backbone


def _card(
    name: str, run: Run, trained: Trained, measured: dict[str, object], backbone: str
) -> Card:
    from lib.training import export

    return Card(
        name=name,
        version=_version(run),
        classes=run.photos.classes,
        image=ImageRule(),
        threshold=trained.threshold,
        temperature=trained.temperature,
        metrics=measured,
        data={
            "sources": run.arguments.source,
            "extra": run.arguments.extra,
            "fingerprint": run.photos.fingerprint,
            "n_images": len(run.dataset),
            "n_extra": len(run.dataset) - len(run.measured_rows),
            "per_class": dict(sorted(Counter(e.label for e in run.dataset.examples).items())),
            "n_unreadable": len(run.dataset.unreadable),
            "ignored": dict(run.photos.ignored),
        },
        sessions={
            "how": run.split.how,
            "by": run.sessions.how,
            "warning": run.split.warning,
            "n_images": dict(Counter(run.split.sides.tolist())),
        },
        config={
            "command": run.command,
            "backbone": backbone,
            **_asked(run.arguments),
            **asdict(run.recipe),
        },
        libraries=export.libraries(),
    )


def _version(run: Run) -> str:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    asked = f"{run.photos.fingerprint} {run.command} {now}"
    return f"{now}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    commands.run(main)
