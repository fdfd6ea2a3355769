"""Committed rows as a lazy frame: read file by file, and only as much as a query needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from k2i_tasks.no_rows import no_rows
from k2i_tasks.predicates import Predicate, plain

#: (columns, all when None; what is known of the condition; rows at most) -> rows.
ReadBatches = Callable[[Sequence[str] | None, Predicate, int | None], Iterator[pa.Table]]


def lazy_batches(schema: pa.Schema, read: ReadBatches) -> pl.LazyFrame:
    """A frame of what `read` gives, each time that it is collected.

    Args:
        schema: the columns.
        read: gives rows in these columns, or those asked for; may give more than the condition
            wants. May block; what it raises leaves the query as it is.
    """

    def rows(
        columns: list[str] | None,
        predicate: pl.Expr | None,
        rows_max: int | None,
        _batch_rows: int | None,
    ) -> Iterator[pl.DataFrame]:
        needed = columns
        if columns is not None and predicate is not None:
            names = dict.fromkeys([*columns, *predicate.meta.root_names()])
            needed = [name for name in schema.names if name in names]
        # Rows without a column would have no number.
        needed = schema.names[:1] if needed == [] else needed
        limit = rows_max if predicate is None else None
        left = rows_max
        for table in read(needed, plain(predicate), limit):
            frame = as_frame(table)
            if predicate is not None:
                frame = frame.filter(predicate)
            if left is not None:
                frame = frame.head(left)
                left -= frame.height
            if columns is not None:
                # Selecting no column would lose the number of rows.
                frame = frame.select(columns) if columns else pl.DataFrame(height=frame.height)
            yield frame
            if left == 0:
                return

    return register_io_source(rows, schema=as_frame(no_rows(schema)).schema)


def as_frame(table: pa.Table) -> pl.DataFrame:
    """The table as polars has it; what is of one layout in both is shared."""
    frame = pl.from_arrow(table, rechunk=False)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"not a table: {type(table).__name__}")
    return frame
