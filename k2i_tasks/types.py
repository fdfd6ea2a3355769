"""The values that travel from message to snapshot. All are frozen; none does I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Producers may send any int64 as a time; outside years 1 to 9999 no reader can show it.
OLDEST_MS = -62_135_596_800_000
NEWEST_MS = 253_402_300_799_999
#: Kafka headers of one record, in order; names may repeat.
Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}"


@dataclass(frozen=True, slots=True, order=True)
class OffsetRange:
    """Half-open range of positions `[start, end)` in one partition.

    Not a row count: compacted topics, aborted transactions and control records leave gaps.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not an offset range: [{self.start},{self.end})")

    def __str__(self) -> str:
        return f"[{self.start},{self.end})"

    def then(self, later: OffsetRange) -> OffsetRange:
        """This range joined with the one that directly follows it."""
        if later.start != self.end:
            raise ValueError(f"{later} does not follow {self}")
        return OffsetRange(self.start, later.end)

    def over(self, other: OffsetRange) -> OffsetRange:
        """The least range that both lie in."""
        return OffsetRange(min(self.start, other.start), max(self.end, other.end))


#: Next offset to read, per partition.
Offsets = Mapping[TopicPartition, int]
#: What a batch covers, per partition.
Ranges = Mapping[TopicPartition, OffsetRange]


