"""Readers of Avro's arrays and maps: blocks of items, as many as each row has.

The items of all rows of a block are read at once where their starts can be computed: items of one
size, and numbers, whose last bytes are known from the bytes alone. Others are read in rounds, the
next item of every row that still has one; the last few rows with long lists are walked.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.avro_leaves import BytesReader, Reader
from k2i_tasks.codecs.avro_rows import MAX_EMPTY_ITEMS, Rows
from k2i_tasks.codecs.avro_schema import (
    Array,
    AvroType,
    Enum,
    Map,
    Primitive,
    Record,
    exact_size,
    least_size,
)
from k2i_tasks.codecs.avro_types import column_type
from k2i_tasks.codecs.avro_walk import Skip, read_count, skipper
from k2i_tasks.codecs.vector import Positions, last_of_each, list_offsets

#: A round costs what about this many steps of a walk cost.
FEW_ROWS = 48
#: Rounds, of items or of blocks, before few rows are walked.
PATIENCE = 8
#: Computing the starts of numbers looks at every byte; rounds are cheaper for shorter lists.
SHORT_LIST = 4
_NUMBERS = ("int", "long")


class Items:
    """Reads the lists of every row: their offsets, and their items one after the other.

    Args:
        kind: the items' type.
        reader: reads items.
        where: dotted path of the list, for errors.
    """

    def __init__(self, kind: AvroType, reader: Reader, where: str) -> None:
        self._reader = reader
        self._where = where
        self._size = exact_size(kind)
        self._least = least_size(kind)
        self._number = isinstance(kind, Enum) or (
            isinstance(kind, Primitive) and kind.name in _NUMBERS
        )
        self._skip: Skip = skipper(kind)

    def read(self, rows: Rows) -> tuple[npt.NDArray[np.int64], pa.Array]:
        """The row of each item, rising, and the items."""
        found = _Found(self._reader)
        after = np.empty(len(rows), np.int64)
        # The first read gives `active` cursors of its own.
        active = Rows(rows.source, rows.at, rows.ends, rows.owners, rows.failures)
        places = np.arange(len(rows))
        blocks = 0
        while len(active):
            counts = self._counts(active)
            going = counts > 0
            if not going.all():
                after[places[~going]] = active.at[~going]
                kept = np.flatnonzero(going)
                active, places, counts = active.take(kept), places[kept], counts[kept]
            if not len(active):
                break
            blocks += 1
            if blocks > PATIENCE and len(active) <= FEW_ROWS:
                self._walk(active, places, counts, found, on=True)
            else:
                self._block(active, places, counts, found)
        rows.at = after
        return found.joined()

    def _counts(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Items in the next block of each row; 0 if it was the last, or the row has failed."""
        counts = rows.longs(self._where)
        if len(counts) and int(counts.min()) < 0:
            sized = np.flatnonzero(counts < 0)
            inner = rows.take(sized)
            sizes = inner.longs(self._where)
            rows.at[sized] = inner.at
            # Minus the lowest number is itself.
            counts[sized] = -counts[sized]
            bad = (sizes < 0) | (sizes > inner.ends - inner.at) | (counts[sized] < 0)
            rows.refuse(sized[bad], "avro.length", f"A block of {self._where!r} has no valid size.")
        if self._least:
            # Every byte but the last block's 0 may be an item.
            excess = counts > (rows.ends - rows.at) // self._least
            what = f"A block of {self._where!r} has more items than the payload has bytes for."
            rows.refuse_where(excess, "avro.truncated", what)
        else:
            totals = rows.failures.empty_items
            excess = counts > MAX_EMPTY_ITEMS - totals[rows.owners]
            what = f"{self._where!r} has more than {MAX_EMPTY_ITEMS} items without bytes."
            rows.refuse_where(excess, "avro.items", what)
            # Lists in lists: one payload may have many rows here.
            np.add.at(totals, rows.owners, np.where(excess, 0, counts))
            self._refuse_empty(rows, what)
        counts[rows.failures.failed[rows.owners]] = 0
        return counts

    def _refuse_empty(self, rows: Rows, what: str) -> None:
        over = rows.failures.empty_items[rows.owners] > MAX_EMPTY_ITEMS
        rows.refuse_where(over, "avro.items", what)

    def _block(
        self, rows: Rows, places: Positions, counts: npt.NDArray[np.int64], found: _Found
    ) -> None:
        """Reads one block of each row; `counts` are above 0."""
        if self._size is not None:
            offsets, owner = _flattened(counts)
            starts = rows.at[owner] + (np.arange(len(owner)) - offsets[owner]) * self._size
            found.read(rows.placed(owner, starts), places[owner])
            rows.at = rows.at + counts * self._size
        elif self._number and int(counts.max()) > SHORT_LIST:
            self._numbers(rows, places, counts, found)
        else:
            self._rounds(rows, places, counts, found)

    def _numbers(
        self, rows: Rows, places: Positions, counts: npt.NDArray[np.int64], found: _Found
    ) -> None:
        """Items that end with the first byte below 128."""
        low, high = int(rows.at.min()), int(rows.ends.max())
        lasts = np.flatnonzero(rows.source.data[low:high] < 0x80) + low
        first = np.searchsorted(lasts, rows.at)
        final = first + counts - 1
        short = final >= len(lasts)
        short |= lasts[np.minimum(final, len(lasts) - 1)] >= rows.ends if len(lasts) else True
        if short.any():
            # Rounds find out which item it is that has no end.
            for some, read in ((short, self._rounds), (~short, self._numbers)):
                kept = np.flatnonzero(some)
                inner = rows.take(kept)
                if len(kept):
                    read(inner, places[kept], counts[kept], found)
                    rows.at[kept] = inner.at
            return
        offsets, owner = _flattened(counts)
        stops = lasts[first[owner] + np.arange(len(owner)) - offsets[owner]]
        starts = np.empty_like(stops)
        starts[1:] = stops[:-1] + 1
        starts[offsets] = rows.at
        found.read(rows.placed(owner, starts), places[owner])
        rows.at = lasts[final] + 1

    def _rounds(
        self, rows: Rows, places: Positions, counts: npt.NDArray[np.int64], found: _Found
    ) -> None:
        """The first item of every row, then the second of those that have one, and so on."""
        kept = np.arange(len(rows))
        active = rows.take(kept)
        done = 0
        while len(kept):
            if done >= PATIENCE and len(kept) <= FEW_ROWS:
                self._walk(active, places[kept], counts[kept] - done, found, on=False)
                rows.at[kept] = active.at
                return
            found.read(active, places[kept])
            rows.at[kept] = active.at
            done += 1
            # What has failed has no more items, whatever its count says.
            going = (counts[kept] > done) & ~rows.failures.failed[active.owners]
            if not going.all():
                some = np.flatnonzero(going)
                kept, active = kept[some], active.take(some)

    def _walk(
        self,
        rows: Rows,
        places: Positions,
        counts: npt.NDArray[np.int64],
        found: _Found,
        *,
        on: bool,
    ) -> None:
        """Reads the rest of a block, of `counts` items, of each row.

        With `on`, the blocks that follow too, up to the last one, of no items, or one that is not
        valid: reading that is left to the caller.
        """
        starts: list[Positions] = []
        broken = np.zeros(len(rows), bool)
        for row in range(len(rows)):
            at = int(rows.at[row])
            data = rows.source.data[at : int(rows.ends[row])].tobytes()
            budget = MAX_EMPTY_ITEMS - int(rows.failures.empty_items[rows.owners[row]])
            walk = _Walk(data, self._skip, self._least, budget)
            walk.items(int(counts[row]), on)
            broken[row] = walk.broken
            rows.at[row] = at + walk.at
            starts.append(np.array(walk.starts, np.int64) + at)
            rows.failures.empty_items[rows.owners[row]] += walk.empty
        owner = np.repeat(np.arange(len(rows)), [len(some) for some in starts])
        found.read(rows.placed(owner, np.concatenate(starts)), places[owner])
        # After the items were read: what one is refused for is more precise.
        what = f"Field {self._where!r} has an item that is not valid."
        rows.refuse_where(broken, "avro.truncated", what)


