"""One shard of a batch run: its images in, its rows out, whole or not at all."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from jobs import plan
from jobs.plan import Image, Plan
from lib import images, records, storage
from lib.bundle import Bundle
from lib.commands import Progress
from lib.failures import BadData, Broken, Unreadable
from lib.records import ErrorRow, Prediction

Row = TypeVar("Row", Prediction, ErrorRow)

N_CORES = os.cpu_count() or 1

N_IN_FLIGHT = 32
"""Images read ahead; enough to hide the 10 to 100 ms that S3 takes to the first byte."""

MIN_IMAGES_TO_STOP = 20
"""Under so many images an error rate says nothing, and a run is not stopped for it."""

MAX_EXAMPLES = 3
"""How many images of each error code are named in the counts."""


@dataclass(frozen=True, slots=True)
class Done:
    """The counts of a finished shard: `done/shard-*.json`."""

    shard: int
    predicted: int
    errors: int
    classes: dict[str, int]
    not_sure: int
    score_sum: float
    error_codes: dict[str, int]
    error_examples: dict[str, list[str]]
    seconds: float
    format: int = records.FORMAT


def find_done(root: str, index: int) -> Done | None:
    """Return the counts of a shard, or None where it is not done.

    Raises:
        Broken: they are damaged.
    """
    uri = plan.done_uri(root, index)
    try:
        fields = records.parse_object(storage.read(uri).data, uri)
        return Done(**fields)
    except storage.Missing:
        return None
    except TypeError as error:
        raise Broken(f"{uri}: damaged, a field is missing or unknown ({error})") from error


def run(the_plan: Plan, root: str, index: int, model: Bundle, progress: Progress) -> Done:
    """Classify a shard's images, write its rows and then its counts; or find that it is done.

    Raises:
        BadData: more images than the plan allows are errors; nothing was written.
        Broken: the storage failed; what was written is whole, and the same command goes on.
    """
    done = find_done(root, index)
    if done is not None:
        progress.add(done.predicted + done.errors)
        return done
    started_s = time.monotonic()
    todo = plan.shard_images(the_plan, root, index)
    predictions, errors = _classify(todo, model, the_plan.options.max_error_rate, progress)
    predictions = _stored_predictions(root, index, predictions)
    errors = _stored_errors(root, index, todo, predictions, errors)
    done = _count(index, predictions, errors, time.monotonic() - started_s)
    try:
        storage.create(plan.done_uri(root, index), records.to_file(done))
    except storage.AlreadyThere:
        return find_done(root, index) or done
    return done


def _classify(
    todo: list[Image], model: Bundle, max_error_rate: float, progress: Progress
) -> tuple[list[Prediction], list[ErrorRow]]:
    predictions: list[Prediction] = []
    errors: list[ErrorRow] = []
    allowed = max_error_rate * len(todo) if len(todo) >= MIN_IMAGES_TO_STOP else len(todo)
    for row in _rows(todo, model):
        (predictions if isinstance(row, Prediction) else errors).append(row)
        progress.add(note=f"{len(errors)} errors" if errors else "")
        if len(errors) > allowed:
            raise BadData(
                f"at most {max_error_rate:.0%} of the images may be errors. Received: {len(errors)} of "
                f"the first {len(predictions) + len(errors)}; the last: {errors[-1].error['message']} "
                f"({errors[-1].uri})"
            )
    return predictions, errors


def _rows(todo: Iterable[Image], model: Bundle) -> Iterator[Prediction | ErrorRow]:
    """Yield a row for each image, in order, with a bounded number of them in flight.

    A worker reads, decodes and predicts one image. The three let go of the GIL, and only as many as
    there are cores may be past the reading, so that the others wait for storage and not for a core.
    """
    cores = threading.BoundedSemaphore(N_CORES)
    with ThreadPoolExecutor(N_IN_FLIGHT) as pool:
        in_flight: deque[Future[Prediction | ErrorRow]] = deque()
        try:
            for image in todo:
                in_flight.append(pool.submit(_row, image, model, cores))
                if len(in_flight) >= 2 * N_IN_FLIGHT:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        finally:
            for future in in_flight:
                future.cancel()


def _row(image: Image, model: Bundle, cores: threading.BoundedSemaphore) -> Prediction | ErrorRow:
    try:
        data = storage.read(image.uri, image.etag, max_bytes=images.MAX_BYTES).data
        with cores:
            pixels = images.decode(data, model.card.image)
            scores = model.predict(pixels[None])[0]
    except Unreadable as error:
        return _error(image, error.code, error.message)
    except storage.Missing:
        return _error(image, "missing", "the image was deleted after the run was planned")
    except storage.Changed:
        return _error(image, "changed", "the image was replaced after the run was planned")
    return records.prediction(image.uri, image.etag, model.card, scores.tolist())


def _error(image: Image, code: str, message: str) -> ErrorRow:
    return ErrorRow(image.uri, image.etag, {"code": code, "message": message})


def _stored_predictions(root: str, index: int, predictions: list[Prediction]) -> list[Prediction]:
    """Write the predictions once and return those that are stored: another worker's, if it won."""
    uri = plan.part_uri(root, "predictions", index)
    try:
        storage.create(uri, b"".join(map(records.to_line, predictions)))
    except storage.AlreadyThere:
        return [_parse(Prediction, line, uri) for line in storage.read(uri).data.splitlines()]
    return predictions


def _stored_errors(
    root: str, index: int, todo: list[Image], predictions: list[Prediction], errors: list[ErrorRow]
) -> list[ErrorRow]:
    """Write a row for each image that the stored predictions lack, and return those stored.

    Two tries at a shard can differ where an image was replaced between them. The predictions that
    came first stand, and the errors are what they lack: the counts add up in any case.
    """
    predicted = {row.uri for row in predictions}
    told = {row.uri: row for row in errors}
    later = ("changed", "the image could not be read at first, and could later")
    rows = [told.get(i.uri) or _error(i, *later) for i in todo if i.uri not in predicted]
    uri = plan.part_uri(root, "errors", index)
    try:
        storage.create(uri, b"".join(map(records.to_line, rows)))
    except storage.AlreadyThere:
        return [_parse(ErrorRow, line, uri) for line in storage.read(uri).data.splitlines()]
    return rows


def _parse(kind: type[Row], line: bytes, uri: str) -> Row:
    try:
        return kind(**records.parse_object(line, uri))
    except TypeError as error:
        raise Broken(f"{uri}: damaged, a field is missing or unknown ({error})") from error


def _count(
    index: int, predictions: list[Prediction], errors: list[ErrorRow], seconds: float
) -> Done:
    examples: dict[str, list[str]] = {}
    for row in errors:
        named = examples.setdefault(row.error["code"], [])
        if len(named) < MAX_EXAMPLES:
            named.append(row.uri)
    return Done(
        shard=index,
        predicted=len(predictions),
        errors=len(errors),
        classes=dict(sorted(Counter(row.label for row in predictions).items())),
        not_sure=sum(not row.confident for row in predictions),
        score_sum=round(sum(row.score for row in predictions), 6),
        error_codes=dict(sorted(Counter(row.error["code"] for row in errors).items())),
        error_examples=examples,
        seconds=round(seconds, 3),
    )
