"""The thread that shows a run in Prefect: one flow run after another, each with a bounded size."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from k2i_tasks.status import Status
from k2i_tasks.tracking.observer import Observer
from k2i_tasks.tracking.seat import Seat
from k2i_tasks.tracking.tracker import PrefectTracker

if TYPE_CHECKING:
    from k2i_tasks.prefect_api import Api

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
RETRY_SECONDS_MAX = 5.0
#: How long a flow run waits for its last calls before it ends without them; and at the end of the
#: run, where calls that are still there are given up, and its own end has to be told in time.
EMPTY_SECONDS, CLOSING_EMPTY_SECONDS = 10.0, 3.0
#: How long a server of our own may take to start before its absence is worth a line.
SERVER_SECONDS = 90.0
#: Of the time to close: for the flow run's last state, and for what is queued.
CLOSE_RUN_SHARE, CLOSE_REPORTS_SHARE = 0.6, 0.2


class Server(Protocol):
    """A Prefect server that belongs to this process."""

    def start(self) -> None: ...

    def stop(self, timeout_seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class ShowOptions:
    """How a run is shown.

    Args:
        topic, table: what is read and where it goes, for names.
        generation_seconds: how long one flow run lasts at most, while the API answers.
        generation_task_runs: how many task runs it holds at most, while the API answers.
        artifact_interval_seconds: how often the summary is written anew.
        watch_interval_seconds: how often the flow run's own state is read.
        start_wait_seconds: how long the first record may take before Prefect is loaded anyway.
        api_url: the API; None for what the environment or the profile names.
        owns_server: nobody else uses that server, so runs that a killed process left can be ended.
    """

    topic: str
    table: str
    generation_seconds: float = 3600.0
    generation_task_runs: int = 2000
    artifact_interval_seconds: float = 60.0
    watch_interval_seconds: float = 5.0
    start_wait_seconds: float = 5.0
    api_url: str | None = None
    owns_server: bool = False


@dataclass(frozen=True, slots=True)
class Adopted:
    """A flow run that somebody else started (a worker) and this process is inside of."""

    seat: Seat
    settings: Callable[[], AbstractContextManager[Any]]


class Companion:
    """Attaches flow runs to a tracker until it is closed. Nothing ever waits for it.

    Args:
        options: how the run is shown.
        status: the run's figures; called from here, must not block.
        request_drain: asked once a flow run is cancelled; must not block.
        claim_timeout_seconds: how long Prefect may take to begin a call.
        server: a server of our own, started here and stopped at the end.
        adopted: the flow run that this process is inside of; it is the first generation.
        settings: scope with Prefect's settings, if they are not those of the process.
    """

    def __init__(
        self,
        options: ShowOptions,
        status: Callable[[], Status],
        request_drain: Callable[[str], None],
        *,
        claim_timeout_seconds: float = 1.0,
        server: Server | None = None,
        adopted: Adopted | None = None,
        settings: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.tracker = PrefectTracker(claim_timeout_seconds, self._close)
        self._options = options
        self._status = status
        self._server = server
        self._adopted = adopted
        self._settings = adopted.settings if adopted is not None else settings or nullcontext
        self._closing = threading.Event()
        self._observer = Observer(options, status, request_drain, self.tracker.tally)
        self._loaded = False
        #: Whether a flow run was ever attached, or why not was said.
        self._shown = False
        #: The flow run whose end Prefect has not taken yet, while there is one of ours.
        self._open_run: UUID | None = None
        self._thread = threading.Thread(target=self._main, name="k2i-show", daemon=True)

    def start(self) -> None:
        """Begins to show the run. Does not block."""
        self._thread.start()

    # -- this thread ----------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            if self._adopted is None:
                self._wait_for_first_record()
            if self._closing.is_set():
                return
            if self._server is not None:
                self._server.start()
            with _root_logger_kept():
                from k2i_tasks import prefect_api, tasks  # noqa: F401  (all of Prefect, once)

                prefect_api.keep_logs_apart(quiet=self._adopted is None)
            self._loaded = True
            heartbeat = not self._options.owns_server
            address = prefect_api.addressed(self._options.api_url, heartbeat=heartbeat)
            with self._settings(), address:
                if prefect_api.api_url() is None and self._adopted is None:
                    log.warning("no Prefect API is configured: this run is not shown there")
                    self._shown = True
                    return
                self._show()
        except Exception:
            self._shown = True
            log.exception("this run is no longer shown in Prefect; ingestion goes on")

    def _wait_for_first_record(self) -> None:
        deadline = time.monotonic() + self._options.start_wait_seconds
        while self._status().first_record_at is None and time.monotonic() < deadline:
            if self._closing.wait(LOOK_SECONDS):
                return

    def _show(self) -> None:
        from k2i_tasks import prefect_api, tasks

        with prefect_api.impatient():
            api = prefect_api.Api()
        patience = SERVER_SECONDS if self._server is not None else 0.0
        self._observer.start(self._settings, self._options.api_url, patience_seconds=patience)
        number = 1
        if self._adopted is not None:
            self._observer.adopt(self._adopted.seat, self._run_name(number))
            self._occupy(api, self._adopted.seat)
            number = 2
        cleared = not self._options.owns_server
        wait_seconds = 0.5
        while not self._closing.is_set():
            if not api.answers():
                self._closing.wait(wait_seconds)
                wait_seconds = min(RETRY_SECONDS_MAX, wait_seconds * 1.5)
                continue
            if not cleared:
                cleared = self._observer.clear_leftovers(api, tasks.FLOW_NAME)
            wait_seconds = 0.5 if self._one_generation(api, number) else RETRY_SECONDS_MAX
            number += 1
            if wait_seconds > 1:
                self._closing.wait(wait_seconds)

    def _run_name(self, number: int) -> str:
        return f"ingest {self._options.topic} → {self._options.table} #{number}"

    def _one_generation(self, api: Api, number: int) -> bool:
        """Whether a flow run began and ended as it should."""
        from k2i_tasks import tasks

        seats: list[Seat] = []

        def occupant(seat: Seat) -> None:
            seats.append(seat)
            self._open_run = seat.flow_run_id
            self._occupy(api, seat)

        try:
            tasks.run_generation(self._options.topic, self._options.table, number, occupant)
        except BaseException as error:  # Prefect's signals (Abort, Pause) are no Exceptions
            for seat in seats:
                self.tracker.detach(seat)
                self._observer.unfinished(seat.flow_run_id)
            log.warning("flow run #%d was cut short by Prefect: %r", number, error)
            return False
        finally:
            self._open_run = None
        return True

    def _occupy(self, api: Api, seat: Seat) -> None:
        """Holds `seat` while calls are shown in it; returns when it is full, over or closing."""
        self.tracker.tally.restart()
        self._observer.begin(seat)
        self.tracker.attach(seat)
        self._shown = True
        log.info("shown in Prefect: flow run %s, #%d", seat.flow_run_id, seat.number)
        try:
            while not self._closing.wait(LOOK_SECONDS):
                if seat.verdict == "ended" or (self._full(seat) and self._observer.api_answers()):
                    break
        finally:
            self.tracker.detach(seat)
        patience_seconds = CLOSING_EMPTY_SECONDS if self._closing.is_set() else EMPTY_SECONDS
        if not seat.wait_until_empty(patience_seconds):
            log.warning("flow run #%d ends before its last task runs do", seat.number)
        self._observer.end(api, seat)

    def _full(self, seat: Seat) -> bool:
        age = time.monotonic() - seat.attached_at
        options = self._options
        return age >= options.generation_seconds or seat.task_runs >= options.generation_task_runs

    # -- whoever closes -------------------------------------------------------------------------

    def _close(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds * CLOSE_RUN_SHARE)
        if (flow_run_id := self._open_run) is not None:
            log.warning(
                "flow run %s may stay shown as running: Prefect did not take its end in time",
                flow_run_id,
            )
        if not self._shown:
            log.warning("the run ended before Prefect was ready: it is not shown there")
        self._observer.close()
        if self._loaded and self._observer.api_answers():
            sender = threading.Thread(
                target=_send_queued, args=(timeout_seconds * CLOSE_REPORTS_SHARE,), daemon=True
            )
            sender.start()
            sender.join(timeout_seconds * CLOSE_REPORTS_SHARE)
        if self._server is not None:
            self._server.stop(max(1.0, deadline - time.monotonic()))


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Keeps the process's own log lines: Prefect puts its terminal output there when imported."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        if handlers:
            root.handlers[:] = handlers
            root.setLevel(level)


def _send_queued(timeout_seconds: float) -> None:
    from k2i_tasks import prefect_api

    try:
        prefect_api.drain_reports(timeout_seconds)
    except Exception:
        log.warning("some task runs may show an old state in Prefect", exc_info=True)
