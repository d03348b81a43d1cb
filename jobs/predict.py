"""Classify every image of a folder or bucket; the same command again finishes what is left."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from jobs import estimate, plan, rows, shard, summary
from jobs.estimate import Estimate
from jobs.limit import MIN_IMAGES, Limit
from jobs.plan import Options, Plan
from jobs.rows import Rows
from jobs.summary import Summary
from lib import bundle, commands, records, registry
from lib.bundle import Bundle
from lib.commands import Progress, say
from lib.failures import Misuse

MAX_ERROR_RATE = 0.1

ARRAY_INDEX = "AWS_BATCH_JOB_ARRAY_INDEX"
"""Where AWS Batch tells a child of an array job its number."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parser().parse_args(argv)
    with commands.stoppable():
        model = bundle.load(registry.resolve(arguments.model))
        Rows(arguments.format, model.card.classes).check()
        if arguments.dry_run:
            _estimate(arguments, model)
        elif (index := _index(arguments.shard)) is not None:
            _one_shard(arguments, model, index)
        elif arguments.shards:
            _plan(arguments, model)
        else:
            _all_shards(arguments, model)


def parser() -> commands.Parser:
    """Return what understands the command line."""
    asks = commands.Parser(
        prog="python -m jobs.predict",
        description=__doc__,
        example="python -m jobs.predict s3://photos/2026 s3://results --model registry/mobilenet",
    )
    asks.add_argument(
        "source",
        nargs="+",
        help="the images: folders, s3://bucket/prefix, or lists of keys (.txt, .csv, .jsonl)",
    )
    asks.add_argument(
        "output", help="where OUTPUT/<run>/ is written: a folder or s3://bucket/prefix"
    )
    asks.add_argument(
        "--model",
        required=True,
        help="REGISTRY/NAME for the champion, REGISTRY/NAME/VERSION, or a bundle's folder",
    )
    asks.add_argument(
        "--run", type=_run_name, help="a name for the run (the default: a digest of what is asked)"
    )
    _add_work(asks)
    _add_rows(asks)
    asks.add_argument(
        "--dry-run",
        action="store_true",
        help="count, measure a sample, tell the cost, write nothing",
    )
    asks.add_argument("--json", action="store_true", help="print the result as JSON")
    return asks


def _add_work(parser: commands.Parser) -> None:
    parser.add_argument(
        "--shards",
        type=_positive,
        metavar="N",
        help="only plan the run, in N shards for N workers (without it, all is done here)",
    )
    parser.add_argument(
        "--shard",
        type=_index_number,
        metavar="I",
        help="do one shard of a planned run, 0 to N - 1; the last one to end writes the summary "
        f"(the default: ${ARRAY_INDEX})",
    )
    parser.add_argument(
        "--max-error-rate",
        type=_share,
        default=MAX_ERROR_RATE,
        metavar="SHARE",
        help="stop with exit 3 when more than this share of a run's images are errors, of at least "
        f"{MIN_IMAGES} (default %(default)s)",
    )


def _add_rows(parser: commands.Parser) -> None:
    parser.add_argument(
        "--include",
        nargs="+",
        action="extend",
        default=[],
        metavar="GLOB",
        help="take the keys that match, such as '*.jpg'; '*' takes all, and the decoder decides",
    )
    parser.add_argument(
        "--incremental",
        action="store_true",
        help="leave out the images that a complete run of this model under OUTPUT has a row for",
    )
    parser.add_argument(
        "--format",
        choices=rows.FORMATS,
        default=Options().format,
        help="of the rows (default %(default)s); parquet needs pyarrow",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be 0 to 1. Received: {text}")
    return share


def _index_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0. Received: {text}")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1. Received: {text}")
    return int(text)


def _run_name(text: str) -> str:
    if not text or text.startswith(".") or not all(c.isalnum() or c in "-_." for c in text):
        raise argparse.ArgumentTypeError(f"must be letters, digits, - _ and . Received: {text}")
    return text


def options_of(arguments: argparse.Namespace) -> Options:
    """Return what of a command line changes the rows."""
    return Options(tuple(arguments.include), arguments.incremental, arguments.format)


def _index(asked: int | None) -> int | None:
    """Return the shard to do, as asked or as AWS Batch says, or None."""
    told = os.environ.get(ARRAY_INDEX)
    if asked is not None or told is None:
        return asked
    if not told.isdecimal():
        raise Misuse(f"{ARRAY_INDEX} must be a whole number from 0. Received: {told}")
    return int(told)


# ---- What is done -----------------------------------------------------------------------------


def _planned(arguments: argparse.Namespace, model: Bundle) -> tuple[Plan, str]:
    the_plan, root = plan.make(
        arguments.source,
        arguments.output,
        model,
        options_of(arguments),
        arguments.run,
        arguments.shards,
    )
    say(f"run {the_plan.run}: {the_plan.n_images:,} images, {the_plan.n_bytes / 1e6:,.1f} MB")
    _say_skipped(the_plan.skipped, the_plan.n_classified_before)
    return the_plan, root


