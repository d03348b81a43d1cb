"""Runs in the cloud: requests, real processes behind Batch, roles that are refused, and the story."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from emulator import ROOT, Cloud, cloud  # noqa: F401

from jobs import container, models, predict, schedule, submit, summary, train
from lib import registry, samples, storage
from lib.failures import Broken, Misuse

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")

PHOTOS, MODELS, RESULTS = (
    f"s3://handful-{name}-123456789012" for name in ("photos", "models", "results")
)

PREDICT = ["predict", f"{PHOTOS}/new", RESULTS, "--model", f"{MODELS}/mobilenet"]

TRAIN = ["train", f"{PHOTOS}/training", "--registry", MODELS, "--models", "mobilenet",
         "--backbone", "none", "--frozen"]  # fmt: skip


def upload(folder: Path, to: str) -> None:
    """Copy the files below a folder to a bucket."""
    for path in folder.rglob("*.*"):
        storage.write(storage.join(to, path.relative_to(folder).as_posix()), path.read_bytes())


@pytest.fixture
def stocked(cloud: Cloud, trained: Path, hands: Path) -> Cloud:  # noqa: F811
    """A deployed stack with a champion and 36 photos."""
    upload(trained / "mobilenet", f"{MODELS}/mobilenet")
    upload(hands, f"{PHOTOS}/new")
    return cloud


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.2)


def request_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_three_shards_are_an_array_pinned_to_the_version(
    stocked: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    submit.main([*PREDICT, "--shards", "3", "--dry-run"])
    asked = request_of(capsys)
    assert asked["arrayProperties"] == {"size": 3}
    assert asked["jobQueue"] == stocked.outputs["SpotQueue"]
    command = asked["containerOverrides"]["command"]
    assert command[:4] == ["python", "-m", "jobs.container", "--root"]
    version = registry.champion(MODELS, "mobilenet").version
    assert f"{MODELS}/mobilenet/{version}" in command
    with pytest.raises(storage.Missing):
        next(storage.entries("s3://nothing"))
    assert not list(storage.entries(RESULTS)), "a dry run writes nothing"


def test_one_shard_is_a_plain_job(stocked: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    submit.main([*PREDICT, "--on-demand", "--dry-run"])
    asked = request_of(capsys)
    assert "arrayProperties" not in asked
    assert asked["jobQueue"] == stocked.outputs["PredictQueue"]
    assert asked["containerOverrides"]["command"][-2:] == ["--shard", "0"]


def test_a_training_is_one_job(stocked: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    submit.main([*TRAIN, "--dry-run"])
    asked = request_of(capsys)
    assert asked["jobDefinition"] == "handful-train"
    assert asked["containerOverrides"]["command"] == ["python", "-m", "jobs.container", *TRAIN]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "{tmp}", "--registry", "s3://models"], "places must be s3://bucket/prefix"),
        (["train", "s3://photos", "--registry", "models"], "Received: models"),
        (["train"], "Received: nothing"),
        (["predict", "{tmp}", "s3://out", "--model", "s3://m/cnn"], "must be s3://bucket/prefix"),
    ],
)
def test_what_a_container_cannot_see_is_refused(
    tmp_path: Path, argv: list[str], message: str
) -> None:
    with pytest.raises(Misuse, match=message):
        submit.main([word.format(tmp=tmp_path) for word in argv])


def test_more_shards_than_batch_takes_are_refused(stocked: Cloud) -> None:
    with pytest.raises(Misuse, match="at most 10,000 shards.* Received: 10,001"):
        submit.main([*PREDICT, "--shards", "10001", "--dry-run"])


def test_a_scheduled_run_is_done_once(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--once", "2026-11-23T03:00:00Z", "train", "nowhere", "--registry", place]
    monkeypatch.setenv("AWS_BATCH_JOB_ID", "one")
    with pytest.raises(Broken, match="nowhere: no such folder"):
        container.main(argv)
    monkeypatch.setenv("AWS_BATCH_JOB_ID", "two")
    container.main(argv)
    assert "it was delivered twice" in capsys.readouterr().err


# ---- Notices ----------------------------------------------------------------------------------


@pytest.fixture
def notices(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    """What gives the subjects and texts that the topic has published since it was asked last."""
    sqs, sns = cloud.client("sqs"), cloud.client("sns")
    url = sqs.create_queue(QueueName="mail")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    topic = cloud.outputs["Notices"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn["QueueArn"])
    monkeypatch.setenv(container.TOPIC, topic)

    def read() -> list[tuple[str, str]]:
        found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        bodies = [json.loads(message["Body"]) for message in found]
        return [(body["Subject"], body["Message"]) for body in bodies]

    return read


def test_a_finished_run_publishes_one_message_with_its_table(stocked: Cloud, notices: Any) -> None:
    container.main([*PREDICT, "--run", "r"])
    ((subject, text),) = notices()
    assert subject == "handful: predict finished"
    assert re.search(r"What:  .*\nWhy:   .*\nWhere: .*\nNext:  ", text)
    assert "36 listed = 36 predicted + 0 errors" in text


def test_a_failure_is_told_once_when_no_try_is_left(
    cloud: Cloud,  # noqa: F811
    notices: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = ["train", "s3://no-such-bucket", "--registry", MODELS]
    monkeypatch.setenv(container.ATTEMPTS, "2")
    monkeypatch.setenv("AWS_BATCH_JOB_ATTEMPT", "1")
    with pytest.raises(Broken):
        container.main(argv)
    assert notices() == []
    monkeypatch.setenv("AWS_BATCH_JOB_ATTEMPT", "2")
    with pytest.raises(SystemExit) as ended:
        container.main(argv)
    assert ended.value.code == container.TOLD
    ((subject, text),) = notices()
    assert subject == "handful: train failed"
    assert "no such bucket" in text


def test_bad_data_is_told_at_the_first_try(
    cloud: Cloud,  # noqa: F811
    notices: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(container.ATTEMPTS, "2")
    storage.write(f"{PHOTOS}/training/notes.txt", b"no image")
    with pytest.raises(SystemExit) as ended:
        container.main(TRAIN)
    assert ended.value.code == 3
    ((_, text),) = notices()
    assert "a retry does not help" in text


def test_of_an_array_only_the_last_shard_tells(
    stocked: Cloud, notices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [*PREDICT[1:], "--run", "r"]
    predict.main([*argv, "--shards", "2"])
    for index, n_told in (("0", 0), ("1", 1)):
        monkeypatch.setenv("AWS_BATCH_JOB_ARRAY_INDEX", index)
        container.main(["--root", f"{RESULTS}/r", "predict", *argv])
        assert len(notices()) == n_told
    container.main(["--root", f"{RESULTS}/r", "predict", *argv])
    assert notices() == []


def test_who_is_not_heard_has_not_failed(
    stocked: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(container.TOPIC, "arn:aws:sns:us-east-1:123456789012:gone")
    container.main([*PREDICT, "--run", "r"])
    assert "warning: the notice: " in capsys.readouterr().err


# ---- Real processes ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_array_of_which_one_shard_dies_ends_complete_under_its_roles_credentials(
    stocked: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stocked.enforce(monkeypatch)
    stocked.deaths = {("1", 1)}
    submit.main([*PREDICT, "--shards", "3", "--run", "r", "--wait"])
    told = capsys.readouterr()
    codes = sorted((index, attempt, code) for index, attempt, code, _ in stocked.processes)
    assert codes == [("0", 1, 0), ("1", 1, 137), ("1", 2, 0), ("2", 1, 0)], stocked.processes
    found = summary.find(f"{RESULTS}/r")
    assert (found.listed, found.predicted, found.errors) == (36, 36, 0)
    assert "#jobs/detail/" in told.out
    assert "36 listed = 36 predicted" in told.out
    submit.main([*PREDICT, "--shards", "3", "--run", "r"])
    assert "complete already" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_under_its_roles_credentials_ends_with_a_champion(
    cloud: Cloud,  # noqa: F811
    hands: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload(hands, f"{PHOTOS}/training")
    cloud.enforce(monkeypatch)
    submit.main([*TRAIN, "--wait"])
    assert [process[:3] for process in cloud.processes] == [("", 1, 0)], cloud.processes
    champion = registry.champion(MODELS, "mobilenet")
    assert registry.versions(MODELS, "mobilenet") == [champion.version]


@pytest.mark.slow
def test_a_job_that_fails_ends_the_wait_with_its_reason(
    cloud: Cloud,  # noqa: F811
) -> None:
    with pytest.raises(Broken, match="failed .*#jobs/detail/"):
        submit.main(["train", f"{PHOTOS}/nothing", "--registry", MODELS, "--wait"])
    (process,) = cloud.processes
    assert process[1:3] == (1, 3), "bad data is not tried again"


TRIES = """
import boto3, sys
from lib import storage
from lib.storage import Denied
def refused(do):
    try:
        do()
    except Denied:
        return True
    except Exception as error:
        return "AccessDenied" in str(error)
    return False
