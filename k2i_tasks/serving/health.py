"""What `/health`, `/healthz` and `/readyz` say. Pure: one `Status` in, plain values out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from k2i_tasks import __version__
from k2i_tasks.status import (
    AgeSummary,
    ComponentHealth,
    ErrorNote,
    Health,
    RunState,
    Standstill,
    Status,
)
from k2i_tasks.types import TableCommit, describe_ranges

#: Always reported, in this order; others follow.
COMPONENTS = ("kafka", "buffer", "iceberg", "catalog", "txlog", "schema")
ENDED = frozenset({RunState.STOPPED, RunState.FAILED})
#: Larger maps are left to `/metrics`; the sums stay.
PARTITIONS_SHOWN_MAX = 256
ERRORS_SHOWN_MAX = 10


def overall_health(status: Status) -> Health:
    """The worst of all components; a run that has ended is unhealthy; unknown does not count."""
    states = {component.status for component in status.components.values()}
    if status.state in ENDED or Health.UNHEALTHY in states:
        return Health.UNHEALTHY
    degraded = status.paused or Health.DEGRADED in states
    return Health.DEGRADED if degraded else Health.HEALTHY


def not_ready_because(status: Status) -> str:
    """Why the run does not ingest now, one sentence; empty when it is ready.

    A schema component that is not healthy waits for an operator. A run over several tables is ready
    as long as one of them is.
    """
    if status.tables:
        reasons = [not_ready_because(one) for one in status.tables]
        return reasons[0] if all(reasons) else ""
    if status.state in (RunState.STARTING, RunState.REBALANCING, RunState.DRAINING, *ENDED):
        return f"The run is {status.state.value}."
    if status.standstill is not None:
        return str(status.standstill)
    schema = status.components.get("schema")
    if schema is not None and schema.status in (Health.DEGRADED, Health.UNHEALTHY):
        return schema.message or "A schema change waits for an operator."
    for name, component in sorted(status.components.items()):
        if component.status is Health.UNHEALTHY:
            return component.message or f"{name} is unhealthy."
    return ""


def health_report(status: Status) -> dict[str, Any]:
    """The whole of `/health`: K2I's `status` and `components`, and the run's figures.

    Args:
        status: the run's snapshot.
    """
    return {
        "status": overall_health(status).value,
        "components": _components(status.components),
        "state": status.state.value,
        "ready": not not_ready_because(status),
        "version": __version__,
        "topic": status.topic,
        "table": status.table,
        "epoch": status.epoch,
        "started_at": status.started_at,
        "first_record_at": status.first_record_at,
        "uptime_seconds": round(max(0.0, status.now - status.started_at), 3),
        "freshness_seconds": _rounded(status.freshness_seconds),
        "queryable_age": _age(status.queryable),
        "committed_age": _age(status.committed_age),
        "records": _records(status),
        "buffer": _buffer(status),
        "lag_total": sum(status.lag.values()),
        "partitions": _partitions(status),
        "partitions_total": len(status.positions),
        "wal_bytes": status.wal_bytes,
        "standstill": _standstill(status.standstill),
        "last_commit": _commit(status.last_commit),
        "last_errors": [_error(note) for note in status.last_errors[-ERRORS_SHOWN_MAX:]],
        **({"tables": [_table(one) for one in status.tables]} if status.tables else {}),
    }


def _table(status: Status) -> dict[str, Any]:
    """One of several tables: what its own page would say, but for its partitions."""
    report = health_report(status)
    for name in ("version", "partitions", "uptime_seconds"):
        del report[name]
    return report


def starting_report() -> dict[str, Any]:
    """What `/health` says before there is a run to ask."""
    unknown = ComponentHealth(Health.UNKNOWN)
    return {
        "status": Health.HEALTHY.value,
        "components": _components(dict.fromkeys(COMPONENTS, unknown)),
        "state": RunState.STARTING.value,
        "ready": False,
        "version": __version__,
    }


def _components(components: Mapping[str, ComponentHealth]) -> dict[str, dict[str, str]]:
    unknown = ComponentHealth(Health.UNKNOWN)
    names = [*COMPONENTS, *sorted(set(components) - set(COMPONENTS))]
    return {name: _component(components.get(name, unknown)) for name in names}


def _component(component: ComponentHealth) -> dict[str, str]:
    shown = {"status": component.status.value}
    return shown | ({"message": component.message} if component.message else {})


def _records(status: Status) -> dict[str, Any]:
    return {
        "consumed": status.records_consumed,
        "per_second": round(status.records_per_second, 1),
        "committed_rows": status.rows_committed,
        "snapshots": status.snapshots_committed,
        "flushes": status.flushes,
        "dead_letters": status.dead_letters,
    }


def _buffer(status: Status) -> dict[str, Any]:
    return {
        "rows": status.buffer_rows,
        "bytes": status.buffer_bytes,
        "bytes_max": status.buffer_bytes_max,
        "batches_in_flight": status.batches_in_flight,
        "kept_rows": status.kept_rows,
        "kept_bytes": status.kept_bytes,
        "paused": status.paused,
        "pauses": status.pauses,
    }


def _age(age: AgeSummary | None) -> dict[str, Any] | None:
    """Ages of records when that was done, by Kafka's timestamp, over the whole run."""
    if age is None:
        return None
    return {
        "records": age.records,
        "p50_seconds": _rounded(age.p50_seconds),
        "p99_seconds": _rounded(age.p99_seconds),
        "max_seconds": _rounded(age.max_seconds),
    }


def _partitions(status: Status) -> list[dict[str, Any]]:
    shown = sorted(status.positions)[:PARTITIONS_SHOWN_MAX]
    return [
        {
            "topic": tp.topic,
            "partition": tp.partition,
            "position": status.positions[tp],
            "committed": status.committed.get(tp),
            "lag": status.lag.get(tp),
        }
        for tp in shown
    ]


def _standstill(stand: Standstill | None) -> dict[str, Any] | None:
    if stand is None:
        return None
    return {
        "cause": stand.cause.value,
        "topic": stand.topic,
        "partition": stand.partition,
        "offset": stand.offset,
        "field": stand.field_path,
        "reason": stand.reason,
        "since": stand.since,
    }


def _commit(commit: TableCommit | None) -> dict[str, Any] | None:
    if commit is None:
        return None
    return {
        # As text: JavaScript readers would round a 64-bit number.
        "snapshot_id": str(commit.snapshot_id),
        "rows": commit.rows,
        "size_bytes": commit.size_bytes,
        "files": commit.files,
        "dead_letters": commit.dead_letters,
        "ranges": describe_ranges(commit.ranges),
        "seconds": _rounded(commit.seconds),
    }


def _error(note: ErrorNote) -> dict[str, Any]:
    return {"at": note.at, "component": note.component, "message": note.message}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
