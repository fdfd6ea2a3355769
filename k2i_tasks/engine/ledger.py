"""Per-partition offset progress: committed <= sealed <= buffered, without gap or overlap."""

from __future__ import annotations

from collections.abc import Mapping

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.types import OffsetRange, Offsets, Ranges, TopicPartition


class Ledger:
    """Where each partition stands. Any gap or overlap is an `IntegrityError`: a bug, or a lie.

    Args:
        start: next offset to read per partition, as the table records it.
    """

    def __init__(self, start: Offsets) -> None:
        self._committed = dict(start)
        self._sealed = dict(start)
        self._buffered = dict(start)
        self._batches: dict[str, Ranges] = {}

    @property
    def committed(self) -> dict[TopicPartition, int]:
        """Next offset to read after the last commit, per partition."""
        return dict(self._committed)

    @property
    def buffered(self) -> dict[TopicPartition, int]:
        """Next offset that may be appended, per partition."""
        return dict(self._buffered)

    @property
    def unsealed(self) -> dict[TopicPartition, OffsetRange]:
        """Positions that are buffered and in no batch yet."""
        return {
            tp: OffsetRange(start, self._buffered[tp])
            for tp, start in self._sealed.items()
            if self._buffered[tp] > start
        }

    @property
    def batches(self) -> tuple[str, ...]:
        """Sealed and not yet committed, oldest first."""
        return tuple(self._batches)

    def add(self, offsets: Offsets) -> None:
        """Takes in partitions that have appeared."""
        for tp, offset in offsets.items():
            if tp in self._committed:
                raise _broken(f"{tp} is already known at {self._buffered[tp]}")
            self._committed[tp] = self._sealed[tp] = self._buffered[tp] = offset

    def extend(self, ranges: Ranges) -> None:
        """Records that `ranges` are buffered; each must start where its partition stands."""
        for tp, span in ranges.items():
            if tp not in self._buffered:
                raise _broken(f"{tp} is not assigned, yet {span} arrived")
            if span.start != self._buffered[tp]:
                raise _broken(f"{tp} stands at {self._buffered[tp]}, yet {span} arrived")
        for tp, span in ranges.items():
            self._buffered[tp] = span.end

    def seal(self, batch_id: str) -> dict[TopicPartition, OffsetRange]:
        """Puts everything unsealed into batch `batch_id`."""
        if batch_id in self._batches:
            raise _broken(f"batch {batch_id} is sealed twice")
        ranges = self.unsealed
        self._batches[batch_id] = ranges
        self._sealed = dict(self._buffered)
        return ranges

    def commit(self, batch_id: str) -> None:
        """Advances the committed offsets by the oldest sealed batch, which must be this one."""
        if not self._batches or next(iter(self._batches)) != batch_id:
            raise _broken(f"batch {batch_id} is committed out of order; open: {self.batches}")
        for tp, span in self._batches.pop(batch_id).items():
            if span.start != self._committed[tp]:
                raise _broken(f"{tp} is committed to {self._committed[tp]}, batch covers {span}")
            self._committed[tp] = span.end

    def ranges(self, batch_id: str) -> Mapping[TopicPartition, OffsetRange]:
        """What sealed batch `batch_id` covers."""
        return self._batches[batch_id]


def _broken(what: str) -> IntegrityError:
    return IntegrityError(
        f"Offset ledger: {what}.",
        component=Component.RUNTIME,
        remedy="Stopped before anything was committed; restart, and report this with the log.",
    )
