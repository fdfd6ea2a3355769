"""`k2i query --follow`: rows of a running flow as they come."""

from __future__ import annotations

import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pyarrow as pa
from rich.console import Console

from k2i_tasks.asking.plain import plain_scan
from k2i_tasks.cells import csv_lines, json_rows
from k2i_tasks.client import Client
from k2i_tasks.errors import ConfigError
from k2i_tasks.query import QueryResult, run_query
from k2i_tasks.sql_guard import check_query
from k2i_tasks.table_view import result_view


def follow(flow: Client, sql: str, *, format: str, rows_max: int | None) -> None:
    """Prints rows that come from now on, until Ctrl-C or so many of them. Blocks.

    Args:
        flow: a running flow.
        sql: SELECT columns FROM table, with comparisons in its WHERE at most.
        format: `table`, `csv`, `json` (a line for each row) or `arrow` (a stream).
        rows_max: rows at most; None for no end.

    Raises:
        ConfigError: the query is more than that, or the format has an end.
        K2IError: the flow is gone.
    """
    if format == "parquet":
        raise ConfigError("A Parquet file has an end.", field="format", remedy="Take arrow.")
    schemas = flow.tables()
    full = {name.lower(): name for name in schemas}
    names = {**{one.rpartition(".")[2]: one for one in full}, **{one: one for one in full}}
    checked = check_query(sql, names)
    plain = plain_scan(checked.sql, names, "hot")
    if plain is None:
        raise ConfigError(
            "--follow takes SELECT columns FROM table, with comparisons joined by AND.",
            field="sql",
            remedy="Ask for anything else again and again, or in a program: tail().",
        )
    rows_max = rows_max if plain.limit is None else min(plain.limit, rows_max or plain.limit)
    table = full[names[plain.table]]
    write, left = _writer(format), rows_max
    # The limit is of all that comes, and what is asked of each part has none.
    each = checked.sql if plain.limit is None else checked.sql.rsplit(" ", 2)[0]
    with _interrupted() as stop, suppress(KeyboardInterrupt):
        for new in _arriving(flow, table, stop):
            result = run_query(each, {plain.table: partial(_same, new)}, rows_max=left)
            if result.table.num_rows:
                write(result)
            if left is not None:
                left -= result.table.num_rows
                if left <= 0:
                    return


@contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Set by Ctrl-C, which then breaks into nothing. (Polars raises one of its own besides.)"""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _same(rows: pa.Table) -> pa.Table:
    return rows


def _arriving(flow: Client, table: str, stop: threading.Event) -> Iterator[pa.Table]:
    """What `tail` gives, from a thread of its own: Ctrl-C does not wait for the network."""
    arrived: queue.Queue[pa.Table | BaseException] = queue.Queue(maxsize=4)

    def missed() -> None:
        print("Rows had left memory before they were read.", file=sys.stderr)

    def read() -> None:
        try:
            for rows in flow.tail(table, on_missed=missed):
                arrived.put(rows)
        except BaseException as error:
            arrived.put(error)

    threading.Thread(target=read, name="k2i-follow", daemon=True).start()
    while not stop.is_set():
        try:
            found = arrived.get(timeout=0.2)
        except queue.Empty:
            continue
        if isinstance(found, BaseException):
            raise found
        yield found


def _writer(format: str) -> Callable[[QueryResult], None]:
    if format == "table":
        return _shown
    if format == "arrow":
        return _ArrowWriter().write
    return _lines if format == "json" else _CsvWriter().write


def _shown(result: QueryResult) -> None:
    console = Console()
    width = console.width if console.is_terminal else 100_000
    console.print(result_view(result, width), width=width, soft_wrap=not console.is_terminal)


def _lines(result: QueryResult) -> None:
    sys.stdout.writelines(json_rows(result.table))
    sys.stdout.flush()


class _CsvWriter:
    """CSV on standard output, with one header."""

    def __init__(self) -> None:
        self._begun = False

    def write(self, result: QueryResult) -> None:
        text = "".join(csv_lines(result.table))
        sys.stdout.write(text.partition("\n")[2] if self._begun else text)
        sys.stdout.flush()
        self._begun = True


class _ArrowWriter:
    """An Arrow stream on standard output, begun with the first rows and in their columns."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._schema = pa.schema([])

    def write(self, result: QueryResult) -> None:
        table = result.table
        if self._writer is None:
            self._schema = table.schema
            self._writer = pa.ipc.new_stream(sys.stdout.buffer, self._schema)
        self._writer.write_table(table.select(self._schema.names).cast(self._schema))
        sys.stdout.buffer.flush()
