"""A committed table as a lazy frame that reads only the columns and rows a query needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

#: Reads these columns (all when empty) of at most so many rows (all when None); may block.
Read = Callable[[Sequence[str], int | None], pa.Table]


def lazy_table(read: Read) -> pl.LazyFrame:
    """A frame that calls `read` once for its columns' types, and once for what a query needs.

    Args:
        read: reads the table; what it raises leaves the query as it is.
    """
    schema = _frame(read((), 0)).schema

    def rows(
        columns: list[str] | None,
        predicate: pl.Expr | None,
        rows_max: int | None,
        _batch_rows: int | None,
    ) -> Iterator[pl.DataFrame]:
        # With a condition, the rows that count are known only after they are read.
        limit = rows_max if predicate is None else None
        # Of a frame without columns Polars would lose the number of rows.
        none = columns == []
        if none:
            columns = schema.names()[:1]
        frame = _frame(read(columns or (), limit))
        if columns is not None:
            frame = frame.select(columns)
        if predicate is not None:
            frame = frame.filter(predicate)
        frame = frame if rows_max is None else frame.head(rows_max)
        yield pl.DataFrame(height=frame.height) if none else frame

    return register_io_source(rows, schema=schema)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"not a table: {type(table).__name__}")
    return frame
