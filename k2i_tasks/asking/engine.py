"""The one engine behind all doors: what is asked of a running flow's tables is answered here."""

from __future__ import annotations

import json
import logging
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from k2i_tasks.asking.answers import Answer
from k2i_tasks.asking.limits import Limits, Places, Turn
from k2i_tasks.asking.plain import plain_scan
from k2i_tasks.asking.pump import Pump
from k2i_tasks.errors import BusyError, ConfigError, K2IError, QueryCancelledError, QueryLimitError
from k2i_tasks.sql_guard import check_query
from k2i_tasks.tickets import After, Ask, Key, Rows, Sql, positions_json
from k2i_tasks.views import Cut, Part, Tail, View

if TYPE_CHECKING:
    from k2i_tasks.asking.process import Workers

log = logging.getLogger(__name__)

#: How often it is looked for new rows while a client waits for them, in seconds.
FOLLOW_SECONDS = 0.01
#: Rows that come within so long of the question are one answer: each costs as much as many rows.
GATHER_SECONDS = 0.05
#: Keys of the schema's metadata of rows that came after some positions.
POSITIONS, MISSED = b"k2i.positions", b"k2i.missed"


def always() -> bool:
    """Whoever asks waits to the end."""
    return True


class Engine:
    """Answers what is asked of some tables. Thread-safe.

    Args:
        views: the tables there are now, by full name; looked at for each question.
        limits: what queries may take.
    """

    def __init__(self, views: Callable[[], Mapping[str, View]], limits: Limits) -> None:
        self._views = views
        self.limits = limits
        self.places = Places(limits)
        self._followers = threading.BoundedSemaphore(limits.followers_max)
        self._start_lock = threading.Lock()
        self._workers: Workers | None = None
        self._stopping = False
        self._turns: weakref.WeakSet[Turn] = weakref.WeakSet()
        self._turns_lock = threading.Lock()

    def answer(self, ask: Ask, waits: Callable[[], bool] = always) -> Answer:
        """The answer, whose rows are still to be taken. Blocks until its schema is known.

        Args:
            ask: what is asked.
            waits: whether the answer is still wanted; called every 50 ms while it is awaited.

        Raises:
            ConfigError: it cannot be asked so.
            BusyError: too many ask at once.
            QueryLimitError: it took too long.
            K2IError: a table cannot be read.
        """
        if isinstance(ask, Sql):
            return self._sql(ask, waits)
        if isinstance(ask, Rows):
            return self._rows(ask, waits, self.view(ask.table))
        if isinstance(ask, After):
            return self._after(ask, waits)
        view = self.view(ask.table)
        if isinstance(ask, Key):
            return self._whole(view.with_key(ask.value))
        return self._whole(view.at(ask.topic, ask.partition, ask.offset))

    def schema(self, ask: Ask, waits: Callable[[], bool] = always) -> pa.Schema:
        """Columns of what `ask` would give, in the types that clients get. Blocks; as `answer`."""
        if isinstance(ask, Sql):
            with self._sql(ask, waits, only_schema=True) as answer:
                return answer.schema
        if isinstance(ask, Rows):
            from k2i_tasks.asking import scans

            [told] = self._columns([self.view(ask.table)], waits)
            if isinstance(told, K2IError):
                raise told
            return scans.plain_schema(told, ask.columns)
        if isinstance(ask, After):
            return self.view(ask.table).after(None, 1).rows.schema
        if isinstance(ask, Key):
            return self.view(ask.table).with_key(ask.value).schema
        return self.view(ask.table).at(ask.topic, ask.partition, ask.offset).schema

    def schemas(self, waits: Callable[[], bool] = always) -> dict[str, pa.Schema | None]:
        """Columns of each table by its full name, sorted; None where they cannot be told now.

        Blocks; one place and its time are for all of them.

        Raises:
            BusyError: too many ask at once.
            QueryCancelledError: whoever asked is gone.
        """
        views = dict(sorted(self._views().items()))
        found: dict[str, pa.Schema | None] = dict.fromkeys(views)
        try:
            for told, name in zip(self._columns(views.values(), waits), views, strict=True):
                if isinstance(told, pa.Schema):
                    found[name] = told
                else:
                    log.debug("the columns of %s are not known: %s", name, told)
        except QueryLimitError as error:
            log.debug("the columns of some tables are not known: %s", error)
        return found

    def view(self, name: str) -> View:
        """The table of this name, whether full or its last part; without a name, the only one.

        Raises:
            ConfigError: there is none, or there are several.
        """
        views = self._views()
        if not name and len(views) == 1:
            return next(iter(views.values()))
        found = _names(views).get(name.lower())
        if found is None:
            there = ", ".join(sorted(views)) or "none yet"
            raise ConfigError(f"There is no table {name or 'named'}; there are: {there}.")
        return found

    def close(self) -> None:
        """Refuses what comes, and ends what is under way, processes too. Idempotent."""
        with self._turns_lock:
            self._stopping = True
            turns = tuple(self._turns)
        for turn in turns:
            turn.stop(QueryCancelledError("The run is at its end."))
        with self._start_lock:
            if self._workers is not None:
                self._workers.close()

    # Queries and scans.

    def _sql(self, ask: Sql, waits: Callable[[], bool], *, only_schema: bool = False) -> Answer:
        names = _names(self._views())
        checked = check_query(ask.sql, names)
        plain = None if only_schema else plain_scan(checked.sql, names, ask.part)

        def begun(turn: Turn) -> Answer:
            if plain is not None:
                answer = self._scan(plain, turn, names[plain.table], ask)
                if answer is not None:
                    return answer
            views = {name: names[name] for name in checked.tables}
            return self._evaluated(checked.sql, ask, turn, views, only_schema)

        return self._placed(waits, begun)

    def _rows(self, ask: Rows, waits: Callable[[], bool], view: View) -> Answer:
        def begun(turn: Turn) -> Answer:
            answer = self._scan(ask, turn, view)
            assert answer is not None, "only a query's values may mean something else"
            return answer

        return self._placed(waits, begun)

    def _placed(self, waits: Callable[[], bool], begun: Callable[[Turn], Answer]) -> Answer:
        """An answer that has a place, from before anything is asked of a table."""
        turn = self._turn(waits)
        try:
            return begun(turn)
        except BaseException:
            turn.end()
            raise

    def _evaluated(
        self, sql: str, ask: Sql, turn: Turn, views: Mapping[str, View], only_schema: bool
    ) -> Answer:
        workers = self._started()
        from k2i_tasks.asking.evaluation import Evaluation

        part: Part = "hot" if only_schema else ask.part
        rows_max = self._rows_max(ask.limit)
        evaluation = Evaluation(workers, turn, lambda: _cuts(views, part), self.limits)
        try:
            schema = evaluation.begin(sql, None if only_schema else rows_max + 1)
        except BaseException:
            evaluation.close()
            raise
        return self._answered(schema, evaluation.batches(), turn, rows_max, evaluation.close)

    def _scan(self, ask: Rows, turn: Turn, view: View, asked: Sql | None = None) -> Answer | None:
        """A plain scan.

        Of a query (`asked`), whose own LIMIT leaves nothing out; None where its values do not mean
        to us what they mean to SQL.
        """
        self._started()
        from k2i_tasks.asking import scans

        rows_max = self._rows_max(ask.limit if asked is None else asked.limit)
        limit = rows_max + 1
        if asked is not None and ask.limit is not None:
            limit = min(limit, ask.limit)
        rows = partial(
            scans.scanned, lambda: view.cut(ask.part), ask, limit, only_if_fit=asked is not None
        )
        pump = Pump(rows, turn, self.limits.nice)
        found = iter(pump)
        try:
            schema = next(found, None)
        except BaseException:
            pump.close()
            raise
        if schema is None:
            return None
        return self._answered(schema, found, turn, rows_max, pump.close)

    def _answered(
        self,
        schema: pa.Schema,
        batches: Iterator[pa.RecordBatch],
        turn: Turn,
        rows_max: int,
        close: Callable[[], object],
    ) -> Answer:
        return Answer(
            schema, batches, turn=turn, limits=self.limits, rows_max=rows_max, close=close
        )

    def _columns(
        self, views: Iterable[View], waits: Callable[[], bool]
    ) -> Iterator[pa.Schema | K2IError]:
        """Of each, or why they cannot be told; one place and its time are for all of them."""
        with self._turn(waits) as turn:
            self._started()
            from k2i_tasks.asking import scans

            def told() -> Generator[pa.Schema | K2IError]:
                for view in views:
                    try:
                        yield scans.schema_of(view.cut("hot"))
                    except K2IError as error:
                        yield error

            pump = Pump(told, turn, self.limits.nice)
            try:
                yield from pump
            finally:
                pump.close()

    def _turn(self, waits: Callable[[], bool]) -> Turn:
        if self._stopping:
            raise self._ended()
        self.places.take(waits)
        try:
            turn = Turn(self.places, self.limits.seconds_max, waits)
        except BaseException:
            # No thread to be had for its timer.
            self.places.free()
            raise
        with self._turns_lock:
            self._turns.add(turn)
            late = self._stopping
        if late:
            turn.end()
            raise self._ended()
        return turn

    def _ended(self) -> BusyError:
        return BusyError("The run is at its end.", remedy="Ask the committed table.")

    def _rows_max(self, asked: int | None) -> int:
        return self.limits.rows_max if asked is None else min(asked, self.limits.rows_max)

    def _started(self) -> Workers:
        """Polars' threads and the place for workers, made with the first query."""
        with self._start_lock:
            if self._workers is None:
                from k2i_tasks.asking.process import Worker, Workers
                from k2i_tasks.asking.scans import start_threads

                start_threads(self.limits.nice)
                limits = self.limits
                self._workers = Workers(
                    lambda: Worker(limits.memory_bytes_max, limits.nice),
                    kept_max=limits.queries_max,
                )
            return self._workers

    # What is in memory alone, and takes no place.

    def _whole(self, rows: pa.Table, bytes_max: int | None = None) -> Answer:
        limits = self.limits
        if bytes_max is not None:
            limits = replace(limits, bytes_max=bytes_max)
        batches = iter(rows.to_batches())
        return Answer(rows.schema, batches, turn=None, limits=limits, rows_max=limits.rows_max)

    def _after(self, ask: After, waits: Callable[[], bool]) -> Answer:
        view = self.view(ask.table)
        limit = self._rows_max(ask.limit)
        if not self._followers.acquire(blocking=False):
            raise BusyError(
                f"{self.limits.followers_max} clients wait for new rows already.",
                remedy="Ask again in a while, or raise query.max_followers.",
            )
        try:
            tail = _awaited(view, ask, limit, waits, lambda: self._stopping)
            tail = self._fitting(view, ask, tail)
        finally:
            self._followers.release()
        positions = json.dumps(positions_json(tail.positions))
        told = {POSITIONS: positions.encode(), MISSED: b"1" if tail.missed else b"0"}
        held: Mapping[bytes, bytes] = tail.rows.schema.metadata or {}
        rows = tail.rows.replace_schema_metadata({**held, **told})
        return self._whole(rows, max(self.limits.bytes_max, _sent_bytes(rows)))

    def _fitting(self, view: View, ask: After, tail: Tail) -> Tail:
        """As many of its rows as are sent, one at least, so that its positions are right for them.

        What is cut off later nobody would ask for again.
        """
        while (count := tail.rows.num_rows) > 1:
            size = _sent_bytes(tail.rows)
            if size <= self.limits.bytes_max:
                break
            fewer = min(count - 1, count * self.limits.bytes_max // size)
            tail = view.after(ask.positions, max(fewer, 1))
        return tail


def _awaited(
    view: View,
    ask: After,
    limit: int,
    waits: Callable[[], bool],
    stopping: Callable[[], bool],
) -> Tail:
    """Rows from these positions on, as soon as there are some; none when the time is over."""
    began = time.monotonic()
    deadline = began + ask.wait_seconds
    gathered = min(began + GATHER_SECONDS, deadline)
    while True:
        tail = view.after(ask.positions, limit)
        now, rows = time.monotonic(), tail.rows.num_rows
        over = ask.positions is None or now >= deadline or rows >= limit
        if (rows and now >= gathered) or tail.missed or over or stopping() or not waits():
            return tail
        time.sleep(gathered - now if rows else FOLLOW_SECONDS)


def _sent_bytes(rows: pa.Table) -> int:
    """As the answer counts them."""
    return sum(batch.nbytes for batch in rows.to_batches())


def _names(views: Mapping[str, View]) -> dict[str, View]:
    """Tables by the names that a query may use, lower case: full, or the last part if it is one."""
    names = {name.lower(): view for name, view in views.items()}
    last: dict[str, list[View]] = {}
    for name, view in views.items():
        last.setdefault(name.rpartition(".")[2].lower(), []).append(view)
    alone = {name: found[0] for name, found in last.items() if len(found) == 1}
    return {**alone, **names}


def _cuts(views: Mapping[str, View], part: Part) -> dict[str, Cut]:
    """One state of each table, also where it is named in two ways."""
    by_view = {id(view): view for view in views.values()}
    cuts = {key: view.cut(part) for key, view in by_view.items()}
    return {name: cuts[id(view)] for name, view in views.items()}
