"""What a run would cost: the arithmetic, by hand, and what it is told of."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from jobs import estimate
from jobs.estimate import Estimate, Prices, Task
from jobs.plan import Options
from lib import bundle, registry


def test_the_cost_is_hours_times_prices() -> None:
    prices = Prices(vcpu_hour=1.0, gb_hour=0.1, spot_share=0.25)
    # 720,000 images at 2 × 100 a second take an hour; 60 shards start for a minute each.
    told = estimate.cost(720_000, 100, 60, Task(n_vcpus=2, memory_gb=4), prices)
    assert told.vcpu_hours == pytest.approx(2 * 2)
    assert told.gb_hours == pytest.approx(2 * 4)
    assert told.fargate_usd == pytest.approx(4 * 1.0 + 8 * 0.1)
    assert told.fargate_spot_usd == pytest.approx(4.8 / 4)


def test_a_million_images_cost_a_dollar_at_the_listed_prices() -> None:
    told = estimate.cost(1_000_000, 300, 100, Task(), Prices())
    hours = 1_000_000 / 600 / 3600 + 100 * 60 / 3600
    assert told.fargate_usd == pytest.approx(hours * (2 * 0.04048 + 4 * 0.004445), rel=1e-3)


def test_more_shards_start_more_often() -> None:
    few, many = (estimate.cost(10_000, 100, n, Task(), Prices()) for n in (1, 100))
    assert many.vcpu_hours - few.vcpu_hours == pytest.approx(99 * 60 * 2 / 3600)


def test_the_shortest_bill_is_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "START_S", 1.0)
    assert estimate.cost(1, 100, 1, Task(n_vcpus=1), Prices()).vcpu_hours == pytest.approx(
        1 / 60, abs=1e-4
    )


def test_no_images_cost_the_start_alone() -> None:
    told = estimate.cost(0, 0.0, 1, Task(), Prices())
    assert told.vcpu_hours == pytest.approx(2 / 60, abs=1e-4)


def test_the_prices_travel_with_the_cost() -> None:
    prices = dataclasses.replace(Prices(), region="eu-central-1")
    assert estimate.cost(1, 1, 1, Task(), prices).prices.region == "eu-central-1"


def estimated(source: Path, output: Path, trained: Path) -> Estimate:
    model = bundle.load(registry.resolve(str(trained / "cnn")))
    return estimate.make(str(source), str(output), model, Options())


def test_a_vcpu_is_as_fast_as_one_core_of_this_machine(
    hands: Path, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "N_CORES", 100_000)  # so that each is slow, and costs much
    told = estimated(hands, tmp_path / "out", trained)
    core_s = told.n_images * 100_000 / told.images_per_s
    assert told.cost.vcpu_hours == pytest.approx((core_s + 2 * 60) / 3600, rel=1e-2)


@pytest.mark.parametrize(
    ("n_sampled", "bad", "n_unreadable"), [(6, slice(6), 1), (20, slice(30, 36), 3)]
)
def test_the_sample_is_of_all_the_listing(
    hands: Path,
    tmp_path: Path,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_sampled: int,
    bad: slice,
    n_unreadable: int,
) -> None:
    source = shutil.copytree(hands, tmp_path / "photos")
    for path in sorted(source.rglob("*.png"))[bad]:
        path.write_bytes(b"not a picture")
    monkeypatch.setattr(estimate, "N_SAMPLED", n_sampled)
    told = estimated(source, tmp_path / "out", trained)
    assert (told.n_images, told.n_sampled, told.n_unreadable) == (36, n_sampled, n_unreadable)