class _Walk:
    """The starts of one row's items, as far as they can be found.

    Attributes:
        at: position after the last of them.
        starts: positions, also of an item that cannot be skipped.
        broken: whether there is one.
        empty: items without bytes in the blocks that were begun.
    """

    def __init__(self, data: bytes, skip: Skip, least: int, budget: int) -> None:
        self._data = data
        self._skip = skip
        self._least = least
        self._budget = budget
        self.at = 0
        self.starts: list[int] = []
        self.broken = False
        self.empty = 0

    def items(self, count: int, on: bool) -> None:
        """Skips `count` items, and with `on` those of all blocks that follow and are valid."""
        data, skip, add = self._data, self._skip, self.starts.append
        at = 0
        while count:
            try:
                for _ in range(count):
                    add(at)
                    at = skip(data, at)
            except (IndexError, ValueError):
                self.broken = True
                return
            self.at = at
            count, at = self._next(at) if on else (0, at)

    def _next(self, at: int) -> tuple[int, int]:
        """Items of the block at a position and where they begin; 0 if it is not valid."""
        try:
            count, at = read_count(self._data, at)
        except (IndexError, ValueError):
            return 0, at
        if self._least:
            return (count, at) if count <= (len(self._data) - at) // self._least else (0, at)
        if self.empty + count > self._budget:
            return 0, at
        self.empty += count
        return count, at


