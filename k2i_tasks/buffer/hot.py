"""Arrow batches between decoding and commit: appended without copying, sealed, then released."""

from __future__ import annotations

import threading

import pyarrow as pa

from k2i_tasks.errors import IntegrityError
from k2i_tasks.types import (
    DecodedBatch,
    OffsetRange,
    Ranges,
    SealedBatch,
    SealReason,
    TopicPartition,
    describe_ranges,
)


class HotBuffer:
    """Rows of one table that are consumed and not yet committed. Thread-safe.

    One thread appends and seals; any thread may scan. A scan sees a consistent cut: every appended
    row that is not released, once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[DecodedBatch] = []
        #: How many of them were given by `take_new`.
        self._given = 0
        self._sealed: dict[str, SealedBatch] = {}

    def append(self, batch: DecodedBatch) -> None:
        """Takes the batch in; nothing is copied."""
        with self._lock:
            self._open.append(batch)

    def take_new(self) -> tuple[pa.Table, ...]:
        """Rows appended since the last call or seal, oldest first; they stay here, too."""
        with self._lock:
            new = self._open[self._given :]
            self._given = len(self._open)
        return tuple(batch.table for batch in new if batch.table.num_rows)

    def seal(self, batch_id: str, reason: SealReason, ranges: Ranges) -> SealedBatch:
        """Makes everything appended since the last seal into one immutable batch.

        Raises:
            IntegrityError: that does not cover exactly `ranges`.
        """
        with self._lock:
            taken = self._open
            sealed = SealedBatch(
                batch_id=batch_id,
                tables=tuple(batch.table for batch in taken if batch.table.num_rows),
                dead_letters=tuple(letter for batch in taken for letter in batch.dead_letters),
                ranges=_joined([batch.ranges for batch in taken]),
                rows=sum(batch.table.num_rows for batch in taken),
                nbytes=sum(batch.nbytes for batch in taken),
                reason=reason,
                newest_timestamp_ms=max((b.newest_timestamp_ms for b in taken), default=-1),
            )
            if sealed.ranges != dict(ranges):
                raise IntegrityError(
                    f"Batch {batch_id}: the buffer holds {describe_ranges(sealed.ranges)}, the "
                    f"ledger {describe_ranges(ranges)}."
                )
            self._open, self._given = [], 0
            self._sealed[batch_id] = sealed
        return sealed

    def sealed(self, batch_id: str) -> SealedBatch:
        """The sealed batch; `KeyError` after its release."""
        with self._lock:
            return self._sealed[batch_id]

    def release(self, batch_id: str) -> None:
        """Forgets a committed batch. Idempotent."""
        with self._lock:
            self._sealed.pop(batch_id, None)

    def clear(self) -> None:
        """Forgets everything: it is read again, here or elsewhere."""
        with self._lock:
            self._open, self._given = [], 0
            self._sealed = {}

    def scan(self) -> tuple[pa.Table, ...]:
        """All rows not yet released, oldest first; the tables are shared, not copied."""
        with self._lock:
            sealed = [table for batch in self._sealed.values() for table in batch.tables]
            return (*sealed, *(batch.table for batch in self._open if batch.table.num_rows))


def _joined(parts: list[Ranges]) -> Ranges:
    """One range per partition over consecutive parts."""
    joined: dict[TopicPartition, OffsetRange] = {}
    for ranges in parts:
        for tp, span in ranges.items():
            known = joined.get(tp)
            joined[tp] = span if known is None else known.then(span)
    return joined
