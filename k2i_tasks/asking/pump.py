"""Work for a query on a thread of low priority, handed over piece by piece.

The threads that answer clients have the priority of ingestion: a look-up must not wait. What a
query makes them read, convert and copy is done here instead, and so is what may wait for a catalog
or a store: whoever asked is told that its time is over, whatever the thread is at. A thread can
lower its priority, but not raise it again, so each query has one of its own.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import Generic, TypeVar

from k2i_tasks.asking.limits import LOOK_SECONDS, Turn

T = TypeVar("T")
#: Pieces that wait for whoever takes them.
AHEAD_MAX = 2
#: Longest wait for the thread at the end: it may wait itself, for a store that does not answer.
CLOSE_SECONDS = 0.5


def lower_priority(by: int) -> None:
    """Of the thread that calls; where the system has no such thing, it stays as it is."""
    with suppress(OSError, AttributeError):
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + by)


class _End:
    """Behind the last piece; `error` is what ended them too early."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Pump(Generic[T]):
    """An iterator whose items are made on a thread of low priority. For one taker.

    The first item is made at the priority of the process: for it a table's locks are taken, which
    ingestion needs too.

    Args:
        items: makes the generator; called on the new thread.
        turn: the query's place and time; when it is stopped, so is this.
        nice: priority below that of the process.
    """

    def __init__(self, items: Callable[[], Generator[T]], turn: Turn, nice: int) -> None:
        self._items = items
        self._turn = turn
        self._nice = nice
        self._made: queue.Queue[T | _End] = queue.Queue(AHEAD_MAX)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="k2i-query-pump", daemon=True)
        turn.hold()
        try:
            self._thread.start()
        except BaseException:
            # No thread to be had: nobody else would release it.
            turn.release()
            raise

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

    def close(self) -> bool:
        """Stops, and tells whether the thread has ended.

        If not, it keeps the query's place until it does. Idempotent; blocks for `CLOSE_SECONDS` at
        most.
        """
        self._closed.set()
        self._thread.join(CLOSE_SECONDS)
        return not self._thread.is_alive()

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            with closing(self._items()) as items:
                for number, item in enumerate(items):
                    if not self._put(item):
                        return
                    if number == 0:
                        lower_priority(self._nice)
        except BaseException as caught:
            error = caught
        finally:
            self._turn.release()
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        while self.wanted():
            try:
                self._made.put(item, timeout=LOOK_SECONDS)
                return True
            except queue.Full:
                continue
        return False
