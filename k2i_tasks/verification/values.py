"""The values of some records: read from Kafka, decoded anew, compared with what the table has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.base import Decoder, decoded_whole
from k2i_tasks.types import DecodedBatch, OffsetRange, RawBatch
from k2i_tasks.verification.comparison import (
    ValueDifference,
    compare,
    count_by_partition,
    matches,
    positions_of,
)
from k2i_tasks.verification.gaps import Ranges
from k2i_tasks.verification.pages import Ints
from k2i_tasks.verification.sampling import Round

#: What is compared at once: bounds of the memory that it takes.
CHUNK_BYTES = 48 << 20
CHUNK_RECORDS = 100_000
#: Longest that a schema registry may be away, in seconds.
PATIENCE_SECONDS = 60.0
#: Differing cells that are kept.
CELLS_MAX = 50
Window = tuple[int, OffsetRange]
LETTER_KEYS = ("partition", "offset")
LETTER_COLUMNS = ("key", "value")


class Rows(Protocol):
    """The rows of a table at given positions; see `iceberg.fixed.FixedTable`."""

    def rows(self, windows: Sequence[Window], columns: Sequence[str] = ()) -> pa.Table: ...


@dataclass(frozen=True, slots=True)
class Sides:
    """What is compared.

    Args:
        reader: reads the topic.
        decoder: for the table's columns.
        rows: the table.
        letters: the dead-letter table; None when there is none.
        keys: names of the table's columns with partition and offset.
    """

    reader: Ranges
    decoder: Decoder
    rows: Rows
    letters: Rows | None
    keys: tuple[str, str]


@dataclass(slots=True)
class Checked:
    """What came of it, per partition where it is a count.

    Args:
        compared: records compared, dead letters too.
        different: those of them that differ.
        strangers: rows at positions where Kafka has no record.
        strangers_at: some of them, partition and offset.
        cells: some of the cells that differ.
        undecodable: rows that are not decoded from the same record now, by the decoder's code.
        unfit: columns that could not be compared, and why.
    """

    compared: Counter[int] = field(default_factory=Counter)
    different: Counter[int] = field(default_factory=Counter)
    strangers: Counter[int] = field(default_factory=Counter)
    strangers_at: list[tuple[int, int]] = field(default_factory=list)
    cells: list[ValueDifference] = field(default_factory=list)
    undecodable: Counter[str] = field(default_factory=Counter)
    unfit: dict[str, str] = field(default_factory=dict)


class ValueCheck:
    """Compares the values of records round by round. For one thread.

    Args:
        sides: what is compared.
        show_values: whether differences tell values.
        on_read: told how many positions were passed since the last call.
    """

    def __init__(
        self,
        sides: Sides,
        *,
        show_values: bool = False,
        on_read: Callable[[int], None] = lambda _positions: None,
    ) -> None:
        self._sides = sides
        self._show_values = show_values
        self._on_read = on_read
        self._windows: list[Window] = []
        self._raw: list[RawBatch] = []
        self.found = Checked()

    def run(self, rounds: Iterable[Round]) -> Checked:
        """Compares all records of the rounds that Kafka still has. May block."""
        reader = self._sides.reader
        for turn in rounds:
            reader.begin(turn)
            done = {number: span.start for number, span in turn.items()}
            while reader.busy:
                batch = reader.poll()
                if batch is not None:
                    self._raw.append(batch)
                if self._is_large():
                    self._pass(done)
                    self._compare()
            self._pass(done)
        self._compare()
        return self.found

    def _is_large(self) -> bool:
        records = sum(map(len, self._raw))
        size_bytes = sum(batch.payload_bytes for batch in self._raw)
        return records >= CHUNK_RECORDS or size_bytes >= CHUNK_BYTES

    def _pass(self, done: dict[int, int]) -> None:
        """Notes what was read since the last call as windows to be compared."""
        reader, positions = self._sides.reader, 0
        for number, start in done.items():
            reached = reader.reached.get(number, start)
            # What was deleted on the way cannot be compared; the table's rows there are right.
            first = max(start, reader.lows.get(number, start))
            if reached > first:
                self._windows.append((number, OffsetRange(first, reached)))
            positions += max(0, reached - start)
            done[number] = max(start, reached)
        self._on_read(positions)

    def _compare(self) -> None:
        windows, self._windows = self._windows, []
        raw, self._raw = self._raw, []
        if not windows:
            return
        rows = self._sides.rows.rows(windows)
        decoded = [decoded_whole(self._sides.decoder, one, PATIENCE_SECONDS) for one in raw]
        for tables in _alike(batch.table for batch in decoded):
            one = compare(
                tables,
                rows,
                self._sides.keys,
                cells_max=max(0, CELLS_MAX - len(self.found.cells)),
                show_values=self._show_values,
            )
            self.found.compared.update(one.rows)
            self.found.different.update(one.different)
            self.found.cells += one.cells
            self.found.unfit |= one.unfit
        there = positions_of(rows, self._sides.keys)
        self._strangers(there, raw)
        self._undecodable(there, decoded)
        if self._sides.letters is not None:
            letters = self._sides.letters.rows(windows, (*LETTER_KEYS, *LETTER_COLUMNS))
            self._strangers(positions_of(letters, LETTER_KEYS), raw)
            self._letters(letters, raw)

    def _strangers(self, there: Ints, raw: Sequence[RawBatch]) -> None:
        """Rows at positions that Kafka gave no record for."""
        _, known = matches(_places(raw), there)
        strange = np.unique(np.delete(there, known, axis=0), axis=0)
        if len(known):
            # A position that is doubled is matched once, and is no stranger for that.
            _, again = matches(there[known], strange)
            strange = np.delete(strange, again, axis=0)
        self.found.strangers.update(count_by_partition(strange))
        room = CELLS_MAX - len(self.found.strangers_at)
        self.found.strangers_at += [(int(p), int(o)) for p, o in strange[: max(0, room)]]

    def _undecodable(self, there: Ints, decoded: Sequence[DecodedBatch]) -> None:
        refused = [letter for batch in decoded for letter in batch.dead_letters]
        if not refused:
            return
        places = np.array([(one.partition, one.offset) for one in refused], np.int64)
        here, _ = matches(places, there)
        self.found.undecodable.update(refused[index].code for index in here.tolist())

    def _letters(self, letters: pa.Table, raw: Sequence[RawBatch]) -> None:
        """Dead letters keep key and value as they were."""
        if not letters.num_rows:
            return
        wanted = positions_of(letters, LETTER_KEYS)
        for batch in raw:
            here, _ = matches(_places([batch]), wanted)
            if not len(here):
                continue
            columns = {
                "partition": batch.partitions[here],
                "offset": batch.offsets[here],
                "key": pa.array([batch.keys[index] for index in here], pa.binary()),
                "value": pa.array([batch.values[index] for index in here], pa.binary()),
            }
            one = compare(
                pa.table(columns),
                letters,
                LETTER_KEYS,
                cells_max=max(0, CELLS_MAX - len(self.found.cells)),
                show_values=self._show_values,
            )
            self.found.compared.update(one.rows)
            self.found.different.update(one.different)
            self.found.cells += one.cells


def _places(raw: Sequence[RawBatch]) -> Ints:
    """Partition and offset of each record: int64 [n, 2]."""
    if not raw:
        return np.empty((0, 2), np.int64)
    pairs = [np.stack([b.partitions.astype(np.int64), b.offsets], axis=1) for b in raw]
    return np.concatenate(pairs)


def _alike(tables: Iterable[pa.Table]) -> list[pa.Table]:
    """Tables of one schema joined: a decoder may learn columns from one batch to the next."""
    joined: dict[pa.Schema, list[pa.Table]] = {}
    for table in tables:
        if table.num_rows:
            joined.setdefault(table.schema, []).append(table)
    return [pa.concat_tables(each) for each in joined.values()]
