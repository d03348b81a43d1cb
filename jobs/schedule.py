"""Run a training or a batch run in the cloud on a schedule, in the time zone you live in."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jobs import expressions, stack
from jobs.expressions import Rate
from jobs.stack import Stack
from lib import commands
from lib.failures import Misuse

TARGET = "arn:aws:scheduler:::aws-sdk:batch:submitJob"

SCHEDULED_TIME = "<aws.scheduler.scheduled-time>"
"""What EventBridge Scheduler replaces by the time that a run was due: the run's identity."""

RETRIES = {"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 3600}
"""AWS would try 185 times for a day; who misses an hour waits for the next time."""

KEPT = (
    "ActionAfterCompletion", "Description", "EndDate", "FlexibleTimeWindow", "GroupName",
    "KmsKeyArn", "Name", "ScheduleExpression", "ScheduleExpressionTimezone", "StartDate", "State",
    "Target",
)  # fmt: skip
"""What an update must repeat: AWS forgets the rest."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own, job = argv, []
    if "--" in argv:
        own, job = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    arguments = _parser().parse_args(own)
    arguments.job = job
    arguments.command(arguments)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m jobs.schedule",
        description=__doc__,
        example='python -m jobs.schedule create weekly "every monday 03:00"'
        " --timezone Europe/Berlin \\\n    -- train s3://photos/hands --registry s3://models",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=commands.Action)
    create = _add(actions, "create", _create, "a new schedule; behind -- what it runs")
    create.add_argument("when", help="rate(7 days), cron(…), at(…) or 'every monday 03:00'")
    create.add_argument("--timezone", default="UTC", metavar="ZONE", help="such as Europe/Berlin")
    create.add_argument("--paused", action="store_true", help="create it switched off")
    _add(actions, "list", _list, "every schedule and when it comes next", named=False)
    for name, command, words in (
        ("pause", _pause, "switch a schedule off"),
        ("resume", _resume, "switch a schedule on"),
        ("delete", _delete, "forget a schedule"),
        ("run-now", _run_now, "do once, now, what a schedule does"),
    ):
        _add(actions, name, command, words)
    return parser


def _add(
    actions: Any, name: str, command: Any, words: str, *, named: bool = True
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=words, description=words)
    if named:
        action.add_argument("name", help="the schedule: letters, digits, - _ and .")
        action.add_argument("--dry-run", action="store_true", help="print the request alone")
    else:
        action.add_argument("--json", action="store_true", help="print it as JSON")
    action.add_argument("--stack", default=stack.DEFAULT, help="the stack (default %(default)s)")
    action.set_defaults(command=command)
    return action


def _create(arguments: argparse.Namespace) -> None:
    _check_job(arguments.job)
    zone = expressions.zone(arguments.timezone)
    expression = expressions.parse(arguments.when)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    times = expressions.next_times(expression, zone, after=now)
    the_stack = stack.find(arguments.stack)
    request = {
        "Name": arguments.name,
        "GroupName": the_stack["ScheduleGroup"],
        "ScheduleExpression": expression.text,
        "ScheduleExpressionTimezone": zone.key,
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "State": "DISABLED" if arguments.paused else "ENABLED",
        "Target": target(the_stack, arguments.job),
    }
    if isinstance(expression, Rate):  # without a start AWS would fire at once
        request["StartDate"] = times[0].astimezone(UTC)
    if _sent(arguments, "create_schedule", request):
        print(f"{arguments.name}: {expression.text} in {zone.key}")
    for time in times:
        print(f"  {time:%a %Y-%m-%d %H:%M %Z (UTC%z)}")


def _check_job(job: Sequence[str]) -> None:
    if not job or job[0] not in ("train", "predict"):
        raise Misuse(
            "behind -- must stand what to run, such as: -- train s3://photos/hands --registry "
            f"s3://models. Received: {' '.join(job) or 'nothing'}"
        )
    stack.check_places(job[1:])


def target(the_stack: Stack, job: Sequence[str]) -> dict[str, Any]:
    """Return what a schedule does: submit a job, trying little, losing nothing silently."""
    kind, *rest = job
    once = ("--once", SCHEDULED_TIME) if kind == "train" else ()
    command = stack.container_command(kind, rest, *once)
    request = the_stack.job(kind, command, queue=f"{kind.capitalize()}Queue")
    return {
        "Arn": TARGET,
        "RoleArn": the_stack["SchedulerRole"],
        "Input": json.dumps(_renamed(request, str.upper)),
        "RetryPolicy": RETRIES,
        "DeadLetterConfig": {"Arn": the_stack["ScheduleDeadLetters"]},
    }


def _renamed(value: Any, case: Any) -> Any:
    """Return a request with the first letter of every name in another case.

    A schedule's universal target writes JobName where Batch itself writes jobName.
    """
    if isinstance(value, dict):
        return {case(key[0]) + key[1:]: _renamed(item, case) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, case) for item in value]
    return value


def _list(arguments: argparse.Namespace) -> None:
    the_stack = stack.find(arguments.stack)
    with stack.refusals("the schedules"):
        scheduler = stack.client("scheduler")
        pages = scheduler.get_paginator("list_schedules").paginate(
            GroupName=the_stack["ScheduleGroup"]
        )
        names = [found["Name"] for page in pages for found in page["Schedules"]]
    rows = [_row(_get(the_stack, name)) for name in names]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'schedule':<20} {'state':<8} {'when':<28} {'time zone':<18} next")
    for row in rows:
        print(
            f"{row['name']:<20} {row['state']:<8} {row['when']:<28} {row['timezone']:<18} "
            f"{row['next']}"
        )


def _row(found: dict[str, Any]) -> dict[str, str]:
    zone = expressions.zone(found.get("ScheduleExpressionTimezone") or "UTC")
    on = found["State"] == "ENABLED"
    try:
        expression = expressions.parse(found["ScheduleExpression"])
        times = expressions.next_times(expression, zone, 1, start=found.get("StartDate"))
        coming = f"{times[0]:%a %Y-%m-%d %H:%M %Z}"
    except Misuse:
        coming = "never"
    return {
        "name": found["Name"],
        "state": "on" if on else "paused",
        "when": found["ScheduleExpression"],
        "timezone": zone.key,
        "next": coming if on else "-",
    }


def _get(the_stack: Stack, name: str) -> dict[str, Any]:
    with stack.refusals(f"schedule {name}"):
        return stack.client("scheduler").get_schedule(
            Name=name, GroupName=the_stack["ScheduleGroup"]
        )


def _pause(arguments: argparse.Namespace) -> None:
    _switch(arguments, "DISABLED", "paused")


def _resume(arguments: argparse.Namespace) -> None:
    _switch(arguments, "ENABLED", "on")


def _switch(arguments: argparse.Namespace, state: str, word: str) -> None:
    the_stack = stack.find(arguments.stack)
    found = _get(the_stack, arguments.name)
    request = {key: found[key] for key in KEPT if found.get(key) is not None} | {"State": state}
    if _sent(arguments, "update_schedule", request):
        print(f"{arguments.name}: {word}")


def _delete(arguments: argparse.Namespace) -> None:
    the_stack = stack.find(arguments.stack)
    request = {"Name": arguments.name, "GroupName": the_stack["ScheduleGroup"]}
    if _sent(arguments, "delete_schedule", request):
        print(f"{arguments.name}: deleted")


def _run_now(arguments: argparse.Namespace) -> None:
    the_stack = stack.find(arguments.stack)
    text = _get(the_stack, arguments.name)["Target"]["Input"]
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    request = _renamed(json.loads(text.replace(SCHEDULED_TIME, now)), str.lower)
    if arguments.dry_run:
        print(json.dumps(request, indent=2))
        return
    with stack.refusals(f"schedule {arguments.name}"):
        job = stack.client("batch").submit_job(**request)
    print(f"{arguments.name}: job {job['jobId']}\n{the_stack.job_link(job['jobId'])}")


def _sent(arguments: argparse.Namespace, action: str, request: dict[str, Any]) -> bool:
    """Send a request to EventBridge Scheduler, or print it; tell whether it was sent."""
    if arguments.dry_run:
        print(json.dumps(request, indent=2, default=str))
        return False
    with stack.refusals(f"schedule {arguments.name}"):
        getattr(stack.client("scheduler"), action)(**request)
    return True


if __name__ == "__main__":
    commands.run(main)
