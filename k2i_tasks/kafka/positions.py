"""How far each partition was handed over, as one array, so that a batch is checked at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from k2i_tasks.types import OffsetRange, Offsets, Ranges, TopicPartition

#: Marks a partition that is not ours.
FOREIGN = -1


class Positions:
    """Next expected offset of each assigned partition of one topic. Not thread-safe.

    Args:
        topic: the topic.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._expected: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._names: dict[int, TopicPartition] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, tp: TopicPartition) -> bool:
        return self._names.get(tp.partition) == tp

    def reset(self, offsets: Offsets) -> None:
        """Forgets everything and starts at `offsets`."""
        self._expected = np.empty(0, np.int64)
        self._names = {}
        self.add(offsets)

    def add(self, offsets: Offsets) -> None:
        """Starts further partitions at `offsets`."""
        size = max([len(self._expected), *(tp.partition + 1 for tp in offsets)])
        grown = np.full(size, FOREIGN, np.int64)
        grown[: len(self._expected)] = self._expected
        for tp, offset in offsets.items():
            grown[tp.partition] = offset
            self._names[tp.partition] = tp
        self._expected = grown

    def offsets(self) -> dict[TopicPartition, int]:
        """Next expected offset of each partition."""
        return {tp: int(self._expected[n]) for n, tp in self._names.items()}

    def expected(self, partition: int) -> int:
        """Next expected offset of one partition; -1 if it is not ours."""
        return int(self._expected[partition]) if 0 <= partition < len(self._expected) else FOREIGN

    def passed(self, ends: Mapping[int, int]) -> Ranges:
        """The ranges from where we stand to `ends`, without the empty ones; moves nothing."""
        ranges: dict[TopicPartition, OffsetRange] = {}
        for partition, end in ends.items():
            start = self.expected(partition)
            if partition in self._names and end > start:
                ranges[self._names[partition]] = OffsetRange(start, end)
        return ranges

    def move(self, ranges: Ranges) -> None:
        """Moves to the ends of `ranges`, which `passed` gave."""
        for tp, span in ranges.items():
            self._expected[tp.partition] = span.end

    def fresh(
        self, partitions: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_] | None, dict[int, int]]:
        """Which records of a batch are new, and where each partition then stands.

        A record is new when its partition is ours and its offset is above all handed over before,
        in this batch too.

        Args:
            partitions: int32 [n], n > 0.
            offsets: int64 [n].

        Returns:
            A mask [n], or None when all are new; and partition to the end of its new records.
        """
        order = np.argsort(partitions, kind="stable")
        sorted_partitions, sorted_offsets = partitions[order], offsets[order]
        firsts = np.flatnonzero(np.diff(sorted_partitions, prepend=-1))
        numbers = sorted_partitions[firsts]
        rising = np.diff(sorted_offsets) > 0
        rising[firsts[1:] - 1] = True
        if numbers[0] >= 0 and numbers[-1] < len(self._expected) and rising.all():
            expected = self._expected[numbers]
            if (expected != FOREIGN).all() and (sorted_offsets[firsts] >= expected).all():
                ends = sorted_offsets[np.append(firsts[1:], len(offsets)) - 1] + 1
                return None, dict(zip(numbers.tolist(), ends.tolist(), strict=True))
        return self._fresh_one_by_one(partitions, offsets, numbers.tolist())

    def _fresh_one_by_one(
        self,
        partitions: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        numbers: list[int],
    ) -> tuple[npt.NDArray[np.bool_], dict[int, int]]:
        mask = np.zeros(len(offsets), np.bool_)
        ends: dict[int, int] = {}
        for number in numbers:
            expected = self.expected(number)
            if expected == FOREIGN:
                continue
            at = np.flatnonzero(partitions == number)
            here = offsets[at]
            above = np.maximum.accumulate(np.concatenate(([expected - 1], here[:-1])))
            mask[at] = here > above
            if mask[at].any():
                ends[number] = int(here.max()) + 1
        return mask, ends
