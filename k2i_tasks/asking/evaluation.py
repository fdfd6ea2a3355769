"""One query in a worker: it is told the tables, gets the batches it asks for, and gives rows."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import pyarrow as pa

from k2i_tasks.asking import scans
from k2i_tasks.asking.limits import Limits, Turn
from k2i_tasks.asking.process import Worker, Workers
from k2i_tasks.asking.pump import Pump
from k2i_tasks.asking.wire import MEMORY_CODE, schema_text
from k2i_tasks.errors import (
    Component,
    ConfigError,
    K2IError,
    QueryCancelledError,
    QueryLimitError,
    TransientError,
)
from k2i_tasks.tickets import Condition
from k2i_tasks.views import Cut

#: A worker that has grown by this part of what it may is not used again.
WORN = 0.5
#: Signals that a process brings upon itself.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)


class Evaluation:
    """A query that a worker is at. For one thread; the pump's beside it has the worker.

    Args:
        workers: where the worker comes from.
        turn: the query's place and time.
        cuts: gives the state of each table that the query names, by that name; may block.
        limits: for messages.
    """

    def __init__(
        self,
        workers: Workers,
        turn: Turn,
        cuts: Callable[[], Mapping[str, Cut]],
        limits: Limits,
    ) -> None:
        self._workers = workers
        self._turn = turn
        self._cut = cuts
        self._limits = limits
        self._cuts: Mapping[str, Cut] = {}
        self._schemas: Mapping[str, pa.Schema] = {}
        self._scans: dict[int, Iterator[pa.RecordBatch]] = {}
        self._pump: Pump[pa.Buffer] | None = None
        self._frames: Iterator[pa.Buffer] = iter(())
        #: Whether the worker has said its last word, and can be asked again.
        self._between = False
        self._schema = pa.schema([])

    def begin(self, sql: str, rows_max: int | None) -> pa.Schema:
        """Hands the query over; the result's schema. Blocks.

        Args:
            sql: checked.
            rows_max: rows at most; None for none at all.
        """
        work = lambda: self._answers(sql, rows_max)  # noqa: E731
        self._pump = Pump(work, self._turn, self._limits.nice)
        self._frames = iter(self._pump)
        self._schema = pa.ipc.read_schema(next(self._frames))
        return self._schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The result's rows. Blocks."""
        for body in self._frames:
            yield pa.ipc.read_record_batch(body, self._schema)

    def close(self) -> None:
        """Ends the query, and its worker if that is not at the end of one. Idempotent."""
        if not self._between:
            # Not killed from here: meanwhile it may be given back, and be at the query after this
            # one. Once the turn is stopped it is not, and before, the turn has it no more.
            self._turn.stop(QueryCancelledError("Nobody takes the rest of the answer."))
        self._turn.end()
        if self._pump is not None:
            self._pump.close()

    # On the pump's thread.

    def _answers(self, sql: str, rows_max: int | None) -> Generator[pa.Buffer]:
        """Schema and batches; the worker's own questions are answered here."""
        self._cuts = self._cut()
        self._schemas = {name: scans.schema_of(cut) for name, cut in self._cuts.items()}
        if not self._wanted():
            return
        worker, is_new = self._workers.take()
        self._turn.on_stop(worker.kill)
        try:
            if is_new:
                self._turn.pause()
                worker.ready(self._turn.waits)
                self._turn.begin_again()
            tables = {name: schema_text(schema) for name, schema in self._schemas.items()}
            worker.wire.send_json(b"Q", {"sql": sql, "tables": tables, "rows_max": rows_max})
            yield from self._said(worker)
        except (EOFError, OSError) as error:
            raise self._gone(worker) from error
        finally:
            self._scans.clear()
            # First of all: from now on no deadline takes it away from the query after this one.
            if self._turn.let_go() and self._between:
                self._workers.give_back(worker)
            else:
                worker.close()

    def _said(self, worker: Worker) -> Generator[pa.Buffer]:
        while self._wanted():
            frame = worker.received(lambda: False)
            if frame is None:
                continue
            kind, body = frame
            if kind in (b"S", b"B"):
                yield body
                continue
            told = json.loads(body.to_pybytes())
            if kind == b"E":
                self._between = bool(told["grown"] <= WORN)
                return
            if kind == b"X":
                raise self._failed(told)
            self._served(worker, kind, told)

    def _wanted(self) -> bool:
        return self._pump is None or self._pump.wanted()

    def _served(self, worker: Worker, kind: bytes, asked: dict[str, Any]) -> None:
        number = int(asked["scan"])
        if kind == b"O":
            self._scans[number] = self._opened(asked)
            return
        try:
            batch = next(self._scans[number], None)
        except K2IError as error:
            told = {"kind": _kind_of(error), "what": error.what, "remedy": error.remedy}
            worker.wire.send_json(b"X", told)
            return
        if batch is None:
            del self._scans[number]
            worker.wire.send(b"E")
        else:
            worker.wire.send_batch(batch)

    def _opened(self, asked: dict[str, Any]) -> Iterator[pa.RecordBatch]:
        name, columns = asked["table"], asked["columns"]
        schema = self._schemas[name]
        return scans.batches(
            self._cuts[name],
            schema if columns is None else scans.plain_schema(schema, columns),
            columns=columns or (),
            where=[Condition(*one) for one in asked["where"]],
            limit=asked["limit"],
        )

    def _gone(self, worker: Worker) -> K2IError:
        """Why the worker is gone: it was stopped, took too much memory, was ended, or broke."""
        if self._turn.stopped is not None:
            return self._turn.stopped
        code = worker.exit_code()
        if code in (MEMORY_CODE, -signal.SIGABRT):
            # The allocator aborts where the system gives it no more.
            return self._out_of_memory()
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        if code is not None and code < 0 and -code not in CRASHES:
            return TransientError(
                f"The process that evaluated the query was ended from outside ({how}).",
                component=Component.RUNTIME,
                remedy="Ask again. If nobody ended it, the machine had no memory left, and "
                "its kernel's log says so.",
            )
        return K2IError(
            f"The query brought its process down ({how}).",
            remedy="Ask in another way, and report it: no query should do that.",
        )

    def _failed(self, told: Mapping[str, Any]) -> K2IError:
        self._between = told["kind"] == "query"
        if told["kind"] == "memory":
            return self._out_of_memory()
        if told["kind"] == "query":
            return ConfigError(told["what"], field="sql", remedy=told["remedy"])
        if told["kind"] == "transient":
            return TransientError(told["what"], component=Component.STORAGE, remedy=told["remedy"])
        return K2IError(told["what"], component=Component.STORAGE, remedy=told["remedy"])

    def _out_of_memory(self) -> QueryLimitError:
        memory_mb = self._limits.memory_bytes_max >> 20
        return QueryLimitError(
            f"The query needed more memory than {memory_mb} MB.",
            remedy="Ask for less (fewer rows in a join, fewer groups), or raise "
            "query.max_memory_mb.",
        )


def _kind_of(error: K2IError) -> str:
    if isinstance(error, ConfigError):
        return "query"
    return "transient" if isinstance(error, TransientError) else "failed"
