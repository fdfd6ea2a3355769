"""Plain scans of one state of a table: columns, comparisons and a limit, a batch at a time.

They run in the run's own process, since they need no more memory than the batches under way; all
else goes to a worker. The threads of Polars start here with a priority below that of ingestion, as
threads inherit it from the one that starts them, and nothing else in the process uses Polars.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from k2i_tasks.asking.conditions import expression, fit
from k2i_tasks.asking.pieces import OLDEST, pieces, rows_at_once
from k2i_tasks.asking.reasons import reason
from k2i_tasks.errors import Component, ConfigError, K2IError, ServiceError
from k2i_tasks.tickets import Condition, Rows
from k2i_tasks.views import Cut

#: What the threads of Polars are named.
POLARS_THREADS = ("polars-", "async-executor", "tokio-rt-worker")


def start_threads(nice: int) -> None:
    """Starts Polars' threads with this priority. Blocks a moment; once for a process."""

    def start() -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        frame = pl.DataFrame({"a": [1, 2]}).lazy().filter(pl.col("a") > 1)
        for _ in frame.collect_batches(maintain_order=True):
            pass
        frame.sort("a").collect()
        # Those that something else has started before us.
        for task in Path("/proc/self/task").glob("[0-9]*"):
            with suppress(OSError):
                if (task / "comm").read_text().startswith(POLARS_THREADS):
                    os.setpriority(os.PRIO_PROCESS, int(task.name), nice)

    thread = threading.Thread(target=start, name="k2i-ask-start", daemon=True)
    thread.start()
    thread.join()


def schema_of(cut: Cut) -> pa.Schema:
    """Arrow schema of a table as clients get it."""
    return pl.DataFrame(schema=cut.frame.collect_schema()).to_arrow(compat_level=OLDEST).schema


def plain_schema(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    """That of some columns; all when empty.

    Raises:
        ConfigError: there is no such column.
    """
    for name in columns:
        if name not in schema.names:
            raise ConfigError(f"There is no column {name}.", field="columns")
    return pa.schema([schema.field(name) for name in columns]) if columns else schema


def scanned(
    cut: Callable[[], Cut], ask: Rows, limit: int, *, only_if_fit: bool
) -> Generator[pa.Schema | pa.RecordBatch]:
    """The schema of a plain scan, and then its rows. Blocks.

    Args:
        cut: gives the state of the table.
        ask: columns and conditions.
        limit: rows at most.
        only_if_fit: nothing at all is given where a value does not mean what it means to SQL.

    Raises:
        ConfigError: a column is not there, or a condition does not fit the table.
        K2IError: the table cannot be read.
    """
    now = cut()
    if only_if_fit and ask.where and not fit(ask.where, now.frame.collect_schema()):
        return
    schema = plain_schema(schema_of(now), ask.columns)
    yield schema
    yield from batches(now, schema, columns=ask.columns, where=ask.where, limit=limit)


def batches(
    cut: Cut,
    schema: pa.Schema,
    *,
    columns: Sequence[str],
    where: Sequence[Condition],
    limit: int | None,
) -> Iterator[pa.RecordBatch]:
    """The rows, a batch at a time. Blocks on the store for what is not in memory.

    Args:
        cut: one state of the table.
        schema: of these columns.
        columns: all when empty.
        where: conditions that all hold.
        limit: rows at most; None for all.

    Raises:
        ConfigError: a condition does not fit the table.
        ServiceError: the store cannot be read.
    """
    frame = cut.frame
    condition = expression(where, frame.collect_schema())
    if condition is not None:
        frame = frame.filter(condition)
    if columns:
        frame = frame.select(columns)
    if limit is not None:
        frame = frame.head(limit)
    rows = rows_at_once(frame.collect_schema())
    try:
        for part in frame.collect_batches(maintain_order=True, chunk_size=rows):
            yield from pieces(part, schema)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise failure(error) from error


def failure(error: BaseException) -> K2IError:
    """What reading a table met, as ours: Polars wraps what a table of ours raised."""
    cause: Any = error
    while cause is not None:
        if isinstance(cause, K2IError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return ServiceError(f"The table cannot be read: {reason(error)}.", component=Component.STORAGE)
