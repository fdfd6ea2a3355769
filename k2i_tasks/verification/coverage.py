"""Which positions of a topic are in the table: each once, none above what the table records.

Pure. Rows and dead letters are added in any order; a record may be one of them, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from k2i_tasks.verification.pages import Ints, Pages

#: Positions that a finding names at most, per partition and kind.
EXAMPLES_MAX = 5


@dataclass(slots=True)
class Tally:
    """What was counted in one partition.

    Args:
        rows: rows of the table, all of them.
        letters: dead letters below the next offset.
        doubled: entries that are too much: their position is there already.
        surplus: rows at or above the next offset, or below zero.
        doubled_at, surplus_at: some of their positions.
    """

    rows: int = 0
    letters: int = 0
    doubled: int = 0
    surplus: int = 0
    doubled_at: list[int] = field(default_factory=list)
    surplus_at: list[int] = field(default_factory=list)


class Coverage:
    """The positions of one topic that rows and dead letters take.

    Args:
        ends: next offset of each partition, as the table records it.
        page_positions: see `Pages`.
    """

    def __init__(self, ends: Mapping[int, int], page_positions: int = 1 << 20) -> None:
        self._ends = dict(ends)
        self._page_positions = page_positions
        self._pages = {number: Pages(page_positions) for number in ends}
        self.tallies: dict[int, Tally] = {number: Tally() for number in ends}

    def add_rows(self, partitions: npt.NDArray[np.int32], offsets: Ints) -> None:
        """Counts rows of the table. Args: int32 [n], int64 [n], in any order."""
        for number, here in _by_partition(partitions, offsets):
            tally = self.tallies.setdefault(number, Tally())
            tally.rows += len(here)
            beyond = (here >= self._ends.get(number, 0)) | (here < 0)
            if beyond.any():
                tally.surplus += int(np.count_nonzero(beyond))
                _note(tally.surplus_at, here[beyond])
                here = here[~beyond]
            self._take(number, tally, here)

    def add_letters(self, partitions: npt.NDArray[np.int32], offsets: Ints) -> None:
        """Counts dead letters; those of a batch that is not committed yet are passed over.

        Letters are committed just before their batch, so they may be ahead of what is recorded.
        """
        for number, here in _by_partition(partitions, offsets):
            here = here[(here < self._ends.get(number, 0)) & (here >= 0)]
            if len(here):
                tally = self.tallies[number]
                tally.letters += len(here)
                self._take(number, tally, here)

    def _take(self, number: int, tally: Tally, offsets: Ints) -> None:
        if not len(offsets):
            return
        doubled = self._pages[number].add(offsets)
        if len(doubled):
            tally.doubled += len(doubled)
            _note(tally.doubled_at, doubled)

    def lowest(self, partition: int) -> int | None:
        """The least position of a partition; None if it has none."""
        return self._pages[partition].lowest

    def missing(self, partition: int, start: int) -> Ints:
        """What is missing from `start` to the next offset: int64 [k, 2], see `Pages.missing`."""
        return self._pages[partition].missing(start, self._ends[partition])

    def below(self, partition: int, start: int) -> int:
        """How many positions below `start` are taken."""
        return self._pages[partition].below(min(start, self._ends[partition]))


def _by_partition(partitions: npt.NDArray[np.int32], offsets: Ints) -> list[tuple[int, Ints]]:
    if not len(partitions):
        return []
    numbers = np.unique(partitions).tolist()
    if len(numbers) == 1:
        return [(numbers[0], offsets)]
    return [(number, offsets[partitions == number]) for number in numbers]


def _note(examples: list[int], offsets: Ints) -> None:
    room = EXAMPLES_MAX - len(examples)
    if room > 0:
        fresh = np.unique(offsets)[: EXAMPLES_MAX + room].tolist()
        examples.extend([offset for offset in fresh if offset not in examples][:room])
