"""The process that evaluates queries: it has no secrets, no files, no network, and can be killed.

Polars has no limit of memory, and neither stops when it is told to (measured, ADR 12). So a query
runs here, of low priority, and the process ends once it has taken too much memory. Once everything
is loaded, no file can be opened any more. What a table holds is asked of the run, batch by batch.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from k2i_tasks.asking.conditions import pushed
from k2i_tasks.asking.pieces import OLDEST, pieces, rows_at_once
from k2i_tasks.asking.reasons import reason
from k2i_tasks.asking.wire import MEMORY_CODE, Wire, schema_of
from k2i_tasks.errors import ConfigError, K2IError
from k2i_tasks.no_rows import no_rows
from k2i_tasks.sql_guard import check_query

#: Address space for each byte of memory that a query may take: allocators reserve far more than
#: they use. It holds what would come between two looks at the memory.
ADDRESS_FACTOR = 8
#: What helps where two moments cannot be compared: one has a time zone, the other none.
ZONES = (
    "Compare a column that has a time zone with a text, such as '2026-11-01T12:00:00Z': a "
    "TIMESTAMP literal has none."
)
#: How often memory is looked at while a query runs, in seconds.
LOOK_SECONDS = 0.02


class Tables:
    """The run's tables, as this process asks for them; several may be read at the same time."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        #: A question and its answer are not to be torn apart.
        self.lock = threading.Lock()
        self._opened = 0
        #: Why a table could not be read, since Polars tells only that it could not.
        self.failure: dict[str, Any] | None = None

    def frame(self, name: str, schema: pa.Schema) -> pl.LazyFrame:
        """The table as a frame that asks for what a query needs of it."""
        kinds = _frame(no_rows(schema)).schema

        def rows(
            columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _rows: Any
        ) -> Iterator[pl.DataFrame]:
            where = [] if predicate is None else pushed(predicate, kinds)
            # Of a frame without columns Polars would lose the number of rows.
            none = columns == []
            columns = kinds.names()[:1] if none else columns
            spec = {
                "table": name,
                "columns": columns,
                "where": [[one.column, one.operator, one.value] for one in where],
                "limit": limit if predicate is None else None,
            }
            for batch in self._batches(spec, columns, schema):
                frame = batch if columns is None else batch.select(columns)
                frame = frame if predicate is None else frame.filter(predicate)
                yield pl.DataFrame(height=frame.height) if none else frame

        return register_io_source(rows, schema=kinds, is_pure=True)

    def _batches(
        self, spec: dict[str, Any], columns: list[str] | None, schema: pa.Schema
    ) -> Iterator[pl.DataFrame]:
        with self.lock:
            self._opened += 1
            number = self._opened
            self.wire.send_json(b"O", {"scan": number, **spec})
        part = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        got = False
        while (batch := self._next(number, part)) is not None:
            got = True
            yield _frame(pa.Table.from_batches([batch], part))
        if not got:
            yield _frame(no_rows(part))

    def _next(self, number: int, schema: pa.Schema) -> pa.RecordBatch | None:
        with self.lock:
            self.wire.send_json(b"G", {"scan": number})
            kind, body = self.wire.receive()
        if kind == b"B":
            return pa.ipc.read_record_batch(body, schema)
        if kind == b"X":
            self.failure = json.loads(body.to_pybytes())
            raise RuntimeError("a table cannot be read")
        return None


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def answer(wire: Wire, asked: dict[str, Any]) -> None:
    """Evaluates one query and sends its rows, or what is wrong with it."""
    tables = Tables(wire)
    try:
        _evaluated(tables, asked)
    except ConfigError as error:
        _tell(tables, "query", error.what, error.remedy)
    except K2IError as error:
        _tell(tables, "failed", error.what, error.remedy)
    except MemoryError:
        _tell(tables, "memory", "", "")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, RuntimeError) as error:
        if tables.failure is not None:
            wire.send_json(b"X", tables.failure)
        else:
            told = f"The query failed: {reason(error)}."
            _tell(tables, "query", told, ZONES if told.count("Datetime(") == 2 else "")


