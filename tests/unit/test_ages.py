"""Ages of records, from the oldest and the newest of each batch."""

from __future__ import annotations

import random

import pytest

from k2i_tasks.ages import BOUNDS_SECONDS, Ages
from k2i_tasks.metrics import Metrics
from k2i_tasks.types import Spread


def test_a_batch_of_one_moment_is_in_one_bucket() -> None:
    ages = Ages()
    ages.add([Spread(10, 1_000, 1_000)], now=1.2)
    buckets, total = ages.cumulative()
    assert dict(buckets)["0.1"] == 0
    assert dict(buckets)["0.25"] == 10
    assert total == pytest.approx(2.0)


def test_records_between_oldest_and_newest_count_as_evenly_spread() -> None:
    ages = Ages()
    ages.add([Spread(100, 0, 10_000)], now=10.0)
    buckets = dict(ages.cumulative()[0])
    assert (buckets["1.0"], buckets["5.0"], buckets["10.0"]) == (10, 50, 100)


def test_no_record_is_lost_by_rounding() -> None:
    chosen = random.Random(3)
    ages, records = Ages(), 0
    for _ in range(200):
        oldest = chosen.randrange(100_000)
        spreads = [Spread(chosen.randrange(1, 50), oldest, oldest + chosen.randrange(5_000))]
        ages.add(spreads, now=chosen.uniform(0, 200))
        records += spreads[0].records
    buckets, _total = ages.cumulative()
    counts = [count for _bound, count in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == records
    assert len(counts) == len(BOUNDS_SECONDS) + 1


def test_a_record_from_the_future_is_of_no_age() -> None:
    ages = Ages()
    ages.add([Spread(1, 5_000, 6_000)], now=1.0)
    found = ages.summary()
    assert found is not None
    assert found.max_seconds == 0.0


def test_percentiles_are_bounds_of_their_buckets_and_none_without_a_record() -> None:
    ages = Ages()
    assert ages.summary() is None
    ages.add([Spread(98, 0, 0)], now=0.02)
    ages.add([Spread(2, 0, 0)], now=40.0)
    found = ages.summary()
    assert found is not None
    assert (found.records, found.p50_seconds, found.p99_seconds) == (100, 0.025, 40.0)


def test_both_ages_are_on_the_metrics_page() -> None:
    metrics = Metrics()
    metrics.on_queryable(Spread(3, 0, 0))
    page = metrics.exposition().decode()
    assert "k2i_queryable_age_seconds_count 3.0" in page
    assert 'k2i_committed_age_seconds_bucket{le="+Inf"} 0.0' in page
