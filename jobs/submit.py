"""Hand a training or a batch run to AWS Batch; what stands behind the word goes to the job."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from jobs import plan, predict, stack, summary
from jobs.plan import Plan
from jobs.stack import Stack
from lib import bundle, commands, registry, storage
from lib.bundle import Bundle
from lib.commands import Progress, say
from lib.failures import Broken, Misuse

MAX_SHARDS = 10_000
"""AWS Batch takes arrays of 2 to 10,000; a run of one shard is a plain job."""

POLL_S = 5.0
"""How often `--wait` looks, in seconds."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments, rest = _parser().parse_known_args(argv)
    {"train": _train, "predict": _predict}[arguments.job](arguments, rest)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m jobs.submit",
        description=__doc__,
        example="python -m jobs.submit predict s3://photos/2026 s3://results \\\n"
        "      --model s3://models/mobilenet --shards 20 --wait\n"
        "  python -m jobs.submit train s3://photos/hands --registry s3://models",
    )
    parser.add_argument("job", choices=("train", "predict"))
    parser.add_argument("--stack", default=stack.DEFAULT, help="the stack (default %(default)s)")
    parser.add_argument(
        "--on-demand", action="store_true", help="predict: not on Spot capacity, which may be lost"
    )
    parser.add_argument("--wait", action="store_true", help="follow the run until it ends")
    parser.add_argument("--dry-run", action="store_true", help="print the request, send nothing")
    return parser


def _train(arguments: argparse.Namespace, rest: list[str]) -> None:
    stack.check_places(rest)
    the_stack = stack.find(arguments.stack)
    command = stack.container_command("train", rest)
    job_id = _submit(arguments, the_stack, the_stack.job("train", command, queue="TrainQueue"))
    if job_id and arguments.wait:
        _follow(the_stack, job_id, lambda status: say(f"train: {status.lower()}"))


def _predict(arguments: argparse.Namespace, rest: list[str]) -> None:
    asked = predict.parser().parse_args(rest)
    stack.check_places(rest)
    the_stack = stack.find(arguments.stack)
    model = bundle.load(registry.resolve(asked.model))
    the_plan, root, n_shards = _planned(asked, model, arguments.dry_run)
    if not n_shards or summary.find(root) is not None:
        say(f"{root}: complete already, nothing to do" if n_shards else "nothing new")
        return
    say(f"run {the_plan.run}: {the_plan.n_images:,} images in {n_shards:,} shards")
    request = _request(arguments, rest, the_stack, model, the_plan.run, root, n_shards)
    job_id = _submit(arguments, the_stack, request)
    if job_id and arguments.wait:
        _follow_shards(the_stack, job_id, root, n_shards)


def _planned(asked: argparse.Namespace, model: Bundle, dry: bool) -> tuple[Plan, str, int]:
    """Return the plan of a run, its folder, and how many shards it has; a dry run writes none."""
    options = predict.options_of(asked)
    if dry:
        with tempfile.TemporaryFile() as spool:
            the_plan = plan.draft(asked.source, asked.output, model, options, spool, asked.run)
        root = storage.join(asked.output, the_plan.run)
        n_shards = asked.shards or plan.default_shards(the_plan)
    else:
        the_plan, root = plan.make(
            asked.source, asked.output, model, options, asked.run, asked.shards
        )
        n_shards = the_plan.n_shards
    if n_shards > MAX_SHARDS:
        raise Misuse(
            f"AWS Batch takes at most {MAX_SHARDS:,} shards; --shards {MAX_SHARDS} under another "
            f"--run is allowed. Received: {n_shards:,}"
        )
    return the_plan, root, n_shards


def _request(
    arguments: argparse.Namespace,
    rest: Sequence[str],
    the_stack: Stack,
    model: Bundle,
    run: str,
    root: str,
    n_shards: int,
) -> dict[str, Any]:
    """Return the request for a run's shards, pinned to the version that it was planned with."""
    pinned = [*rest, "--model", model.uri, "--run", run]
    if n_shards == 1:
        pinned += ["--shard", "0"]
    command = stack.container_command("predict", pinned, "--root", root)
    queue = "PredictQueue" if arguments.on_demand else "SpotQueue"
    request = the_stack.job("predict", command, queue=queue)
    if n_shards > 1:
        request["arrayProperties"] = {"size": n_shards}
    return request


def _submit(arguments: argparse.Namespace, the_stack: Stack, request: dict[str, Any]) -> str | None:
    """Submit a job and print where it can be watched, or print the request and return None."""
    if arguments.dry_run:
        print(json.dumps(request, indent=2))
        return None
    with stack.refusals("the job"):
        job_id = stack.client("batch").submit_job(**request)["jobId"]
    print(f"job  {job_id}\nsee  {the_stack.job_link(job_id)}\nlogs {the_stack.log_link()}")
    return job_id


def _follow_shards(the_stack: Stack, job_id: str, root: str, n_shards: int) -> None:
    """Show how many shards are done, which the run's folder tells, until the job ends."""
    with Progress("classifying", n_shards, "shards") as progress:
        _follow(the_stack, job_id, lambda _: progress.add(_n_done(root) - progress.n_done))
    told = summary.find(root)
    if told is None:
        raise Broken(f"{root}: the job ended without a summary; see {the_stack.log_link()}")
    predict.print_summary(told, root, False)


def _n_done(root: str) -> int:
    try:
        return sum(1 for _ in storage.entries(storage.join(root, "done")))
    except storage.Missing:
        return 0


def _follow(the_stack: Stack, job_id: str, look: Callable[[str], None]) -> None:
    """Call `look` with the job's status every few seconds until the job has succeeded.

    Raises:
        Broken: it failed.
    """
    batch = stack.client("batch")
    while True:
        with stack.refusals(f"job {job_id}"):
            job = batch.describe_jobs(jobs=[job_id])["jobs"][0]
        look(job["status"])
        if job["status"] == "SUCCEEDED":
            return
        if job["status"] == "FAILED":
            why = job.get("statusReason", "no reason given")
            raise Broken(f"job {job_id}: failed ({why}); see {the_stack.job_link(job_id)}")
        time.sleep(POLL_S)


if __name__ == "__main__":
    commands.run(main)
