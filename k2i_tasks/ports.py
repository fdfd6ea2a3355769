"""What a run works with and how it behaves: protocols of its parts, and its bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from k2i_tasks.calls import RetryPolicy, Tracker
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.errors import K2IError
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.kafka.stream import Stream
from k2i_tasks.status import Status
from k2i_tasks.types import (
    DecodedBatch,
    Offsets,
    Ranges,
    RawBatch,
    Spread,
    TableCommit,
    TopicPartition,
)


class Topic(Protocol):
    """A topic as Kafka identifies it; ids are None where the broker gives none."""

    @property
    def topic(self) -> str: ...
    @property
    def topic_id(self) -> str | None: ...
    @property
    def cluster_id(self) -> str | None: ...


class Source(Stream, Protocol):
    """Where records come from. Used by the runner's thread.

    `confirm` is used by the thread that flushes, `commit_offsets` by the one that commits.
    """

    @property
    def rebalanced(self) -> bool: ...
    def inspect(self, timeout_seconds: float) -> Topic: ...
    def given(self) -> frozenset[TopicPartition] | None: ...


class StartRule(Protocol):
    """Where reading starts. Pure; either raises where the table and Kafka contradict each other."""

    def offsets(self, topic: Any, state: SinkState | None) -> Offsets:
        """Next offsets to read, given the topic as inspected and what the table records."""
        ...

    def lost(self, topic: Any, offsets: Offsets) -> Ranges:
        """What Kafka no longer has from `offsets` on, if the operator accepts that."""
        ...


class Decoder(Protocol):
    """Turns polled batches into Arrow; never fails for a bad record.

    `prepare` says how many of the first records `decode` is ready for, having waited for the first.
    """

    @property
    def schema(self) -> pa.Schema | None: ...
    def prepare(self, raw: RawBatch, timeout_seconds: float) -> int: ...
    def decode(self, raw: RawBatch) -> DecodedBatch: ...


class Meter(Protocol):
    """Counts for the metrics page."""

    def on_batch(
        self, records: int, payload_bytes: int, refused: Mapping[tuple[str, str], int]
    ) -> None: ...
    def on_flush(self, reason: str, rows: int, size_bytes: int, seconds: float) -> None: ...
    def on_commit(self, commit: TableCommit, seal_to_commit_seconds: float) -> None: ...
    def on_queryable(self, spread: Spread) -> None: ...
    def on_error(self, component: str) -> None: ...
    def on_pause(self) -> None: ...
    def on_rebalance(self) -> None: ...
    def on_upkeep(
        self, job: str, seconds: float, figures: Mapping[str, int], *, failed: bool
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How one run behaves.

    Args:
        limits: the engine's bounds.
        retry: when flushes and commits are tried again.
        drain_seconds: longest that a drain may take.
        records_max: records after which the run drains by itself; None for no end.
        connect_seconds: longest wait for the broker at the start.
        rebalance_seconds: in a group, longest wait for partitions after losing some to another
            member.
        decides_anew: whether the first records are read again by the columns of the table that
            they made: another member of the group may have made it from others, or some columns
            are required.
    """

    limits: Limits
    retry: RetryPolicy
    drain_seconds: float = 30.0
    records_max: int | None = None
    connect_seconds: float = 15.0
    rebalance_seconds: float = 60.0
    decides_anew: bool = False

    def late(self, rows: int) -> K2IError:
        """The error of a drain that took too long, with so many rows not committed."""
        return K2IError(
            f"The drain did not end within {self.drain_seconds:.0f} s; "
            f"{rows} consumed records are not committed.",
            remedy="Nothing is lost: the next run reads them again from Kafka.",
        )


#: (status, request_drain) -> what runs flushes and commits.
TrackerFactory = Callable[[Callable[[], Status], Callable[[str], None]], Tracker]
