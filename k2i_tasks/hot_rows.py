"""Rows of the hot buffer in the columns of the table: made once, shared by all queries.

For scans each piece becomes a frame that shares its memory, and frames that follow one another are
put into one, some pieces at a time: later queries join a few of those, and not hundreds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.buffer.hot import Held, HotBuffer
from k2i_tasks.buffer.made import Made
from k2i_tasks.buffer.piece import Piece
from k2i_tasks.errors import Component, SchemaConflictError, TransientError
from k2i_tasks.iceberg.arrow import align, arrow_schema
from k2i_tasks.iceberg.heads import Head, columns_of
from k2i_tasks.no_rows import no_rows
from k2i_tasks.types import Offsets

if TYPE_CHECKING:
    import polars as pl

#: Bytes that polars' view of a string takes beside the string.
VIEW_BYTES = 16
#: What a frame takes for each column of each piece, beside the values.
FRAME_COLUMN_BYTES = 256
#: Most pieces of one frame: so many are put behind one another at once, or cut from their front.
FRAME_PIECES_MAX = 64


class HotRows:
    """Shapes pieces of one buffer by the table as it was last seen. Thread-safe."""

    def __init__(self, buffer: HotBuffer) -> None:
        self._buffer = buffer
        #: The table as it was last seen.
        self.head: Head | None = None
        #: Of the last few rows: their schema, the columns, and the order that makes one the other.
        self._plan: tuple[pa.Schema, pa.Schema, list[int] | None] | None = None
        #: Of the last call: table's columns and rows' schemas -> both forms of the columns of all.
        self._known: tuple[Any, tuple[pa.Schema, ...], Any, pa.Schema] | None = None

    def schemas(self, pieces: Sequence[Piece]) -> tuple[pa.Schema, ...]:
        """The different ones of the pieces that have rows."""
        found: list[pa.Schema] = []
        for piece in pieces:
            schema = piece.schema
            if piece.rows and not any(schema is one or schema.equals(one) for one in found):
                found.append(schema)
        return tuple(found)

    def columns(self, head: Head | None, schemas: Sequence[pa.Schema]) -> tuple[Any, pa.Schema]:
        """The columns of table and rows together, as Iceberg and as Arrow have them.

        Raises:
            SchemaConflictError: they contradict each other.
            TransientError: there are neither.
        """
        if head is None and not schemas:
            raise TransientError(
                "Nothing is known of the table's columns: no record was read yet.",
                component=Component.KAFKA,
                remedy="Ask again once there is one.",
            )
        table = None if head is None else head.schema
        known = self._known
        same = known is not None and (known[0] is table or known[0] == table)
        if known is not None and same and known[1] == tuple(schemas):
            return known[2], known[3]
        both = columns_of(head, schemas)
        plain = pa.schema(
            [pa.field(one.name, one.type, one.nullable) for one in arrow_schema(both)]
        )
        if known is not None and known[3].equals(plain):
            plain = known[3]  # one for all: what was made is known by it
        self._known = (table, tuple(schemas), both, plain)
        return both, plain

    def knows(self, held: Held) -> bool:
        """Whether there is anything that tells the columns."""
        return self.head is not None or any(piece.rows for piece in held.pieces)

    def frame(self, held: Held, base: Offsets, head: Head | None) -> tuple[pl.LazyFrame, int]:
        """The rows at `base` and behind it, as a frame that shares memory; and how many.

        Args:
            held: what is in memory.
            base: per partition; all rows of a partition that is not in it.
            head: the table, whose columns they get.

        Raises:
            SchemaConflictError: rows do not fit the table.
        """
        import polars as pl

        from k2i_tasks.cold_frame import as_frame

        _both, columns = self.columns(head, self.schemas(held.pieces))
        chosen = [part for made in self._made(held, columns) for part in _chosen(made, base)]
        if not chosen:
            return as_frame(no_rows(columns)).lazy(), 0
        # Only what a query asks for is then joined.
        lazy = pl.concat([frame.lazy() for frame in chosen]) if chosen[1:] else chosen[0].lazy()
        return lazy, sum(frame.height for frame in chosen)

    def row(self, piece: Piece, at: int) -> pa.Table:
        """One row of a piece, as `shaped` gives it.

        Args:
            piece: of this buffer, or not any more.
            at: which of its rows.
        """
        known = self._known
        if known is not None:
            ordered = piece.ordered
            if ordered is None or ordered[0] is not known[3]:
                ordered = piece.ordered = (known[3], self._ordered(piece, known[3]))
            if ordered[1] is not None:
                return pa.Table.from_batches([ordered[1].slice(at, 1)], known[3])
        return self.shaped([piece.table.slice(at, 1)])

    def shaped(self, tables: Sequence[pa.Table]) -> pa.Table:
        """A few rows in the table's columns, as far as those are known."""
        if not tables:
            return self.none()
        known = self._known
        if known is not None:
            given = tables[0].schema
            order = self._order(given, known[3])
            if order is not None and all(each.schema.equals(given) for each in tables[1:]):
                table = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
                columns = table.columns
                return pa.Table.from_arrays([columns[at] for at in order], schema=known[3])
            try:
                return _aligned(tables, known[3])
            except SchemaConflictError:
                pass  # the rows have columns that came since
        before = () if known is None else known[1]
        _both, columns = self.columns(self.head, (*before, *_different(tables)))
        return _aligned(tables, columns)

    def none(self) -> pa.Table:
        """No rows, in the columns that are known."""
        known = self._known
        if known is not None:
            return no_rows(known[3])
        held = self._buffer.held()
        if not self.knows(held):
            return pa.table({})
        return no_rows(self.columns(self.head, self.schemas(held.pieces))[1])

    def type_of(self, name: str) -> pa.DataType | None:
        """The type of a column in memory; None where there is none."""
        known = self._known
        at = -1 if known is None else known[3].get_field_index(name)
        if known is not None and at >= 0:
            return known[3].field(at).type
        first, _end = self._buffer.span()
        for piece in self._buffer.pieces_from(first):
            if name in piece.table.schema.names:
                return piece.table.schema.field(name).type
        return None

    def _order(self, given: pa.Schema, columns: pa.Schema) -> list[int] | None:
        """Where the columns stand in `given`; None where they differ in more than their order."""
        plan = self._plan
        same = plan is not None and plan[1] is columns
        if plan is None or not same or not (plan[0] is given or plan[0].equals(given)):
            plan = self._plan = (given, columns, _order(given, columns))
        return plan[2]

    def _ordered(self, piece: Piece, columns: pa.Schema) -> pa.RecordBatch | None:
        """The piece in these columns; None where that takes more than their order."""
        order = self._order(piece.schema, columns)
        batches = [] if order is None else piece.table.to_batches()
        return batches[0].select(order) if len(batches) == 1 else None

    def _made(self, held: Held, columns: pa.Schema) -> list[Made]:
        """Frames of all pieces that have rows, in order; what is new of them is kept."""
        there = {
            made.first: made
            for made in held.made
            if made.columns is columns or made.columns.equals(columns)
        }
        groups: list[list[Made]] = []
        end = 0
        for piece in held.pieces:
            if not piece.rows or piece.first < end:
                continue
            made = there.get(piece.first) or _framed(piece, columns)
            end = made.end
            groups.append([made])
            # Each piece is joined about as often as the logarithm of their number.
            while len(groups) > 1 and _fit(_count(groups[-2]), _count(groups[-1])):
                last = groups.pop()
                groups[-1] += last
        found = [_joined(group) for group in groups]
        for made in found:
            if there.get(made.first) is not made:
                self._buffer.keep(made)
        return found


