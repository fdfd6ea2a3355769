"""Work for a query on a thread of low priority, handed over piece by piece.

The threads that answer clients have the priority of ingestion: a look-up must not wait. What a
query makes them read, convert and copy is done here instead. A thread can lower its priority, but
not raise it again, so each query has one of its own.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from k2i_tasks.asking.limits import LOOK_SECONDS, Turn

T = TypeVar("T")
#: Pieces that wait for whoever takes them.
AHEAD_MAX = 2


class _End:
    """Behind the last piece; `error` is what ended them too early."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Pump(Generic[T]):
    """An iterator whose items are made on a thread of low priority. For one taker.

    Args:
        items: makes the iterator; called on the new thread.
        turn: the query's place and time; when it is stopped, so is this.
        nice: priority below that of the process.
    """

    def __init__(self, items: Callable[[], Iterator[T]], turn: Turn, nice: int) -> None:
        self._items = items
        self._turn = turn
        self._nice = nice
        self._made: queue.Queue[T | _End] = queue.Queue(AHEAD_MAX)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="k2i-query-pump", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        """The items. Blocks; raises what making them raised, or why the query was stopped."""
        while True:
            try:
                found = self._made.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                self._turn.check()
                continue
            if isinstance(found, _End):
                if found.error is not None:
                    raise found.error
                return
            yield found

    def wanted(self) -> bool:
        """Whether somebody still takes the items."""
        return not self._closed.is_set() and self._turn.stopped is None

    def close(self) -> None:
        """Stops, and returns once the thread has ended. Idempotent."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        error: BaseException | None = None
        try:
            for item in self._items():
                if not self._put(item):
                    return
        except BaseException as caught:
            error = caught
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        while self.wanted():
            try:
                self._made.put(item, timeout=LOOK_SECONDS)
                return True
            except queue.Full:
                continue
        return False
