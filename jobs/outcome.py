"""What a training run prints in the end: both models, side by side, and both accuracies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lib import metrics


@dataclass(frozen=True)
class Outcome:
    """What the training of one model left behind: a row of the table."""

    model: str
    version: str
    accuracy: metrics.Accuracy
    how: str
    worst_session: float
    twin_share: float
    random_split: dict[str, float]
    seconds: float
    verdict: str


def tell(outcomes: Sequence[Outcome], as_json: bool) -> None:
    """Print outcomes on stdout, as a table for people or as JSON for programs."""
    if as_json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
        return
    if not outcomes:
        return
    head = ("held out, 95 % interval", "worst session", "random split", "seconds")
    print(f"{'model':<10} {head[0]:<38} {head[1]:>13} {head[2]:>12} {head[3]:>8}")
    for o in outcomes:
        print(
            f"{o.model:<10} {o.accuracy!s:<38} {o.worst_session:>13.3f} "
            f"{o.random_split['value']:>12.3f} {o.seconds:>8.0f}"
        )
    print(_leak(outcomes[0]))
    for o in outcomes:
        print(f"{o.model} {o.version}: measured {o.how}; {o.verdict}")


def _leak(outcome: Outcome) -> str:
    random = outcome.random_split["twin_share"]
    told = f"near twins in training: {outcome.twin_share:.0%} of the held-out images, "
    told += f"{random:.0%} of a random split's"
    return told + (" (its accuracy is optimistic)" if random > outcome.twin_share else "")
