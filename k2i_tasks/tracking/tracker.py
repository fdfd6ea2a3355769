"""The tracker: each call goes to the flow run that is attached, or is run inline, at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from k2i_tasks.calls import Call
from k2i_tasks.tracking.performance import Link, Performance
from k2i_tasks.tracking.pool import OfferPool
from k2i_tasks.tracking.report import Tally
from k2i_tasks.tracking.seat import Seat

log = logging.getLogger(__name__)

THREADS_MAX = 8
#: After Prefect was late once, calls go on without it for so long.
REST_SECONDS = 10.0


class PrefectTracker:
    """Runs calls as Prefect tasks while a flow run is attached, and inline otherwise.

    A call waits for Prefect no longer than `claim_timeout_seconds`, and exactly one of Prefect and
    the lane runs it. Knows nothing of Prefect's API: a companion attaches and detaches seats.

    Args:
        claim_timeout_seconds: how long Prefect may take to begin a call.
        close: called once with the seconds left, when the tracker is closed; ends the companion.
    """

    def __init__(
        self,
        claim_timeout_seconds: float,
        close: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self.tally = Tally()
        self._claim_timeout_seconds = claim_timeout_seconds
        self._close = close
        self._pool = OfferPool(THREADS_MAX)
        self._lock = threading.Lock()
        self._seat: Seat | None = None
        self._rest_until = 0.0

    @property
    def seat(self) -> Seat | None:
        """Where calls are shown now, if anywhere. Does not block."""
        with self._lock:
            return self._seat

    def attach(self, seat: Seat) -> None:
        """From now on calls are shown in `seat`. Thread-safe, does not block."""
        with self._lock:
            self._seat = seat
            self._rest_until = 0.0

    def detach(self, seat: Seat) -> None:
        """No further call is shown in `seat`. Idempotent, thread-safe, does not block."""
        with self._lock:
            if self._seat is seat:
                self._seat = None

    def run(self, call: Call) -> None:
        """Runs `call` to its end by its one owner; failures are in `call.error`. May block."""
        began = time.monotonic()
        tracked = self._run_tracked(call)
        if tracked is None and call.claim("inline"):
            call.run_with_retries()
        self.tally.record(
            call.kind,
            seconds=time.monotonic() - began,
            tracked=tracked,
            attempts=call.attempts,
            failed=call.error is not None,
        )

    def close(self, timeout_seconds: float) -> None:
        """Ends the current flow run and sends its last reports, within that time. Idempotent."""
        close, self._close = self._close, lambda _seconds: None
        close(timeout_seconds)
        self._pool.close()

    def _run_tracked(self, call: Call) -> bool | None:
        """Whether Prefect ran it to its end; None if it was not offered to Prefect at all."""
        with self._lock:
            seat = self._seat if time.monotonic() >= self._rest_until else None
        if seat is None:
            return None
        performance = Performance(call, self._claim_timeout_seconds)
        after = call.after.tracking if call.after is not None else None
        link = after if isinstance(after, Link) else None
        if not self._pool.offer(lambda: seat.show(performance, link)):
            log.warning("%s: all threads wait for Prefect, so this runs untracked", call.label)
            return None
        tracked = performance.finish()
        if not tracked and not call.stopping:
            log.warning("%s: Prefect was late, so this ran untracked", call.label)
            with self._lock:
                self._rest_until = time.monotonic() + REST_SECONDS
        return tracked
