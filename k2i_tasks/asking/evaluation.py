"""One query in a worker: it is told the tables, gets the batches it asks for, and gives rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from k2i_tasks.asking import scans
from k2i_tasks.asking.limits import Limits, Turn
from k2i_tasks.asking.process import Worker, Workers
from k2i_tasks.asking.pump import Pump
from k2i_tasks.asking.wire import schema_text
from k2i_tasks.errors import Component, ConfigError, K2IError, QueryLimitError, TransientError
from k2i_tasks.tickets import Condition
from k2i_tasks.views import Cut

#: A worker that has grown by this part of what it may is not used again.
WORN = 0.5


class Evaluation:
    """A query that a worker is at. For one thread, which has the pump's beside it.

    Args:
        workers: where the worker comes from.
        turn: the query's place and time.
        cuts: state of each table that the query names, by that name.
        limits: for messages.
    """

    def __init__(
        self, workers: Workers, turn: Turn, cuts: Mapping[str, Cut], limits: Limits
    ) -> None:
        self._workers = workers
        self._turn = turn
        self._cuts = cuts
        self._limits = limits
        self._scans: dict[int, Iterator[pa.RecordBatch]] = {}
        self._schemas = {name: scans.schema_of(cut, newest=True) for name, cut in cuts.items()}
        self._worker: Worker | None = None
        self._pump: Pump[tuple[bytes, pa.Buffer]] | None = None
        self._frames: Iterator[tuple[bytes, pa.Buffer]] = iter(())
        self._between = False
        self._schema = pa.schema([])

    def begin(self, sql: str, rows_max: int | None) -> pa.Schema:
        """Hands the query over; the result's schema. Blocks.

        Args:
            sql: checked.
            rows_max: rows at most; None for none at all.
        """
        worker, is_new = self._workers.take()
        self._worker = worker
        self._turn.on_stop(worker.kill)
        try:
            if is_new:
                worker.ready(self._turn.waits)
                self._turn.begin_again()
            tables = {name: schema_text(schema) for name, schema in self._schemas.items()}
            asked = {"sql": sql, "tables": tables, "rows_max": rows_max}
            worker.wire.send_json(b"Q", asked)
        except (EOFError, OSError) as error:
            raise self._gone() from error
        pump = self._pump = Pump(lambda: self._answers(worker), self._turn, self._limits.nice)
        self._frames = iter(pump)
        kind, body = next(self._frames)
        if kind != b"S":
            raise K2IError(f"A worker said {kind!r} in place of a schema.")
        self._schema = pa.ipc.read_schema(body)
        return self._schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The result's rows. Blocks."""
        for kind, body in self._frames:
            if kind == b"E":
                self._between = not self._worn(json.loads(body.to_pybytes()))
                return
            yield pa.ipc.read_record_batch(body, self._schema)

    def close(self) -> None:
        """Gives the worker back, or ends it if it is not at the end of a query. Idempotent."""
        worker, self._worker = self._worker, None
        # First of all: from now on no deadline takes the worker away from the query after this one.
        self._turn.end()
        if worker is None:
            return
        good = self._between and self._turn.stopped is None
        if not good:
            worker.kill()
        if self._pump is not None:
            self._pump.close()
        self._scans.clear()
        if good:
            self._workers.give_back(worker)
        else:
            worker.close()

    def _answers(self, worker: Worker) -> Iterator[tuple[bytes, pa.Buffer]]:
        """What the worker says, up to its last word; its own questions are answered here."""
        pump = self._pump
        while pump is None or pump.wanted():
            pump = pump or self._pump
            try:
                frame = worker.received(lambda: False)
                if frame is None:
                    continue
                kind, body = frame
                if kind in (b"O", b"G"):
                    self._served(worker, kind, json.loads(body.to_pybytes()))
                    continue
            except (EOFError, OSError) as error:
                raise self._gone() from error
            if kind == b"X":
                raise self._failed(json.loads(body.to_pybytes()))
            yield kind, body
            if kind == b"E":
                return

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
            newest=True,
        )

    def _worn(self, told: Mapping[str, Any]) -> bool:
        return bool(told["grown"] > WORN)

    def _gone(self) -> K2IError:
        """The worker is gone: it was stopped, or it ran out of memory."""
        return self._turn.stopped or self._out_of_memory()

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
            f"The query needed more memory than {memory_mb} MB, or brought its process down.",
            remedy="Ask for less (fewer rows in a join, fewer groups), or raise "
            "query.max_memory_mb.",
        )


def _kind_of(error: K2IError) -> str:
    if isinstance(error, ConfigError):
        return "query"
    return "transient" if isinstance(error, TransientError) else "failed"
