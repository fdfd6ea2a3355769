"""The names, types and values that a scraper reads."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from k2i_tasks.metrics import Durations, Metrics
from k2i_tasks.status import RunState, Status
from tests.unit.samples import sample_commit, sample_status

K2I_NAMES = {
    "k2i_messages_consumed_total": "counter",
    "k2i_errors_total": "counter",
    "k2i_flushes_total": "counter",
    "k2i_rows_flushed_total": "counter",
    "k2i_backpressure_events_total": "counter",
    "k2i_iceberg_commits_total": "counter",
    "k2i_buffer_size_bytes": "gauge",
    "k2i_buffer_record_count": "gauge",
    "k2i_flush_duration_seconds": "histogram",
    "k2i_kafka_consumer_lag": "gauge",
}
UNITS = ("milliseconds", "_ms", "minutes", "hours", "kilobytes", "megabytes", "_mb", "percent")


@pytest.fixture
def metrics() -> Metrics:
    counted = Metrics()
    counted.watch(sample_status)
    counted.on_batch(500, 135_000, {("decode", "json.syntax"): 2})
    counted.on_batch(100, 27_000, {})
    counted.on_flush("time", 598, 40_000, 0.03)
    counted.on_commit(sample_commit(rows=598), 0.12)
    counted.on_error("iceberg")
    counted.on_pause()
    counted.on_wal_sync(0.0007)
    return counted


def families(metrics: Metrics) -> dict[str, Metric]:
    parsed: Iterable[Metric] = text_string_to_metric_families(metrics.exposition().decode())
    return {family.name: family for family in parsed}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    for family in families(metrics).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    raise AssertionError(f"{name}{labels} is not exposed")


def test_events_are_counted(metrics: Metrics) -> None:
    assert value(metrics, "k2i_messages_consumed_total") == 600
    assert value(metrics, "k2i_bytes_consumed_total") == 162_000
    assert value(metrics, "k2i_dead_letters_total", stage="decode", code="json.syntax") == 2
    assert value(metrics, "k2i_flushes_total", reason="time") == 1
    assert value(metrics, "k2i_rows_flushed_total") == 598
    assert value(metrics, "k2i_rows_committed_total") == 598
    assert value(metrics, "k2i_iceberg_commits_total") == 1
    assert value(metrics, "k2i_errors_total", component="iceberg") == 1
    assert value(metrics, "k2i_backpressure_events_total") == 1
    assert value(metrics, "k2i_wal_sync_seconds_count") == 1
    assert value(metrics, "k2i_seal_to_commit_seconds_sum") == pytest.approx(0.12)


def test_state_is_read_when_scraped(metrics: Metrics) -> None:
    assert value(metrics, "k2i_kafka_consumer_lag", topic="orders", partition="3") == 5_000
    assert value(metrics, "k2i_kafka_position", topic="orders", partition="0") == 301_082
    assert value(metrics, "k2i_committed_offset", topic="orders", partition="0") == 287_550
    assert value(metrics, "k2i_buffer_size_bytes") == 31 * 1024 * 1024
    assert value(metrics, "k2i_freshness_seconds") == pytest.approx(1.2, abs=0.01)
    assert value(metrics, "k2i_up") == 1
    assert value(metrics, "k2i_component_status", component="kafka", status="healthy") == 1


def test_a_run_is_asked_once_per_scrape_and_never_between() -> None:
    asked: list[Status] = []

    def status() -> Status:
        asked.append(sample_status())
        return asked[-1]

    metrics = Metrics()
    metrics.watch(status)
    metrics.on_batch(1, 1, {})
    assert asked == []
    metrics.exposition()
    assert len(asked) == 1


def test_before_the_first_commit_there_is_no_freshness() -> None:
    metrics = Metrics()
    metrics.watch(lambda: sample_status(newest_committed_timestamp_ms=None))
    assert "k2i_freshness_seconds" not in families(metrics)


def test_a_run_that_has_ended_is_not_up() -> None:
    metrics = Metrics()
    metrics.watch(lambda: sample_status(state=RunState.FAILED))
    assert value(metrics, "k2i_up") == 0


def test_all_names_of_k2i_are_there_with_their_types(metrics: Metrics) -> None:
    shown = {
        f"{name}_total" if family.type == "counter" else name: family.type
        for name, family in families(metrics).items()
    }
    assert shown.items() >= K2I_NAMES.items()


def test_names_and_help_follow_the_rules_of_prometheus(metrics: Metrics) -> None:
    for name, family in families(metrics).items():
        assert re.fullmatch(r"k2i_[a-z][a-z0-9_]*", name), name
        assert not name.endswith(("_total", "_created", "_bucket", "_sum")), name
        assert name.endswith("_count") is (name == "k2i_buffer_record_count"), name
        assert not any(unit in name for unit in UNITS), name
        assert len(family.documentation) > 10, name
        assert not family.documentation.endswith("."), name
        assert family.type in ("counter", "gauge", "histogram"), name
        if family.type == "histogram":
            assert name.endswith("_seconds"), name
        for sample in family.samples:
            assert not sample.name.endswith("_created"), sample.name
            assert all(re.fullmatch(r"[a-z]+", label) for label in sample.labels), sample


def test_the_exposition_ends_with_a_line_break_and_repeats_no_series(metrics: Metrics) -> None:
    text = metrics.exposition().decode()
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert text.endswith("\n")
    assert len(series) == len(set(series))


def test_two_runs_in_one_process_do_not_share_counters() -> None:
    first, second = Metrics(), Metrics()
    first.on_batch(5, 5, {})
    assert value(second, "k2i_messages_consumed_total") == 0


def test_percentiles_are_exact_and_memory_is_bounded() -> None:
    durations = Durations(kept=100)
    assert durations.percentile(50) is None
    for number in range(1_000):
        durations.add(float(number))
    assert len(durations) == 100
    assert durations.percentile(50) == 949
    assert durations.percentile(99) == 998
    assert durations.percentile(100) == 999
    with pytest.raises(ValueError, match="percentile"):
        durations.percentile(0)


def test_every_counter_with_labels_is_there_at_zero_from_the_start() -> None:
    metrics = Metrics()
    for component in ("kafka", "iceberg", "storage", "txlog"):
        assert value(metrics, "k2i_errors_total", component=component) == 0
    for reason in ("time", "bytes", "rows", "pressure", "rebalance", "drain"):
        assert value(metrics, "k2i_flushes_total", reason=reason) == 0
