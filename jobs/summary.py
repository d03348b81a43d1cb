"""What came out of a batch run, added up from the counts of its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs.plan import Plan
from jobs.shard import MAX_EXAMPLES, Done
from lib import records, storage
from lib.failures import Broken


@dataclass(frozen=True, slots=True)
class Summary:
    """`summary.json`: listed = predicted + errors + skipped, or it is not written."""

    run: str
    source: str
    model: str
    version: str
    listed: int
    predicted: int
    errors: int
    skipped: int
    skipped_by_ending: dict[str, int]
    classes: dict[str, int]
    not_sure: int
    mean_score: float
    errors_by_code: dict[str, int]
    error_examples: dict[str, list[str]]
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
        fields = records.parse_object(storage.read(uri(root)).data, uri(root))
        return Summary(**fields)
    except storage.Missing:
        return None
    except TypeError as error:
        raise Broken(f"{uri(root)}: damaged, a field is missing or unknown ({error})") from error


def write(plan: Plan, root: str, shards: Sequence[Done]) -> Summary:
    """Add up the shards, check that nothing is lost, and write the summary once.

    Raises:
        Broken: the counts do not add up to what was listed.
    """
    summary = add_up(plan, shards)
    if summary.listed != summary.predicted + summary.errors + summary.skipped:
        raise Broken(
            f"{root}: listed must be predicted + errors + skipped. Received: {summary.listed} and "
            f"{summary.predicted} + {summary.errors} + {summary.skipped}"
        )
    try:
        storage.create(uri(root), records.to_file(summary))
    except storage.AlreadyThere:
        return find(root) or summary
    return summary


def add_up(plan: Plan, shards: Sequence[Done]) -> Summary:
    """Return the summary of a run from the counts of its shards."""
    predicted = sum(shard.predicted for shard in shards)
    errors = sum(shard.errors for shard in shards)
    seconds = sum(shard.seconds for shard in shards)
    return Summary(
        run=plan.run,
        source=plan.source,
        model=plan.model,
        version=plan.version,
        listed=plan.n_listed,
        predicted=predicted,
        errors=errors,
        skipped=sum(plan.skipped.values()),
        skipped_by_ending=plan.skipped,
        classes=_total(shard.classes for shard in shards),
        not_sure=sum(shard.not_sure for shard in shards),
        mean_score=round(sum(shard.score_sum for shard in shards) / max(predicted, 1), 4),
        errors_by_code=_total(shard.error_codes for shard in shards),
        error_examples=_examples(shards),
        seconds=round(seconds, 3),
        images_per_s=round((predicted + errors) / seconds, 1) if seconds else 0.0,
    )


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = Counter[str]()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def _examples(shards: Sequence[Done]) -> dict[str, list[str]]:
    examples: dict[str, list[str]] = {}
    for shard in shards:
        for code, uris in shard.error_examples.items():
            examples[code] = [*examples.get(code, []), *uris][:MAX_EXAMPLES]
    return examples
