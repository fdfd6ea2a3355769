"""The one engine behind all doors: what is asked of a running flow's tables is answered here."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from k2i_tasks.asking.answers import Answer
from k2i_tasks.asking.limits import Limits, Places, Turn
from k2i_tasks.asking.plain import plain_scan
from k2i_tasks.asking.pump import Pump
from k2i_tasks.errors import BusyError, ConfigError, QueryCancelledError
from k2i_tasks.sql_guard import check_query
from k2i_tasks.tickets import After, Ask, Key, Rows, Sql, positions_json
from k2i_tasks.views import Cut, Part, Tail, View

if TYPE_CHECKING:
    from k2i_tasks.asking.evaluation import Evaluation
    from k2i_tasks.asking.process import Workers

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
            return self._scan(ask, waits, self.view(ask.table))
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

            self._started()
            schema = scans.schema_of(self.view(ask.table).cut("hot"))
            return scans.plain_schema(schema, ask.columns)
        if isinstance(ask, After):
            return self.view(ask.table).after(None, 1).rows.schema
        if isinstance(ask, Key):
            return self.view(ask.table).with_key(ask.value).schema
        return self.view(ask.table).at(ask.topic, ask.partition, ask.offset).schema

    def tables(self) -> list[str]:
        """Full names of the tables, sorted."""
        return sorted(self._views())

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
        if not only_schema:
            plain = plain_scan(checked.sql, names, ask.part)
            if plain is not None and self._fits(plain, names[plain.table]):
                limits = [one for one in (plain.limit, ask.limit) if one is not None]
                return self._scan(plain, waits, names[plain.table], asked_max=ask.limit, by=limits)
        workers = self._started()
        turn = self._turn(waits)
        evaluation: Evaluation | None = None
        try:
            from k2i_tasks.asking.evaluation import Evaluation

            part: Part = "hot" if only_schema else ask.part
            cuts = _cuts({name: names[name] for name in checked.tables}, part)
            rows_max = self._rows_max(ask.limit)
            evaluation = Evaluation(workers, turn, cuts, self.limits)
            schema = evaluation.begin(checked.sql, None if only_schema else rows_max + 1)
            return Answer(
                schema,
                evaluation.batches(),
                turn=turn,
                limits=self.limits,
                rows_max=rows_max,
                close=evaluation.close,
            )
        except BaseException:
            if evaluation is not None:
                evaluation.close()
            turn.end()
            raise

    def _fits(self, plain: Rows, view: View) -> bool:
        """Whether values are of their columns' types; what else SQL makes of them is Polars'."""
        if not plain.where:
            return True
        from k2i_tasks.asking.conditions import fit

        self._started()
        return fit(plain.where, view.cut("hot").frame.collect_schema())

    def _scan(
        self,
        ask: Rows,
        waits: Callable[[], bool],
        view: View,
        *,
        asked_max: int | None = None,
        by: list[int] | None = None,
    ) -> Answer:
        """A plain scan; `by`: limits that are part of the question, and leave nothing out."""
        from k2i_tasks.asking import scans

        self._started()
        turn = self._turn(waits)
        try:
            cut = view.cut(ask.part)
            schema = scans.plain_schema(scans.schema_of(cut), ask.columns)
            limit = self._rows_max(ask.limit if by is None else asked_max)
            whole = ask.limit if by is not None else None
            rows = partial(
                scans.batches,
                cut,
                schema,
                columns=ask.columns,
                where=ask.where,
                limit=limit + 1 if whole is None else min(whole, limit + 1),
            )
            turn.check()
            pump = Pump(rows, turn, self.limits.nice)
            return Answer(
                schema,
                iter(pump),
                turn=turn,
                limits=self.limits,
                rows_max=limit,
                close=pump.close,
            )
        except BaseException:
            turn.end()
            raise

    def _turn(self, waits: Callable[[], bool]) -> Turn:
        if self._stopping:
            raise self._ended()
        self.places.take(waits)
        turn = Turn(self.places, self.limits.seconds_max, waits)
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

    def _whole(self, rows: pa.Table) -> Answer:
        batches = iter(rows.to_batches())
        return Answer(
            rows.schema, batches, turn=None, limits=self.limits, rows_max=self.limits.rows_max
        )

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
        finally:
            self._followers.release()
        positions = str(_json(positions_json(tail.positions)))
        told = {POSITIONS: positions.encode(), MISSED: b"1" if tail.missed else b"0"}
        held: Mapping[bytes, bytes] = tail.rows.schema.metadata or {}
        return self._whole(tail.rows.replace_schema_metadata({**held, **told}))


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


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
