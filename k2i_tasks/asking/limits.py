"""How many queries run at once, and how long one may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from k2i_tasks.errors import BusyError, K2IError, QueryCancelledError, QueryLimitError

#: How often one that waits looks whether the answer is still wanted.
LOOK_SECONDS = 0.05
#: Questions at once that take no place, at one door; each is over in a millisecond.
LOOKUPS_MAX = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What queries may take.

    Args:
        rows_max, bytes_max: of a result; what is more is cut.
        seconds_max: of a query.
        memory_bytes_max: of the process that evaluates one.
        queries_max: at the same time.
        waiting_max, wait_seconds_max: how many may wait for a place, and how long.
        followers_max: clients that wait for new rows at the same time.
        nice: priority below that of ingestion.
    """

    rows_max: int = 10_000_000
    bytes_max: int = 4 << 30
    seconds_max: float = 30.0
    memory_bytes_max: int = 1 << 30
    queries_max: int = 2
    waiting_max: int = 16
    wait_seconds_max: float = 5.0
    followers_max: int = 64
    nice: int = 10

    @property
    def calls_max(self) -> int:
        """Questions under way at one door: all that may run and wait, and some look-ups."""
        return self.queries_max + self.waiting_max + self.followers_max + LOOKUPS_MAX


class Places:
    """The places for queries. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._condition = threading.Condition()
        self._taken = 0
        self._waiting = 0

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self._taken

    def take(self, waits: Callable[[], bool]) -> None:
        """Takes a place. Blocks for `wait_seconds_max` at most.

        Raises:
            BusyError: there was none, or too many wait already.
            QueryCancelledError: whoever asked is gone.
        """
        limits = self._limits
        deadline = time.monotonic() + limits.wait_seconds_max
        with self._condition:
            if self._taken < limits.queries_max:
                self._taken += 1
                return
            if self._waiting >= limits.waiting_max:
                raise self._busy()
            self._waiting += 1
            try:
                while self._taken >= limits.queries_max:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise self._busy()
                    self._condition.wait(min(left, LOOK_SECONDS))
                    if not waits():
                        raise QueryCancelledError("Whoever asked is gone.")
                self._taken += 1
            finally:
                self._waiting -= 1

    def free(self) -> None:
        """Gives one back."""
        with self._condition:
            self._taken -= 1
            self._condition.notify()

    def _busy(self) -> BusyError:
        return BusyError(
            f"All {self._limits.queries_max} places for queries are taken.",
            remedy="Ask again in a while, or raise query.max_queries.",
        )


class Turn:
    """One query's place and time, which are over at its end or its deadline, whichever is first.

    The place is free once no thread is at work for it any more: what waits for a catalog or a store
    cannot be ended, and would pile up otherwise.

    Args:
        places: where it has a place.
        seconds_max: after which it is stopped.
        waits: whether the answer is still wanted.
    """

    def __init__(self, places: Places, seconds_max: float, waits: Callable[[], bool]) -> None:
        self._places = places
        self._waits = waits
        self._lock = threading.Lock()
        self._stop: Callable[[], None] | None = None
        self._ended = False
        #: Threads at work for it, and one for itself until its end.
        self._holders = 1
        #: Why it was stopped; None while it was not.
        self.stopped: K2IError | None = None
        self.began = time.monotonic()
        self._seconds_max = seconds_max
        self._timer = self._timed()

    def pause(self) -> None:
        """Its time does not go on until `begin_again`: what it waits for is not its own."""
        self._timer.cancel()

    def begin_again(self) -> None:
        """Its time counts from now."""
        with self._lock:
            self._timer.cancel()
            if not self._ended and self.stopped is None:
                self._timer = self._timed()

    def _timed(self) -> threading.Timer:
        timer = threading.Timer(self._seconds_max, self._expire)
        timer.daemon = True
        timer.start()
        return timer

    def on_stop(self, stop: Callable[[], None]) -> None:
        """What ends the work at once, from any thread."""
        with self._lock:
            self._stop = stop
            stopped = self.stopped is not None
        if stopped:
            stop()

    def let_go(self) -> bool:
        """From now on its end leaves the work alone. Tells whether it was not stopped before."""
        with self._lock:
            self._stop = None
            return self.stopped is None

    def waits(self) -> bool:
        """Whether the answer is still wanted; if not, it is stopped."""
        if self.stopped is None and not self._waits():
            self.stop(QueryCancelledError("Whoever asked is gone."))
        return self.stopped is None

    def check(self) -> None:
        """Raises why it was stopped, if it was."""
        if not self.waits():
            assert self.stopped is not None
            raise self.stopped

    def stop(self, why: K2IError) -> None:
        """Ends the work as far as that can be. Idempotent; any thread."""
        with self._lock:
            if self._ended or self.stopped is not None:
                return
            self.stopped = why
            stop = self._stop
        if stop is not None:
            stop()
        self.end()

    def end(self) -> None:
        """It needs its place no longer. Idempotent; any thread."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._timer.cancel()
        self.release()

    def hold(self) -> None:
        """The place stays taken until `release`, also when the turn ends before."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """The reverse of `hold`; any thread."""
        with self._lock:
            self._holders -= 1
            last = not self._holders
        if last:
            self._places.free()

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    def _expire(self) -> None:
        self.stop(
            QueryLimitError(
                f"The query took more than {self._seconds_max:g} seconds.",
                remedy="Ask for less, or raise query.max_seconds.",
            )
        )
