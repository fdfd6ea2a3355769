"""Where the reading of many payloads stands: their cursors, and which of them have failed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from k2i_tasks.codecs.chunked import Failures
from k2i_tasks.codecs.vector import NO_ROWS, Positions, Read, Source, read_varints, zigzag

#: Items without bytes (nulls, empty records) that the lists of one payload may have in all. A
#: payload of ten bytes could claim 2^62 of them.
MAX_EMPTY_ITEMS = 4_096


class AvroFailures(Failures):
    """Why payloads have failed, and what counts towards a limit.

    Attributes:
        empty_items: number of items without bytes, by payload.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.empty_items = np.zeros(count, np.int64)


class Rows:
    """Places in payloads from which one value each is read next: payloads, or items of lists.

    Reading a row that has failed goes on, at its end, so that all columns have the same length.

    Args:
        source: the payloads' bytes.
        at: n cursors; replaced as values are read.
        ends: n ends of the payloads.
        owners: the payload of each.
        failures: of all payloads.
    """

    __slots__ = ("at", "ends", "failures", "owners", "source")

    def __init__(
        self,
        source: Source,
        at: Positions,
        ends: Positions,
        owners: Positions,
        failures: AvroFailures,
    ) -> None:
        self.source = source
        self.at = at
        self.ends = ends
        self.owners = owners
        self.failures = failures

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: npt.NDArray[np.int64]) -> Rows:
        """Those of `rows`; their cursors are their own from here on."""
        return self.placed(rows, self.at[rows])

    def placed(self, rows: npt.NDArray[np.int64], at: Positions) -> Rows:
        """Rows with the cursors `at`, in the payloads of `rows`."""
        return Rows(self.source, at, self.ends[rows], self.owners[rows], self.failures)

    def settle(self, read: Read, where: str) -> npt.NDArray[Any]:
        """The values of a read from the cursors, which move on.

        Args:
            read: of all rows.
            where: dotted path of the field, for errors.
        """
        self.at = read.after
        if len(read.truncated):
            what = f"Field {where!r} runs past the payload's end."
            self.failures.add(self.owners[read.truncated], "avro.truncated", what)
        if len(read.invalid):
            what = f"Field {where!r} holds no valid number."
            self.failures.add(self.owners[read.invalid], "avro.number", what)
        return read.values

    def varints(self, where: str) -> npt.NDArray[np.uint64]:
        """Reads one varint each, still in zigzag form."""
        return self.settle(read_varints(self.source, self.at, self.ends), where)

    def longs(self, where: str) -> npt.NDArray[np.int64]:
        """Reads one long each."""
        return zigzag(self.varints(where))

    def refuse(self, rows: npt.NDArray[np.int64], code: str, what: str) -> None:
        """Fails `rows`: their cursors go to their ends."""
        if len(rows):
            self.failures.add(self.owners[rows], code, what)
            self.at[rows] = self.ends[rows]

    def refuse_where(self, bad: npt.NDArray[np.bool_], code: str, what: str) -> Positions:
        """Fails the rows that are marked, and gives them."""
        rows = np.flatnonzero(bad) if bool(bad.any()) else NO_ROWS
        self.refuse(rows, code, what)
        return rows
