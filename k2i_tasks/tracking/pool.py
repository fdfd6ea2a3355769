"""A few daemon threads that may get stuck in Prefect without anybody waiting for them."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class OfferPool:
    """Runs jobs at once or not at all.

    Args:
        threads_max: most threads; a job that finds all of them busy is refused, never queued.
    """

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0
        self._closed = False

    def offer(self, job: Callable[[], None]) -> bool:
        """Whether `job` begins now. Does not block."""
        with self._lock:
            if self._closed or (self._idle == 0 and self._threads >= self._threads_max):
                return False
            if self._idle > 0:
                self._idle -= 1
            else:
                self._threads += 1
                name = f"k2i-tracked-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            self._jobs.put(job)
            return True

    def close(self) -> None:
        """Ends the threads that are idle; one that is stuck ends when it comes free."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException:  # Prefect's own signals are no Exceptions; the thread stays
                log.debug("a tracked call ended in an error of the tracking", exc_info=True)
            finally:
                with self._lock:
                    self._idle += 1
