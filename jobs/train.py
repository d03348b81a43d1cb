"""Train both models on folders of images, measure them honestly, put them into the registry."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from lib import bundle, commands, images, metrics, registry, sessions, storage
from lib.commands import say
from lib.failures import BadData, Misuse
from lib.records import Card, Example, ImageRule

if TYPE_CHECKING:
    from lib.training.dataset import Dataset
    from lib.training.fit import Recipe, Trained

MODELS = ("cnn", "mobilenet")

MIN_IMAGES_PER_CLASS = 3
"""One to learn from, one to stop by, one to test on."""

MAX_UNREADABLE_SHARE = 0.1
"""More unreadable images than this share mean that something else is wrong."""

SHIPPED = Path(__file__).parents[1] / "demo" / "models" / "mobilenet"
"""The finger counter, whose backbone stands in where ImageNet's weights cannot be had."""


@dataclass(frozen=True)
class Found:
    """What lies in the sources: images of classes, and how many other files, by their ending."""

    examples: list[Example]
    ignored: Counter[str]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in alphabetical order: the order of the scores."""
        return tuple(sorted({example.label for example in self.examples}))

    @property
    def fingerprint(self) -> str:
        """A digest of every image's place and etag: unchanged data has the same."""
        lines = sorted(f"{example.key}\t{example.etag}" for example in self.examples)
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What one training left behind: a row of the table."""

    model: str
    version: str
    accuracy: metrics.Accuracy
    seconds: float
    verdict: str


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    found = find(arguments.source)
    _check(found, arguments.source)
    _tell(found)
    if arguments.dry_run:
        say(_split(found.examples, found.classes).how)
        return

    from lib.training import dataset

    loaded = dataset.load(found.examples, found.classes, ImageRule())
    _check_readable(loaded, found)
    split = _split(loaded.examples, found.classes)
    say(f"split: {split.how}; {_counts(Counter(split.sides.tolist()))} images")
    if split.warning:
        say(f"warning: {split.warning}")
    command = shlex.join(
        ["python", "-m", "jobs.train", *(argv if argv is not None else sys.argv[1:])]
    )
    outcomes = [_train(name, arguments, found, loaded, split, command) for name in arguments.models]
    _print(outcomes, arguments.json)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m jobs.train",
        description=__doc__,
        example="python -m jobs.train photos --registry registry",
    )
    parser.add_argument(
        "source",
        nargs="+",
        help="a folder or s3://bucket/prefix that holds <class>/<image> "
        "or <class>/<session>/<image>",
    )
    parser.add_argument("--registry", required=True, help="where the models go: a folder or s3://…")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument(
        "--fine-tune", action="store_true", help="train every convolution of MobileNetV2 in the end"
    )
    depth.add_argument(
        "--frozen", action="store_true", help="train the head of MobileNetV2 alone (the default)"
    )
    parser.add_argument(
        "--backbone",
        default="imagenet",
        help="where MobileNetV2 starts: imagenet (the default), none, a Keras .h5 FILE or a BUNDLE",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same numbers")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--dry-run", action="store_true", help="look at the data, train nothing")
    return parser


def find(sources: Sequence[str]) -> Found:
    """List the images below the sources; a class is the first folder below its source."""
    examples, ignored = [], Counter[str]()
    for source in sources:
        for entry in storage.entries(source):
            key = storage.relative(entry.uri, source)
            label, _, rest = key.partition("/")
            hidden = any(part.startswith(".") for part in key.split("/"))
            if rest and not hidden and images.has_image_extension(key):
                examples.append(Example(entry.uri, entry.etag, key, label))
            else:
                ignored["hidden" if hidden else PurePosixPath(key).suffix.lower() or key] += 1
    return Found(examples, ignored)


def _check(found: Found, sources: Sequence[str]) -> None:
    where = ", ".join(sources)
    if not found.examples:
        raise BadData(f"{where}: images must lie in <class>/<image>. Found: no image in any folder")
    per_class = Counter(example.label for example in found.examples)
    if len(per_class) < 2:
        raise BadData(f"{where}: classes must be at least 2. Received: 1 ({next(iter(per_class))})")
    for name, n_images in sorted(per_class.items()):
        if n_images < MIN_IMAGES_PER_CLASS:
            raise BadData(
                f"{where}: a class needs at least {MIN_IMAGES_PER_CLASS} images. "
                f"Received: {n_images} ({name})"
            )


def _check_readable(loaded: Dataset, found: Found) -> None:
    for row in loaded.unreadable:
        say(f"unreadable: {row.uri}: {row.error['message']}")
    n_unreadable, n_images = len(loaded.unreadable), len(found.examples)
    if n_unreadable > MAX_UNREADABLE_SHARE * n_images:
        raise BadData(
            f"at most {MAX_UNREADABLE_SHARE:.0%} of the images may be unreadable. "
            f"Received: {n_unreadable} of {n_images}"
        )
    kept = Counter(example.label for example in loaded.examples)
    for name in found.classes:
        if kept[name] < MIN_IMAGES_PER_CLASS:
            raise BadData(
                f"a class needs at least {MIN_IMAGES_PER_CLASS} readable images. "
                f"Received: {kept[name]} ({name})"
            )


def _tell(found: Found) -> None:
    per_class = Counter(example.label for example in found.examples)
    say(f"found {len(found.examples)} images in {len(per_class)} classes: {_counts(per_class)}")
    if found.ignored:
        say(f"ignored {found.ignored.total()} other files: {_counts(found.ignored)}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))


def _split(examples: Sequence[Example], classes: Sequence[str]) -> sessions.Split:
    labels = np.array([classes.index(example.label) for example in examples])
    return sessions.split(sessions.find(examples), labels)


def _train(
    name: str,
    arguments: argparse.Namespace,
    found: Found,
    loaded: Dataset,
    split: sessions.Split,
    command: str,
) -> Outcome:
    from lib.training import export, fit

    started_s = time.monotonic()
    recipe = fit.Recipe(fine_tune=arguments.fine_tune, seed=arguments.seed)
    sides = fit.Sides(split.rows("train"), split.rows("validation"))
    trained, backbone = _fit(name, arguments.backbone, loaded, sides, len(found.classes), recipe)
    test = split.rows("test")
    scores = trained.scores(loaded.images[test])
    accuracy = metrics.accuracy(loaded.labels[test], scores)
    card = Card(
        name=name,
        version=_version(found, recipe),
        classes=found.classes,
        image=ImageRule(),
        threshold=trained.threshold,
        temperature=trained.temperature,
        metrics=_measured(loaded.labels[test], scores, found.classes),
        data={
            "sources": arguments.source,
            "fingerprint": found.fingerprint,
            "n_images": len(loaded),
            "per_class": dict(sorted(Counter(e.label for e in loaded.examples).items())),
            "n_unreadable": len(loaded.unreadable),
            "ignored": dict(found.ignored),
        },
        sessions={
            "how": split.how,
            "warning": split.warning,
            "n_images": Counter(split.sides.tolist()),
        },
        config={"command": command, "backbone": backbone, **asdict(recipe)},
        libraries=export.libraries(),
    )
    with tempfile.TemporaryDirectory() as folder:
        export.write(trained, card, Path(folder), loaded.images[split.rows("validation", "test")])
        registry.publish(arguments.registry, Path(folder), name, card.version)
    verdict = _judge(arguments.registry, card, loaded, test, accuracy)
    return Outcome(name, card.version, accuracy, time.monotonic() - started_s, verdict)


def _fit(
    name: str, backbone: str, loaded: Dataset, sides: object, n_classes: int, recipe: Recipe
) -> tuple[Trained, str]:
    """Train a model and return it with a word on the backbone it started from."""
    from lib.training import fit, models

    if name == "cnn":
        return fit.cnn(loaded, sides, n_classes, recipe), "none"
    start = _backbone(backbone)
    try:
        return fit.mobilenet(loaded, sides, n_classes, recipe, start), backbone
    except models.NoWeights as error:
        if not (SHIPPED / bundle.CARD).is_file():
            raise
        say(
            f"WARNING: MobileNetV2 goes on from the backbone of the finger counter that ships: {error}"
        )
        start = bundle.weights(str(SHIPPED))
        return fit.mobilenet(loaded, sides, n_classes, recipe, start), "finger counter that ships"


def _backbone(backbone: str) -> str | Mapping[str, np.ndarray]:
    if backbone in ("imagenet", "none"):
        return backbone
    if backbone.endswith(".h5"):
        if not Path(backbone).is_file():
            raise Misuse(
                f"--backbone must be imagenet, none, an .h5 FILE or a BUNDLE. No file {backbone}"
            )
        return backbone
    return bundle.weights(registry.resolve(backbone))


def _version(found: Found, recipe: Recipe) -> str:
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    asked = f"{found.fingerprint} {asdict(recipe)} {now}"
    return f"{now}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def _measured(labels: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> dict[str, object]:
    return {
        "accuracy": asdict(metrics.accuracy(labels, scores)),
        "calibration_error": round(metrics.calibration_error(labels, scores), 4),
        "log_loss": round(metrics.log_loss(labels, scores), 4),
        "per_class": dict(zip(classes, metrics.per_class(labels, scores), strict=True)),
        "confusion": metrics.confusion(labels, scores).tolist(),
    }


def _judge(
    where: str, card: Card, loaded: Dataset, test: np.ndarray, accuracy: metrics.Accuracy
) -> str:
    """Promote the new version unless the champion does better on the same held-out images."""
    champion = registry.champion(where, card.name)
    if champion is None:
        registry.promote(where, card.name, card.version, "the first version")
        return "champion"
    before = bundle.load(storage.join(where, card.name, champion.version))
    if before.card.classes != card.classes:
        return f"kept as a candidate: the champion has other classes ({', '.join(before.card.classes)})"
    theirs = metrics.accuracy(loaded.labels[test], before.predict(loaded.images[test]))
    compared = f"{accuracy.value:.3f} against the champion's {theirs.value:.3f} on the same images"
    if accuracy.value < theirs.value:
        return f"kept as a candidate: {compared}"
    registry.promote(where, card.name, card.version, compared)
    return f"champion: {compared}"


def _print(outcomes: Sequence[Outcome], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
        return
    print(f"{'model':<10} {'accuracy, 95 % interval':<38} {'seconds':>7}  version and verdict")
    for o in outcomes:
        print(f"{o.model:<10} {o.accuracy!s:<38} {o.seconds:>7.0f}  {o.version}  {o.verdict}")


if __name__ == "__main__":
    commands.run(main)
