"""What became of positions that the table does not have: Kafka is asked, and only about them.

No record there (control records, aborted and compacted ones) explains a gap. A record there is
lost. Below the low watermark Kafka cannot say, so that only the write-ahead log can: it holds the
gaps that the operator accepted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from k2i_tasks.types import OffsetRange, RawBatch
from k2i_tasks.verification.pages import Ints

#: Gaps nearer to each other are read in one go, with what lies between: cheaper than to jump.
JOIN_POSITIONS = 10_000
#: Ranges that are named per partition and kind.
EXAMPLES_MAX = 5


class Ranges(Protocol):
    """Reads ranges of the topic; see `kafka.ranges.RangeReader`."""

    reached: dict[int, int]
    lows: dict[int, int]

    @property
    def busy(self) -> bool: ...
    def begin(self, spans: Mapping[int, OffsetRange]) -> None: ...
    def poll(self) -> RawBatch | None: ...


@dataclass(slots=True)
class Explained:
    """The missing positions of one partition, by what became of them.

    Args:
        explained, accepted, lost, gone, unread: how many; `gone` is below Kafka's low watermark,
            `unread` was not looked at for want of time.
        lost_at, gone_at: some of the ranges.
    """

    explained: int = 0
    accepted: int = 0
    lost: int = 0
    gone: int = 0
    unread: int = 0
    lost_at: list[OffsetRange] = field(default_factory=list)
    gone_at: list[OffsetRange] = field(default_factory=list)


def explain(
    missing: Mapping[int, Ints],
    lows: Mapping[int, int],
    accepted: Mapping[int, Sequence[OffsetRange]],
    reader: Ranges,
    *,
    seconds_max: float,
    on_read: Callable[[int], None] = lambda _positions: None,
) -> dict[int, Explained]:
    """Finds out about every missing position. May block.

    Args:
        missing: per partition int64 [k, 2], rising ranges.
        lows: low watermarks.
        accepted: gaps that the write-ahead log holds as accepted.
        reader: reads the topic.
        seconds_max: longest time that is spent on reading; 0 for no end.
        on_read: told how many positions were passed since the last call.
    """
    parts = {
        n: _Partition(ranges, lows.get(n, 0), accepted.get(n, ())) for n, ranges in missing.items()
    }
    deadline = time.monotonic() + seconds_max if seconds_max else float("inf")
    queues = {number: part.spans() for number, part in parts.items()}
    while turn := {n: span for n, queue in queues.items() if (span := next(queue, None))}:
        if time.monotonic() > deadline:
            for number, span in turn.items():
                parts[number].leave(span.start)
            break
        reader.begin(turn)
        passed = {number: span.start for number, span in turn.items()}
        while reader.busy and time.monotonic() <= deadline:
            batch = reader.poll()
            if batch is not None:
                for number in np.unique(batch.partitions).tolist():
                    parts[number].records(batch.offsets[batch.partitions == number])
            moved = {number: reader.reached[number] for number in turn}
            on_read(sum(moved.values()) - sum(passed.values()))
            passed = moved
        for number, low in reader.lows.items():
            parts[number].low = max(parts[number].low, low)
        if reader.busy:
            for number in turn:
                parts[number].leave(reader.reached[number])
            break
    return {number: part.result() for number, part in parts.items()}


class _Partition:
    """One partition's missing positions while Kafka is asked about them."""

    def __init__(self, missing: Ints, low: int, accepted: Sequence[OffsetRange]) -> None:
        self._missing = missing
        self._accepted = accepted
        self.low = low
        self._lost: list[Ints] = []
        #: Positions from here on were not looked at.
        self._left = int(missing[-1, 1]) if len(missing) else 0

    def spans(self) -> Iterator[OffsetRange]:
        """What to read: from the low watermark on, near gaps joined."""
        asked = _cut(self._missing, self.low, self._left)
        if not len(asked):
            return
        far = np.flatnonzero(asked[1:, 0] - asked[:-1, 1] > JOIN_POSITIONS)
        firsts = asked[np.concatenate(([0], far + 1)), 0].tolist()
        ends = asked[np.concatenate((far, [len(asked) - 1])), 1].tolist()
        yield from map(OffsetRange, firsts, ends)

    def records(self, offsets: Ints) -> None:
        """Takes in records that Kafka has; those in a gap are lost."""
        before = np.searchsorted(self._missing[:, 0], offsets, side="right") - 1
        inside = (before >= 0) & (offsets < self._missing[before, 1])
        if inside.any():
            self._lost.append(offsets[inside])

    def leave(self, position: int) -> None:
        """What is at and above `position` is not looked at."""
        self._left = min(self._left, position)

    def result(self) -> Explained:
        lost = np.unique(np.concatenate(self._lost)) if self._lost else np.empty(0, np.int64)
        gone = _cut(self._missing, 0, self.low)
        for span in self._accepted:
            gone = np.concatenate([_cut(gone, 0, span.start), _cut(gone, span.end, self.low)])
        unread = _cut(self._missing, max(self.low, self._left), _FAR)
        below = _size(_cut(self._missing, 0, self.low))
        read = _size(self._missing) - below - _size(unread)
        # Records may be deleted just after they were read here: they are lost all the same.
        lost_below = int(np.count_nonzero(lost < self.low))
        return Explained(
            explained=read - (len(lost) - lost_below),
            accepted=below - _size(gone),
            lost=len(lost),
            gone=max(0, _size(gone) - lost_below),
            unread=_size(unread),
            lost_at=_runs(lost)[:EXAMPLES_MAX],
            gone_at=[OffsetRange(*pair) for pair in gone[:EXAMPLES_MAX].tolist()],
        )


_FAR = 2**63 - 1


def _cut(ranges: Ints, low: int, high: int) -> Ints:
    """The part of the ranges within `[low, high)`."""
    cut = np.clip(ranges, low, max(low, high))
    return cut[cut[:, 1] > cut[:, 0]]


def _size(ranges: Ints) -> int:
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def _runs(offsets: Ints) -> list[OffsetRange]:
    """Rising offsets as ranges."""
    if not len(offsets):
        return []
    breaks = np.flatnonzero(np.diff(offsets) > 1)
    firsts = offsets[np.concatenate(([0], breaks + 1))].tolist()
    lasts = offsets[np.concatenate((breaks, [len(offsets) - 1]))].tolist()
    return [OffsetRange(first, last + 1) for first, last in zip(firsts, lasts, strict=True)]
