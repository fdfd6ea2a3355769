"""The thread that reads a flow run's own state and writes its summary; drops both when it must."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from k2i_tasks.errors import TransientError
from k2i_tasks.status import Status
from k2i_tasks.tracking.report import (
    Stretch,
    Tally,
    artifact_key,
    markdown,
    refusals_markdown,
)
from k2i_tasks.tracking.seat import Seat

if TYPE_CHECKING:
    from k2i_tasks.prefect_api import Api

log = logging.getLogger(__name__)

#: An answer counts as fresh for so many looks.
FRESH_LOOKS = 2.5
UNFINISHED_MAX = 100


class Timing(Protocol):
    """What of the options is needed here."""

    @property
    def table(self) -> str: ...

    @property
    def watch_interval_seconds(self) -> float: ...

    @property
    def artifact_interval_seconds(self) -> float: ...


class Observer:
    """Looks at the API every few seconds, apart from everything that must go on.

    Args:
        options: intervals and the table's name.
        status: the run's figures.
        request_drain: asked once a watched flow run is cancelled.
        tally: how calls went.
    """

    def __init__(
        self,
        options: Timing,
        status: Callable[[], Status],
        request_drain: Callable[[str], None],
        tally: Tally,
    ) -> None:
        self._options = options
        self._status = status
        self._request_drain = request_drain
        self._tally = tally
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._adopted: Seat | None = None
        self._new_name: str | None = None
        self._seat: Seat | None = None
        self._first: Status | None = None
        self._artifact_id: UUID | None = None
        #: Of the dead letters, and how many it tells of.
        self._refusals: tuple[UUID | None, int] = (None, 0)
        self._unfinished: deque[UUID] = deque(maxlen=UNFINISHED_MAX)
        self._answered_at: float | None = None
        self._away = False
        self._patient_until = 0.0
        self._published_at = 0.0
        self._thread: threading.Thread | None = None

    def start(
        self,
        settings: Callable[[], AbstractContextManager[Any]],
        api_url: str | None,
        *,
        patience_seconds: float = 0.0,
    ) -> None:
        """Begins to look. Does not block.

        Args:
            settings: scope with Prefect's settings.
            api_url: the API; None for the one in them.
            patience_seconds: how long a server that has just been started may take to answer
                before it is said to be away.
        """
        self._patient_until = time.monotonic() + patience_seconds
        self._thread = threading.Thread(
            target=self._main, args=(settings, api_url), name="k2i-observe", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Ends the thread after its current question. Does not block."""
        self._closing.set()

    def api_answers(self) -> bool:
        """Whether the API has answered lately. Does not block."""
        answered_at = self._answered_at
        fresh_seconds = max(2.0, self._options.watch_interval_seconds * FRESH_LOOKS)
        return answered_at is not None and time.monotonic() - answered_at < fresh_seconds

    def adopt(self, seat: Seat, name: str) -> None:
        """Watches the run this process is inside of to the end, and gives it a telling name."""
        self._adopted, self._new_name = seat, name

    def begin(self, seat: Seat) -> None:
        """Watches and reports on `seat` from now on."""
        with self._lock:
            self._seat, self._first, self._artifact_id = seat, self._status(), None
            self._refusals = (None, 0)
            self._published_at = time.monotonic()

    def end(self, api: Api, seat: Seat) -> None:
        """Writes the last summary of `seat`. May block for some seconds."""
        try:
            self._publish(api)
        except TransientError as error:
            log.info("the summary of flow run #%d was dropped: %s", seat.number, error)
        with self._lock:
            self._seat = None

    def unfinished(self, flow_run_id: UUID) -> None:
        """Remembers a run whose end could not be reported, to report it when the API is back."""
        with self._lock:
            self._unfinished.append(flow_run_id)

    def clear_leftovers(self, api: Api, flow_name: str) -> bool:
        """Whether runs that a killed process left running are ended."""
        try:
            if found := api.crash_leftovers(flow_name):
                log.info("%d flow runs of a process that was killed are marked as crashed", found)
        except TransientError as error:
            log.debug("leftovers stay for now: %s", error)
            return False
        self._answered_at = time.monotonic()
        return True

    # -- this thread ----------------------------------------------------------------------------

    def _main(
        self, settings: Callable[[], AbstractContextManager[Any]], api_url: str | None
    ) -> None:
        from k2i_tasks import prefect_api

        with settings(), prefect_api.addressed(api_url), prefect_api.impatient():
            api = prefect_api.Api()
            while True:
                try:
                    self._look(api)
                except TransientError as error:
                    self._note_away(error)
                except Exception:
                    log.exception("a look at Prefect's API failed")
                if self._closing.wait(self._options.watch_interval_seconds):
                    return

    def _look(self, api: Api) -> None:
        if not api.answers():
            raise TransientError("Prefect's API does not answer")
        self._answered_at = time.monotonic()
        if self._away:
            self._away = False
            log.info("Prefect's API is back")
        for seat in {id(s): s for s in (self._adopted, self._seat) if s is not None}.values():
            self._judge(api, seat)
        if self._new_name is not None and self._adopted is not None:
            api.rename(self._adopted.flow_run_id, self._new_name)
            self._new_name = None
        while self._unfinished:
            api.close_run(self._unfinished[0])
            self._unfinished.popleft()
        if time.monotonic() - self._published_at >= self._options.artifact_interval_seconds:
            self._publish(api)

    def _judge(self, api: Api, seat: Seat) -> None:
        verdict = api.verdict(seat.flow_run_id)
        if verdict is None or verdict == seat.verdict:
            return
        seat.verdict = verdict
        if verdict == "cancelled":
            self._request_drain("the flow run was cancelled in Prefect")
        else:
            log.warning("flow run %s was ended from outside; ingestion goes on", seat.flow_run_id)

    def _publish(self, api: Api) -> None:
        with self._lock:
            seat, first = self._seat, self._first
            if seat is None or first is None:
                return
            self._published_at = time.monotonic()
            last = self._status()
            counts, seconds = self._tally.counts(), self._tally.seconds()
            self._artifact_id = api.put_markdown(
                artifact_key(self._options.table),
                markdown(Stretch(seat.number, first, last, counts, seconds)),
                f"Ingestion into {self._options.table}",
                seat.flow_run_id,
                self._artifact_id,
            )
            self._publish_refusals(api, seat, last)

    def _publish_refusals(self, api: Api, seat: Seat, status: Status) -> None:
        """The dead letters by reason, once there are some, and when there are more."""
        artifact_id, told = self._refusals
        letters = sum(one.letters for one in status.refusals)
        if letters == told:
            return
        artifact_id = api.put_markdown(
            artifact_key(self._options.table, prefix="k2i-dead-letters"),
            refusals_markdown(status),
            f"Dead letters of {self._options.table}",
            seat.flow_run_id,
            artifact_id,
        )
        self._refusals = (artifact_id, letters)

    def _note_away(self, error: TransientError) -> None:
        starting = self._answered_at is None and time.monotonic() < self._patient_until
        if not self._away and not starting:
            self._away = True
            log.warning("%s; ingestion goes on without it", error)
