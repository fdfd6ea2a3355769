"""One call while it is offered to Prefect: who may try it now, and who takes over when.

    OFFERED --Prefect's task begins--> TRYING --worked, or failed for good--> OVER
       |                                |  ^
       |                 transient error|  |Prefect's retry begins
       |                                v  |
       +--not begun in time--> TAKEN <--BETWEEN   (the retry is late, Prefect gave up, or a stop)

TAKEN is the lane's: whatever Prefect starts after that does nothing. All moves are made under one
lock, so that never two try at once.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from enum import Enum, auto
from uuid import UUID

from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.errors import is_transient

log = logging.getLogger(__name__)

#: Prefect takes at most this many delays; the last one repeats.
DELAYS_MAX = 20
#: Prefect spreads its delays by up to this share.
JITTER = 0.3
#: How often a lane looks whether a stop was asked for.
STOP_LOOK_SECONDS = 0.2


def delays_seconds(policy: RetryPolicy) -> list[float]:
    """The waits after failed attempts 1, 2, ...; the last one repeats."""
    delays: list[float] = []
    for attempt in range(DELAYS_MAX):
        delays.append(min(policy.max_wait_seconds, policy.initial_seconds * 2.0**attempt))
        if delays[-1] >= policy.max_wait_seconds:
            break
    return delays


class Phase(Enum):
    """Where a call is between its lane and Prefect."""

    OFFERED = auto()
    TRYING = auto()
    BETWEEN = auto()
    OVER = auto()
    TAKEN = auto()


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """Where a call was shown; kept on the call, so it holds no Prefect object."""

    flow_run_id: UUID
    task_run_id: UUID


class Performance:
    """The opaque argument of a Prefect task: one call and the right to try it.

    Args:
        call: what is run.
        grace_seconds: how late Prefect may begin the call, or a retry, before the lane takes it.
    """

    __slots__ = ("_cond", "_deadline", "_delays", "_gone", "_phase", "_resume_by", "call", "grace")

    def __init__(self, call: Call, grace_seconds: float) -> None:
        self.call = call
        self.grace = grace_seconds
        self._cond = threading.Condition()
        self._phase = Phase.OFFERED
        self._gone = False
        self._deadline = time.monotonic() + call.policy.budget_seconds
        self._delays = delays_seconds(call.policy)
        self._resume_by = 0.0

    @property
    def label(self) -> str:
        return self.call.label

    @property
    def phase(self) -> Phase:
        return self._phase

    # -- Prefect's side -------------------------------------------------------------------------

    def begin(self, link: Link | None) -> bool:
        """Whether Prefect may try now. False: the lane has taken the call."""
        with self._cond:
            if self._phase is Phase.OFFERED and not self.call.claim("prefect"):
                self._phase = Phase.TAKEN
            if self._phase not in (Phase.OFFERED, Phase.BETWEEN):
                return False
            self._phase = Phase.TRYING
            self.call.tracking = link
            self._cond.notify_all()
            return True

    def attempt(self) -> None:
        """One try by Prefect, after `begin` said yes. May block; raises what the call raises."""
        try:
            self.call.attempt()
        except BaseException as error:
            self._failed(error)
            raise
        with self._cond:
            self.call.error = None
            self._phase = Phase.OVER
            self._cond.notify_all()

    def may_retry(self) -> bool:
        """Whether Prefect is to try again."""
        return self._phase is Phase.BETWEEN

    def leave(self) -> None:
        """Prefect's thread is done with this call, whatever it did."""
        with self._cond:
            self._gone = True
            self._cond.notify_all()

    def _failed(self, error: BaseException) -> None:
        call, now = self.call, time.monotonic()
        final = not is_transient(error) or now >= self._deadline or call.stopping
        with self._cond:
            call.error = error
            delay = self._delays[min(call.attempts, len(self._delays)) - 1]
            self._resume_by = now + delay * (1 + JITTER) + self.grace
            self._phase = Phase.OVER if final else Phase.BETWEEN
            self._cond.notify_all()
        if not final:
            log.warning("%s failed, trying again in %.1f s: %s", call.label, delay, error)

    # -- the lane's side ------------------------------------------------------------------------

    def finish(self) -> bool:
        """Returns when the call is over, by Prefect or by this thread. May block.

        Returns:
            Whether Prefect ran it to its end. Failures are in `call.error`.
        """
        if self._settled():
            return True
        call = self.call
        if call.claim("inline"):
            call.run_with_retries()
            return False
        if call.owner != "prefect":
            return False
        left = self._deadline - time.monotonic()
        if left > 0 and not call.stopping:
            call.policy = dataclasses.replace(call.policy, budget_seconds=left)
            call.run_with_retries()
        return False

    def _settled(self) -> bool:
        """Waits until the call is over (True) or is the lane's to run (False)."""
        begin_by = time.monotonic() + self.grace
        with self._cond:
            while self._phase is not Phase.OVER:
                now, stopping = time.monotonic(), self.call.stopping
                late = (self._phase is Phase.OFFERED and (self._gone or now >= begin_by)) or (
                    self._phase is Phase.BETWEEN
                    and (self._gone or stopping or now >= self._resume_by)
                )
                if late or self._phase is Phase.TAKEN:
                    self._phase = Phase.TAKEN
                    return False
                self._cond.wait(STOP_LOOK_SECONDS)
            return True
