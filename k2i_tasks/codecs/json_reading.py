"""One walk over a page of JSON: fast where that works, exact where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.json_columns import LearnedColumns, Plan
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.json_rows import MisfitError, Notes
from k2i_tasks.codecs.wire import RefusedError, Rows, conform, doubtful_rows
from k2i_tasks.errors import DecodeError

#: A refused part of this size is decoded record by record; a larger one is halved.
LEAF_RECORDS = 16
#: Records that may hold the literal that was refused; with more of them halving is cheaper.
SUSPECTS_MAX = 8
#: One in so many records, and a few, may be decoded exactly because they look like a refused one.
SUSPECTS_SHARE = 64
#: Needles that are kept for the next page.
NEEDLES_MAX = 8
#: Size of one fast reading: halved after a refusal, doubled after so many clean ones. A refused one
#: is half wasted, and a small one costs more for each record: at one bad record in a thousand both
#: cost the least with the smallest.
CLEAN_PARTS = 3
PART_RECORDS_MIN = 512
PART_RECORDS_MAX = 4096
PART_BYTES_MAX = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows in record order: columns by name, perhaps of an earlier, narrower schema."""

    rows: int
    columns: dict[str, pa.Array]


class Reading:
    """Decodes one page, once.

    Args:
        columns: the columns to read for; it learns on the way.
        page: the payloads.
        part_records: size of the first fast reading.
        needles: what payloads hold that are refused, by the reading before.

    Attributes:
        part_records: size of the next fast reading, adapted to how often they are refused.
        needles: what such payloads hold of this page.
    """

    def __init__(
        self,
        columns: LearnedColumns,
        page: Page,
        *,
        part_records: int,
        needles: Sequence[bytes] = (),
    ) -> None:
        self._columns = columns
        self._page = page
        self.part_records = part_records
        self._pieces: list[Piece] = []
        self._errors: dict[int, DecodeError] = {}
        #: Payloads that would be refused, rising, and reasons for that: each is looked at once.
        self._suspects: Rows = np.empty(0, np.int64)
        self._drifts: set[tuple[str, str]] = set()
        self.needles: list[bytes] = []
        if needles:
            self._suspect(needles)

    def run(self) -> tuple[list[Piece], dict[int, DecodeError]]:
        """Pieces in record order, and record index -> reason for the dead letters."""
        at = refused_at = 0
        while at < len(self._page):
            end = self._page.end_of(at, self.part_records, PART_BYTES_MAX)
            if self._part(at, end):
                self.part_records = max(self.part_records // 2, PART_RECORDS_MIN)
                refused_at = end
            elif end - refused_at >= CLEAN_PARTS * self.part_records:
                self.part_records = min(self.part_records * 2, PART_RECORDS_MAX)
            at = end
        return self._pieces, self._errors

    def _part(self, start: int, end: int) -> int:
        """Decode payloads [start, end); returns the number of refusals met."""
        budget = 8 + (end - start) // 64
        refusals = 0
        waiting = [(start, end, False)]
        while waiting:
            low, high, exactly = waiting.pop()
            if exactly or refusals > budget:
                self._exact(low, high)
                continue
            try:
                self._fast(low, high)
            except RefusedError as refused:
                refusals += 1
                waiting += reversed(self._split(low, high, refused))
        return refusals

    def _split(self, low: int, high: int, refused: RefusedError) -> list[tuple[int, int, bool]]:
        """How to go on with a refused part: around the culprits if known, else in halves.

        Returns:
            Parts (start, end, whether record by record), in order.
        """
        places: list[int] = []
        if refused.row is not None:
            places = [low + refused.row]
            self._expect(places[0], refused)
        elif refused.literal:
            places = self._page.find(refused.literal, low, high, SUSPECTS_MAX)
        if not places and high - low <= LEAF_RECORDS:
            return [(low, high, True)]
        if not places:
            middle = (low + high) // 2
            return [(low, middle, False), (middle, high, False)]
        parts: list[tuple[int, int, bool]] = []
        for place in places:
            parts += [(low, place, False), (place, place + 1, True)]
            low = place + 1
        return [part for part in [*parts, (low, high, False)] if part[0] < part[1]]

    def _expect(self, place: int, refused: RefusedError) -> None:
        """Foresees the refusals behind `place` for the same reason, if they are few."""
        if refused.drift is None or refused.drift in self._drifts:
            return
        self._drifts.add(refused.drift)
        needle = self._page.needle(place, refused.drift)
        if needle is not None:
            self._suspect([needle])

    def _suspect(self, needles: Sequence[bytes]) -> None:
        """Sets payloads aside that hold one of these, for the exact path."""
        most = 8 + len(self._page) // SUSPECTS_SHARE
        found = {needle: self._page.holding(needle, most) for needle in needles}
        self.needles += [needle for needle in needles if found[needle]][:NEEDLES_MAX]
        places = [place for some in found.values() for place in some]
        if places:
            self._page.blank(places)
            self._suspects = np.union1d(self._suspects, np.array(places, np.int64))

    def _fast(self, low: int, high: int) -> None:
        plan = self._columns.plan
        table = self._page.read(low, high, plan.fast)
        wires = {
            name: _whole(column)
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        first, end = np.searchsorted(self._suspects, (low, high))
        suspects = self._suspects[first:end] - low
        doubtful = np.union1d(suspects, self._doubtful(wires, texts=False))
        columns = None if len(doubtful) else _conformed(wires, plan.learned)
        if columns is not None:
            self._pieces.append(Piece(high - low, columns))
            return
        doubtful = np.union1d(doubtful, self._doubtful(wires, texts=True))
        if len(doubtful) > (high - low) // 4:
            self._exact(low, high)
            return
        sound = pa.array(np.setdiff1d(np.arange(high - low), doubtful))
        columns = _conformed({name: wires[name].take(sound) for name in wires}, plan.learned)
        if columns is None:
            raise RefusedError
        self._interleave(low, high, doubtful.tolist(), columns)

    def _doubtful(self, wires: Mapping[str, pa.Array], *, texts: bool) -> Rows:
        columns = self._columns
        return doubtful_rows(wires, columns.plan.learned, texts=texts, widens=columns.widens)

    def _interleave(
        self, low: int, high: int, doubtful: list[int], columns: dict[str, pa.Array]
    ) -> None:
        """Sound rows of [low, high) as they are, the doubtful ones exactly, in record order."""
        done = 0
        for skipped, row in enumerate([*doubtful, high - low]):
            # `columns` has no doubtful rows: row r of the part is row r - skipped of them.
            end = row - skipped
            if end > done:
                part = {name: array.slice(done, end - done) for name, array in columns.items()}
                self._pieces.append(Piece(end - done, part))
                done = end
            if row < high - low:
                self._exact(low + row, low + row + 1)

    def _exact(self, low: int, high: int) -> None:
        rows: list[dict[str, Any]] = []
        plan = self._columns.plan
        for place in range(low, high):
            row = None
            try:
                row = self._row(self._page.payload(place))
            except DecodeError as error:
                self._errors[int(self._page.records[place])] = error
            if self._columns.plan is not plan:
                # What was read for the columns as they were is not what they are read as now.
                self._take(rows, plan)
                rows, plan = [], self._columns.plan
            if row is not None:
                rows.append(row)
        self._take(rows, plan)

    def _take(self, rows: list[dict[str, Any]], plan: Plan) -> None:
        """Rows that were read by this plan."""
        if not rows:
            return
        wires = {
            wire.name: pa.array([row.get(wire.name) for row in rows], type=wire.type)
            for wire in plan.exact
        }
        columns = _conformed(wires, plan.learned)
        # Every text was read by the same parser when its row was read.
        assert columns is not None, "a column refused a value that its reader accepted"
        self._pieces.append(Piece(len(rows), columns))

    def _row(self, payload: bytes) -> dict[str, Any]:
        document = self._columns.parse(payload)
        while True:
            notes = Notes()
            try:
                row: dict[str, Any] = self._columns.plan.reader(document, notes)
            except MisfitError as misfit:
                if self._columns.promote(misfit):
                    continue
                raise misfit.decode_error() from None
            # Ends, since columns are only added, and their number is bounded.
            if not self._columns.learn(self._page, document, notes):
                return row | self._columns.rest(notes)


def _conformed(wires: Mapping[str, pa.Array], learned: pa.Schema) -> dict[str, pa.Array] | None:
    """Wire columns as the learned ones; None if a text is not of its column's type.

    To the learned types, not the table's: an empty list of no type may get one in this batch.
    """
    try:
        return {field.name: conform(wires[field.name], field.type) for field in learned}
    except RefusedError:
        return None


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