s3 = boto3.client("s3")
for line in sys.argv[1:]:
    what, place = line.split(" ")
    bucket, _, key = place.removeprefix("s3://").partition("/")
    do = {
        "read": lambda: storage.read(place),
        "write": lambda: storage.write(place, b"x"),
        "list": lambda: list(storage.entries(place)),
        "delete": lambda: s3.delete_object(Bucket=bucket, Key=key),
    }[what]
    print(line, "refused" if refused(do) else "allowed")
"""

MAY = {
    "TrainRole": [
        ("read", PHOTOS, "allowed"), ("list", PHOTOS, "allowed"), ("write", PHOTOS, "refused"),
        ("read", MODELS, "allowed"), ("list", MODELS, "allowed"), ("write", MODELS, "allowed"),
        ("read", RESULTS, "refused"), ("list", RESULTS, "refused"), ("write", RESULTS, "refused"),
        ("delete", PHOTOS, "refused"), ("delete", MODELS, "refused"), ("delete", RESULTS, "refused"),
    ],
    "PredictRole": [
        ("read", PHOTOS, "allowed"), ("list", PHOTOS, "allowed"), ("write", PHOTOS, "refused"),
        ("read", MODELS, "allowed"), ("list", MODELS, "allowed"), ("write", MODELS, "refused"),
        ("read", RESULTS, "allowed"), ("list", RESULTS, "allowed"), ("write", RESULTS, "allowed"),
        ("delete", PHOTOS, "refused"), ("delete", MODELS, "refused"), ("delete", RESULTS, "refused"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("role", MAY)
def test_each_role_is_refused_what_it_must_not_do(
    cloud: Cloud,  # noqa: F811
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place in (PHOTOS, MODELS, RESULTS):
        storage.write(f"{place}/a", b"a")
    cloud.client("s3").create_bucket(Bucket="elsewhere")
    cloud.enforce(monkeypatch)
    for name, value in cloud.assume(cloud.outputs[role]).items():
        monkeypatch.setenv(name, value)
    expected = [
        *MAY[role],
        ("read", "s3://elsewhere", "refused"),
        ("write", "s3://elsewhere", "refused"),
    ]
    tries = [f"{what} {place}{'' if what == 'list' else '/a'}" for what, place, _ in expected]
    command = [sys.executable, "-c", TRIES, *tries]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    answers = [line.rsplit(" ", 1)[1] for line in told.stdout.splitlines()]
    assert dict(zip(tries, answers, strict=True)) == {
        line: answer for line, (_, _, answer) in zip(tries, expected, strict=True)
    }


# ---- The story --------------------------------------------------------------------------------


def shoot(folder: Path, source: str, day: str, seed: int, n_shifted: int = 0) -> None:
    """Draw hands and upload them as one day's three sessions, under labels that may be shifted."""
    samples.write(folder, n_images_per_class=9, seed=seed)
    for hand in folder.iterdir():
        label = str((int(hand.name) + n_shifted) % 4)
        for index, path in enumerate(sorted(hand.iterdir())):
            name = f"{day}_{('08', '13', '18')[index // 3]}-00-0{index % 3}-{seed}.png"
            storage.write(f"{PHOTOS}/{source}/{label}/{name}", path.read_bytes())


