"""When a schedule fires, in the zone you live in; and what EventBridge Scheduler is asked for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from emulator import Cloud, cloud  # noqa: F401

from jobs import expressions, schedule
from lib import commands
from lib.failures import Misuse

pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")

JOB = ["--", "train", "s3://photos/hands", "--registry", "s3://models"]


def times(text: str, zone: str, after: str, n: int = 3) -> list[str]:
    found = expressions.next_times(
        expressions.parse(text),
        expressions.zone(zone),
        n,
        datetime.fromisoformat(after).replace(tzinfo=UTC),
    )
    return [f"{time:%Y-%m-%d %H:%M %z}" for time in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("every monday 03:00", "cron(0 3 ? * MON *)"),
        ("Every Monday at 3:05", "cron(5 3 ? * MON *)"),
        ("every monday, wednesday and friday 22:30", "cron(30 22 ? * MON,WED,FRI *)"),
        ("every day 00:00", "cron(0 0 * * ? *)"),
        ("every weekday at 06:15", "cron(15 6 ? * MON-FRI *)"),
        ("every weekend 12:00", "cron(0 12 ? * SAT,SUN *)"),
        ("every month 03:00", "cron(0 3 1 * ? *)"),
        ("every hour", "rate(1 hour)"),
        ("every 6 hours", "rate(6 hours)"),
        ("every 2 weeks", "rate(14 days)"),
        ("rate(1 days)", "rate(1 day)"),
        ("cron( 0 3 ? * mon * )", "cron(0 3 ? * MON *)"),
        ("at(2026-12-01T03:00:00)", "at(2026-12-01T03:00:00)"),
    ],
)
def test_words_and_expressions_become_what_aws_takes(words: str, expected: str) -> None:
    assert expressions.parse(words).text == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cron(60 3 ? * MON *)", "field 1, minutes, must be 0 to 59.* Received: 60"),
        ("cron(0 25 ? * MON *)", "field 2, hours, must be 0 to 23.* Received: 25"),
        ("cron(0 3 32 * ? *)", "field 3, day of month, must be 1 to 31.* Received: 32"),
        ("cron(0 3 ? JAM MON *)", "field 4, month, must be 1 to 12 or JAN to DEC.* Received: JAM"),
        ("cron(0 3 ? * 8 *)", "field 5, day of week, must be 1 to 7 or SUN to SAT.* Received: 8"),
        ("cron(0 3 ? * MON#6 *)", "field 5, day of week.* Received: MON#6"),
        ("cron(0 3 ? * MON 1900)", "field 6, year, must be 1970 to 2199.* Received: 1900"),
        ("cron(0/0 3 ? * MON *)", "field 1, minutes.* Received: 0/0"),
        ("cron(0 5-3 ? * MON *)", "field 2, hours.* Received: 5-3"),
        ("cron(0,,5 3 ? * MON *)", "field 1, minutes.* Received: nothing"),
        ("cron(0 3 * * MON *)", "fields 3, .* must be [?].* Received: [*] and MON"),
        ("cron(0 3 ? * ? *)", "fields 3, .* must be [?].* Received: [?] and [?]"),
        ("cron(0 3 * * MON)", "must have 6 fields.* Received: 5"),
        ("rate(0 days)", "the number must be 1 or more. Received: 0"),
        ("rate(x days)", "the number must be 1 or more. Received: x"),
        ("rate(3 weeks)", "the unit must be minutes, hours or days. Received: weeks"),
        ("at(2026-13-01T03:00:00)", "must be at.2026-12-01T03:00:00."),
        ("at(2026-12-01T03:00:00Z)", "without a zone"),
        ("every mooday 03:00", "Received: mooday; did you mean monday"),
        ("every monday 24:00", "the last word must be a time, 00:00 to 23:59. Received: 24:00"),
        ("every monday", "the last word must be a time"),
        ("every 03:00", "Received: nothing"),
        ("mondays", "a schedule must be rate"),
        ("", "a schedule must be rate"),
    ],
)
def test_a_wrong_expression_is_refused_at_the_field_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        expressions.parse(text)


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        (  # summer begins on 29 March: the clocks jump from 02:00 to 03:00
            "every monday 03:00",
            "2026-03-20",
            ["2026-03-23 03:00 +0100", "2026-03-30 03:00 +0200", "2026-04-06 03:00 +0200"],
        ),
        (  # 02:30 does not exist on that day: skipped
            "every day 02:30",
            "2026-03-28",
            ["2026-03-28 02:30 +0100", "2026-03-30 02:30 +0200", "2026-03-31 02:30 +0200"],
        ),
        (  # 02:30 comes twice on 25 October: used once
            "every day 02:30",
            "2026-10-24",
            ["2026-10-24 02:30 +0200", "2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"],
        ),
        (  # days of a rate have 24 hours, whatever the clocks show
            "rate(1 day)",
            "2026-03-28T00:00",
            ["2026-03-29 01:00 +0100", "2026-03-30 02:00 +0200", "2026-03-31 02:00 +0200"],
        ),
        (
            "cron(0 9 L * ? *)",
            "2026-02-01",
            ["2026-02-28 09:00 +0100", "2026-03-31 09:00 +0200", "2026-04-30 09:00 +0200"],
        ),
        (  # the first of August is a Saturday, and the nearest weekday of that month a Monday
            "cron(0 9 1W 8 ? 2026-2028)",
            "2026-02-01",
            ["2026-08-03 09:00 +0200", "2027-08-02 09:00 +0200", "2028-08-01 09:00 +0200"],
        ),
        (
            "cron(0 9 ? * MON#1 *)",
            "2026-02-03",
            ["2026-03-02 09:00 +0100", "2026-04-06 09:00 +0200", "2026-05-04 09:00 +0200"],
        ),
        (
            "cron(0 9 ? * 6L *)",
            "2026-02-01",
            ["2026-02-27 09:00 +0100", "2026-03-27 09:00 +0100", "2026-04-24 09:00 +0200"],
        ),
        (
            "cron(0/30 8-9 ? * SUN *)",
            "2026-02-07",
            ["2026-02-08 08:00 +0100", "2026-02-08 08:30 +0100", "2026-02-08 09:00 +0100"],
        ),
        ("cron(0 0 29 2 ? *)", "2026-02-07", ["2028-02-29 00:00 +0100", "2032-02-29 00:00 +0100",
                                              "2036-02-29 00:00 +0100"]),
        ("at(2026-12-01T03:00:00)", "2026-02-07", ["2026-12-01 03:00 +0100"]),
    ],
)  # fmt: skip
def test_the_next_times_are_those_of_the_clocks_in_berlin(
    text: str, after: str, expected: list[str]
) -> None:
    assert times(text, "Europe/Berlin", after) == expected


@pytest.mark.parametrize("text", ["cron(0 3 30 2 ? *)", "at(2020-01-01T00:00:00)",
                                  "cron(0 3 1 1 ? 2020)", "at(2026-03-29T02:30:00)"])  # fmt: skip
def test_a_schedule_that_never_comes_is_refused(text: str) -> None:
    with pytest.raises(Misuse, match="never comes"):
        times(text, "Europe/Berlin", "2026-02-07")


def test_a_time_zone_that_is_misspelt_is_named() -> None:
    with pytest.raises(Misuse, match="Received: Europe/Berln. Did you mean Europe/Berlin"):
        expressions.zone("Europe/Berln")


# ---- The command, against a deployed stack ----------------------------------------------------


def found(cloud: Cloud, name: str) -> dict[str, Any]:  # noqa: F811
    return cloud.client("scheduler").get_schedule(Name=name, GroupName="handful")


def test_a_schedule_is_created_listed_paused_resumed_and_deleted(
    cloud: Cloud,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    schedule.main(["create", "weekly", "every monday 03:00", "--timezone", "Europe/Berlin", *JOB])
    head, *told = capsys.readouterr().out.splitlines()
    assert head == "weekly: cron(0 3 ? * MON *) in Europe/Berlin"
    assert len(told) == 5
    assert all(line.startswith("  Mon ") and " 03:00 CE" in line for line in told)

    schedule.main(["list"])
    assert "weekly               on       cron(0 3 ? * MON *)" in capsys.readouterr().out
    before = found(cloud, "weekly")
    assert before["ScheduleExpressionTimezone"] == "Europe/Berlin"
    schedule.main(["pause", "weekly"])
    paused = found(cloud, "weekly")
    assert paused["State"] == "DISABLED"
    for kept in ("ScheduleExpression", "ScheduleExpressionTimezone", "Target"):
        assert paused[kept] == before[kept]
    schedule.main(["list", "--json"])
    out = capsys.readouterr().out
    assert json.loads(out[out.index("[") :])[0]["state"] == "paused"
    schedule.main(["resume", "weekly"])
    assert found(cloud, "weekly")["State"] == "ENABLED"
    schedule.main(["delete", "weekly"])
    with pytest.raises(Misuse, match="ResourceNotFoundException"):
        schedule.main(["pause", "weekly"])


def test_the_target_tries_little_loses_nothing_and_carries_its_time(
    cloud: Cloud,  # noqa: F811
) -> None:
    schedule.main(["create", "weekly", "rate(7 days)", *JOB])
    target = found(cloud, "weekly")["Target"]
    assert target["Arn"] == "arn:aws:scheduler:::aws-sdk:batch:submitJob"
    assert target["RoleArn"] == cloud.outputs["SchedulerRole"]
    assert target["RetryPolicy"] == {"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 3600}
    assert target["DeadLetterConfig"] == {"Arn": cloud.outputs["ScheduleDeadLetters"]}
    asked = json.loads(target["Input"])
    assert asked["JobQueue"] == cloud.outputs["TrainQueue"]
    assert asked["ContainerOverrides"]["Command"] == [
        "python", "-m", "jobs.container", "--once", "<aws.scheduler.scheduled-time>",
        "train", "s3://photos/hands", "--registry", "s3://models",
    ]  # fmt: skip


def test_a_rate_starts_one_period_from_now_and_not_at_once(cloud: Cloud) -> None:  # noqa: F811
    schedule.main(["create", "weekly", "rate(7 days)", *JOB])
    days = (found(cloud, "weekly")["StartDate"] - datetime.now(UTC)).total_seconds() / 86_400
    assert 6.99 < days <= 7


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["create", "w", "every monday 03:00"], "behind -- must stand what to run.*nothing"),
        (["create", "w", "every monday 03:00", "--", "paint"], "Received: paint"),
        (["create", "w", "every monday 03:00", "--", "train", "s3://p", "--registry", "models"],
         "places must be s3://bucket/prefix. Received: models"),
        (["create", "w", "cron(0 3 * * MON)", *JOB], "must have 6 fields"),
        (["create", "w", "every monday 03:00", "--timezone", "Mars", *JOB], "Received: Mars"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_here_without_asking_aws(
    aws_settings: None, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Misuse, match=message):
        schedule.main(argv)


def test_the_same_name_twice_is_refused(cloud: Cloud) -> None:  # noqa: F811
    schedule.main(["create", "weekly", "rate(7 days)", *JOB])
    with pytest.raises(Misuse, match="ConflictException"):
        schedule.main(["create", "weekly", "rate(1 day)", *JOB])


def test_a_dry_run_prints_the_request_and_sends_nothing(
    cloud: Cloud,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    schedule.main(["create", "weekly", "rate(7 days)", "--dry-run", *JOB])
    told = capsys.readouterr().out
    asked, _ = json.JSONDecoder().raw_decode(told)
    assert asked["ScheduleExpression"] == "rate(7 days)"
    assert not cloud.client("scheduler").list_schedules()["Schedules"]


def test_without_a_stack_the_command_ends_in_one_line(
    s3: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["schedule", "list"])
    with pytest.raises(SystemExit) as ended:
        commands.run(schedule.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: stack handful: ")
