"""Runs of many tables in one process: a thread, a topic and a table of its own for each.

They share the process, its memory bound and its pages, and nothing else. A table that fails is
tried again, with a growing wait, while the others go on; each goes on where it stopped itself.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Set
from typing import Protocol

from k2i_tasks.calls import RetryPolicy, Tracker
from k2i_tasks.clock import Clock
from k2i_tasks.config.plans import Plan
from k2i_tasks.config.routes import Route
from k2i_tasks.errors import FencedError, K2IError
from k2i_tasks.fleet_status import combined
from k2i_tasks.ports import TrackerFactory
from k2i_tasks.progress import Progress
from k2i_tasks.runner import Runner
from k2i_tasks.status import ErrorNote, RunState, Status

log = logging.getLogger(__name__)

#: A run that lasted so long counts as one that worked: the next wait is short again.
GOOD_SECONDS = 60.0

#: So many looks without its topic end a run: a broker that has just started may not know all.
MISSED_LOOKS = 2
#: How soon a wish to end is noticed.
STEP_SECONDS = 0.2
#: How long a drain waits until tables that share a topic stand at the same offsets.
SETTLE_SECONDS = 5.0
#: How much longer than its own time-out the end of a run may take: `SETTLE_SECONDS` and what ends
#: calls that are under way.
END_SECONDS = 10.0
#: How often it is told which tables a drain waits for.
TOLD_SECONDS = 5.0
NAMES_SHOWN = 8

#: (route, tracker, bytes that it may buffer, number of tables) -> its run.
Build = Callable[[Route, Tracker, int, int], Runner]


class Shared(Protocol):
    """What several runs read from."""

    def errors(self) -> tuple[ErrorNote, ...]: ...
    def settle(self, timeout_seconds: float) -> None: ...
    def close(self) -> None: ...


class TableRun:
    """The runs of one table, one after the other, on a thread of its own.

    Args:
        route: topic and table.
        build: makes a run. May block, and raise K2IError.
        policy: wait between a run that failed and the next.
        clock: time.
        buffer_bytes: its bound, for the first look.
    """

    def __init__(
        self,
        route: Route,
        build: Callable[[], Runner],
        policy: RetryPolicy,
        clock: Clock,
        buffer_bytes: int,
    ) -> None:
        self.route = route
        #: Why the last run ended, if it failed; None while one is on its way.
        self.error: K2IError | None = None
        #: Looks at the plan in a row that it was not in.
        self.missed = 0
        self._build = build
        self._policy = policy
        self._clock = clock
        self._progress = Progress(route.topic, route.table, buffer_bytes, clock)
        self._lock = threading.Lock()
        self._runner: Runner | None = None
        self._drain: str | None = None
        self._awake = threading.Event()
        self._thread = threading.Thread(
            target=self._work, name=f"k2i-{route.topic}"[:15], daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it runs, or will again."""
        return self._thread.is_alive()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def status(self) -> Status:
        """The run as it stands, or as the last one ended. Any thread."""
        with self._lock:
            runner = self._runner
        return self._progress.status() if runner is None else runner.status()

    def request_drain(self, reason: str) -> None:
        """Asks for the end of this run, and for no other. Idempotent; any thread."""
        with self._lock:
            self._drain = self._drain or reason
            runner = self._runner
        self._awake.set()
        if runner is not None:
            runner.request_drain(reason)

    def resize(self, buffer_bytes: int) -> None:
        """Changes what the run may buffer. Any thread."""
        self._progress.buffer_bytes_max = buffer_bytes
        with self._lock:
            runner = self._runner
        if runner is not None:
            runner.resize(buffer_bytes)

    def _work(self) -> None:
        failures = 0
        while self._drain is None:
            began = self._clock.monotonic()
            try:
                self._run_once()
                return
            except K2IError as error:
                self.error = error
            except Exception as error:
                # A bug that one table brings out must not take the others with it.
                log.exception("%s: unexpected error", self.route.name)
                self.error = K2IError(f"Unexpected {type(error).__name__}: {error}")
                self.error.__cause__ = error
            if isinstance(self.error, FencedError):
                # Whoever owns the table now would be fenced off in turn, without an end.
                log.error("%s is given up: %s", self.route.name, self.error)
                return
            lasted = self._clock.monotonic() - began
            failures = 1 if lasted >= GOOD_SECONDS else failures + 1
            wait = self._policy.wait_seconds(failures)
            if self._drain is None:
                log.error("%s failed, again in %.0f s: %s", self.route.name, wait, self.error)
                # Connections to the catalog hang in cycles; few objects come while runs fail, so
                # the collector would not look for long.
                gc.collect()
                self._awake.wait(wait)
            else:
                log.error("%s failed: %s", self.route.name, self.error)

    def _run_once(self) -> None:
        runner: Runner | None = None
        try:
            runner = self._build()
            with self._lock:
                self._runner = runner
                drain = self._drain
            if drain is not None:
                runner.request_drain(drain)
            runner.run()
        except Exception as error:
            if runner is None:
                with self._lock:
                    self._runner = None
                self._progress.state = RunState.FAILED
                self._progress.note("iceberg", str(error))
            raise
        self.error = None


