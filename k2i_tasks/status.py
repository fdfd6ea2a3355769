"""How a run stands, as pages, views and summaries show it. All are frozen; none does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from k2i_tasks.types import Offsets, TableCommit, TopicPartition


class RunState(StrEnum):
    """Where a run is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    REBALANCING = "rebalancing"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Cause(StrEnum):
    """Why a run stands still until an operator has it go on."""

    CONFLICT = "conflict"
    DEAD_LETTERS = "dead-letters"


@dataclass(frozen=True, slots=True)
class Standstill:
    """The record that a run stands before, not consumed, until an operator has it go on.

    `field_path` is the dotted path of the field that the table has no place for, empty for another
    cause; `reason` one sentence without payload values; `since` unix seconds.
    """

    cause: Cause
    topic: str
    partition: int
    offset: int
    field_path: str
    reason: str
    since: float

    def __str__(self) -> str:
        return (
            f"The run stands before partition {self.partition}, offset {self.offset} of "
            f"{self.topic} until `k2i schema resume`: {self.reason}"
        )


class Health(StrEnum):
    """K2I's health words."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """Health of one component, with a sentence where it is not healthy."""

    status: Health
    message: str = ""


@dataclass(frozen=True, slots=True)
class ErrorNote:
    """One error as shown to people: when (unix seconds), where, what. No payload values."""

    at: float
    component: str
    message: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The dead letters of one kind, as shown to people. No payload values.

    Args:
        stage, code: the kind.
        letters: how many.
        first_at, last_at: when they were refused, unix seconds.
        place: the last one's topic, partition and offset.
        reason: the last one's.
    """

    stage: str
    code: str
    letters: int
    first_at: float
    last_at: float
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class AgeSummary:
    """What a histogram says, for people; seconds. A percentile is the bound of its bucket."""

    records: int
    p50_seconds: float
    p99_seconds: float
    max_seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that a view, a probe or a summary shows of one run, taken at one moment.

    Times are unix seconds unless the name says otherwise; rates are per second over the last
    few seconds. `kept_rows` are in memory for readers after their commit. `queryable` and
    `committed_age` are the ages of records, by their Kafka timestamps, when they came into memory
    and into the table. Of a run over several tables, `tables` has each of them, and the rest is
    their sum.
    """

    state: RunState
    started_at: float
    now: float
    topic: str
    table: str
    epoch: int
    records_consumed: int
    records_per_second: float
    rows_committed: int
    snapshots_committed: int
    dead_letters: int
    flushes: int
    positions: Offsets
    committed: Offsets
    lag: Mapping[TopicPartition, int]
    buffer_rows: int
    buffer_bytes: int
    buffer_bytes_max: int
    batches_in_flight: int
    paused: bool
    pauses: int
    wal_bytes: int
    first_record_at: float | None
    newest_committed_timestamp_ms: int | None
    last_commit: TableCommit | None
    last_errors: tuple[ErrorNote, ...]
    components: Mapping[str, ComponentHealth]
    refusals: tuple[Refusal, ...] = ()
    standstill: Standstill | None = None
    tables: tuple[Status, ...] = ()
    kept_rows: int = 0
    kept_bytes: int = 0
    queryable: AgeSummary | None = None
    committed_age: AgeSummary | None = None

    @property
    def freshness_seconds(self) -> float | None:
        """Age of the newest committed row, by its Kafka timestamp; None before the first."""
        if self.newest_committed_timestamp_ms is None:
            return None
        return max(0.0, self.now - self.newest_committed_timestamp_ms / 1000)
