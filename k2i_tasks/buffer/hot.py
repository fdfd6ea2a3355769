"""Arrow batches from decoding to some time after their commit: appended, sealed, kept, let go.

One list holds all pieces in the order of their arrival: first those that are committed and kept
for readers, then those of sealed batches, then those of the open one. Only the first leave it.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Protocol

import pyarrow as pa

from k2i_tasks.buffer.made import AllMade, Made
from k2i_tasks.buffer.piece import PLACE_COLUMNS, Piece, joined_ranges
from k2i_tasks.errors import IntegrityError
from k2i_tasks.types import (
    DecodedBatch,
    Offsets,
    Ranges,
    SealedBatch,
    SealReason,
    TopicPartition,
    describe_ranges,
)


@dataclass(frozen=True, slots=True)
class Held:
    """What is in memory at one moment; it stays as it is.

    Args:
        pieces: all rows, oldest first, those that are committed included.
        positions: the next offset to consume, per partition of the share; empty before the first.
        floor: from where on memory has every row, per partition.
        start: where the share began, per partition.
        made: what readers have made of some of the pieces, in their order.
    """

    pieces: tuple[Piece, ...]
    positions: Offsets
    floor: Offsets
    start: Offsets
    made: tuple[Made, ...]


class Worker(Protocol):
    """What works on the pieces beside the run."""

    def start(self) -> None: ...
    def close(self) -> None: ...


class HotBuffer:
    """Rows of one table: consumed, and not yet committed or not long since. Thread-safe.

    One thread appends, seals and releases; any thread may read, and holds the lock no longer than
    a copy of the list of pieces takes.

    Args:
        ttl_seconds: how long rows are kept after their commit; 0 for not at all.
        bytes_max: bound of all that is in memory: kept rows go before it is exceeded.
        columns: names of the columns with partition and offset.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        ttl_seconds: float = 0.0,
        bytes_max: int = 0,
        columns: tuple[str, str] = PLACE_COLUMNS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.columns = columns
        #: Called after each append and release; must not block.
        self.on_change: Callable[[], None] = lambda: None
        #: Runs from the first share to the end.
        self.worker: Worker | None = None
        self._ttl_seconds = ttl_seconds
        self._bytes_max = bytes_max
        self._clock = clock
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        #: So many of the first pieces are committed, so many of the last are not sealed.
        self._kept = 0
        self._open: list[DecodedBatch] = []
        #: How many of the open ones were given by `take_new`.
        self._given = 0
        #: Each with the number of its pieces.
        self._sealed: dict[str, tuple[SealedBatch, int]] = {}
        self._schema: pa.Schema | None = None
        #: Rows that were ever appended.
        self._rows = 0
        #: What is not committed, and what is kept.
        self._pending_bytes = self._kept_bytes = 0
        self._made = AllMade()
        self._index_bytes = 0
        self._positions: dict[TopicPartition, int] = {}
        self._floor: dict[TopicPartition, int] = {}
        self._start: dict[TopicPartition, int] = {}
        #: Per partition, where each of its pieces starts, and which that is.
        self._by_start: dict[TopicPartition, tuple[list[int], list[Piece]]] = {}

    # For the run's thread.

    def begin(self, offsets: Offsets) -> None:
        """A share begins: these partitions are read, each from its offset on, and no others."""
        with self._lock:
            self._forget()
            self._empty()
            self._positions, self._floor = dict(offsets), dict(offsets)
            self._start = dict(offsets)
        if self.worker is not None:
            self.worker.start()
        self.on_change()

    def add(self, offsets: Offsets) -> None:
        """These partitions are read, too, from now on."""
        with self._lock:
            for known in (self._positions, self._floor, self._start):
                known.update(offsets)

    def append(self, batch: DecodedBatch) -> None:
        """Takes the batch in; nothing is copied. What is kept makes room for it."""
        with self._lock:
            piece = Piece(batch.table, batch.ranges, batch.nbytes, self._rows, self.columns)
            self._rows = piece.end
            if self._schema is not None and piece.schema.equals(self._schema):
                piece.schema = self._schema  # one for all: readers compare them by identity
            elif piece.rows:
                self._schema = piece.schema
            self._pieces.append(piece)
            self._open.append(batch)
            self._pending_bytes += piece.nbytes
            for tp, span in batch.ranges.items():
                self._positions[tp] = span.end
                self._floor.setdefault(tp, span.start)
                self._start.setdefault(tp, span.start)
                if self._ttl_seconds:
                    starts, pieces = self._by_start.setdefault(tp, ([], []))
                    starts.append(span.start)
                    pieces.append(piece)
            self._make_room()
        self.on_change()

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
                ranges=joined_ranges([batch.ranges for batch in taken]),
                rows=sum(batch.table.num_rows for batch in taken),
                nbytes=sum(batch.nbytes for batch in taken),
                reason=reason,
                newest_timestamp_ms=max((b.newest_timestamp_ms for b in taken), default=-1),
                spreads=tuple(batch.spread for batch in taken if batch.spread is not None),
            )
            if sealed.ranges != dict(ranges):
                raise IntegrityError(
                    f"Batch {batch_id}: the buffer holds {describe_ranges(sealed.ranges)}, the "
                    f"ledger {describe_ranges(ranges)}."
                )
            self._open, self._given = [], 0
            self._sealed[batch_id] = (sealed, len(taken))
        return sealed

    def sealed(self, batch_id: str) -> SealedBatch:
        """The sealed batch; `KeyError` after its release."""
        with self._lock:
            return self._sealed[batch_id][0]

    def release(self, batch_id: str) -> None:
        """A batch is in the table, the oldest that was not: it is kept, or let go. Idempotent.

        Raises:
            IntegrityError: an older one is not in the table.
        """
        with self._lock:
            if batch_id not in self._sealed:
                return
            if next(iter(self._sealed)) != batch_id:
                raise IntegrityError(f"Batch {batch_id} is released before an older one.")
            batch, count = self._sealed.pop(batch_id)
            self._pending_bytes -= batch.nbytes
            expires_at = self._clock() + self._ttl_seconds
            for piece in self._pieces[self._kept : self._kept + count]:
                piece.expires_at, piece.nbytes = expires_at, piece.kept_bytes
                self._kept_bytes += piece.nbytes
            self._kept += count
            if not self._ttl_seconds:
                self._drop(self._kept)
            self._make_room()
        self.on_change()

    def clear(self) -> None:
        """The run forgets everything: it is read again, here or elsewhere.

        Readers have it until the next share begins: rows of Kafka they are in any case.
        """
        with self._lock:
            self._forget()
            if not self._ttl_seconds:
                self._empty()

    def close(self) -> None:
        """Ends what works beside the run. Idempotent; readers still have what is here."""
        if self.worker is not None:
            self.worker.close()

    def expire(self) -> None:
        """Lets go of what was kept long enough. Cheap; to be called now and then."""
        with self._lock:
            now = self._clock()
            kept = self._pieces[: self._kept]
            self._drop(len(list(takewhile(lambda piece: (piece.expires_at or 0) <= now, kept))))

    def resize(self, bytes_max: int) -> None:
        """Changes the bound. Any thread."""
        with self._lock:
            self._bytes_max = bytes_max
            self._make_room()

    # For readers.

    @property
    def kept(self) -> tuple[int, int]:
        """Rows that are kept after their commit, and bytes of them and of what readers made."""
        with self._lock:
            first = self._pieces[0].first if self._kept else 0
            rows = self._pieces[self._kept - 1].end - first if self._kept else 0
            return rows, self._kept_bytes + self._made.nbytes + self._index_bytes

    def held(self) -> Held:
        """All that is in memory now; tables are shared, not copied."""
        with self._lock:
            positions, floor, start = map(dict, (self._positions, self._floor, self._start))
            return Held(tuple(self._pieces), positions, floor, start, self._made.all)

    def scan(self) -> tuple[pa.Table, ...]:
        """All rows in memory, oldest first; the tables are shared, not copied."""
        return tuple(piece.table for piece in self.held().pieces if piece.rows)

    def piece_at(self, tp: TopicPartition, offset: int) -> Piece | None:
        """The piece that covers this position."""
        with self._lock:
            starts, pieces = self._by_start.get(tp, ([], []))
            at = bisect_right(starts, offset) - 1
            if at < 0 or offset >= pieces[at].ranges[tp].end:
                return None
            return pieces[at]

    def pieces_of(self, rows: list[int]) -> list[tuple[Piece, list[int]]]:
        """The pieces that have the rows with these numbers, rising, and where they are in each.

        Rows that are not in memory any more are left out.
        """
        with self._lock:
            pieces = self._pieces.copy()
        found, number = [], 0
        while number < len(rows):
            at = bisect_right(pieces, rows[number], key=_first) - 1
            behind = number if at < 0 else bisect_left(rows, pieces[at].end, number)
            if behind > number:
                first = pieces[at].first
                found.append((pieces[at], [row - first for row in rows[number:behind]]))
            number = max(behind, number + 1)
        return found

    def pieces_from(self, row: int) -> tuple[Piece, ...]:
        """The pieces from the one with this row on."""
        with self._lock:
            at = bisect_right(self._pieces, row, key=_first) - 1
            return tuple(self._pieces[max(0, at) :])

    def span(self) -> tuple[int, int]:
        """Numbers of the first row in memory, and of the next that will be."""
        with self._lock:
            return self._pieces[0].first if self._pieces else self._rows, self._rows

    def keep(self, made: Made) -> None:
        """Keeps what a reader made of pieces as long as those, if there is room for it.

        It takes the place of what was made of the same pieces before. Some of them may be gone, or
        joined to others: then it is not kept.
        """
        with self._lock:
            freed = self._made.bytes_of(made.first, made.end)
            if self._used_bytes + made.nbytes - freed <= self._bytes_max and self._has(made):
                self._made.put(made)

    # For what works on pieces that are there: see `upkeep`.

    def note_index(self, nbytes: int) -> None:
        """Notes the size of an index."""
        with self._lock:
            self._index_bytes = nbytes
            self._make_room()

    def kept_pieces(self) -> tuple[Piece, ...]:
        """The pieces that are committed, oldest first."""
        with self._lock:
            return tuple(self._pieces[: self._kept])

    def replace(self, old: list[Piece], new: Piece) -> bool:
        """Puts one piece into the place of the kept ones that it was joined from.

        Returns:
            False when some of them are gone.
        """
        with self._lock:
            at = next((n for n, one in enumerate(self._pieces[: self._kept]) if one is old[0]), -1)
            if at < 0 or at + len(old) > self._kept:
                return False
            self._pieces[at : at + len(old)] = [new]
            self._kept -= len(old) - 1
            self._kept_bytes += new.nbytes - sum(piece.nbytes for piece in old)
            self._made.forget(new.first, new.end)
            for tp, span in new.ranges.items():
                starts, pieces = self._by_start[tp]
                first, last = bisect_left(starts, span.start), bisect_left(starts, span.end)
                starts[first:last], pieces[first:last] = [span.start], [new]
            self._make_room()
            return True

    # Inside, with the lock held.

    @property
    def _used_bytes(self) -> int:
        return self._pending_bytes + self._kept_bytes + self._made.nbytes + self._index_bytes

    def _has(self, made: Made) -> bool:
        at = max(0, bisect_right(self._pieces, made.first, key=_first) - 1)
        there = takewhile(lambda piece: piece.first < made.end, islice(self._pieces, at, None))
        return tuple(piece for piece in there if piece.rows) == made.pieces

    def _forget(self) -> None:
        self._open, self._given, self._sealed = [], 0, {}

    def _empty(self) -> None:
        self._pieces, self._by_start = [], {}
        self._kept = self._pending_bytes = self._kept_bytes = 0
        self._made.clear()

    def _make_room(self) -> None:
        """Kept rows go first, then what readers have made of the others."""
        if not self._bytes_max:
            return
        gone, used = 0, self._used_bytes
        while gone < self._kept and used > self._bytes_max:
            piece = self._pieces[gone]
            used -= piece.nbytes + self._made.bytes_of(piece.first, piece.end)
            gone += 1
        self._drop(gone)
        if self._used_bytes > self._bytes_max:
            self._made.clear()

    def _drop(self, count: int) -> None:
        """Lets go of the first pieces, all of them kept ones."""
        if not count:
            return
        gone = self._pieces[:count]
        del self._pieces[:count]
        self._kept -= count
        self._made.forget(gone[0].first, gone[-1].end)
        for piece in gone:
            self._kept_bytes -= piece.nbytes
            for tp, span in piece.ranges.items():
                self._floor[tp] = span.end
        for tp in {tp for piece in gone for tp in piece.ranges} & self._by_start.keys():
            starts, pieces = self._by_start[tp]
            behind = bisect_left(starts, self._floor[tp])
            del starts[:behind], pieces[:behind]


def _first(piece: Piece) -> int:
    return piece.first
