"""The calls that are on their way: handed to the lanes, and taken back when they are over."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator, Sequence

import pyarrow as pa

from k2i_tasks.batch_calls import BatchCalls
from k2i_tasks.calls import Call, Lanes, Tracker
from k2i_tasks.clock import Clock
from k2i_tasks.types import SealedBatch, TableCommit

log = logging.getLogger(__name__)


class Underway:
    """Flushes and commits of batches between the runner and the lanes. Runner's thread.

    Args:
        calls: makes the calls.
        tracker: how a call is run.
        clock: time.
    """

    def __init__(self, calls: BatchCalls, tracker: Tracker, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._over: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._lanes = Lanes(tracker, self._over.put)
        self._batch_of: dict[Call, str] = {}
        #: Calls that nobody waits for: rows encoded before their batch is sealed.
        self._ahead: set[Call] = set()
        self._encoded = False
        self._sealed_at: dict[str, float] = {}

    @property
    def empty(self) -> bool:
        """Whether every call that was submitted was taken back."""
        return not self._batch_of and not self._ahead

    def encode(self, batch_id: str, tables: Sequence[pa.Table]) -> None:
        """Sends off rows of a batch that is still filled. Does not block."""
        self._encoded = True
        self._send_ahead(self._calls.encode(batch_id, tables))

    def flush(self, batch: SealedBatch) -> None:
        """Sends off the flush of a batch that was sealed just now. Does not block."""
        self._sealed_at[batch.batch_id] = self._clock.monotonic()
        self._submit(batch.batch_id, self._calls.flush(batch))

    def commit(self, batch: SealedBatch) -> None:
        """Sends off the commit of a batch that was flushed. Does not block."""
        self._submit(batch.batch_id, self._calls.commit(batch))

    def wait(self, seconds: float) -> None:
        """Blocks until a call is over, for so long at most."""
        try:
            call = self._over.get(timeout=seconds)
        except queue.Empty:
            return
        self._over.put(call)

    def over(self) -> Iterator[tuple[Call, str]]:
        """The calls that are over by now, each with its batch's id; each once."""
        while True:
            try:
                call = self._over.get_nowait()
            except queue.Empty:
                return
            if call in self._ahead:
                self._ahead.remove(call)
                if call.error is not None:
                    log.warning("%s failed, the flush does it: %s", call.label, call.failure())
                continue
            yield call, self._batch_of.pop(call)

    def landed(self, batch_id: str) -> tuple[TableCommit, float]:
        """What a commit that worked came to, and seconds since its batch was sealed; once."""
        waited = self._clock.monotonic() - self._sealed_at.pop(batch_id)
        return self._calls.landed(batch_id), waited

    def forget_encoded(self) -> None:
        """Has what was encoded of a batch that will not be flushed removed. Does not block."""
        if self._encoded:
            self._encoded = False
            self._send_ahead(self._calls.forget_encoded())

    def forget(self) -> None:
        """No further call of the batches so far will follow; all that were sent off are over."""
        self._sealed_at.clear()
        self._calls.forget()

    def close(self, timeout_seconds: float) -> None:
        """Ends the lanes. Blocks for so long at most."""
        self.forget_encoded()
        self._lanes.close(timeout_seconds)

    def _send_ahead(self, call: Call) -> None:
        self._ahead.add(call)
        self._lanes.submit(call, tracked=False)

    def _submit(self, batch_id: str, call: Call) -> None:
        self._batch_of[call] = batch_id
        self._lanes.submit(call)
