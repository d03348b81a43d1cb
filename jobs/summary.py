"""What came out of a batch run, added up from the counts of its shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs import counts, drift, patience, plan, shard
from jobs.ahead import ahead
from jobs.drift import Drift
from jobs.limit import Limit
from jobs.patience import patiently
from jobs.plan import Plan
from jobs.shard import Done
from lib import records, storage
from lib.failures import Broken
from lib.records import Card

N_READING = 16
"""Counts of shards read at a time."""


@dataclass(frozen=True, slots=True)
class Summary:
    """`summary.json`: listed = predicted + errors + skipped, or it is not written."""

    run: str
    sources: list[str]
    model: str
    version: str
    listed: int
    predicted: int
    errors: int
    skipped: int
    skipped_by_ending: dict[str, int]
    classified_before: int
    """Those of the skipped that an incremental run left out."""
    classes: dict[str, int]
    not_sure: int
    not_sure_share: float
    mean_score: float
    scores_histogram: list[int]
    errors_by_code: dict[str, int]
    error_examples: dict[str, list[str]]
    drift: Drift
    seconds: float
    """Of all shards together."""
    images_per_s: float
    format: int = records.FORMAT


def uri(root: str) -> str:
    """Return where a run's summary lies."""
    return storage.join(root, "summary.json")


def find(root: str) -> Summary | None:
    """Return the summary of a complete run, or None.

    Raises:
        Broken: it is damaged.
    """
    try:
        fields = records.parse_file(patience.read(uri(root)), uri(root))
        return Summary(**fields | {"drift": Drift(**fields["drift"])})
    except storage.Missing:
        return None
    except (KeyError, TypeError) as error:
        raise Broken(f"{uri(root)}: damaged, a field is missing or unknown ({error})") from error


def write_if_last(the_plan: Plan, root: str, card: Card, limit: float) -> Summary | None:
    """Write the summary once and return it if every shard is done, else return None.

    Whichever shard ends last finds all of them done, because each says so before it looks. Two that
    end together write the same bytes.

    Raises:
        BadData: over the whole run, more than the share `limit` of the images are errors.
        Broken: the counts do not add up to what was listed.
    """
    done = patiently(lambda: list(storage.entries(storage.join(root, "done"))))
    if len(done) < the_plan.n_shards:
        return None
    found = list(ahead(lambda k: _done(root, k), range(the_plan.n_shards), N_READING, 64))
    summary = add_up(the_plan, found, card)
    _check(root, summary)
    Limit(limit, the_plan.n_images).add(summary.errors)
    try:
        patience.create(uri(root), records.to_file(summary))
    except storage.AlreadyThere:
        return find(root) or summary
    return summary


def _done(root: str, index: int) -> Done:
    done = shard.find_done(root, index)
    if done is None:
        raise Broken(f"{plan.done_uri(root, index)}: no such object, among other files")
    return done


def _check(root: str, summary: Summary) -> None:
    if summary.listed != summary.predicted + summary.errors + summary.skipped:
        raise Broken(
            f"{root}: listed must be predicted + errors + skipped. Received: {summary.listed} and "
            f"{summary.predicted} + {summary.errors} + {summary.skipped}"
        )


def add_up(the_plan: Plan, shards: Sequence[Done], card: Card) -> Summary:
    """Return the summary of a run from the counts of its shards."""
    total = counts.total([done.counts for done in shards])
    seconds = sum(done.seconds for done in shards)
    n_rows = total.predicted + total.errors
    return Summary(
        run=the_plan.run,
        sources=list(the_plan.sources),
        model=the_plan.model,
        version=the_plan.version,
        listed=the_plan.n_listed,
        predicted=total.predicted,
        errors=total.errors,
        skipped=the_plan.n_skipped,
        skipped_by_ending=the_plan.skipped,
        classified_before=the_plan.n_classified_before,
        classes=total.classes,
        not_sure=total.not_sure,
        not_sure_share=round(total.not_sure / max(total.predicted, 1), 4),
        mean_score=round(total.score_sum / max(total.predicted, 1), 4),
        scores_histogram=total.scores_histogram,
        errors_by_code=total.errors_by_code,
        error_examples=total.error_examples,
        drift=drift.measure(total, card.metrics),
        seconds=round(seconds, 3),
        images_per_s=round(n_rows / seconds, 1) if seconds else 0.0,
    )
