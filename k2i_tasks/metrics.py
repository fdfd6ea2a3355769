"""The figures of a run, as Prometheus reads them and as the closing summary needs them.

Events (a batch, a flush, a commit) are counted where they happen. What is a state rather than an
event (buffer, lag, offsets) is read from one `Status` when somebody scrapes, so the data path does
not pay for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from k2i_tasks import __version__
from k2i_tasks.ages import Ages
from k2i_tasks.errors import Component
from k2i_tasks.status import RunState, Status
from k2i_tasks.types import Job, Offsets, SealReason, Spread, TableCommit

FLUSH_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SEAL_TO_COMMIT_BUCKETS_SECONDS = (*FLUSH_BUCKETS_SECONDS, 120.0, 300.0, 600.0)
SYNC_BUCKETS_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
_OVER = (RunState.STOPPED, RunState.FAILED)
#: Of each kind of duration, the newest ones kept for exact percentiles.
DURATIONS_KEPT = 10_000


class Durations:
    """The newest durations of one operation, for exact percentiles. Thread-safe; bounded."""

    def __init__(self, kept: int = DURATIONS_KEPT) -> None:
        self._seconds: deque[float] = deque(maxlen=kept)
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Keeps one duration; the oldest is dropped when full. Does not block."""
        with self._lock:
            self._seconds.append(seconds)

    def __len__(self) -> int:
        return len(self._seconds)

    def percentile(self, percent: float) -> float | None:
        """The nearest-rank percentile in seconds, None when there is nothing yet.

        Args:
            percent: above 0 and at most 100.
        """
        if not 0 < percent <= 100:
            raise ValueError(f"not a percentile: {percent}")
        with self._lock:
            ordered = sorted(self._seconds)
        return ordered[ceil(len(ordered) * percent / 100) - 1] if ordered else None


