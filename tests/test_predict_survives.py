"""Batch runs in trouble: killed, raced, stopped, refused, on odd keys and behind a bad network."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import patience, plan, predict, shard, summary
from jobs.limit import Limit
from lib import bundle, registry, storage
from lib.commands import Progress
from tests.permissions import enforced_permissions
from tests.proxy import FAULTS, Proxy

ROOT = Path(__file__).parents[1]

TIMED = ("seconds", "images_per_s", "seal")
"""What may differ between two runs of the same."""


@pytest.fixture
def model(trained: Path) -> str:
    return str(trained / "mobilenet")


@pytest.fixture
def bucket(s3: Any, hands: Path) -> str:
    """A bucket of 180 images, one of them bad."""
    for k, path in enumerate(sorted(hands.rglob("*.png")) * 5):
        s3.put_object(Bucket="photos", Key=f"{k % 7}/{k:03}.png", Body=path.read_bytes())
    s3.put_object(Bucket="photos", Key="0/bad.png", Body=b"not a picture")
    s3.create_bucket(Bucket="results")
    return "s3://photos"


def command(source: str, output: str, model: str, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "jobs.predict",
        source,
        output,
        "--model",
        model,
        "--run",
        "r",
        *more,
    ]


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(*arguments: str, **environment: str) -> str:
    process = start(*arguments, **environment)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    return told


def content(output: str) -> dict[str, Any]:
    """Return what a run left: parts and plan as bytes, counts without their times."""
    found: dict[str, Any] = {}
    for entry in storage.entries(f"{output}/r"):
        name, data = storage.relative(entry.uri, f"{output}/r"), storage.read(entry.uri).data
        if name.startswith(("done", "summary")):
            found[name] = {k: v for k, v in json.loads(data).items() if k not in TIMED}
        else:
            found[name] = data
    return found


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60) -> None:
    end_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.005)


# ---- Kills ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("output", ["s3", "folder"])
def test_a_run_killed_at_thirty_random_instants_ends_like_one_that_was_not(
    bucket: str, model: str, tmp_path: Path, output: str
) -> None:
    def place(name: str) -> str:
        return f"s3://results/{name}" if output == "s3" else str(tmp_path / name)

    started_s = time.monotonic()
    finish(bucket, place("whole"), model, "--shards", "20")
    finish(bucket, place("whole"), model)
    whole_s = time.monotonic() - started_s
    wanted = content(place("whole"))
    rng, n_kills, n_runs = random.Random(4), 0, 0
    while n_kills < 30:
        n_runs += 1
        here = place(f"killed{n_runs}")
        while summary.find(f"{here}/r") is None:
            more = () if plan.find(f"{here}/r") else ("--shards", "20")
            process = start(bucket, here, model, *more)
            try:
                process.wait(rng.uniform(0, whole_s) if n_kills < 30 else 60)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                n_kills += 1
            process.stderr.close()
            assert process.returncode in (0, -signal.SIGKILL)
        assert content(here) == wanted


@pytest.mark.parametrize("stalls", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sigterm_ends_a_run_soon_and_cleanly(
    bucket: str, model: str, tmp_path: Path, s3_server: str, stalls: bool
) -> None:
    out = tmp_path / "out"
    finish(bucket, str(tmp_path / "whole"), model, "--shards", "20")
    finish(bucket, str(out), model, "--shards", "20")
    with Proxy(s3_server, delay_s=0.05, n_stalls=200 if stalls else 0, faults=FAULTS[:1]) as proxy:
        process = start(bucket, str(out), model, AWS_ENDPOINT_URL=proxy.url)
        wait_until(lambda: proxy.n_requests > 60)
        process.send_signal(signal.SIGTERM)
        asked_s = time.monotonic()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - asked_s < 15
    assert told.splitlines()[-1] == "error: stopped by SIGTERM; the same command goes on from here"
    assert not list(out.rglob(".handful-*"))
    finish(bucket, str(out), model)
    finish(bucket, str(tmp_path / "whole"), model)
    assert content(str(out)) == content(str(tmp_path / "whole"))


# ---- Races ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("output", ["s3://results/x", "folder"])
def test_four_workers_race_for_one_shard_and_there_is_one_result(
    bucket: str, model: str, tmp_path: Path, output: str
) -> None:
    here = output if storage.is_s3(output) else str(tmp_path / output)
    finish(bucket, str(tmp_path / "alone"), model)
    finish(bucket, here, model, "--shards", "1")
    workers = [start(bucket, here, model, "--shard", "0") for _ in range(4)]
    for worker in workers:
        _, told = worker.communicate(timeout=120)
        assert worker.returncode == 0, told
    assert content(here) == content(str(tmp_path / "alone"))


# ---- A bad network ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_behind_a_network_that_breaks_everything_once_the_rows_are_the_same(
    bucket: str, model: str, s3_server: str
) -> None:
    finish(bucket, "s3://results/calm", model)
    with Proxy(s3_server, faults=FAULTS, n_stalls=3) as proxy:
        finish(bucket, "s3://results/storm", model, AWS_ENDPOINT_URL=proxy.url)
        assert set(proxy.happened) == {*FAULTS, "stall"}
    assert content("s3://results/storm") == content("s3://results/calm")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_store_that_goes_down_for_good_ends_the_run_in_one_line_and_leaves_no_error_rows(
    bucket: str, model: str, s3_server: str
) -> None:
    with Proxy(s3_server, delay_s=0.02) as proxy:
        process = start(bucket, "s3://results/x", model, AWS_ENDPOINT_URL=proxy.url)
        wait_until(lambda: proxy.n_requests > 40)
        proxy.is_down = True
        down_s = time.monotonic()
        _, told = process.communicate(timeout=240)
        assert process.returncode == 1
        assert time.monotonic() - down_s < 120
        (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
        assert line == f"error: {proxy.url}: cannot be reached"
        assert "Traceback" not in told
    assert not {name.partition("/")[0] for name in content("s3://results/x")} - {
        "plan",
        "plan.json",
    }
    finish(bucket, "s3://results/x", model)
    assert summary.find("s3://results/x/r").errors == 1


def test_a_store_that_is_away_for_a_moment_is_waited_for(
    bucket: str, model: str, s3_server: str
) -> None:
    with Proxy(s3_server, delay_s=0.02) as proxy:
        process = start(bucket, "s3://results/x", model, AWS_ENDPOINT_URL=proxy.url)
        wait_until(lambda: proxy.n_requests > 40)
        proxy.is_down = True
        threading.Timer(1.0, setattr, (proxy, "is_down", False)).start()
        _, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    assert summary.find("s3://results/x/r").predicted == 180


# ---- Images that change, and odd ones ---------------------------------------------------------


def planned(source: str, output: str, model: str) -> tuple[plan.Plan, str, bundle.Bundle]:
    loaded = bundle.load(registry.resolve(model))
    return *plan.make(source, output, loaded, plan.Options()), loaded


def test_an_object_deleted_or_replaced_after_planning_is_a_row(
    bucket: str, model: str, tmp_path: Path, s3: Any
) -> None:
    the_plan, root, loaded = planned(bucket, str(tmp_path), model)
    first, second, *_ = (image.uri for image in plan.parts(the_plan, root, 0)[0].images)
    s3.delete_object(Bucket="photos", Key=first.removeprefix("s3://photos/"))
    storage.write(second, b"another picture")
    with Progress("classifying", 181) as progress:
        done = shard.run(the_plan, root, 0, loaded, progress, Limit(0.1, 181))
    assert done.counts.errors_by_code == {"changed": 1, "missing": 1, "not_an_image": 1}


def test_a_bucket_that_refuses_after_planning_fails_the_shard_and_is_no_bad_image(
    bucket: str, model: str, tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    the_plan, root, loaded = planned(bucket, str(tmp_path), model)
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    iam = session.client("iam", endpoint_url=s3_server)
    iam.create_user(UserName="guest")
    key = iam.create_access_key(UserName="guest")["AccessKey"]
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    with monkeypatch.context() as guest, enforced_permissions(s3_server):
        guest.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        guest.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        with (
            Progress("classifying", 181) as progress,
            pytest.raises(storage.Denied, match="access denied"),
        ):
            shard.run(the_plan, root, 0, loaded, progress, Limit(0.1, 181))
    assert sorted(path.name for path in Path(root).iterdir()) == ["plan", "plan.json"]


ODD_KEYS = [
    "with space.png", "ünï/日本/😀.png", "100%.png", "a%2Fb.png", "a+b.png", "a#b?c=d.png", "a//b.png",
    "/lead.png", "./c.png", "'=1+2.png", "tab\t.png", "a\u2028b.png", "k" * 996 + ".png",
]  # fmt: skip


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_odd_keys_and_empty_files_are_rows_like_any_other(
    s3: Any, model: str, hands: Path, tmp_path: Path, format: str
) -> None:
    picture = min(hands.rglob("*.png")).read_bytes()
    for key in ODD_KEYS:
        s3.put_object(Bucket="photos", Key=key, Body=picture)
    s3.put_object(Bucket="photos", Key="a//empty %2B.png", Body=b"")
    out = str(tmp_path / "out")
    predict.main(command("s3://photos", out, model, "--format", format)[3:])
    told = summary.find(f"{out}/r")
    assert (told.listed, told.predicted, told.errors_by_code) == (14, 13, {"empty": 1})
    assert len(told.classes) == 1
    if format == "jsonl":
        found = content(out)["predictions/part-00000.jsonl"].splitlines()
        assert [json.loads(line)["uri"] for line in found] == [
            f"s3://photos/{key}" for key in sorted(ODD_KEYS, key=str.encode)
        ]


def test_a_bucket_without_images_is_a_complete_run(s3: Any, model: str, tmp_path: Path) -> None:
    s3.put_object(Bucket="photos", Key="notes.txt", Body=b"none")
    predict.main(command("s3://photos", str(tmp_path), model)[3:])
    told = summary.find(str(tmp_path / "r"))
    assert (told.listed, told.predicted, told.skipped_by_ending) == (1, 0, {".txt": 1})