def rows_of(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """These rows, rising; shared where they follow one another."""
    if len(rows) == 0:
        return table.slice(0, 0)
    if int(rows[-1]) - int(rows[0]) + 1 == len(rows):
        return table.slice(int(rows[0]), len(rows))
    return table.take(rows)


def _aligned(tables: Sequence[pa.Table], columns: pa.Schema) -> pa.Table:
    return pa.concat_tables([align(table, columns) for table in tables])


def _order(given: pa.Schema, columns: pa.Schema) -> list[int] | None:
    """Where the columns stand in `given`; None where they differ in more than their order."""
    order = [given.get_field_index(name) for name in columns.names]
    plain = len(given) == len(columns) and all(
        at >= 0 and given.field(at).type == column.type and column.nullable
        for at, column in zip(order, columns, strict=True)
    )
    return order if plain else None


def _framed(piece: Piece, columns: pa.Schema) -> Made:
    from k2i_tasks.cold_frame import as_frame

    table = align(piece.table, columns)
    nbytes = _made_bytes(piece.table, table) + FRAME_COLUMN_BYTES * len(columns)
    return Made((piece,), columns, as_frame(table), nbytes)


def _count(group: list[Made]) -> int:
    return sum(len(made.pieces) for made in group)


def _fit(before: int, last: int) -> bool:
    return before <= 2 * last and before + last <= FRAME_PIECES_MAX


def _joined(group: list[Made]) -> Made:
    if len(group) == 1:
        return group[0]
    import polars as pl

    pieces = tuple(piece for made in group for piece in made.pieces)
    frame = pl.concat([made.frame for made in group], rechunk=False)
    return Made(pieces, group[0].columns, frame, sum(made.nbytes for made in group))


def _chosen(made: Made, base: Offsets) -> Iterator[pl.DataFrame]:
    """The rows at `base` and behind it, in order: whole stretches where all are."""
    start = at = 0
    for piece in made.pieces:
        chosen = piece.chosen(base)
        if chosen is not None:
            if at > start:
                yield made.frame.slice(start, at - start)
            if len(chosen):
                yield made.frame.slice(at, piece.rows)[chosen]
            start = at + piece.rows
        at += piece.rows
    if at > start:
        yield made.frame.slice(start, at - start) if start else made.frame


def _different(tables: Sequence[pa.Table]) -> tuple[pa.Schema, ...]:
    found: list[pa.Schema] = []
    for table in tables:
        if not any(table.schema.equals(one) for one in found):
            found.append(table.schema)
    return tuple(found)


def _made_bytes(given: pa.Table, aligned: pa.Table) -> int:
    """Memory that a frame of `aligned` takes beside `given`."""
    total = 0
    for name in aligned.schema.names:
        column = aligned.column(name)
        at = given.schema.get_field_index(name)
        if at < 0 or given.schema.field(at).type != column.type:
            total += column.nbytes
        total += sum(_view_bytes(chunk) for chunk in column.chunks)
    return total


def _view_bytes(array: pa.Array) -> int:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return VIEW_BYTES * len(array)
    if pa.types.is_struct(kind):
        return sum(_view_bytes(array.field(at)) for at in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        return 8 * len(array) + _view_bytes(array.values)
    return 0
