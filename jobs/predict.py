"""Classify every image of a folder or bucket; the same command again finishes what is left."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from jobs import plan, shard, summary
from jobs.plan import Options
from jobs.summary import Summary
from lib import bundle, commands, records, registry
from lib.commands import Progress, say


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = _parser().parse_args(argv)
    options = Options(tuple(arguments.include), arguments.max_error_rate)
    model = bundle.load(registry.resolve(arguments.model))
    the_plan, root = plan.make(arguments.source, arguments.output, model, options, arguments.run)
    say(f"run {the_plan.run}: {the_plan.n_images:,} images, {the_plan.n_bytes / 1e6:,.1f} MB")
    if the_plan.skipped:
        say(
            f"skipped {_total(the_plan.skipped)} keys that do not end like an image: "
            f"{_counts(the_plan.skipped)} (--include '*' takes them)"
        )
    complete = summary.find(root)
    if complete is not None:
        say("complete already, nothing to do")
        _print(complete, root, arguments.json)
        return
    with Progress("classifying", the_plan.n_images) as progress:
        shards = [shard.run(the_plan, root, i, model, progress) for i in range(the_plan.n_shards)]
    _print(summary.write(the_plan, root, shards), root, arguments.json)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        prog="python -m jobs.predict",
        description=__doc__,
        example="python -m jobs.predict s3://photos/2026 s3://results --model registry/mobilenet",
    )
    parser.add_argument("source", help="the images: a folder or s3://bucket/prefix")
    parser.add_argument(
        "output", help="where OUTPUT/<run>/ is written: a folder or s3://bucket/prefix"
    )
    parser.add_argument(
        "--model",
        required=True,
        help="REGISTRY/NAME for the champion, REGISTRY/NAME/VERSION, or a bundle's folder",
    )
    parser.add_argument(
        "--run", type=_run_name, help="a name for the run (the default: a digest of what is asked)"
    )
    parser.add_argument(
        "--include",
        nargs="+",
        action="extend",
        default=[],
        metavar="GLOB",
        help="take the keys that match, such as '*.jpg'; '*' takes every key and lets the decoder decide",
    )
    parser.add_argument(
        "--max-error-rate",
        type=_share,
        default=Options().max_error_rate,
        metavar="SHARE",
        help=f"stop with exit 3 over this share of errors, once a shard has {shard.MIN_IMAGES_TO_STOP} "
        "images (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be 0 to 1. Received: {text}")
    return share


def _run_name(text: str) -> str:
    if not text or text.startswith(".") or not all(c.isalnum() or c in "-_." for c in text):
        raise argparse.ArgumentTypeError(f"must be letters, digits, - _ and . Received: {text}")
    return text


def _total(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def _print(done: Summary, root: str, as_json: bool) -> None:
    if as_json:
        print(records.to_json(done, indent=2))
        return
    print(
        f"{done.listed:,} listed = {done.predicted:,} predicted + {done.errors:,} errors "
        f"+ {done.skipped:,} skipped"
    )
    print(f"classes: {_counts(done.classes) or 'none'}; not sure: {done.not_sure:,}")
    for code, n in done.errors_by_code.items():
        print(f"errors, {code}: {n:,}, such as {done.error_examples[code][0]}")
    print(f"{done.images_per_s:,.0f} images/s; rows in {root}")


if __name__ == "__main__":
    commands.run(main)
