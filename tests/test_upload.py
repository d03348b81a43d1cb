"""New objects become rows: real events of S3 by way of EventBridge and a queue, answered by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from test_registry import make_version

from jobs import upload
from lib import bundle, images, registry

Queue = Callable[[], dict[str, Any]]


@pytest.fixture
def models(trained: Path, tmp_path: Path) -> Path:
    """A registry of its own."""
    return shutil.copytree(trained, tmp_path / "models")


@pytest.fixture
def queue(s3: Any, models: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """What gives the function its next messages, for a bucket that tells EventBridge of objects."""
    s3.create_bucket(Bucket="results")
    s3.put_bucket_notification_configuration(
        Bucket="photos", NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    sqs, events = boto3.client("sqs"), boto3.client("events")
    url = sqs.create_queue(QueueName="uploads")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    pattern = {"source": ["aws.s3"], "detail-type": ["Object Created"]}
    events.put_rule(Name="uploads", EventPattern=json.dumps(pattern))
    events.put_targets(Rule="uploads", Targets=[{"Id": "uploads", "Arn": arn["QueueArn"]}])
    monkeypatch.setenv("HANDFUL_MODEL", str(models / "cnn"))
    monkeypatch.setenv("HANDFUL_OUTPUT", "s3://results")
    upload._loaded.clear()

    def receive() -> dict[str, Any]:
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        # moto writes eTag where S3's events for EventBridge have etag.
        bodies = {m["MessageId"]: m["Body"].replace('"eTag"', '"etag"') for m in found}
        return {"Records": [{"messageId": key, "body": body} for key, body in bodies.items()]}

    return receive


def live(s3: Any) -> dict[str, dict[str, Any]]:
    found = s3.list_objects_v2(Bucket="results").get("Contents", [])
    return {
        item["Key"]: json.loads(s3.get_object(Bucket="results", Key=item["Key"])["Body"].read())
        for item in found
    }


def test_a_new_image_becomes_a_row(s3: Any, queue: Queue, hands: Path, models: Path) -> None:
    key, hand = "new/a hand + ü.png", next(hands.rglob("*.png"))
    s3.upload_file(str(hand), "photos", key)
    assert upload.handler(queue(), None) == {"batchItemFailures": []}
    rows = live(s3)
    assert list(rows) == [f"live/photos/{key}.json"]
    row = rows[f"live/photos/{key}.json"]
    assert row["uri"] == f"s3://photos/{key}"
    model = bundle.load(registry.resolve(str(models / "cnn")))
    assert row["version"] == model.card.version
    assert row["scores"][row["label"]] == row["score"]
    pixels = images.decode(hand.read_bytes(), model.card.image)
    expected = dict(zip(model.card.classes, model.predict(pixels[None])[0].tolist(), strict=True))
    assert row["scores"] == pytest.approx(expected, abs=1e-4)


def test_a_bad_image_becomes_a_row_and_other_objects_none(s3: Any, queue: Queue) -> None:
    s3.put_object(Bucket="photos", Key="bad.jpg", Body=b"hello")
    s3.put_object(Bucket="photos", Key="notes.txt", Body=b"hello")
    assert upload.handler(queue(), None) == {"batchItemFailures": []}
    rows = live(s3)
    assert list(rows) == ["live/photos/bad.jpg.json"]
    assert rows["live/photos/bad.jpg.json"]["error"]["code"] == "not_an_image"


def test_the_same_message_twice_is_the_same_row(s3: Any, queue: Queue, hands: Path) -> None:
    s3.upload_file(str(next(hands.rglob("*.png"))), "photos", "a.png")
    messages = queue()
    upload.handler(messages, None)
    before = live(s3)
    upload.handler(messages, None)
    assert live(s3) == before


def test_an_event_that_came_late_does_not_overwrite(s3: Any, queue: Queue, hands: Path) -> None:
    first, second, *_ = sorted(hands.rglob("*.png"))
    s3.upload_file(str(first), "photos", "a.png")
    late = queue()
    s3.upload_file(str(second), "photos", "a.png")
    upload.handler(queue(), None)
    before = live(s3)
    upload.handler(late, None)
    assert live(s3) == before


def test_only_the_messages_that_failed_are_given_again(
    s3: Any, queue: Queue, hands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.upload_file(str(next(hands.rglob("*.png"))), "photos", "a.png")
    messages = queue()
    damaged = {"messageId": "damaged", "body": "{}"}
    answer = upload.handler({"Records": [damaged, *messages["Records"]]}, None)
    assert answer == {"batchItemFailures": [{"itemIdentifier": "damaged"}]}
    assert list(live(s3)) == ["live/photos/a.png.json"]
    monkeypatch.setenv("HANDFUL_OUTPUT", "s3://no-such-bucket")
    failed = upload.handler(messages, None)["batchItemFailures"]
    assert failed == [{"itemIdentifier": m["messageId"]} for m in messages["Records"]]


def test_a_warm_function_answers_with_the_champion_of_the_moment(
    s3: Any, queue: Queue, hands: Path, models: Path, tmp_path: Path
) -> None:
    def version_of_next(key: str) -> str:
        s3.upload_file(str(next(hands.rglob("*.png"))), "photos", key)
        upload.handler(queue(), None)
        return live(s3)[f"live/photos/{key}.json"]["version"]

    first = version_of_next("a.png")
    folder = make_version(tmp_path / "v9", models / "cnn" / first, "v9")
    registry.publish(str(models), folder, "cnn", "v9")
    registry.promote(str(models), "cnn", "v9", "better")
    assert version_of_next("b.png") == "v9"
    registry.rollback(str(models), "cnn", "no")
    assert version_of_next("c.png") == first
