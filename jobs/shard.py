"""One shard of a batch run: its images in, its rows out, in parts that are whole or not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice

from jobs import counts, patience, pipeline, plan
from jobs.counts import Counts
from jobs.limit import Limit
from jobs.plan import Part, Plan
from jobs.rows import Row, Rows, plain
from lib import records, storage
from lib.bundle import Bundle
from lib.commands import Progress
from lib.failures import Broken, Misuse
from lib.records import ErrorRow, Prediction


@dataclass(frozen=True, slots=True)
class Done:
    """The counts of a finished shard: `done/shard-*.json`."""

    shard: int
    counts: Counts
    seconds: float
    format: int = records.FORMAT


@dataclass(frozen=True, slots=True)
class Todo:
    """What is left of a part: all of it, what the stored predictions lack, or nothing."""

    part: Part
    images: list[plan.Image]
    counts: Counts | None = None
    """Of a part that is stored already."""


def find_done(root: str, index: int) -> Done | None:
    """Return the counts of a shard, or None where it is not done.

    Raises:
        Broken: they are damaged.
    """
    uri = plan.done_uri(root, index)
    try:
        fields = records.parse_file(patience.read(uri), uri)
        done = Done(**fields | {"counts": Counts(**fields["counts"])})
    except storage.Missing:
        return None
    except (KeyError, TypeError) as error:
        raise Broken(f"{uri}: damaged, a field is missing or unknown ({error})") from error
    if done.shard != index:
        raise Broken(f"{uri}: must be the counts of shard {index}. Received: {done.shard}")
    return done


def run(
    the_plan: Plan, root: str, index: int, model: Bundle, progress: Progress, limit: Limit
) -> Done:
    """Classify a shard's images, write its parts and then its counts; or find that it is done.

    Raises:
        BadData: more images than `limit` allows are errors; what was written is whole.
        Broken: the storage failed; what was written is whole, and the same command goes on.
        Misuse: the run was planned with another model.
    """
    _check_model(the_plan, root, model)
    done = find_done(root, index)
    if done is not None:
        _found(done.counts, progress, limit)
        return done
    started_s = time.monotonic()
    shard = _Shard(the_plan, root, Rows(the_plan.options.format, model.card.classes))
    total = counts.total(list(shard.run(index, model, progress, limit)))
    done = Done(index, total, round(time.monotonic() - started_s, 3))
    try:
        patience.create(plan.done_uri(root, index), records.to_file(done))
    except storage.AlreadyThere:
        return find_done(root, index) or done
    return done


def _check_model(the_plan: Plan, root: str, model: Bundle) -> None:
    if model.digest != the_plan.model_digest:
        raise Misuse(
            f"{root}: was planned with {the_plan.model} {the_plan.version}, which --model must "
            f"name. Received: {model.card.name} {model.card.version}, another bundle"
        )


def _found(stored: Counts, progress: Progress, limit: Limit) -> None:
    progress.skip(stored.predicted + stored.errors)
    limit.add(stored.errors)


@dataclass(frozen=True, slots=True)
class _Shard:
    """Where the parts of a shard lie and how they are written."""

    plan: Plan
    root: str
    rows: Rows

    def run(self, index: int, model: Bundle, progress: Progress, limit: Limit) -> Iterator[Counts]:
        """Yield the counts of each part, once it is stored.

        One pipeline serves all parts: while one is written, the images of the next are in work.
        """
        parts = plan.parts(self.plan, self.root, index)
        todo = [self._todo(part) for part in parts]
        images = chain.from_iterable(some.images for some in todo)
        with closing(pipeline.rows(images, model)) as rows:
            for some in todo:
                if some.counts is not None:
                    _found(some.counts, progress, limit)
                    yield some.counts
                    continue
                progress.skip(len(some.part.images) - len(some.images))
                told = islice(rows, len(some.images))
                yield self._store(some.part, *_sorted(told, progress, limit))

    def _todo(self, part: Part) -> Todo:
        predictions = self._stored(Prediction, part)
        if predictions is None:
            return Todo(part, part.images)
        errors = self._stored(ErrorRow, part)
        if errors is None:
            return Todo(part, _lacking(part, predictions))
        return Todo(part, [], counts.of(predictions, errors))

    def _uri(self, kind: type[Row], part: Part) -> str:
        folder = "predictions" if kind is Prediction else "errors"
        return plan.part_uri(self.plan, self.root, folder, part.number)

    def _stored(self, kind: type[Row], part: Part) -> list[Row] | None:
        uri = self._uri(kind, part)
        try:
            return self.rows.read(kind, patience.read(uri), uri)
        except storage.Missing:
            return None

    def _create(self, kind: type[Row], part: Part, rows: list[Row]) -> list[Row]:
        """Write rows once and return those that are stored: another worker's, if it won."""
        uri, data = self._uri(kind, part), self.rows.write(kind, rows)
        try:
            patience.create(uri, data)
        except storage.AlreadyThere:
            return self._stored(kind, part) or []
        return rows

    def _store(self, part: Part, predictions: list[Prediction], errors: list[ErrorRow]) -> Counts:
        """Write the rows of a part, the predictions first, and return the counts of those stored.

        Two tries at a part can differ where an image was replaced between them. The predictions
        that came first stand, and the errors are what they lack: the counts add up in any case.
        """
        predictions = self._create(Prediction, part, predictions)
        told = {row.uri: row for row in errors}
        later = ("changed", "the image could not be read at first, and could later")
        errors = [
            told.get(image.uri) or pipeline.error_row(image, *later)
            for image in _lacking(part, predictions)
        ]
        return counts.of(predictions, self._create(ErrorRow, part, errors))


def _lacking(part: Part, predictions: list[Prediction]) -> list[plan.Image]:
    predicted = {plain(row.uri) for row in predictions}
    return [image for image in part.images if plain(image.uri) not in predicted]


def _sorted(
    rows: Iterator[Prediction | ErrorRow], progress: Progress, limit: Limit
) -> tuple[list[Prediction], list[ErrorRow]]:
    predictions: list[Prediction] = []
    errors: list[ErrorRow] = []
    for row in rows:
        if isinstance(row, Prediction):
            predictions.append(row)
        else:
            errors.append(row)
            limit.add(1, row)
        progress.add(note=f"{limit.n_errors:,} errors" if limit.n_errors else "")
    return predictions, errors
