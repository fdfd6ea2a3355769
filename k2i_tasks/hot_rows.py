"""Rows of the hot buffer in the columns of the table: made once a piece, shared by all queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.buffer.hot import Held, HotBuffer
from k2i_tasks.buffer.piece import Piece
from k2i_tasks.errors import Component, SchemaConflictError, TransientError
from k2i_tasks.iceberg.arrow import align, arrow_schema
from k2i_tasks.iceberg.heads import Head, columns_of
from k2i_tasks.types import Offsets

if TYPE_CHECKING:
    import polars as pl

#: Bytes that polars' view of a string takes beside the string.
VIEW_BYTES = 16


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
        frames = []
        for piece in held.pieces:
            chosen = piece.chosen(base)
            if chosen is not None and not len(chosen):
                continue
            frame = self._frame(piece, columns)
            frames.append(frame if chosen is None else frame[chosen])
        if not frames:
            return as_frame(columns.empty_table()).lazy(), 0
        joined = pl.concat(frames, rechunk=False)
        return joined.lazy(), joined.height

    def shaped(self, tables: Sequence[pa.Table]) -> pa.Table:
        """A few rows in the table's columns, as far as those are known."""
        if not tables:
            return self.none()
        known = self._known
        if known is not None:
            given = tables[0].schema
            plan = self._plan
            if plan is None or plan[1] is not known[3] or not plan[0].equals(given):
                plan = self._plan = (given, known[3], _order(given, known[3]))
            if plan[2] is not None and all(each.schema.equals(given) for each in tables[1:]):
                table = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
                columns = table.columns
                return pa.Table.from_arrays([columns[at] for at in plan[2]], schema=known[3])
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
            return known[3].empty_table()
        held = self._buffer.held()
        if not self.knows(held):
            return pa.table({})
        return self.columns(self.head, self.schemas(held.pieces))[1].empty_table()

    def type_of(self, name: str) -> pa.DataType | None:
        """The type of a column in memory; None where there is none."""
        known = self._known
        if known is not None and name in known[3].names:
            return known[3].field(name).type
        first, _end = self._buffer.span()
        for piece in self._buffer.pieces_from(first):
            if name in piece.table.schema.names:
                return piece.table.schema.field(name).type
        return None

    def _frame(self, piece: Piece, columns: pa.Schema) -> pl.DataFrame:
        from k2i_tasks.cold_frame import as_frame

        made = piece.made
        if made is not None and (made[0] is columns or made[0].equals(columns)):
            frame: pl.DataFrame = made[1]
            return frame
        table = align(piece.table, columns)
        frame = as_frame(table)
        self._buffer.keep_made(piece, (columns, frame), _made_bytes(piece.table, table))
        return frame


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