class Fleet:
    """Keeps a run for each table that is planned; looked at and drained as one.

    Args:
        plan: what there should be, given the names of the runs that there are. May block; raises
            K2IError while Kafka cannot be asked.
        build: makes a table's run.
        tracker_factory: makes what runs the flushes and commits of all.
        clock: time.
        buffer_bytes_max: bound of all buffers together, in bytes.
        discovery_seconds: time between two looks at the plan.
        policy: wait between a run that failed and the next.
        drain_seconds: longest that the drain of all together may take, but for `END_SECONDS`.
        woken: set when the plan is worth a look at once.
        shared: what several runs read from, if they do.
        on_gone: told of each table whose run is over for good, as its topic is gone.
    """

    def __init__(
        self,
        *,
        plan: Callable[[Set[str]], Plan],
        build: Build,
        tracker_factory: TrackerFactory,
        clock: Clock,
        buffer_bytes_max: int,
        discovery_seconds: float,
        policy: RetryPolicy,
        drain_seconds: float = 30.0,
        woken: threading.Event | None = None,
        shared: Shared | None = None,
        on_gone: Callable[[Route], None] | None = None,
    ) -> None:
        self._plan = plan
        self._build = build
        self._clock = clock
        self._buffer_bytes_max = buffer_bytes_max
        self._discovery_seconds = discovery_seconds
        self._policy = policy
        self._drain_seconds = drain_seconds
        self._woken = woken or threading.Event()
        self._shared = shared
        self._on_gone = on_gone
        self._runs: dict[str, TableRun] = {}
        self._drain_asked = threading.Event()
        self._drain_reason = ""
        #: What is wrong beside the tables' own troubles: shown and told once.
        self._own = Progress("", "", buffer_bytes_max, clock)
        self._told: dict[str, str] = {}
        self.tracker = tracker_factory(self.status, self.request_drain)

    # For other threads.

    def status(self) -> Status:
        """All tables as one, with each of them in `tables`. Any thread."""
        for note in () if self._shared is None else self._shared.errors():
            self._own.note_once(note)
        parts = tuple(run.status() for _, run in sorted(self._runs.items()))
        return combined(self._own.status(), parts, draining=self._drain_asked.is_set())

    def request_drain(self, reason: str) -> None:
        """Asks every table to commit what it has consumed and end. Idempotent; any thread."""
        if not self._drain_asked.is_set():
            log.info("draining: %s", reason)
            self._drain_reason = reason
            self._drain_asked.set()

    # The run.

    def run(self) -> Status:
        """Runs until drained; the final status. Blocks.

        Raises:
            K2IError: Kafka could not be asked for its topics at the start, a table had failed when
                the drain came, or some took too long to end. What was not committed is read again
                by the next run.
        """
        try:
            self._look(first=True)
            while self._awaited_look():
                self._look(first=False)
        finally:
            late = self._end()
        for _, run in sorted(self._runs.items()):
            if run.error is not None:
                raise run.error
        if late is not None:
            raise late
        return self.status()

    def _awaited_look(self) -> bool:
        """Waits until the plan is worth a look; False once the run is to end.

        In steps: the wish to end may come from a signal's handler on this very thread, which must
        not touch what is waited for.
        """
        due = self._clock.monotonic() + self._discovery_seconds
        while not self._drain_asked.is_set() and self._clock.monotonic() < due:
            if self._woken.wait(min(STEP_SECONDS, self._discovery_seconds)):
                self._woken.clear()
                break
        return not self._drain_asked.is_set()

    def _look(self, *, first: bool) -> None:
        """Begins runs of topics that are new, and ends those of topics that are gone."""
        try:
            plan = self._plan(self._runs.keys())
        except K2IError as error:
            if first:
                self._own.state = RunState.FAILED
                raise
            log.warning("the topics are not known anew: %s", error)
            self._own.note("kafka", str(error))
            return
        self._own.state = RunState.RUNNING
        self._tell(plan)
        wanted = {route.name: route for route in plan.routes}
        gone = {name: run for name, run in self._runs.items() if name not in wanted}
        for name, run in self._runs.items():
            run.missed = run.missed + 1 if name in gone else 0
            if run.missed >= MISSED_LOOKS:
                run.request_drain(f"{name} is gone")
        for name, run in gone.items():
            if not run.alive:
                log.info("topic %s is gone, and so is its run", name)
                # Never changed in place: other threads look at it.
                self._runs = {other: one for other, one in self._runs.items() if other != name}
                if self._on_gone is not None:
                    self._on_gone(run.route)
        fresh = [route for name, route in wanted.items() if name not in self._runs]
        count = len(self._runs) + len(fresh)
        share = self._share(count)
        for run in self._runs.values():
            run.resize(share)
        for route in fresh:
            log.info("%s goes to table %s", route.topic, route.table)
            build = self._builder(route, count)
            run = TableRun(route, build, self._policy, self._clock, share)
            self._runs = {**self._runs, route.name: run}
            run.start()

    def _builder(self, route: Route, count: int) -> Callable[[], Runner]:
        def build() -> Runner:
            tables = len(self._runs)
            return self._build(route, self.tracker, self._share(tables), max(count, tables))

        return build

    def _share(self, tables: int) -> int:
        """What one of so many tables may buffer, in bytes."""
        return max(1, self._buffer_bytes_max // max(1, tables))

    def _tell(self, plan: Plan) -> None:
        """Says once why a topic is not read."""
        for topic, why in plan.refused.items():
            if self._told.get(topic) != why:
                self._told[topic] = why
                log.error("topic %s is not read: %s", topic, why)
            self._own.note("schema", f"Topic {topic} is not read: {why}")
        if not (plan.routes or plan.refused or self._runs):
            log.warning("no topic, or none with records, is found yet: they are looked for again")

    def _end(self) -> K2IError | None:
        """Drains all tables, and waits for the end of each, within one bound; what it has missed.

        What is still at work then, in a call that does not come back, is left: its thread ends with
        the process.
        """
        self._own.state = RunState.DRAINING
        deadline = self._clock.monotonic() + self._drain_seconds + END_SECONDS
        if self._shared is not None:
            self._shared.settle(min(SETTLE_SECONDS, self._drain_seconds))
        for run in self._runs.values():
            run.request_drain(self._drain_reason or "the run ends")
        late = self._joined(deadline)
        if self._shared is not None:
            self._shared.close()
        if late is None:
            self._own.state = RunState.STOPPED
        else:
            self._own.failed(late)
        return late

    def _joined(self, deadline: float) -> K2IError | None:
        """Waits for the end of all runs, and tells which are awaited; None once all have ended."""
        told = self._clock.monotonic() + TOLD_SECONDS
        while alive := [name for name, run in sorted(self._runs.items()) if run.alive]:
            now = self._clock.monotonic()
            more = len(alive) - NAMES_SHOWN
            names = ", ".join(alive[:NAMES_SHOWN]) + (f", and {more} more" if more > 0 else "")
            if now >= deadline:
                return K2IError(
                    f"The drain of all tables did not end within {self._drain_seconds:.0f} s: "
                    f"{names} did not.",
                    remedy="Nothing is lost: the next run reads again what they had not committed.",
                )
            if now >= told:
                told = now + TOLD_SECONDS
                seconds = max(0.0, deadline - now)
                log.warning("the drain waits, for %.0f s at most, for %s", seconds, names)
            self._runs[alive[0]].join(min(TOLD_SECONDS, max(0.0, deadline - now)))
        return None