def _all_shards(arguments: argparse.Namespace, model: Bundle) -> None:
    the_plan, root = _planned(arguments, model)
    if not the_plan.n_shards:
        say("nothing new, nothing is written")
        print_summary(summary.add_up(the_plan, [], model.card), root, arguments.json)
        return
    complete = summary.find(root)
    if complete is not None:
        say("complete already, nothing to do")
        print_summary(complete, root, arguments.json)
        return
    limit = Limit(arguments.max_error_rate, the_plan.n_images)
    with Progress("classifying", the_plan.n_images) as progress:
        for index in range(the_plan.n_shards):
            shard.run(the_plan, root, index, model, progress, limit)
    told = summary.write_if_last(the_plan, root, model.card, arguments.max_error_rate)
    if told is not None:
        print_summary(told, root, arguments.json)


def _plan(arguments: argparse.Namespace, model: Bundle) -> None:
    the_plan, root = _planned(arguments, model)
    if arguments.json:
        print(records.to_json(the_plan, indent=2))
    elif not the_plan.n_shards:
        print("nothing new, nothing is planned")
    else:
        print(f"run {the_plan.run}: {the_plan.n_shards} shards planned in {root}")
        say(f"each worker adds --run {the_plan.run} --shard I, 0 to {the_plan.n_shards - 1}")


def _one_shard(arguments: argparse.Namespace, model: Bundle, index: int) -> None:
    the_plan, root = plan.find_asked(
        arguments.source, arguments.output, model, options_of(arguments), arguments.run
    )
    if index >= the_plan.n_shards:
        raise Misuse(f"--shard must be 0 to {the_plan.n_shards - 1}. Received: {index}")
    limit = Limit(arguments.max_error_rate, the_plan.n_images)
    with Progress(f"shard {index}", plan.shard_size(the_plan, index)) as progress:
        done = shard.run(the_plan, root, index, model, progress, limit)
    told = summary.write_if_last(the_plan, root, model.card, arguments.max_error_rate)
    if told is not None:
        say("the last shard of the run: complete")
        print_summary(told, root, arguments.json)
    elif arguments.json:
        print(records.to_json(done, indent=2))
    else:
        n_rows = done.counts.predicted + done.counts.errors
        print(
            f"shard {index} of {the_plan.n_shards}: {n_rows:,} images = "
            f"{done.counts.predicted:,} predicted + {done.counts.errors:,} errors"
        )


def _estimate(arguments: argparse.Namespace, model: Bundle) -> None:
    told = estimate.make(
        arguments.source, arguments.output, model, options_of(arguments), arguments.shards
    )
    _say_skipped(told.skipped, told.n_classified_before)
    if arguments.json:
        print(records.to_json(told, indent=2))
    else:
        _print_estimate(told)


# ---- What is told -----------------------------------------------------------------------------


def _say_skipped(skipped: Mapping[str, int], n_classified_before: int) -> None:
    if skipped:
        say(
            f"skipped {sum(skipped.values()):,} keys that do not end like an image or as --include "
            f"asks: {_counts(skipped)} (--include '*' takes all)"
        )
    if n_classified_before:
        say(f"skipped {n_classified_before:,} images that an earlier run has a row for")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def print_summary(done: Summary, root: str, as_json: bool) -> None:
    """Print what came out of a run."""
    if as_json:
        print(records.to_json(done, indent=2))
        return
    print(
        f"{done.listed:,} listed = {done.predicted:,} predicted + {done.errors:,} errors "
        f"+ {done.skipped:,} skipped"
    )
    print(f"classes: {_counts(done.classes) or 'none'}")
    print(f"not sure: {done.not_sure:,} ({done.not_sure_share:.1%}); mean score {done.mean_score}")
    for code, n in done.errors_by_code.items():
        print(f"errors, {code}: {n:,}, such as {done.error_examples[code][0]}")
    print(f"drift: {done.drift.sentence}")
    print(f"{done.seconds:,.0f} s, {done.images_per_s:,.0f} images/s; rows in {root}")


def _print_estimate(told: Estimate) -> None:
    cost, prices, task = told.cost, told.cost.prices, told.cost.task
    print(f"{told.n_images:,} images, {told.n_bytes / 1e6:,.1f} MB, {told.n_shards:,} shards")
    print(
        f"{told.images_per_s:,.0f} images/s on {told.n_cores} cores here, measured on "
        f"{told.n_sampled} images ({told.n_unreadable} unreadable): {told.seconds_here:,.0f} s"
    )
    print(
        f"{cost.vcpu_hours:,.2f} vCPU-hours in tasks of {task.n_vcpus:g} vCPU and "
        f"{task.memory_gb:g} GB, {estimate.START_S:g} s of start in each"
    )
    print(
        f"Fargate {cost.fargate_usd:,.2f} USD, Spot about {cost.fargate_spot_usd:,.2f} USD, at "
        f"{prices.vcpu_hour} USD a vCPU-hour and {prices.gb_hour} USD a GB-hour "
        f"({prices.region}, Linux x86), Spot at {prices.spot_share:.0%} of that"
    )


if __name__ == "__main__":
    commands.run(main)
