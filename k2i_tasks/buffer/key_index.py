"""Which rows may have a key: 32-bit hashes and row numbers in sorted runs that are merged.

An entry is one 64-bit number, the hash above the row's number modulo 2**32: eight bytes a row, no
object. A run half as long as the one before it is merged with it, so each entry is sorted about as
often as the logarithm of their number. Whoever asks checks the rows: two keys may share a hash.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(0xFFFFFFFF00000000)
_ROWS = 1 << 32


@dataclass(frozen=True, slots=True)
class _Run:
    """Sorted entries of the rows with numbers in `[first, end)`, as far as they have a key."""

    entries: Hashes
    first: int
    end: int


class KeyIndex:
    """One thread adds and drops, any thread looks; nobody waits.

    Args:
        merge_ratio: a run is merged with the one before it once that is at most so often as long.
    """

    def __init__(self, merge_ratio: int = 2) -> None:
        self._runs: tuple[_Run, ...] = ()
        self._ratio = merge_ratio

    @property
    def end(self) -> int | None:
        """Number of the row behind the last that was added; None before the first."""
        return self._runs[-1].end if self._runs else None

    @property
    def nbytes(self) -> int:
        return sum(run.entries.nbytes for run in self._runs)

    def add(self, hashes: Hashes, rows: npt.NDArray[np.int64], first: int, end: int) -> None:
        """Takes in the next rows.

        Args:
            hashes: uint64 [n]; the upper half counts.
            rows: int64 [n]; the numbers of the rows that have a key.
            first, end: the numbers of all rows that this covers.
        """
        entries = (hashes & _HIGH) | (rows.astype(np.uint64) & _LOW)
        entries.sort()
        runs = [*self._runs, _Run(entries, first, end)]
        while len(runs) > 1 and len(runs[-2].entries) <= self._ratio * len(runs[-1].entries):
            last, before = runs.pop(), runs.pop()
            runs.append(_merged(before, last))
        self._runs = tuple(runs)

    def drop_below(self, row: int) -> None:
        """Forgets runs whose rows are all before this one, and those of others if they are many."""
        runs = [run for run in self._runs if run.end > row]
        if runs and row - runs[0].first > (runs[0].end - runs[0].first) // 2:
            runs[0] = _without(runs[0], row)
        self._runs = tuple(runs)

    def clear(self) -> None:
        self._runs = ()

    def rows(self, hashed: int, first: int, end: int) -> list[int]:
        """Numbers of the rows in `[first, end)` that may have this key, rising.

        Args:
            hashed: as in `add`.
            first, end: the numbers of rows that are in memory.
        """
        low = np.uint64(hashed) & _HIGH
        high = low | _LOW
        found: list[int] = []
        for run in self._runs:
            at = int(run.entries.searchsorted(low))
            if at == len(run.entries) or run.entries[at] > high:
                continue
            to = int(run.entries.searchsorted(high, "right"))
            found += (run.entries[at:to] & _LOW).tolist()
        # The numbers are rows' modulo 2**32, of which there are fewer in memory.
        rows = [first + (row - first) % _ROWS for row in found]
        return sorted(row for row in rows if row < end)


def _merged(before: _Run, last: _Run) -> _Run:
    entries = np.concatenate([before.entries, last.entries])
    entries.sort()
    return _Run(entries, before.first, last.end)


def _without(run: _Run, row: int) -> _Run:
    """The run without the rows before this one."""
    numbers = (run.entries & _LOW).astype(np.int64)
    kept = (numbers - row) % _ROWS < run.end - row
    return _Run(run.entries[kept], row, run.end)
