"""One table as queries see it: what is committed, and behind it what is still in memory.

The offsets that the committed table records divide the two: rows below them are in its files, rows
from them on are taken from memory. Nothing is known here of batches, flushes and commits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.buffer.hot import Held, HotBuffer
from k2i_tasks.buffer.key_hashes import key_hash, key_scalar
from k2i_tasks.buffer.piece import Piece
from k2i_tasks.buffer.upkeep import HotUpkeep
from k2i_tasks.errors import Component, ConfigError, IntegrityError, TransientError
from k2i_tasks.hot_rows import HotRows, rows_of
from k2i_tasks.iceberg.heads import Head, Heads
from k2i_tasks.types import Offsets, TopicPartition
from k2i_tasks.views import Cut, Part, Tail

if TYPE_CHECKING:
    import polars as pl

#: Longest wait until rows that were shown before, and then given up, are read again, in seconds.
CATCH_UP_SECONDS = 10.0
STEP_SECONDS = 0.01
#: Wait before a catalog that seems to be behind is asked once more, in seconds.
STALE_SECONDS = 0.2


class TableView:
    """See `views.View`.

    Args:
        name: full name of the table.
        buffer: its rows in memory.
        heads: loads what is committed, over a connection of its own.
        upkeep: the index of the key column, if there is one.
        catch_up_seconds: longest wait for rows that were shown before, and then given up.
    """

    def __init__(
        self,
        name: str,
        buffer: HotBuffer,
        heads: Heads,
        upkeep: HotUpkeep,
        *,
        catch_up_seconds: float = CATCH_UP_SECONDS,
    ) -> None:
        self._name = name
        self._buffer = buffer
        self._heads = heads
        self._upkeep = upkeep
        self._catch_up_seconds = catch_up_seconds
        self._rows = HotRows(buffer)
        self._lock = threading.Lock()
        #: The highest positions that any cut has shown, of the partitions that are read.
        self._shown: dict[TopicPartition, int] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def key_column(self) -> str | None:
        return self._upkeep.key_column

    def cut(self, part: Part = "all") -> Cut:
        """See `views.View.cut`.

        What is in memory is taken first, then the head is loaded. All that had left memory by then
        was committed before, and so is in the head: nothing can lie between the two.

        Raises:
            TransientError: the catalog is away, nothing is known of the table yet, or the run reads
                again what it had given up.
            IntegrityError: the table is not what this run has committed to any more.
            SchemaConflictError: the rows in memory do not fit the table.
        """
        if part == "hot":
            held = self._buffer.held()
            if not self._rows.knows(held):
                self._followed()  # once: nothing is in memory that would tell the columns
            frame, rows = self._rows.frame(held, {}, self._rows.head)
            return Cut(frame, held.positions, None, rows)
        if part == "cold":
            return self._committed()
        held = self._caught_up()
        head = self._followed()
        try:
            base = _base(held, head, self._name)
        except IntegrityError:
            time.sleep(STALE_SECONDS)  # a catalog's cache, for one
            head = self._followed()
            base = _base(held, head, self._name)
        positions = {tp: max(base[tp], at) for tp, at in held.positions.items()}
        frame, rows = self._rows.frame(held, base, head)
        cut = Cut(self._joined(head, held, frame, rows), positions, _snapshot_of(head), rows)
        self._note(positions)
        return cut

    def at(self, topic: str, partition: int, offset: int) -> pa.Table:
        """See `views.View.at`."""
        tp = TopicPartition(topic, partition)
        piece = self._buffer.piece_at(tp, offset)
        row = None if piece is None else piece.row_at(tp, offset)
        if piece is None or row is None:
            return self._rows.none()
        return self._rows.row(piece, row)

    def with_key(self, value: object) -> pa.Table:
        """See `views.View.with_key`."""
        name = self._upkeep.key_column
        if name is None:
            raise ConfigError(
                f"Rows of {self._name} are not indexed by a key.",
                field="buffer.index_column",
                remedy="Set buffer.index_column to the column to look rows up by.",
            )
        first, end = self._buffer.span()
        indexed = self._upkeep.index.end
        kind = self._rows.type_of(name)
        if kind is None:
            return self._rows.none()
        key = key_scalar(value, kind)
        if not key.is_valid:
            return self._rows.none()
        candidates: list[tuple[Piece, list[int]]] = []
        if indexed is not None and indexed > first:
            numbers = self._upkeep.index.rows(key_hash(key), first, min(end, indexed))
            candidates = self._buffer.pieces_of(numbers)
        newer: list[pa.Table] = []
        behind = max(first, indexed or first)
        for piece in self._buffer.pieces_from(behind) if behind < end else ():
            if piece.rows and piece.end > behind:
                newer += _scanned(piece, max(0, behind - piece.first), name, key)
        if not newer and len(candidates) == 1 and len(candidates[0][1]) == 1:
            [(piece, [row])] = candidates
            return self._rows.row(piece, row) if _has(piece, row, name, key) else self._rows.none()
        return self._rows.shaped([*_equal(candidates, name, key), *newer])

    def after(self, positions: Offsets | None, rows_max: int) -> Tail:
        """See `views.View.after`."""
        held = self._buffer.held()
        if positions is None:
            return Tail(self._rows.none(), held.positions, False)
        missed = any(at < held.floor.get(tp, at) for tp, at in positions.items())
        at = {tp: positions.get(tp, held.floor[tp]) for tp in held.positions}
        taken: list[pa.Table] = []
        left = rows_max
        news = any(end > at.get(tp, 0) for tp, end in held.positions.items())
        for piece in held.pieces if news else ():
            if all(span.end <= at.get(tp, span.end) for tp, span in piece.ranges.items()):
                continue
            chosen = piece.chosen(at)
            chosen = np.arange(piece.rows) if chosen is None else chosen
            if len(chosen) > left:
                chosen = chosen[:left]
                partitions, offsets = piece.partitions(), piece.offsets()
                last = dict(zip(partitions[chosen].tolist(), offsets[chosen].tolist(), strict=True))
                ends = {tp: last[tp.partition] + 1 for tp in piece.ranges if tp.partition in last}
                at.update(ends)
                taken.append(rows_of(piece.table, chosen))
                break
            at.update({tp: max(span.end, at.get(tp, 0)) for tp, span in piece.ranges.items()})
            if len(chosen):
                taken.append(rows_of(piece.table, chosen))
            left -= len(chosen)
        else:
            at = {tp: max(end, at.get(tp, 0)) for tp, end in held.positions.items()}
        return Tail(self._rows.shaped(taken), {**positions, **at}, missed)

    def close(self) -> None:
        """Lets go of the catalog. Idempotent."""
        self._heads.close()

    # Inside.

    def _committed(self) -> Cut:
        head = self._followed()
        recorded: Offsets = {} if head is None else head.offsets
        mine = self._buffer.held().positions
        positions = {tp: recorded[tp] for tp in mine if tp in recorded}
        return Cut(self._cold(head, ()), positions, _snapshot_of(head), 0)

    def _followed(self) -> Head | None:
        head = self._heads.load()
        self._rows.head = head
        return head

    def _caught_up(self) -> Held:
        """What is in memory, once it is not behind what was shown already. May block."""
        deadline = time.monotonic() + self._catch_up_seconds
        while True:
            held = self._buffer.held()
            behind = self._behind(held)
            if behind is None:
                return held
            if time.monotonic() >= deadline:
                tp, shown = behind
                raise TransientError(
                    f"{self._name}: rows are read again that had been given up; {tp} was shown up "
                    f"to offset {shown} and is at {held.positions.get(tp)}.",
                    component=Component.KAFKA,
                    remedy="Ask again: nothing is lost.",
                )
            time.sleep(STEP_SECONDS)

    def _behind(self, held: Held) -> tuple[TopicPartition, int] | None:
        with self._lock:
            for tp, at in held.positions.items():
                if at < self._shown.get(tp, 0):
                    return tp, self._shown[tp]
        return None

    def _note(self, positions: Offsets) -> None:
        """Partitions that are read by another member now may be behind, and are left out."""
        with self._lock:
            shown = self._shown
            self._shown = {tp: max(at, shown.get(tp, 0)) for tp, at in positions.items()}

    def _cold(self, head: Head | None, schemas: Sequence[pa.Schema]) -> pl.LazyFrame:
        from k2i_tasks.cold_frame import lazy_batches

        schema, columns = self._rows.columns(head, schemas)
        if head is None:
            return lazy_batches(columns, lambda _columns, _condition, _limit: iter(()))
        loaded = head
        return lazy_batches(
            columns,
            lambda names, condition, limit: loaded.read(schema, names, condition, limit),
        )

    def _joined(
        self, head: Head | None, held: Held, hot: pl.LazyFrame, hot_rows: int
    ) -> pl.LazyFrame:
        import polars as pl

        if head is None or head.snapshot_id is None:
            return hot
        cold = self._cold(head, self._rows.schemas(held.pieces))
        return pl.concat([cold, hot]) if hot_rows else cold


def _snapshot_of(head: Head | None) -> int | None:
    return None if head is None else head.snapshot_id


def _base(held: Held, head: Head | None, name: str) -> dict[TopicPartition, int]:
    """Where memory begins, per partition of the share: at what the head records.

    Raises:
        IntegrityError: rows have left memory that the head does not have.
    """
    recorded: Offsets = {} if head is None else head.offsets
    base = {tp: recorded.get(tp, start) for tp, start in held.start.items()}
    for tp, floor in held.floor.items():
        if base.get(tp, floor) < floor:
            how = "was rolled back" if head is not None and head.rolled_back else "is behind"
            raise IntegrityError(
                f"Table {name} {how}: it records offset {base[tp]} of {tp}, and rows from there "
                f"to {floor} were committed and have left memory.",
                component=Component.ICEBERG,
                remedy="Restart the run: it says what can be done.",
            )
    return base


def _has(piece: Piece, row: int, name: str, key: pa.Scalar) -> bool:
    """Whether the row has the key indeed: two keys may share a hash."""
    value = piece.table.column(name)[row]
    if value.type == key.type and not pa.types.is_floating(key.type):
        return bool(value.equals(key))
    return pc.equal(value, key).as_py() is True


def _equal(candidates: list[tuple[Piece, list[int]]], name: str, key: pa.Scalar) -> list[pa.Table]:
    """Those of the rows that have the key indeed."""
    found: list[pa.Table] = []
    for piece, rows in candidates:
        part = rows_of(piece.table, np.array(rows, np.int64))
        if found and part.schema.equals(found[-1].schema):
            part = pa.concat_tables([found.pop(), part])
        found.append(part)
    masks = [pc.equal(part.column(name), key) for part in found]
    same = [pc.all(mask, skip_nulls=False).as_py() for mask in masks]
    return [
        part if all_same else part.filter(mask)
        for part, mask, all_same in zip(found, masks, same, strict=True)
    ]


def _scanned(piece: Piece, skip: int, name: str, key: pa.Scalar) -> list[pa.Table]:
    if name not in piece.table.schema.names:
        return []
    table = piece.table.slice(skip)
    mask = pc.equal(table.column(name), key)
    rows = np.flatnonzero(pc.fill_null(mask, fill_value=False).to_numpy())
    return [rows_of(table, rows)] if len(rows) else []
