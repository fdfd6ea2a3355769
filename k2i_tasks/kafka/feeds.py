"""What waits for one of several tables that share the reading of a topic. Not thread-safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from k2i_tasks.errors import K2IError
from k2i_tasks.types import OffsetRange, Offsets, Ranges, RawBatch, TopicPartition

Gap = dict[TopicPartition, OffsetRange]
_NEVER = np.iinfo(np.int64).max
_NONE = np.empty(0, np.int64)
#: What a record takes beside its payload: records of nothing, too, have to have an end.
RECORD_BYTES = 200


class Feed:
    """The records of one table, from where its run was assigned, without a hole.

    Whatever is read, only what directly follows is taken in: what was taken in before is dropped,
    and what lies beyond a hole has to be read again.

    Args:
        offsets: next offset to take in of each partition.

    Attributes:
        expected: next offset to take in.
        given: how far the run has polled.
        nbytes: bytes that wait, about.
        behind: whether it is left behind by the reading.
        waited_seconds: how much longer it had no room than it had some.
        added: partitions that are new, for the run to accept.
        failure: why it gets nothing more, once what waits is given.
    """

    def __init__(self, offsets: Offsets) -> None:
        self.expected = dict(offsets)
        self.given = dict(offsets)
        self.nbytes = 0
        self.behind = False
        self.waited_seconds = 0.0
        self._looked: tuple[float, bool] | None = None
        self.added: dict[TopicPartition, int] = {}
        self.failure: K2IError | None = None
        #: Where the next thing in the queue begins: behind `expected` by positions without records
        #: of its own.
        self._handed = dict(offsets)
        self._queue: deque[RawBatch | Gap] = deque()

    @property
    def empty(self) -> bool:
        return not self._queue

    def is_full(self, limit_bytes: int, now: float) -> bool:
        """Whether it has no room, at `now`, in seconds of any clock; counts how long."""
        full = not self.empty and self.nbytes >= limit_bytes
        if self._looked is not None:
            since, was_full = self._looked
            passed = now - since if was_full else since - now
            self.waited_seconds = max(0.0, self.waited_seconds + passed)
        self._looked = now, full
        return full

    def leave_behind(self, behind: bool) -> None:
        """Whether nothing more is taken in before the queue is empty."""
        self.behind, self.waited_seconds, self._looked = behind, 0.0, None

    @property
    def settled(self) -> bool:
        """Whether the run was given all that was taken in."""
        return not self._queue and self._handed == self.expected

    # What is read.

    def hand(self, batch: RawBatch, records: npt.NDArray[np.int64]) -> None:
        """Takes in a batch, of which `records`, rising indices, are of this table."""
        fresh = self._following(batch.ranges)
        if not fresh:
            return
        records = self._fresh(batch, records, fresh)
        self.expected.update(fresh)
        if len(records):
            own = batch.chosen(records, self._moved())
            self._handed = dict(self.expected)
            self._queue.append(own)
            self.nbytes += _size_bytes(own)

    def move(self, ranges: Ranges) -> None:
        """Takes in positions that hold no records."""
        self.expected.update(self._following(ranges))

    def lose(self, gaps: Ranges) -> None:
        """Takes in positions whose records Kafka has deleted."""
        lost = {
            tp: OffsetRange(self.expected[tp], end) for tp, end in self._following(gaps).items()
        }
        if not lost:
            return
        moved = self._moved()
        if moved:
            # What has to stand before the gap.
            topic = next(iter(moved)).topic
            numbers = _NONE.astype(np.int32)
            self._queue.append(RawBatch(topic, numbers, _NONE, _NONE, (), (), None, moved, 0))
        self._queue.append(lost)
        self.expected.update({tp: span.end for tp, span in lost.items()})
        self._handed = dict(self.expected)

    def _following(self, ranges: Ranges) -> dict[TopicPartition, int]:
        """Ends of the ranges that go on from where we stand."""
        return {
            tp: span.end
            for tp, span in ranges.items()
            if tp in self.expected and span.start <= self.expected[tp] < span.end
        }

    def _fresh(
        self,
        batch: RawBatch,
        records: npt.NDArray[np.int64],
        fresh: Mapping[TopicPartition, int],
    ) -> npt.NDArray[np.int64]:
        """Those of `records` that are in partitions that go on, and were not taken in before."""
        if not len(records):
            return records
        partitions = batch.partitions[records]
        least = np.full(int(partitions.max()) + 1, _NEVER, np.int64)
        for tp in fresh:
            if tp.partition < len(least):
                least[tp.partition] = self.expected[tp]
        kept: npt.NDArray[np.int64] = records[batch.offsets[records] >= least[partitions]]
        return kept

    def _moved(self) -> dict[TopicPartition, OffsetRange]:
        return {
            tp: OffsetRange(self._handed[tp], end)
            for tp, end in self.expected.items()
            if end > self._handed[tp]
        }

    # What the run takes.

    def take(self, max_records: int) -> tuple[Gap, RawBatch | None]:
        """Gaps that are next, and the batch behind them."""
        gaps: Gap = {}
        while self._queue and isinstance(self._queue[0], dict):
            for tp, span in self._queue[0].items():
                gaps[tp] = gaps[tp].then(span) if tp in gaps else span
            self._queue.popleft()
        batch = self._queue.popleft() if self._queue else None
        assert not isinstance(batch, dict)
        if batch is not None:
            self.nbytes -= _size_bytes(batch)
            if len(batch) > max_records:
                batch, rest = batch.split(max_records)
                self._queue.appendleft(rest)
                self.nbytes += _size_bytes(rest)
        for ranges in (gaps, batch.ranges if batch is not None else {}):
            self.given.update({tp: span.end for tp, span in ranges.items()})
        return gaps, batch

    def passed(self) -> Ranges:
        """Positions that the run may pass at once: none of their records is its own."""
        if self._queue:
            return {}
        moved = self._moved()
        self._handed = dict(self.expected)
        self.given.update({tp: span.end for tp, span in moved.items()})
        return moved

    def accept(self) -> Offsets:
        """The partitions that are new, which it takes in from now on."""
        added, self.added = self.added, {}
        for offsets in (self.expected, self._handed, self.given):
            offsets.update(added)
        return added


def _size_bytes(batch: RawBatch) -> int:
    return batch.payload_bytes + RECORD_BYTES * len(batch)
