"""A piece of the hot buffer: rows that arrived together, the positions they cover, their places."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.types import OffsetRange, Offsets, Ranges, TopicPartition

#: Of a row's coordinates, unless configured otherwise: partition and offset.
PLACE_COLUMNS = ("_kafka_partition", "_kafka_offset")
NO_ROWS = np.empty(0, np.int64)
Numbers = npt.NDArray[np.int32] | npt.NDArray[np.int64]
#: What a piece weighs beside its values: Python objects, buffers' headers, alignment.
PIECE_BYTES = 2_048
COLUMN_BYTES = 512


class Piece:
    """Rows of one poll, or of several that were joined. What it holds never changes.

    Args:
        table: the rows, in the order of their arrival; may be none.
        ranges: the positions that it covers, of one topic.
        nbytes: what it weighs while it is not committed, dead letters included.
        first: number of its first row, counted over all that the buffer was ever given.
        columns: names of the columns with partition and offset.
    """

    __slots__ = (
        "_columns",
        "_offsets",
        "_partitions",
        "end",
        "expires_at",
        "first",
        "nbytes",
        "ordered",
        "ranges",
        "rows",
        "schema",
        "table",
    )

    def __init__(
        self,
        table: pa.Table,
        ranges: Ranges,
        nbytes: int,
        first: int,
        columns: tuple[str, str],
    ) -> None:
        self.table: pa.Table = table
        self.ranges = ranges
        self.nbytes = nbytes
        self.first = first
        self.rows = int(table.num_rows)
        #: Number of the row behind its last.
        self.end = first + self.rows
        self.schema: pa.Schema = table.schema
        #: When it may leave memory, by the buffer's clock; None until it is committed.
        self.expires_at: float | None = None
        #: For which columns readers have ordered its own, and those; None if more is to be done.
        self.ordered: tuple[pa.Schema, pa.RecordBatch | None] | None = None
        self._columns = columns
        self._partitions: Numbers | None = None
        self._offsets: Numbers | None = None

    @property
    def kept_bytes(self) -> int:
        """What it weighs once it is committed and only readers need it."""
        return int(self.table.nbytes) + PIECE_BYTES + COLUMN_BYTES * len(self.schema)

    def partitions(self) -> Numbers:
        """Partition of each row."""
        if self._partitions is None:
            self._partitions = _numbers(self.table, self._columns[0])
        return self._partitions

    def offsets(self) -> Numbers:
        """Offset of each row."""
        if self._offsets is None:
            self._offsets = _numbers(self.table, self._columns[1])
        return self._offsets

    def row_at(self, tp: TopicPartition, offset: int) -> int | None:
        """Which row is the record's; None if it is none of them."""
        if not self.rows:
            return None
        offsets = self.offsets()
        if len(self.ranges) == 1:  # then they rise
            at = int(offsets.searchsorted(offset))
            return at if at < self.rows and offsets[at] == offset else None
        partitions = self.partitions()
        for row in np.flatnonzero(offsets == offset).tolist():
            if partitions[row] == tp.partition:
                return int(row)
        return None

    def chosen(self, base: Offsets) -> npt.NDArray[np.int64] | None:
        """Which rows are at `base` or behind it, rising; None for all of them.

        Args:
            base: per partition; all rows of a partition that is not in it.
        """
        if not base:
            return None if self.rows else NO_ROWS
        above = below = cut = False
        for tp, span in self.ranges.items():
            at = base.get(tp, span.start)
            above = above or at <= span.start
            below = below or at >= span.end
            cut = cut or span.start < at < span.end
        if not self.rows or not (above or cut):
            return NO_ROWS
        if not (below or cut):
            return None
        partitions, offsets = self.partitions(), self.offsets()
        mask = np.ones(self.rows, np.bool_)
        for tp in self.ranges:
            if tp in base:
                mask &= (partitions != tp.partition) | (offsets >= base[tp])
        return np.flatnonzero(mask)


def _numbers(table: pa.Table, name: str) -> Numbers:
    column = table.column(name)
    found = column.chunk(0) if column.num_chunks == 1 else column
    return cast("Numbers", found.to_numpy())


def joined_ranges(parts: list[Ranges]) -> Ranges:
    """One range per partition over consecutive parts."""
    joined: dict[TopicPartition, OffsetRange] = {}
    for ranges in parts:
        for tp, span in ranges.items():
            known = joined.get(tp)
            joined[tp] = span if known is None else known.then(span)
    return joined


def joined(pieces: list[Piece], columns: tuple[str, str]) -> Piece:
    """One piece of consecutive ones, in memory of its own. May take as long as copying does."""
    tables = [piece.table for piece in pieces if piece.rows]
    table = pa.concat_tables(tables).combine_chunks() if tables else pieces[0].table
    ranges = joined_ranges([piece.ranges for piece in pieces])
    new = Piece(table, ranges, 0, pieces[0].first, columns)
    new.schema = next((piece.schema for piece in pieces if piece.rows), new.schema)
    new.nbytes = new.kept_bytes
    new.expires_at = max((p.expires_at for p in pieces if p.expires_at is not None), default=None)
    return new
