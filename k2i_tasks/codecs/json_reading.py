"""One walk over a page of JSON: fast where that works, exact where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.json_columns import LearnedColumns, Plan
from k2i_tasks.codecs.json_foresight import Foresight
from k2i_tasks.codecs.json_habit import LESSONS, UNLIKE_MIN, UNLIKE_SHARE, Habit
from k2i_tasks.codecs.json_pace import PART_RECORDS_MAX, Pace
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.json_parts import PART_BYTES_MAX, Part, Read, alone, parts_of, read_part
from k2i_tasks.codecs.json_rows import MisfitError, Notes
from k2i_tasks.codecs.parallel import at_once
from k2i_tasks.codecs.vector import NO_ROWS
from k2i_tasks.codecs.wire import RefusedError, Rows, conform, doubtful_rows
from k2i_tasks.errors import DecodeError

#: A refused part of this size is decoded record by record; a larger one is halved.
LEAF_RECORDS = 16
#: Records that may hold the literal that was refused; with more of them halving is cheaper.
SUSPECTS_MAX = 8


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
        pace: how much is read at once; it learns on the way.
        foresight: what the pages before have told of payloads that are refused; it learns too.
        habit: how the documents are laid out; it learns too.
    """

    def __init__(
        self,
        columns: LearnedColumns,
        page: Page,
        *,
        pace: Pace,
        foresight: Foresight,
        habit: Habit,
    ) -> None:
        self._columns = columns
        self._page = page
        self._pace = pace
        self._habit = habit
        self._pieces: list[Piece] = []
        self._errors: dict[int, DecodeError] = {}
        #: Payloads that would be refused, the same rising, and reasons: each is looked at once.
        self._aside: set[int] = set(page.unfit.tolist())
        self._suspects: Rows = page.unfit
        self._foresight = foresight
        #: Whether payloads that will be refused are to be found beforehand.
        self._foresees = False

    def run(self) -> tuple[list[Piece], dict[int, DecodeError]]:
        """Pieces in record order, and place -> reason for the dead letters."""
        at = 0
        while at < len(self._page):
            end = self._page.end_of(at, len(self._page), PART_BYTES_MAX)
            layout = self._habit.layout(
                self._columns.plan.fast,
                end - at,
                self._page.size_bytes(at, end),
                self._page.sample,
            )
            if layout is None:
                self._foresee()
            parts = parts_of(self._page, at, end, layout, wide=self._pace.wide)
            if parts:
                self._at_once(parts)
            else:
                self._narrow(at, end)
            at = end
        if self._foresees:
            self._foresight.end(self._errors)
        return self._pieces, self._errors

    def _foresee(self) -> None:
        """Sets aside what will be refused as others were, before anything is read in parts."""
        if not self._foresees:
            self._foresees = True
            self._set_aside(self._foresight.begin(self._page))

    def _at_once(self, parts: Sequence[Part]) -> None:
        """Reads parts that follow one another, all of them at once."""
        plan = self._columns.plan

        def read(part: Part) -> list[Read]:
            return list(read_part(self._page, part, plan.fast))

        for low, high, found in chain.from_iterable(at_once(read, parts)):
            if isinstance(found, RefusedError):
                self._pace.refused()
                self._foresee()
                self._names_one(low, found)
                self._narrow(low, high)
            # Columns that came since were not looked for.
            elif self._columns.plan is not plan or not self._takes(low, high, *found):
                self._narrow(low, high)

    def _takes(self, low: int, high: int, table: pa.Table, unlike: Rows | None) -> bool:
        """Takes payloads [low, high) as they were read; whether that could be.

        Args:
            low, high: places.
            table: a row for each.
            unlike: the places whose rows mean nothing; None where no layout was expected.
        """
        if unlike is None:
            self._pace.read(high - low)
            return self._fits(low, high, table)
        return self._are_few(low, high, unlike) and self._fits(low, high, table, unlike)

    def _are_few(self, low: int, high: int, unlike: Rows) -> bool:
        """Whether few payloads of [low, high) were unlike their layout; if so, learns from them."""
        strange = np.setdiff1d(unlike, self._suspects, assume_unique=True)
        if len(strange):
            self._pace.refused()
        else:
            self._pace.read(high - low)
        few = len(strange) <= UNLIKE_MIN + (high - low) // UNLIKE_SHARE
        self._habit.judged(held=few)
        if few:
            some = strange[:: max(1, len(strange) // LESSONS)].tolist()
            self._habit.learn(map(self._page.payload, some))
        return few

    def _fits(self, low: int, high: int, table: pa.Table, unlike: Rows = NO_ROWS) -> bool:
        """Takes payloads [low, high) as they were read; whether that could be."""
        try:
            self._fit(low, high, table, unlike)
        except RefusedError:
            return False
        return True

    def _narrow(self, at: int, stop: int) -> None:
        """Payloads [at, stop), in parts of the size that is refused seldom."""
        self._foresee()
        while at < stop:
            limit = min(stop, self._page.end_of(at, PART_RECORDS_MAX, PART_BYTES_MAX))
            tables, end = self._tables(at, limit)
            if tables and not self._fits(at, end, pa.concat_tables(tables)):
                self._part(at, end)
            at = end
            if end < limit:
                at = min(limit, end + self._pace.part_records)
                self._part(end, at)

    def _tables(self, start: int, limit: int) -> tuple[list[pa.Table], int]:
        """Payloads from `start` on as the reader gives them, in parts, and the end of them.

        A payload that the reader names is set aside. The end is before `limit` where a part is
        refused for no such reason, or too often.
        """
        schema = self._columns.plan.fast
        tables: list[pa.Table] = []
        at, refusals = start, 0
        while at < limit:
            end = min(limit, at + self._pace.part_records)
            try:
                tables.append(self._page.read(at, end, schema))
            except RefusedError as refused:
                refusals += 1
                self._pace.refused()
                if refusals > _budget(limit - start) or not self._names_one(at, refused):
                    break
                continue
            self._pace.read(end - at)
            at = end
        return tables, at

    def _part(self, start: int, end: int) -> None:
        """Decodes payloads [start, end), of which some are refused."""
        budget, refusals = _budget(end - start), 0
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

    def _split(self, low: int, high: int, refused: RefusedError) -> list[tuple[int, int, bool]]:
        """How to go on with a refused part: without the culprits if known, else in halves.

        Returns:
            Parts (start, end, whether record by record), in order.
        """
        if self._names_one(low, refused):
            return [(low, high, False)]
        places: list[int] = []
        if refused.literal:
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

    def _names_one(self, low: int, refused: RefusedError) -> bool:
        """Sets the payload aside that is named, in a part from `low` on; whether that helps."""
        if refused.row is None:
            return False
        place = low + refused.row
        return self._set_aside([place, *self._foresight.refused(place, refused.drift)])

    def _set_aside(self, places: Sequence[int]) -> bool:
        """Keeps these from the fast path; whether that changes anything."""
        fresh = set(places).difference(self._aside)
        if fresh:
            self._page.blank(fresh)
            self._aside |= fresh
            self._suspects = np.array(sorted(self._aside), np.int64)
        return bool(fresh)

    def _fast(self, low: int, high: int) -> None:
        self._fit(low, high, self._page.read(low, high, self._columns.plan.fast))

    def _fit(self, low: int, high: int, table: pa.Table, unlike: Rows = NO_ROWS) -> None:
        """Takes payloads [low, high) as they were read, the doubtful ones exactly.

        Args:
            low, high: places.
            table: a row for each.
            unlike: the places whose rows mean nothing.

        Raises:
            RefusedError: more of them are doubtful than it seems.
        """
        plan = self._columns.plan
        wires = {
            name: _whole(column)
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
        first, end = np.searchsorted(self._suspects, (low, high))
        exact = np.union1d(self._suspects[first:end], unlike) - low
        # Those are blank, so that they fit; any others have to be taken out.
        doubtful = np.setdiff1d(self._doubtful(wires, texts=False), exact, assume_unique=True)
        columns = None if len(doubtful) else _conformed(wires, plan.learned)
        if columns is None:
            doubtful = np.union1d(doubtful, self._doubtful(wires, texts=True))
            exact = np.union1d(exact, doubtful)
            if len(exact) > (high - low) // 4:
                self._exact(low, high)
                return
            rows = np.arange(high - low)
            sound = pa.array(rows, mask=np.isin(rows, exact))
            columns = _conformed({name: wires[name].take(sound) for name in wires}, plan.learned)
        if columns is None:
            raise RefusedError
        self._interleave(low, high, exact, columns)

    def _doubtful(self, wires: Mapping[str, pa.Array], *, texts: bool) -> Rows:
        columns = self._columns
        return doubtful_rows(wires, columns.plan.learned, texts=texts, widens=columns.widens)

    def _interleave(self, low: int, high: int, exact: Rows, columns: dict[str, pa.Array]) -> None:
        """The rows of [low, high) in order: as `columns` have them, but for those read exactly."""

        def read(start: int, end: int) -> None:
            if start < end:
                part = {name: array.slice(start, end - start) for name, array in columns.items()}
                self._pieces.append(Piece(end - start, part))

        done = 0
        for run in np.split(exact, np.flatnonzero(np.diff(exact) > 1) + 1):
            if len(run):
                read(done, int(run[0]))
                done = int(run[-1]) + 1
                self._exact(low + int(run[0]), low + done)
        read(done, high - low)

    def _exact(self, low: int, high: int) -> None:
        rows: list[dict[str, Any]] = []
        plan = self._columns.plan
        for place in range(low, high):
            row = None
            try:
                row = self._row(self._page.payload(place))
            except DecodeError as error:
                self._errors[place] = alone(error)
                if self._foresees and place not in self._aside:
                    self._set_aside(self._foresight.erred(place, error))
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


def _budget(records: int) -> int:
    """Refusals of so many records after which it is cheaper to read them one by one."""
    return 8 + records // 64


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
