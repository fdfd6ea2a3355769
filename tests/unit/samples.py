"""A made-up run, for tests of what people and probes see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from k2i_tasks.status import ComponentHealth, ErrorNote, Health, RunState, Status
from k2i_tasks.types import OffsetRange, TableCommit, TopicPartition

NOW = 1_760_000_000.0
HEALTHY_COMPONENTS = {
    name: ComponentHealth(Health.HEALTHY)
    for name in ("kafka", "buffer", "iceberg", "catalog", "txlog", "schema")
}


def sample_commit(snapshot_id: int = 7_311_004_125, **changes: Any) -> TableCommit:
    """A commit of 52,000 rows, 1.2 s after midnight of nothing in particular."""
    commit = TableCommit(
        batch_id=f"batch-{snapshot_id}",
        snapshot_id=snapshot_id,
        rows=52_000,
        size_bytes=3_400_000,
        files=1,
        dead_letters=2,
        ranges={TopicPartition("orders", 0): OffsetRange(0, 52_002)},
        seconds=0.041,
        newest_timestamp_ms=int(NOW * 1000) - 1_200,
    )
    return replace(commit, **changes)


def sample_status(partitions: int = 4, **changes: Any) -> Status:
    """A healthy run in the middle of its work, with `changes` laid over it."""
    tps = [TopicPartition("orders", number) for number in range(partitions)]
    status = Status(
        state=RunState.RUNNING,
        started_at=NOW - 3_723,
        now=NOW,
        topic="orders",
        table="demo.orders",
        epoch=3,
        records_consumed=1_204_331,
        records_per_second=48_211.0,
        rows_committed=1_150_200,
        snapshots_committed=23,
        dead_letters=12,
        flushes=24,
        positions={tp: 301_082 + tp.partition for tp in tps},
        committed={tp: 287_550 + tp.partition for tp in tps},
        lag={tp: 1_250 * (tp.partition + 1) for tp in tps},
        buffer_rows=54_119,
        buffer_bytes=31 * 1024 * 1024,
        buffer_bytes_max=64 * 1024 * 1024,
        batches_in_flight=1,
        paused=False,
        pauses=0,
        wal_bytes=18_432,
        first_record_at=NOW - 3_700,
        newest_committed_timestamp_ms=int(NOW * 1000) - 1_200,
        last_commit=sample_commit(),
        last_errors=(),
        components=dict(HEALTHY_COMPONENTS),
    )
    return replace(status, **changes)


def troubled_status(**changes: Any) -> Status:
    """A run whose catalog is away: paused, degraded, with errors to show."""
    components = {
        **HEALTHY_COMPONENTS,
        "catalog": ComponentHealth(Health.DEGRADED, "no answer for 12 s, trying again"),
        "buffer": ComponentHealth(Health.DEGRADED, "full: consumption is paused"),
    }
    errors = (
        ErrorNote(NOW - 31, "iceberg", "The catalog at http://127.0.0.1:8181 did not answer."),
        ErrorNote(NOW - 4, "kafka", "Broker 1 closed the connection."),
    )
    trouble: dict[str, Any] = {
        "state": RunState.PAUSED,
        "paused": True,
        "pauses": 3,
        "buffer_bytes": 64 * 1024 * 1024,
        "components": components,
        "last_errors": errors,
    }
    return sample_status(**(trouble | changes))
