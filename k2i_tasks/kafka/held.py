"""Records that were read and cannot be dealt out yet: what tells their tables is not there."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from k2i_tasks.errors import TransientError, health_component_of
from k2i_tasks.status import ErrorNote
from k2i_tasks.types import Offsets, RawBatch, TopicPartition

log = logging.getLogger(__name__)


class Held:
    """What was read last, until it is ready. For one thread; `note` for any.

    Args:
        prepare: (batch, longest wait in seconds) -> how many of its first records are ready, as
            `codecs.base.Decoder.prepare`; None where all always are.

    Attributes:
        note: why records wait, or did the last time.
    """

    def __init__(self, prepare: Callable[[RawBatch, float], int] | None) -> None:
        self._prepare = prepare or (lambda batch, _timeout_seconds: len(batch))
        self._batches: deque[RawBatch] = deque()
        self.note: ErrorNote | None = None

    @property
    def waiting(self) -> bool:
        """Whether nothing more is to be read now."""
        return bool(self._batches)

    def forget(self) -> None:
        """What waits is read again."""
        self._batches.clear()

    def ends(self, at: Offsets, lag: Offsets) -> dict[TopicPartition, int]:
        """The end of each partition: behind what was dealt out, what waits, and what is not read.

        Args:
            at: next offset to deal out.
            lag: positions that are not read.
        """
        read = dict(at)
        for batch in self._batches:
            read.update({tp: span.end for tp, span in batch.ranges.items()})
        return {tp: read.get(tp, 0) + waiting for tp, waiting in lag.items()}

    def ready(self, read: RawBatch | None, timeout_seconds: float) -> RawBatch | None:
        """What can be dealt out next, of what waits and of `read` behind it. May block so long.

        Raises:
            K2IError: what is needed is refused for good.
        """
        if read is not None:
            self._batches.append(read)
        if not self._batches:
            return None
        batch = self._batches.popleft()
        try:
            count = self._prepare(batch, timeout_seconds)
        except TransientError as error:
            log.warning("records wait for their schemas: %s", error)
            self.note = ErrorNote(time.time(), health_component_of(error), str(error))
            count = 0
        if count == len(batch):
            return batch
        if count == 0:
            self._batches.appendleft(batch)
            return None
        first, rest = batch.split(count)
        self._batches.appendleft(rest)
        return first