class _Found:
    """Items in the order they were read, and the row that each belongs to."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._items: list[pa.Array] = []
        self._places: list[Positions] = []

    def read(self, rows: Rows, places: Positions) -> None:
        """Reads one item of each of `rows`, for the lists in `places`."""
        self._items.append(self._reader.read(rows))
        self._places.append(places)

    def joined(self) -> tuple[Positions, pa.Array]:
        """All items, in the order of their rows and within one in the order they were read."""
        if not self._items:
            return np.empty(0, np.int64), pa.nulls(0, self._reader.type)
        if len(self._items) == 1:
            return self._places[0], self._items[0]
        places = np.concatenate(self._places)
        order = np.argsort(places, kind="stable")
        return places[order], pa.concat_arrays(self._items).take(pa.array(order))


class ListReader:
    """An array as a list."""

    def __init__(self, kind: Array, item: Reader, where: str) -> None:
        self.type = column_type(kind)
        self._items = Items(kind.items, item, where)

    def read(self, rows: Rows) -> pa.Array:
        places, items = self._items.read(rows)
        return pa.ListArray.from_arrays(list_offsets(places, len(rows)), items, type=self.type)


class MapReader:
    """A map. Of a key that a row has twice the last value counts."""

    def __init__(self, kind: Map, value: Reader, where: str) -> None:
        self.type = column_type(kind)
        key = Primitive("string")
        entry = Record("entry", (("key", key), ("value", kind.values)))
        reader = _EntryReader(BytesReader(key, f"{where}.key"), value)
        self._items = Items(entry, reader, where)

    def read(self, rows: Rows) -> pa.Array:
        places, entries = self._items.read(rows)
        keys = entries.field(0)
        kept = last_of_each(places, keys)
        if kept is not None:
            places, entries = places[kept], entries.take(pa.array(kept))
            keys = entries.field(0)
        offsets = list_offsets(places, len(rows))
        return pa.MapArray.from_arrays(offsets, keys, entries.field(1), type=self.type)


class _EntryReader:
    """A key and its value, as a struct."""

    def __init__(self, key: Reader, value: Reader) -> None:
        self.type = pa.struct([("key", key.type), ("value", value.type)])
        self._key, self._value = key, value

    def read(self, rows: Rows) -> pa.Array:
        keys = self._key.read(rows)
        return pa.StructArray.from_arrays([keys, self._value.read(rows)], fields=list(self.type))


def _flattened(counts: npt.NDArray[np.int64]) -> tuple[Positions, Positions]:
    """For lists of `counts` items: the index of each list's first, and each item's list."""
    offsets = np.cumsum(counts) - counts
    return offsets, np.repeat(np.arange(len(counts)), counts)