def run_now(cloud: Cloud) -> str:  # noqa: F811
    """Fire the target of the schedule, and return what its process said."""
    with cloud.unguarded():
        schedule.main(["run-now", "weekly"])
    cloud.wait()
    index, attempt, code, said = cloud.processes[-1]
    assert (index, attempt, code) == ("", 1, 0), said
    return said


def version_that_predicts(run: str) -> str:
    submit.main([*PREDICT, "--run", run, "--wait"])
    return summary.find(f"{RESULTS}/{run}").version


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_story(
    cloud: Cloud,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Schedule, champion, predictions, corrections, a better model, poison, and the way back."""
    upload(train.SHIPPED, f"{MODELS}/backbone")
    shoot(tmp_path / "first", "training", "2026-01-01", seed=1)
    shoot(tmp_path / "new", "new", "2026-01-09", seed=9)
    storage.write(f"{PHOTOS}/corrections/README.txt", b"what people corrected")
    job = ["train", f"{PHOTOS}/training", f"{PHOTOS}/corrections", "--registry", MODELS,
           "--models", "mobilenet", "--frozen", "--backbone", f"{MODELS}/backbone"]  # fmt: skip
    schedule.main(["create", "weekly", "every monday 03:00", "--timezone", "UTC", "--", *job])
    cloud.enforce(monkeypatch)

    run_now(cloud)
    version_1 = registry.champion(MODELS, "mobilenet").version
    assert version_that_predicts("one") == version_1

    assert "nothing new" in run_now(cloud)

    shoot(tmp_path / "more", "corrections", "2026-01-02", seed=2)
    told = run_now(cloud)
    version_2 = registry.champion(MODELS, "mobilenet").version
    assert version_2 != version_1, told
    assert version_that_predicts("two") == version_2

    for seed in (3, 4, 5):
        shoot(tmp_path / f"poison{seed}", "corrections", "2026-01-02", seed, n_shifted=1)
    told = run_now(cloud)
    assert "candidate" in told
    assert registry.champion(MODELS, "mobilenet").version == version_2
    assert len(registry.versions(MODELS, "mobilenet")) == 3

    models.main(["rollback", MODELS, "mobilenet"])
    assert registry.champion(MODELS, "mobilenet").version == version_1
    assert version_that_predicts("three") == version_1
