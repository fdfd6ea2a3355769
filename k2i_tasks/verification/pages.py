"""The positions of one partition that were seen, in pages: little memory, however many they are."""

from __future__ import annotations

import zlib
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class Pages:
    """A set of positions. A page that is complete is one entry; the others are bits.

    A page that was not touched for long is kept compressed: what is missing in it, control records
    for one, is most often regular, so that it takes some hundred bytes.

    Args:
        page_positions: positions of one page.
        hot_max: pages kept ready, a byte for each position.
    """

    def __init__(self, page_positions: int = 1 << 20, hot_max: int = 64) -> None:
        self._size = page_positions
        self._hot_max = hot_max
        self._hot: OrderedDict[int, Bools] = OrderedDict()
        self._cold: dict[int, bytes] = {}
        self._full: set[int] = set()
        self._counts: dict[int, int] = {}

    def add(self, offsets: Ints) -> Ints:
        """Adds positions, and returns those that are there already or come twice.

        Args:
            offsets: int64 [n], none negative.

        Returns:
            int64 [m], one entry for each time that a position is too much.
        """
        if not len(offsets):
            return offsets
        numbers = offsets // self._size
        if numbers[0] == numbers[-1] and (numbers == numbers[0]).all():
            return self._add_page(int(numbers[0]), offsets)
        doubled = [
            self._add_page(number, offsets[numbers == number])
            for number in np.unique(numbers).tolist()
        ]
        return np.concatenate(doubled)

    def _add_page(self, number: int, offsets: Ints) -> Ints:
        if number in self._full:
            return offsets
        page = self._page(number)
        local = offsets - number * self._size
        present = page[local]
        page[local] = True
        count = int(np.count_nonzero(page))
        fresh = count - self._counts.get(number, 0)
        self._counts[number] = count
        if count == self._size:
            self._full.add(number)
            del self._hot[number]
        if fresh == len(offsets):
            return offsets[:0]
        again = offsets[present]
        values, times = np.unique(offsets[~present], return_counts=True)
        return np.concatenate([again, np.repeat(values, times - 1)])

    def _page(self, number: int) -> Bools:
        page = self._hot.get(number)
        if page is None:
            page = self._read(number)
            self._cold.pop(number, None)
            self._hot[number] = page
            if len(self._hot) > self._hot_max:
                oldest, bits = self._hot.popitem(last=False)
                self._cold[oldest] = zlib.compress(np.packbits(bits).tobytes(), 1)
        self._hot.move_to_end(number)
        return page

    def _read(self, number: int) -> Bools:
        """The page without keeping it ready."""
        if number in self._hot:
            return self._hot[number]
        if number in self._cold:
            bits = np.frombuffer(zlib.decompress(self._cold[number]), np.uint8)
            return np.unpackbits(bits, count=self._size).astype(np.bool_)
        return np.zeros(self._size, np.bool_)

    def __len__(self) -> int:
        return sum(self._counts.values())

    @property
    def lowest(self) -> int | None:
        """The least position; None if there is none."""
        if not self._counts:
            return None
        number = min(self._counts)
        inside = 0 if number in self._full else int(np.argmax(self._read(number)))
        return number * self._size + inside

    def below(self, start: int) -> int:
        """How many positions below `start` there are."""
        last = start // self._size
        whole = sum(count for number, count in self._counts.items() if number < last)
        inside = start - last * self._size
        if last in self._full:
            return whole + inside
        return whole + int(np.count_nonzero(self._read(last)[:inside]))

    def missing(self, start: int, end: int) -> Ints:
        """What is missing in `[start, end)`: int64 [k, 2], ranges `[first, last + 1)`, rising."""
        found: list[Ints] = []
        at = start
        while at < end:
            number = at // self._size
            here = min(end, (number + 1) * self._size)
            if number not in self._counts:
                found.append(np.array([[at, here]], np.int64))
            elif number not in self._full:
                low = number * self._size
                found.append(_holes(self._read(number)[at - low : here - low]) + at)
            at = here
        return joined(np.concatenate(found)) if found else np.empty((0, 2), np.int64)


def _holes(page: Bools) -> Ints:
    """Runs of False: int64 [k, 2]."""
    edges = np.flatnonzero(np.diff(page.astype(np.int8), prepend=1, append=1))
    return edges.astype(np.int64).reshape(-1, 2)


def joined(ranges: Ints) -> Ints:
    """The same positions with ranges that touch made one. Args: int64 [k, 2], rising, disjoint."""
    if len(ranges) < 2:
        return ranges
    breaks = ranges[1:, 0] > ranges[:-1, 1]
    firsts = ranges[np.concatenate(([True], breaks)), 0]
    lasts = ranges[np.concatenate((breaks, [True])), 1]
    return np.stack([firsts, lasts], axis=1)