def describe_ranges(ranges: Ranges, most: int = 8) -> str:
    """`0:[0,10) 1:[5,9)`, in partition order, cut after `most` partitions."""
    shown = [f"{tp.partition}:{r}" for tp, r in sorted(ranges.items())[:most]]
    rest = len(ranges) - len(shown)
    return " ".join(shown) + (f" and {rest} more" if rest > 0 else "")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where records come from, as Kafka identifies it."""

    topic: str
    topic_id: str | None
    cluster_id: str | None


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Records of one topic as polled, column by column, `n` records in broker order per partition.

    Args:
        topic: the topic.
        partitions: int32 [n].
        offsets: int64 [n]; rising within a partition.
        timestamps_ms: int64 [n]; milliseconds since the epoch, -1 where the broker gave none.
        keys: n keys, None where absent.
        values: n payloads, None for a tombstone.
        headers: n header lists, None where a record has none; None when no record has any.
        ranges: positions that this batch covers; starts where the previous batch ended.
        payload_bytes: bytes of all keys and values.
    """

    topic: str
    partitions: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    timestamps_ms: npt.NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers | None] | None
    ranges: Ranges
    payload_bytes: int

    def __len__(self) -> int:
        return len(self.offsets)

    def split(self, records: int) -> tuple[RawBatch, RawBatch]:
        """The first `records` (0 < records < n) and the rest; their ranges follow one another."""
        last = dict(
            zip(self.partitions[:records].tolist(), self.offsets[:records].tolist(), strict=True)
        )
        # Where each partition goes over from one to the other.
        at = {tp: last.get(tp.partition, span.start - 1) + 1 for tp, span in self.ranges.items()}
        spans = self.ranges.items()
        first = {tp: OffsetRange(span.start, at[tp]) for tp, span in spans if at[tp] > span.start}
        rest = {tp: OffsetRange(at[tp], span.end) for tp, span in spans if span.end > at[tp]}
        return self._part(slice(None, records), first), self._part(slice(records, None), rest)

    def chosen(self, records: npt.NDArray[np.int64], ranges: Ranges) -> RawBatch:
        """Those of `records`, rising indices, as what is there in `ranges`."""
        picked = records.tolist()
        keys, values = [self.keys[n] for n in picked], [self.values[n] for n in picked]
        return RawBatch(
            topic=self.topic,
            partitions=self.partitions[records],
            offsets=self.offsets[records],
            timestamps_ms=self.timestamps_ms[records],
            keys=keys,
            values=values,
            headers=None if self.headers is None else [self.headers[n] for n in picked],
            ranges=ranges,
            payload_bytes=sum(len(one) for one in (*keys, *values) if one),
        )

    def _part(self, which: slice, ranges: Ranges) -> RawBatch:
        keys, values = self.keys[which], self.values[which]
        return RawBatch(
            topic=self.topic,
            partitions=self.partitions[which],
            offsets=self.offsets[which],
            timestamps_ms=self.timestamps_ms[which],
            keys=keys,
            values=values,
            headers=None if self.headers is None else self.headers[which],
            ranges=ranges,
            payload_bytes=sum(len(one) for one in (*keys, *values) if one),
        )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be decoded, kept whole.

    `stage` is the step that refused it ("decode"), `code` a stable word for counters
    ("json.syntax"), `reason` one sentence without payload values; `schema_id` the registry's id of
    the schema that wrote what was refused, None where its frame tells none. `conflict` is the
    dotted path of the field that the table has no place for; None where the record itself is bad.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None
    stage: str
    code: str
    reason: str
    schema_id: int | None = None
    conflict: str | None = None

    @property
    def place(self) -> str:
        """`orders/3/4711`: as `k2i dead-letters show` takes it."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Spread:
    """When records were made, by the broker's or the producer's clock.

    `records` of them have a time; the oldest and the newest are in milliseconds since the epoch.
    """

    records: int
    oldest_ms: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """One polled batch as Arrow: rows in record order, metadata columns included.

    `len(table) + len(dead_letters)` is the number of records. `spread` is None where none of them
    has a time.
    """

    table: pa.Table
    dead_letters: tuple[DeadLetter, ...]
    ranges: Ranges
    nbytes: int
    newest_timestamp_ms: int
    spread: Spread | None = None

    @property
    def records(self) -> int:
        return int(self.table.num_rows) + len(self.dead_letters)


class SealReason(StrEnum):
    """Why the hot buffer was sealed."""

    TIME = "time"
    BYTES = "bytes"
    ROWS = "rows"
    PRESSURE = "pressure"
    CAUGHT_UP = "caught-up"
    REBALANCE = "rebalance"
    DRAIN = "drain"
    STANDSTILL = "standstill"


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """The unit that is flushed and committed: immutable rows with the ranges they cover."""

    batch_id: str
    tables: tuple[pa.Table, ...]
    dead_letters: tuple[DeadLetter, ...]
    ranges: Ranges
    rows: int
    nbytes: int
    reason: SealReason
    newest_timestamp_ms: int
    spreads: tuple[Spread, ...] = ()

    @property
    def start(self) -> dict[TopicPartition, int]:
        return {tp: r.start for tp, r in self.ranges.items()}

    @property
    def end(self) -> dict[TopicPartition, int]:
        return {tp: r.end for tp, r in self.ranges.items()}


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A data file that is written and not yet committed.

    `partition` holds, per partition field id, the value in Iceberg's single-value binary form,
    base64 encoded; None for null. With the Parquet footer it is enough to commit the file later.
    """

    path: str
    size_bytes: int
    rows: int
    spec_id: int
    partition: Mapping[int, str | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "size_bytes": self.size_bytes,
            "rows": self.rows,
            "spec_id": self.spec_id,
            "partition": {str(k): v for k, v in self.partition.items()},
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> StagedFile:
        partition = {int(k): v for k, v in body["partition"].items()}
        return cls(body["path"], body["size_bytes"], body["rows"], body["spec_id"], partition)


class Job(StrEnum):
    """What is done for the upkeep of a table; also the words of the command line."""

    COMPACT = "compact"
    EXPIRE = "expire-snapshots"
    ORPHANS = "clean-orphans"


@dataclass(frozen=True, slots=True)
class Upkept:
    """What one job came to on one table.

    Args:
        table: dotted name.
        figures: what was done, or would be, by name; numbers alone.
    """

    table: str
    figures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TableCommit:
    """A commit that landed."""

    batch_id: str
    snapshot_id: int
    rows: int
    size_bytes: int
    files: int
    dead_letters: int
    ranges: Ranges
    seconds: float
    newest_timestamp_ms: int
    spreads: tuple[Spread, ...] = ()
