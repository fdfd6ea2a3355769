"""Finds the values in the bytes of many messages of one type at once.

All messages stand at a tag. Those whose tag is the lowest one that is not below the last are read
together: their value, then their next tag. Producers write fields in the order of their numbers, so
that the usual batch takes one step for each field; any other order takes more of them and comes to
the same. When few messages are left, they are walked to their ends one by one, so that a long one
costs no more than its length; so are those with groups.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from k2i_tasks.codecs.protobuf_rows import RAW_TYPES, Found, Pieces, Span, together
from k2i_tasks.codecs.protobuf_tags import (
    BYTES4,
    BYTES8,
    GROUP,
    LEAST_TAG,
    LENGTH,
    NO_TAG,
    NUMBER,
    REASONS,
    TAG_BYTES,
    WIRE_BITS,
)
from k2i_tasks.codecs.protobuf_walk import Malformed, Walked
from k2i_tasks.codecs.vector import (
    Positions,
    Read,
    read_fixed32,
    read_fixed64,
    read_ranges,
    read_varints,
)

#: A step costs what about this many values of a walk cost.
FEW_ROWS = 48
#: Steps for few messages before they are walked.
PATIENCE = 8
#: In place of a message's next tag when it has ended.
_DONE = NO_TAG
_ONE_BYTE = 0x80
_Raw = npt.NDArray[Any]


def scan(names: Mapping[int, str], span: Span, pieces: Pieces) -> dict[int, Found]:
    """The values of known fields, by tag. What is no message fails its payload.

    Args:
        names: tag -> dotted path of the field, for errors.
        span: the messages.
        pieces: their bytes.
    """
    return _Scan(names, span, pieces).run()


class _Scan:
    """The messages that have not ended: cursors behind their next tags, and those tags."""

    def __init__(self, names: Mapping[int, str], span: Span, pieces: Pieces) -> None:
        self._names = names
        self._source = span.source
        self._failures = span.failures
        self._at, self._ends, self._rows = pieces.starts, pieces.ends, pieces.rows
        self._owners = span.owners if pieces.whole else span.owners[pieces.rows]
        self._whole = pieces.whole
        self._tags = np.full(len(self._at), _DONE, np.uint32)
        self._living = len(self._at)
        self._few = 0
        self._found: dict[int, list[Found]] = {}

    def run(self) -> dict[int, Found]:
        self._next(None, self._at, self._ends)
        last = 0
        while self._living:
            self._shrink()
            last = self._choose(last)
            self._step(last)
        return {tag: together(parts) for tag, parts in self._found.items()}

    def _shrink(self) -> None:
        """Lets go of messages that have ended, if they are most."""
        if 2 * self._living > len(self._tags):
            return
        kept = np.flatnonzero(self._tags != _DONE)
        self._at, self._ends, self._rows = self._at[kept], self._ends[kept], self._rows[kept]
        self._owners, self._tags = self._owners[kept], self._tags[kept]
        self._whole = False

    def _choose(self, last: int) -> int:
        """The lowest tag that is not below `last`; if there is none, the lowest."""
        low = int(self._tags.min())
        if low >= last:
            return low
        above = self._tags[self._tags >= last]
        up = int(above.min()) if len(above) else _DONE
        return low if up == _DONE else up

    def _step(self, tag: int) -> None:
        """Reads the value of every message that stands at `tag`, and its next tag."""
        here = self._tags == tag
        rows = None if bool(here.all()) else np.flatnonzero(here)
        wire = tag & WIRE_BITS
        at, ends = (self._at, self._ends) if rows is None else (self._at[rows], self._ends[rows])
        few = len(at) <= FEW_ROWS
        self._few += few
        if tag < LEAST_TAG or wire not in RAW_TYPES:
            self._refuse(rows, "tag" if tag < LEAST_TAG else "wire_type", tag)
            after = ends
        elif wire == GROUP or (few and self._few > PATIENCE):
            self._walk(np.arange(len(here)) if rows is None else rows)
            return
        else:
            starts, raw, after = self._value(tag, wire, rows, at, ends)
            if tag in self._names:
                whole = rows is None and self._whole
                messages = self._rows if rows is None else self._rows[rows]
                self._found.setdefault(tag, []).append(Found(messages, starts, raw, whole))
        self._next(rows, after, ends)

    def _value(
        self, tag: int, wire: int, rows: Positions | None, at: Positions, ends: Positions
    ) -> tuple[Positions, _Raw, Positions]:
        """Starts, raw values and the positions after them."""
        if wire == LENGTH:
            sizes = read_varints(self._source, at, ends, most_bytes=TAG_BYTES)
            self._settle(sizes, tag, rows)
            ranges = read_ranges(sizes.after, ends, sizes.values)
            self._settle(ranges, tag, rows)
            return ranges.after - ranges.values, ranges.values, ranges.after
        if wire == NUMBER:
            read = read_varints(self._source, at, ends, wraps=True)
        else:
            read = (read_fixed64 if wire == BYTES8 else read_fixed32)(self._source, at, ends)
        self._settle(read, tag, rows)
        return at, read.values, read.after

    def _settle(self, read: Read, tag: int, rows: Positions | None) -> None:
        for bad, code in ((read.truncated, "truncated"), (read.invalid, "number")):
            if len(bad):
                self._refuse(_of(rows, bad), code, tag)

    def _next(self, rows: Positions | None, after: Positions, ends: Positions) -> None:
        """Reads the tags at `after`."""
        first = self._source.data[after]
        tags = first.astype(np.uint32)
        at = after + 1
        if len(first) and int(first.max()) >= _ONE_BYTE:
            longer = np.flatnonzero((first >= _ONE_BYTE) & (after < ends))
            tags[longer], at[longer] = self._long_tags(
                _of(rows, longer), after[longer], ends[longer]
            )
        ended = after >= ends
        if bool(ended.any()):
            tags[ended] = _DONE
        self._living -= int(np.count_nonzero(tags == _DONE))
        if rows is None:
            self._at, self._tags = at, tags
        else:
            # In place: what was found never shares this array, since a step for all replaces it.
            self._at[rows], self._tags[rows] = at, tags

    def _long_tags(
        self, rows: Positions, at: Positions, ends: Positions
    ) -> tuple[npt.NDArray[np.uint64], Positions]:
        """Tags of more than one byte, and the positions after them."""
        read = read_varints(self._source, at, ends, most_bytes=TAG_BYTES)
        wide = np.flatnonzero(read.values >= _DONE)
        for bad in (read.truncated, read.invalid, wide):
            if len(bad):
                self._refuse(rows[bad], "tag", 0)
                read.values[bad] = _DONE
                read.after[bad] = ends[bad]
        return read.values, read.after

    def _walk(self, rows: Positions) -> None:
        """Reads the messages to their ends, one by one."""
        walked = Walked(self._names)
        for row in rows.tolist():
            start = int(self._at[row])
            data = self._source.data[start : int(self._ends[row])].tobytes()
            try:
                walked.walk(int(self._rows[row]), data, start, int(self._tags[row]))
            except Malformed as error:
                self._refuse(np.array([row], np.int64), error.code, error.tag)
        for tag, (messages, at, raw) in walked.parts.items():
            if messages:
                found = self._walked(tag & WIRE_BITS, messages, at, raw)
                self._found.setdefault(tag, []).append(found)
        self._tags[rows] = _DONE
        self._living -= len(rows)

    def _walked(self, wire: int, messages: array[int], at: array[int], raw: array[int]) -> Found:
        starts = np.frombuffer(at, np.int64)
        values: _Raw = np.frombuffer(raw, np.uint64)
        if wire == BYTES8:
            values = self._source.words(starts)
        elif wire == BYTES4:
            values = self._source.halves(starts)
        return Found(
            np.frombuffer(messages, np.int64), starts, values.astype(RAW_TYPES[wire]), False
        )

    def _refuse(self, rows: Positions | None, code: str, tag: int) -> None:
        where = self._names.get(tag) or f"#{tag >> 3}"
        what = REASONS[code].format(where)
        owners = self._owners if rows is None else self._owners[rows]
        self._failures.add(owners, f"protobuf.{code}", what)


def _of(rows: Positions | None, some: Positions) -> Positions:
    return some if rows is None else rows[some]