def _evaluated(tables: Tables, asked: dict[str, Any]) -> None:
    # Checked where it is evaluated, too: nothing else stands between a text and Polars here.
    checked = check_query(asked["sql"], asked["tables"])
    frames = {name: tables.frame(name, schema_of(asked["tables"][name])) for name in checked.tables}
    context = pl.SQLContext(frames, register_globals=False, eager=False)
    lazy = context.execute(checked.sql, eager=False)
    # Text and bytes without views: any reader knows them.
    kinds = lazy.collect_schema()
    schema = pl.DataFrame(schema=kinds).to_arrow(compat_level=OLDEST).schema
    wire = tables.wire
    with tables.lock:
        wire.send(b"S", memoryview(schema.serialize()))
    if asked["rows_max"] is not None:
        lazy = lazy.head(asked["rows_max"])
        rows = rows_at_once(kinds)
        for frame in lazy.collect_batches(maintain_order=True, chunk_size=rows):
            for piece in pieces(frame, schema):
                with tables.lock:
                    wire.send_batch(piece)
    with tables.lock:
        wire.send_json(b"E", {"grown": _MEMORY.grown()})


def _tell(tables: Tables, kind: str, what: str, remedy: str) -> None:
    with tables.lock:
        tables.wire.send_json(b"X", {"kind": kind, "what": what, "remedy": remedy})


class _Memory:
    """What this process takes, from a file that is opened before no other can be."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/statm", os.O_RDONLY)
        self._base = (0, 0)
        self._bytes_max = 0
        #: Set while a query runs.
        self._busy = threading.Event()

    def bound(self, bytes_max: int) -> None:
        """From now on, so much more: of memory, and in proportion of address space."""
        self._bytes_max = bytes_max
        self._base = self._taken()
        most = self._base[0] + bytes_max * ADDRESS_FACTOR
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        threading.Thread(target=self._watch, name="memory", daemon=True).start()

    def grown(self) -> float:
        """The part of what it may take that this process has taken."""
        address, resident = (
            now - then for now, then in zip(self._taken(), self._base, strict=True)
        )
        return max(address / ADDRESS_FACTOR, resident) / self._bytes_max

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ends this process inside, once it has taken too much."""
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()

    def _watch(self) -> None:
        while self._busy.wait():
            if self.grown() > 1.0:
                os._exit(MEMORY_CODE)
            time.sleep(LOOK_SECONDS)

    def _taken(self) -> tuple[int, int]:
        """Bytes of address space, and of memory."""
        address, resident = os.pread(self._file, 200, 0).split()[:2]
        page = resource.getpagesize()
        return int(address) * page, int(resident) * page


def _warm() -> None:
    """Starts all threads of Polars, and reads what it reads of the machine."""
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    source = register_io_source(lambda *_: iter([frame]), schema=frame.schema)
    context = pl.SQLContext({"t": source, "u": frame.lazy()}, register_globals=False, eager=False)
    lazy = context.execute("select t.b, count(*) as n from t join u on t.a = u.a group by t.b")
    for _ in lazy.sort("n").collect_batches(maintain_order=True):
        pass
    lazy.collect()


def _closed(memory_bytes_max: int) -> None:
    """From now on: so much memory more, no file opened, none written, no core left behind."""
    _MEMORY.bound(memory_bytes_max)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _die_with(life: int) -> None:
    """Ends this process when the run is gone, whatever a query is at."""

    def wait() -> None:
        os.read(life, 1)
        os._exit(0)

    threading.Thread(target=wait, name="life", daemon=True).start()


def main(words: list[str]) -> None:
    """Answers one query after the other until the run is gone."""
    descriptor, life, memory_bytes_max, nice = map(int, words)
    os.nice(nice)
    _die_with(life)
    wire = Wire(socket.socket(fileno=descriptor))
    _warm()
    _closed(memory_bytes_max)
    wire.send(b"R")
    while True:
        try:
            _, body = wire.receive()
            with _MEMORY.watched():
                answer(wire, json.loads(body.to_pybytes()))
        except (EOFError, OSError):
            os._exit(0)


_MEMORY = _Memory()

if __name__ == "__main__":
    main(sys.argv[1:])
