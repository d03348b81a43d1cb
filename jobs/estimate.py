"""What a batch run would cost: counted, measured on a sample, and priced for Fargate."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import IO

from jobs import pipeline, plan
from jobs.pipeline import N_CORES
from jobs.plan import Options
from jobs.sources import Image
from lib import records
from lib.bundle import Bundle
from lib.records import ErrorRow

N_SAMPLED = 200
"""Images that are read and classified to measure the speed."""

START_S = 60.0
"""Seconds a Fargate task is paid for before its first image: the container's layers, the model."""

MIN_TASK_S = 60.0
"""Fargate's shortest bill for a task."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What Fargate asks for Linux on x86, in US dollars; look up your region's."""

    region: str = "us-east-1"
    vcpu_hour: float = 0.04048
    gb_hour: float = 0.004445
    spot_share: float = 0.3
    """What Spot asks of the full price; it moves, and "up to 70 % off" is what AWS promises."""


@dataclass(frozen=True, slots=True)
class Task:
    """The container that classifies one shard."""

    n_vcpus: float = 2.0
    memory_gb: float = 4.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What the tasks of a run use, and what that costs."""

    vcpu_hours: float
    gb_hours: float
    fargate_usd: float
    fargate_spot_usd: float
    prices: Prices
    task: Task


@dataclass(frozen=True, slots=True)
class Estimate:
    """What `--dry-run` tells."""

    n_images: int
    n_bytes: int
    skipped: dict[str, int]
    n_classified_before: int
    n_shards: int
    n_sampled: int
    n_unreadable: int
    """Of those sampled."""
    images_per_s: float
    """Of this machine, on all its cores."""
    n_cores: int
    seconds_here: float
    cost: Cost


def make(
    asked: Sequence[str] | str,
    output: str,
    model: Bundle,
    options: Options,
    n_shards: int | None = None,
    task: Task | None = None,
) -> Estimate:
    """List the sources, classify a sample, and return what the run would take; nothing is written.

    Raises:
        Broken: the storage failed.
    """
    with tempfile.TemporaryFile("w+b") as spool:
        drawn = plan.draft(asked, output, model, options, spool)
        sampled = _sample(spool, drawn.n_images)
    n_shards = n_shards or plan.default_shards(drawn)
    images_per_s, n_unreadable = measure(sampled, model)
    return Estimate(
        n_images=drawn.n_images,
        n_bytes=drawn.n_bytes,
        skipped=drawn.skipped,
        n_classified_before=drawn.n_classified_before,
        n_shards=n_shards,
        n_sampled=len(sampled),
        n_unreadable=n_unreadable,
        images_per_s=round(images_per_s, 1),
        n_cores=N_CORES,
        seconds_here=round(drawn.n_images / images_per_s, 1) if images_per_s else 0.0,
        cost=cost(drawn.n_images, images_per_s / N_CORES, n_shards, task or Task(), Prices()),
    )


def cost(
    n_images: int, images_per_vcpu_s: float, n_shards: int, task: Task, prices: Prices
) -> Cost:
    """Return what `n_shards` equal tasks cost that share the images.

    A vCPU is taken to be as fast as a core of this machine. Storage and requests are not counted:
    reading a million objects from S3 is 0.40 USD, and nothing within a region for the bytes.
    """
    images_s = n_images / n_shards / (images_per_vcpu_s * task.n_vcpus) if n_images else 0.0
    hours = n_shards * max(MIN_TASK_S, START_S + images_s) / 3600
    vcpu_hours, gb_hours = hours * task.n_vcpus, hours * task.memory_gb
    usd = vcpu_hours * prices.vcpu_hour + gb_hours * prices.gb_hour
    return Cost(
        vcpu_hours=round(vcpu_hours, 4),
        gb_hours=round(gb_hours, 4),
        fargate_usd=round(usd, 4),
        fargate_spot_usd=round(usd * prices.spot_share, 4),
        prices=prices,
        task=task,
    )


def measure(sampled: Sequence[Image], model: Bundle) -> tuple[float, int]:
    """Return this machine's images a second on some images, and how many of them are errors."""
    started_s = time.monotonic()
    with closing(pipeline.rows(sampled, model)) as rows:
        n_unreadable = sum(isinstance(row, ErrorRow) for row in rows)
    return len(sampled) / (time.monotonic() - started_s), n_unreadable


def _sample(spool: IO[bytes], n_images: int) -> list[Image]:
    """Return images from all over the listing, at equal distances."""
    spool.seek(0)
    n_sampled = min(n_images, N_SAMPLED)
    drawn = {k * n_images // n_sampled for k in range(n_sampled)}
    lines = (line for k, line in enumerate(spool) if k in drawn)
    return [Image(**records.parse_object(line, "the listing")) for line in lines]
