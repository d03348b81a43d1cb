"""Classify images as they arrive: a Lambda function behind a queue, one row object per image.

<output>/live/<bucket>/<key>.json   records.Prediction, or records.ErrorRow

Settings: HANDFUL_MODEL (REGISTRY/NAME), HANDFUL_OUTPUT. A message is an "Object Created" event of
S3 by way of EventBridge. What cannot be classified becomes a row; where the system fails, the
queue gives the message again.
"""

from __future__ import annotations

import os
from typing import Any

from lib import bundle, images, records, registry, storage
from lib.bundle import Bundle
from lib.commands import say
from lib.failures import Broken, Failure, Unreadable
from lib.records import ErrorRow, Prediction

_loaded: dict[str, Bundle] = {}
"""The champion in use, by its uri: a warm function keeps it, and notices the next one."""


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer a batch of messages with those that failed, so that the queue repeats them alone.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
    """
    model = champion()
    failed = []
    for message in event["Records"]:
        try:
            answer(message["body"], model)
        except Failure as failure:
            say(f"error: {failure}")
            failed.append({"itemIdentifier": message["messageId"]})
    return {"batchItemFailures": failed}


def champion() -> Bundle:
    """Return the model that is in charge now: a promotion or a rollback counts at once."""
    uri = registry.resolve(os.environ["HANDFUL_MODEL"])
    if uri not in _loaded:
        fresh = bundle.load(uri)
        _loaded.clear()
        _loaded[uri] = fresh
    return _loaded[uri]


def answer(body: str, model: Bundle) -> None:
    """Write the row of one new object; other objects than images have none.

    Raises:
        Broken: the message is damaged or the storage failed.
    """
    event = records.parse_object(body, "the message")
    try:
        bucket, found = event["detail"]["bucket"]["name"], event["detail"]["object"]
        key, etag = found["key"], found["etag"]
    except (KeyError, TypeError) as error:
        raise Broken(f"the message: damaged, it is no event of S3 ({error})") from error
    if not images.has_image_extension(key):
        return
    try:
        row = _row(f"s3://{bucket}/{key}", f'"{etag}"', model)
    except (storage.Changed, storage.Missing):  # a later event tells of what is there now
        return
    uri = storage.join(os.environ["HANDFUL_OUTPUT"], "live", bucket, f"{key}.json")
    storage.write(uri, records.to_line(row))


def _row(uri: str, etag: str, model: Bundle) -> Prediction | ErrorRow:
    try:
        data = storage.read(uri, etag, max_bytes=images.MAX_BYTES).data
        pixels = images.decode(data, model.card.image)
    except Unreadable as error:
        return ErrorRow(uri, etag, {"code": error.code, "message": error.message})
    return records.prediction(uri, etag, model.card, model.predict(pixels[None])[0].tolist())
