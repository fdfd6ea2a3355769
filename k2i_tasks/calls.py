"""Run-once units of work and the lanes that perform them.

The engine decides, a lane performs: one thread per lane, in submission order. How a call is run is
the tracker's business (inline, or as a Prefect task); that it is run by exactly one owner is the
call's own.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from k2i_tasks.errors import CommitConflictError, K2IError, is_transient

log = logging.getLogger(__name__)

#: A commit that lost a race against another writer is made again so often within one try.
RACES_MAX = 20
#: Longest wait before it, the first time and at most; it is doubled each time.
RACE_WAIT_SECONDS, RACE_WAIT_SECONDS_MAX = 0.03, 0.5


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter on transient errors, bounded by time.

    Args:
        initial_seconds: first wait.
        max_wait_seconds: longest single wait.
        budget_seconds: total time after which the last error is final.
    """

    initial_seconds: float = 0.2
    max_wait_seconds: float = 10.0
    budget_seconds: float = 600.0

    def wait_seconds(self, attempt: int) -> float:
        """Wait after failed attempt number `attempt` (1, 2, ...)."""
        ceiling = min(self.max_wait_seconds, self.initial_seconds * 2 ** min(attempt - 1, 30))
        return float(ceiling * (0.5 + random.random() / 2))


class Call:
    """One operation that must be run by exactly one owner, however many are offered it.

    Args:
        kind: "flush", "commit" or another word for the operation; the lane and task name.
        label: what it does, for people: `commit events 0:[1200,5400)`.
        attempt: performs the operation once; idempotent; raises on failure. May block.
        policy: when to try again.
        after: the call whose result this one uses (drawn as an arrow); already done when this runs.
        summary: filled by `attempt` with figures to show (rows, bytes, seconds).
    """

    def __init__(
        self,
        kind: str,
        label: str,
        attempt: Callable[[], None],
        policy: RetryPolicy,
        *,
        after: Call | None = None,
        summary: dict[str, Any] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self.kind = kind
        self.label = label
        self.policy = policy
        self.after = after
        self.summary: dict[str, Any] = {} if summary is None else summary
        self.owner: str | None = None
        self.error: BaseException | None = None
        self.attempts = 0
        self.claimed = threading.Event()
        self.done = threading.Event()
        #: Free for the tracker: what it needs to link calls (a Prefect state, for one).
        self.tracking: Any = None
        self._attempt = attempt
        self._lock = threading.Lock()
        self._stop = stop or threading.Event()

    def claim(self, owner: str) -> bool:
        """Whether `owner` is the first to ask, and so must run it. Thread-safe."""
        with self._lock:
            if self.owner is not None:
                return False
            self.owner = owner
            self.claimed.set()
            return True

    def attempt(self) -> None:
        """One try, by the owner. Raises what the operation raises."""
        self.attempts += 1
        self._attempt()

    def run_with_retries(self) -> None:
        """Tries until it works, the error is final, the budget is spent, or a stop is asked.

        Leaves the final error in `error`; does not raise.
        """
        deadline = time.monotonic() + self.policy.budget_seconds
        while True:
            try:
                self.attempt()
                self.error = None
                return
            except Exception as error:
                self.error = error
                if not is_transient(error) or time.monotonic() >= deadline:
                    return
                wait = self.policy.wait_seconds(self.attempts)
                log.warning("%s failed, trying again in %.1f s: %s", self.label, wait, error)
                if self._stop.wait(wait):
                    return

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for: no further try is begun."""
        return self._stop.is_set()

    def failure(self) -> K2IError:
        """The final error as one of ours; anything else is a bug, and keeps its traceback."""
        if isinstance(self.error, K2IError):
            return self.error
        log.error("%s failed", self.label, exc_info=self.error)
        wrapped = K2IError(f"{self.label} failed: {type(self.error).__name__}: {self.error}")
        wrapped.__cause__ = self.error
        return wrapped

    def finish(self) -> None:
        self.done.set()


def racing(
    label: str, commit: Callable[[], None], stopping: Callable[[float], bool]
) -> Callable[[], None]:
    """`commit`, made again at once when another writer was first.

    Such a writer is done, and a longer wait would only let more of them pass: with the back-off of
    an outage, one that commits a little slower than the others never lands. Where one try after
    the other loses, there are many writers, who wait longer for one another's sake.

    Args:
        label: what it does, for people.
        commit: performs the operation once, looking at the table anew; raises on failure.
        stopping: waits so many seconds, and says whether no further try may begin.
    """

    waits = RetryPolicy(RACE_WAIT_SECONDS, RACE_WAIT_SECONDS_MAX)

    def attempt() -> None:
        for race in range(1, RACES_MAX + 1):
            try:
                return commit()
            except CommitConflictError as error:
                log.info("%s: another writer was first, once more: %s", label, error)
                if stopping(waits.wait_seconds(race)):
                    raise
        commit()

    return attempt


class Tracker(Protocol):
    """Runs a call to its end, visibly or not. Called on the lane's thread; may block."""

    def run(self, call: Call) -> None:
        """Returns when `call` has been run by its one owner; failures are in `call.error`."""
        ...

    def close(self, timeout_seconds: float) -> None: ...


class InlineTracker:
    """Runs the call here and now, tracked by nobody."""

    def run(self, call: Call) -> None:
        if call.claim("inline"):
            call.run_with_retries()

    def close(self, timeout_seconds: float) -> None:
        """Nothing to close."""


class Lanes:
    """One thread per kind of call; calls of one kind run one after the other.

    Args:
        tracker: how a call is run.
        on_done: called on the lane's thread when a call is over; must not block.
    """

    def __init__(self, tracker: Tracker, on_done: Callable[[Call], None]) -> None:
        self._tracker = tracker
        self._on_done = on_done
        self._queues: dict[str, queue.SimpleQueue[tuple[Call, Tracker] | None]] = {}
        self._threads: dict[str, threading.Thread] = {}

    def submit(self, call: Call, *, tracked: bool = True) -> None:
        """Hands `call` to the lane of its kind. Does not block.

        Args:
            call: not yet claimed by anyone.
            tracked: whether the tracker runs it, or the lane itself.
        """
        if call.kind not in self._queues:
            self._queues[call.kind] = queue.SimpleQueue()
            thread = threading.Thread(
                target=self._work, args=(call.kind,), name=f"k2i-{call.kind}", daemon=True
            )
            self._threads[call.kind] = thread
            thread.start()
        self._queues[call.kind].put((call, self._tracker if tracked else InlineTracker()))

    def _work(self, kind: str) -> None:
        while (item := self._queues[kind].get()) is not None:
            call, tracker = item
            try:
                tracker.run(call)
            except BaseException as error:  # a lane must outlive whatever one call does
                log.exception("%s: the tracker failed", call.label)
                call.error = call.error or error
            call.finish()
            self._on_done(call)

    def close(self, timeout_seconds: float) -> bool:
        """Ends the lanes after what is queued; whether all ended in time."""
        for waiting in self._queues.values():
            waiting.put(None)
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads.values())


def figures(summary: Mapping[str, Any]) -> str:
    """`rows=10 bytes=200`, for a log line."""
    return " ".join(f"{key}={value}" for key, value in summary.items())
