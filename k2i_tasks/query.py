"""Runs a checked query over committed tables and writes its result for people or programs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from k2i_tasks.cells import csv_lines, json_lines
from k2i_tasks.errors import Component, ConfigError, ServiceError
from k2i_tasks.sql_guard import check_query

#: Opens a table for reading; called only when the query names it; may block.
Source = Callable[[], "pl.LazyFrame | pa.Table"]
Format = Literal["csv", "json", "arrow", "parquet"]
BINARY_FORMATS = ("arrow", "parquet")


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The rows of a query, at most as many as asked for."""

    table: pa.Table
    was_cut: bool
    seconds: float


def run_query(sql: str, sources: Mapping[str, Source], *, rows_max: int | None) -> QueryResult:
    """Runs one read-only query. May block on the tables' store.

    Args:
        sql: a single SELECT, or WITH ... SELECT.
        sources: tables by the names a query may use, such as `orders` and `demo.orders`.
        rows_max: rows returned at most; None for all.

    Raises:
        ConfigError: the query is not a read of these tables, or does not fit their columns.
        ServiceError: the store of a table cannot be read.
    """
    began = time.monotonic()
    checked = check_query(sql, sources)
    # Only what is named is opened, and nothing else of this process can be named.
    frames = {name: _frame(sources[name]()) for name in checked.tables}
    context = pl.SQLContext(frames, register_globals=False, eager=False)
    try:
        lazy = context.execute(checked.sql, eager=False)
        if rows_max is not None:
            lazy = lazy.head(rows_max + 1)
        rows = lazy.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _failed(error) from error
    except OSError as error:
        raise ServiceError(
            f"The table's files cannot be read: {error}.", component=Component.STORAGE
        ) from error
    was_cut = rows_max is not None and rows.height > rows_max
    table = rows.head(rows.height - 1 if was_cut else rows.height).to_arrow()
    return QueryResult(table, was_cut, time.monotonic() - began)


def _frame(opened: pl.LazyFrame | pa.Table) -> pl.LazyFrame:
    if isinstance(opened, pl.LazyFrame):
        return opened
    frame = pl.from_arrow(opened)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"not a table: {type(opened).__name__}")
    return frame.lazy()


def _failed(error: BaseException) -> ConfigError:
    lines = str(error).strip().splitlines()
    what = lines[0] if lines else type(error).__name__
    return ConfigError(f"The query failed: {what.rstrip('.')}.", field="sql")


def write_result(table: pa.Table, format: Format, sink: IO[bytes]) -> None:
    """Writes all rows of `table`. May block.

    Args:
        table: the rows; nested types are allowed.
        format: `json` is an array with one row a line; `csv` holds nested values as JSON text;
            `arrow` is an IPC stream.
        sink: binary stream.
    """
    if format == "parquet":
        pq.write_table(table, sink, compression="zstd")
    elif format == "arrow":
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        lines = json_lines(table) if format == "json" else csv_lines(table)
        for line in lines:
            sink.write(line.encode())


def write_file(table: pa.Table, format: Format, path: Path) -> int:
    """Writes `table` to `path`, whole or not at all; an existing file is replaced. May block.

    Returns:
        Size of the file in bytes.

    Raises:
        ServiceError: the file cannot be written (exit code 4).
    """
    unfinished: str | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            unfinished = file.name
            write_result(table, format, file)
        os.replace(unfinished, path)
        unfinished = None
        return path.stat().st_size
    except OSError as error:
        raise ServiceError(
            f"{path} cannot be written: {error.strerror or error}.",
            component=Component.STORAGE,
            remedy="Name another file with --output.",
        ) from error
    finally:
        if unfinished is not None:
            with suppress(FileNotFoundError):
                os.unlink(unfinished)