class StatusCollector(Collector):
    """Turns one `Status` into gauges at the moment of a scrape.

    Args:
        status: the run's snapshot; called once a scrape; must not block for long.
    """

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        for name, help_text, value in _single_gauges(status):
            yield GaugeMetricFamily(name, help_text, value=value)
        if (age_seconds := status.freshness_seconds) is not None:
            yield GaugeMetricFamily(
                "k2i_freshness_seconds", "Age of the newest committed row", value=age_seconds
            )
        yield _by_partition("k2i_kafka_consumer_lag", "Records not yet consumed", status.lag)
        yield _by_partition("k2i_kafka_position", "Next offset to consume", status.positions)
        yield _by_partition(
            "k2i_committed_offset", "Next offset as recorded in the table", status.committed
        )
        health = GaugeMetricFamily(
            "k2i_component_status",
            "1 for the state a component is in",
            labels=["component", "status"],
        )
        for component, state in sorted(status.components.items()):
            health.add_metric([component, state.status.value], 1)
        yield health
        if status.tables:
            yield from _by_table(status.tables)

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: a registry must not need a run to be built."""
        return iter(())


#: Name, help and value of what a run over several tables tells of each.
_OF_TABLES: tuple[tuple[str, str, Callable[[Status], float | None]], ...] = (
    ("up", "1 while the table's run is alive", lambda one: float(one.state not in _OVER)),
    ("ready", "1 while the table is ingested", lambda one: float(one.state is RunState.RUNNING)),
    ("records_consumed", "Records consumed by its run", lambda one: one.records_consumed),
    ("rows_committed", "Rows committed by its run", lambda one: one.rows_committed),
    ("dead_letters", "Records refused by its run", lambda one: one.dead_letters),
    ("lag", "Records not yet consumed", lambda one: sum(one.lag.values())),
    ("buffer_size_bytes", "Bytes in its buffer", lambda one: one.buffer_bytes),
    ("freshness_seconds", "Age of its newest row", lambda one: one.freshness_seconds),
)


def _by_table(tables: Sequence[Status]) -> Iterator[Metric]:
    for name, help_text, value_of in _OF_TABLES:
        family = GaugeMetricFamily(f"k2i_table_{name}", help_text, labels=["topic", "table"])
        for one in tables:
            value = value_of(one)
            if value is not None:
                family.add_metric([one.topic, one.table], value)
        yield family


def _single_gauges(status: Status) -> Iterator[tuple[str, str, float]]:
    up = status.state not in _OVER
    yield "k2i_up", "1 while the run is alive", float(up)
    yield "k2i_start_time_seconds", "Start of the run, unix time", status.started_at
    yield "k2i_buffer_size_bytes", "Bytes in the hot buffer", status.buffer_bytes
    yield "k2i_buffer_record_count", "Rows in the hot buffer", status.buffer_rows
    yield "k2i_buffer_limit_bytes", "Bytes the hot buffer may hold", status.buffer_bytes_max
    yield "k2i_buffer_kept_rows", "Rows kept after their commit", status.kept_rows
    yield "k2i_buffer_kept_bytes", "Bytes of them, and of what queries need", status.kept_bytes
    yield "k2i_batches_in_flight", "Batches sealed and not yet committed", status.batches_in_flight
    yield "k2i_paused", "1 while consumption is paused by a full buffer", float(status.paused)
    stands = float(status.standstill is not None)
    yield "k2i_standing_still", "1 while the run waits for an operator before a record", stands
    yield "k2i_wal_size_bytes", "Bytes of the write-ahead log on disk", status.wal_bytes
    yield "k2i_table_epoch", "Claim number under which this run writes", status.epoch


def _by_partition(name: str, help_text: str, values: Offsets) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=["topic", "partition"])
    for tp, value in sorted(values.items()):
        family.add_metric([tp.topic, str(tp.partition)], value)
    return family


class Metrics:
    """Everything counted in a run. All methods are thread-safe and do not block.

    Args:
        registry: where the metrics are registered; a fresh one when None.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # Without this each counter and histogram comes with a `_created` gauge of its own.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no types here
        self.registry = registry or CollectorRegistry()
        self.flush_durations = Durations()
        self.commit_durations = Durations()
        self._define_counters()
        self._define_histograms()
        info = GaugeMetricFamily("k2i_build_info", "Version of K2I", labels=["version"])
        info.add_metric([__version__], 1)
        self.registry.register(_Constant(info))

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _define_counters(self) -> None:
        self._messages = self._counter("k2i_messages_consumed", "Records consumed from Kafka")
        self._bytes = self._counter("k2i_bytes_consumed", "Bytes of keys and values consumed")
        self._errors = self._counter("k2i_errors", "Errors met, also those retried", "component")
        self._flushes = self._counter("k2i_flushes", "Flushes to data files", "reason")
        # All that may come is there at 0 from the start, so that sums and rates are right.
        for component in Component:
            self._errors.labels(component.value)
        for reason in SealReason:
            self._flushes.labels(reason.value)
        self._rows_flushed = self._counter("k2i_rows_flushed", "Rows written to data files")
        self._bytes_flushed = self._counter("k2i_bytes_flushed", "Bytes written to data files")
        self._pressure = self._counter(
            "k2i_backpressure_events", "Times consumption was paused by a full buffer"
        )
        self._rebalances = self._counter(
            "k2i_rebalances", "Times a change of the consumer group took partitions away"
        )
        self._commits = self._counter("k2i_iceberg_commits", "Snapshots committed")
        self._rows_committed = self._counter("k2i_rows_committed", "Rows committed to the table")
        self._dead = self._counter(
            "k2i_dead_letters", "Records refused, by reason", "stage", "code"
        )
        self._upkeep_runs = self._counter(
            "k2i_maintenance_runs", "Maintenance jobs that ended", "job", "outcome"
        )
        self._upkeep_seconds = self._counter(
            "k2i_maintenance_seconds", "Time spent on maintenance jobs", "job"
        )
        self._upkeep_done = self._counter(
            "k2i_maintenance_done", "What maintenance jobs have done", "job", "figure"
        )
        for job in Job:
            self._upkeep_seconds.labels(job)
            for outcome in ("ok", "failed"):
                self._upkeep_runs.labels(job, outcome)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_text, buckets=buckets, registry=self.registry)

    def _define_histograms(self) -> None:
        self._flush_seconds = self._histogram(
            "k2i_flush_duration_seconds", "Time to write a batch to files", FLUSH_BUCKETS_SECONDS
        )
        self._commit_seconds = self._histogram(
            "k2i_commit_duration_seconds", "Time of one table commit", FLUSH_BUCKETS_SECONDS
        )
        self._seal_to_commit_seconds = self._histogram(
            "k2i_seal_to_commit_seconds",
            "Time from sealing a batch to its snapshot",
            SEAL_TO_COMMIT_BUCKETS_SECONDS,
        )
        self._sync_seconds = self._histogram(
            "k2i_wal_sync_seconds", "Time of one sync of the write-ahead log", SYNC_BUCKETS_SECONDS
        )

        self._queryable, self._committed = Ages(), Ages()
        for name, help_text, ages in (
            ("k2i_queryable_age_seconds", "when it was in memory", self._queryable),
            ("k2i_committed_age_seconds", "when it was in the table", self._committed),
        ):
            self.registry.register(_AgesCollector(name, f"Age of a record {help_text}", ages))

    def watch(self, status: Callable[[], Status]) -> None:
        """Adds the gauges of a run; call once, when the run exists."""
        self.registry.register(StatusCollector(status))

    def on_batch(
        self, records: int, payload_bytes: int, refused: Mapping[tuple[str, str], int]
    ) -> None:
        """Counts one polled batch.

        Args:
            records: records in it, dead letters included.
            payload_bytes: bytes of its keys and values.
            refused: dead letters by stage and stable code.
        """
        self._messages.inc(records)
        self._bytes.inc(payload_bytes)
        for kind, count in refused.items():
            self._dead.labels(*kind).inc(count)

    def on_flush(self, reason: str, rows: int, size_bytes: int, seconds: float) -> None:
        """Counts one batch written to data files.

        Args:
            reason: why it was sealed, a `SealReason`.
            rows: rows written.
            size_bytes: bytes of the files.
            seconds: time it took.
        """
        self._flushes.labels(str(reason)).inc()
        self._rows_flushed.inc(rows)
        self._bytes_flushed.inc(size_bytes)
        self._flush_seconds.observe(seconds)
        self.flush_durations.add(seconds)

    def on_commit(self, commit: TableCommit, seal_to_commit_seconds: float) -> None:
        """Counts one commit that landed.

        Args:
            commit: what landed.
            seal_to_commit_seconds: time since its batch was sealed.
        """
        self._commits.inc()
        self._rows_committed.inc(commit.rows)
        self._commit_seconds.observe(commit.seconds)
        self._seal_to_commit_seconds.observe(seal_to_commit_seconds)
        self.commit_durations.add(commit.seconds)
        self._committed.add(commit.spreads, time.time())

    def on_queryable(self, spread: Spread) -> None:
        """Counts the ages of records that are in memory since now."""
        self._queryable.add((spread,), time.time())

    def on_error(self, component: str) -> None:
        """Counts one error of `component`, whether or not it is tried again."""
        self._errors.labels(str(component)).inc()

    def on_pause(self) -> None:
        """Counts one pause of consumption by a full buffer."""
        self._pressure.inc()

    def on_rebalance(self) -> None:
        """Counts one change of the group that took partitions away."""
        self._rebalances.inc()

    def on_upkeep(
        self, job: str, seconds: float, figures: Mapping[str, int], *, failed: bool
    ) -> None:
        """Counts one run of a maintenance job.

        Args:
            job: a `Job`.
            seconds: time it took, its retries in it.
            figures: what it did, by name.
            failed: it ended with an error.
        """
        self._upkeep_runs.labels(job, "failed" if failed else "ok").inc()
        self._upkeep_seconds.labels(job).inc(seconds)
        for name, value in figures.items():
            self._upkeep_done.labels(job, name).inc(value)

    def on_wal_sync(self, seconds: float) -> None:
        """Counts one sync of the write-ahead log that took `seconds`."""
        self._sync_seconds.observe(seconds)

    def exposition(self) -> bytes:
        """All metrics in Prometheus text format. Takes one `Status`; must not be called often."""
        return generate_latest(self.registry)


class _AgesCollector(Collector):
    def __init__(self, name: str, help_text: str, ages: Ages) -> None:
        self._name, self._help, self._ages = name, help_text, ages

    def collect(self) -> Iterator[Metric]:
        buckets, total = self._ages.cumulative()
        yield HistogramMetricFamily(self._name, self._help, buckets=buckets, sum_value=total)

    def describe(self) -> Iterator[Metric]:
        return iter(())


class _Constant(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family
