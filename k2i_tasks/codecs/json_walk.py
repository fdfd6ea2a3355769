"""JSON documents of one layout read at once: the same member of all of them, one after the other.

A cursor for each document stands before what comes next. A step compares the bytes there with what
the layout has between two values, or reads one value; where a document has something else, its
cursor is put at its end, where nothing can be read, so that the last step finds it. So every byte
of a document that is not named has been looked at, and a document that is not JSON, or that holds
anything but what the layout tells, is named.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.json_layout import Layout
from k2i_tasks.codecs.json_numbers import NUMBER_HEAD_BYTES, read_doubles, read_integers
from k2i_tasks.codecs.json_texts import TEXT_HEAD_BYTES, read_texts
from k2i_tasks.codecs.json_words import Found, Heads, behind, whole_words
from k2i_tasks.codecs.vector import NO_ROWS, Mask, Positions, Source, list_offsets

_COMMA, _SPACE, _OBJECT, _LIST, _LIST_END = b", {[]"
#: Most bytes that are looked at of a value with what is before it.
HEAD_BYTES: Final = max(NUMBER_HEAD_BYTES, TEXT_HEAD_BYTES)
#: Items of a list; documents with longer ones are named.
_ITEMS_MAX = 64


def is_walkable(kind: pa.DataType) -> bool:
    """Whether values of this wire type can be read here."""
    types = pa.types
    if types.is_struct(kind):
        return all(is_walkable(member.type) for member in kind)
    if types.is_list(kind):
        return is_walkable(kind.value_type)
    scalar = types.is_signed_integer(kind) or types.is_float64(kind) or types.is_string(kind)
    return bool(scalar or types.is_boolean(kind) or types.is_null(kind))


class Walk:
    """Reads documents.

    Args:
        source: where they are, in UTF-8; as many bytes as a lead and a head have must follow them.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._chars = source.data

    def read(
        self, starts: Positions, ends: Positions, layout: Layout, schema: pa.Schema
    ) -> tuple[pa.Table, Positions]:
        """The documents as columns, and which of them are not as expected, rising.

        Args:
            starts: n positions, rising.
            ends: n positions behind the documents; a line ends there.
            layout: what is expected; its members are columns.
            schema: wire types, all of them walkable.

        Returns:
            n rows; what they hold where a document is not as expected means nothing.
        """
        arrays, after, closed = self._members(layout, list(schema), starts, ends)
        unlike = np.flatnonzero(~closed | (after != ends))
        return pa.Table.from_arrays(arrays, schema=schema), unlike

    def _members(
        self, layout: Layout, fields: list[pa.Field], cursors: Positions, ends: Positions
    ) -> tuple[list[pa.Array], Positions, Mask]:
        """The columns of n objects, the cursors behind them, and which of them end there."""
        found: dict[str, pa.Array] = {}
        kinds = {field.name: field.type for field in fields}
        for member in layout.members:
            size = len(member.lead)
            kind = kinds[member.name]
            heads = self._heads(cursors, size + _head_bytes(kind))
            present = heads.begins(member.lead)
            heads, begin = heads.skip(size), cursors + size
            everywhere = bool(present.all())
            if not everywhere:
                heads.clear(~present)
                begin = np.where(present, begin, ends)
            array, after = self._value(kind, member.value, heads, begin, ends)
            found[member.name] = array
            cursors = after if everywhere else np.where(present, after, cursors)
        closed = self._heads(cursors, len(layout.closing)).begins(layout.closing)
        arrays = [
            found[field.name] if field.name in found else pa.nulls(len(cursors), field.type)
            for field in fields
        ]
        return arrays, cursors + len(layout.closing), closed

    def _heads(self, cursors: Positions, size: int) -> Heads:
        return Heads(self._source.windows(cursors, whole_words(size)))

    def _value(
        self,
        kind: pa.DataType,
        inside: Layout | None,
        heads: Heads,
        cursors: Positions,
        ends: Positions,
    ) -> Found:
        """Values of a type; where the heads are cleared, a null at the document's end."""
        if pa.types.is_string(kind):
            return read_texts(self._source, heads, cursors, ends)
        if pa.types.is_signed_integer(kind):
            return read_integers(self._source, kind, heads, cursors, ends)
        if pa.types.is_float64(kind):
            return read_doubles(self._source, heads, cursors, ends)
        if pa.types.is_boolean(kind):
            return self._booleans(heads, cursors, ends)
        if pa.types.is_list(kind):
            return self._lists(kind, inside, heads, cursors, ends)
        if pa.types.is_struct(kind) and inside is not None:
            return self._structs(kind, inside, heads, cursors, ends)
        nothing = np.zeros(len(cursors), bool)
        return Found(pa.nulls(len(cursors), kind), behind(cursors, nothing, heads, cursors, ends))

    def _booleans(self, heads: Heads, cursors: Positions, ends: Positions) -> Found:
        true, false = heads.begins(b"true"), heads.begins(b"false")
        after = cursors + (len("false") - true)
        fits = true | false
        if fits.all():
            return Found(pa.array(true), after)
        return Found(pa.array(true, mask=~fits), behind(after, fits, heads, cursors, ends))

    def _structs(
        self,
        kind: pa.DataType,
        inside: Layout,
        heads: Heads,
        cursors: Positions,
        ends: Positions,
    ) -> Found:
        fits = heads.byte(0) == _OBJECT
        begin = cursors if fits.all() else np.where(fits, cursors, ends)
        arrays, after, closed = self._members(inside, list(kind), begin, ends)
        fits &= closed
        mask = None
        if not fits.all():
            mask = pa.array(~fits)
            after = behind(after, fits, heads, cursors, ends)
        return Found(pa.StructArray.from_arrays(arrays, fields=list(kind), mask=mask), after)

    def _lists(
        self,
        kind: pa.DataType,
        inside: Layout | None,
        heads: Heads,
        cursors: Positions,
        ends: Positions,
    ) -> Found:
        fits = heads.byte(0) == _LIST
        after = self._spaced(np.where(fits, cursors + 1, ends))
        empty = self._chars[after] == _LIST_END
        after += empty
        # Round by round, the lists that have another item, and what it is.
        going = np.flatnonzero(fits & ~empty)
        rounds: list[tuple[Positions, pa.Array]] = []
        while len(going) and len(rounds) < _ITEMS_MAX:
            begin = after[going]
            items = self._heads(begin, _head_bytes(kind.value_type))
            array, beyond = self._value(kind.value_type, inside, items, begin, ends[going])
            rounds.append((going, array))
            beyond = self._spaced(beyond)
            follows = self._chars[beyond]
            more = follows == _COMMA
            fits[going] = more | (follows == _LIST_END)
            after[going] = beyond + 1
            going = going[more]
            after[going] = self._spaced(after[going])
        fits[going] = False
        if not fits.all():
            after = behind(after, fits, heads, cursors, ends)
        return Found(_as_lists(kind, rounds, fits), after)

    def _spaced(self, cursors: Positions) -> Positions:
        """Behind a space, where there is one."""
        spaces: Mask = self._chars[cursors] == _SPACE
        return cursors + spaces


def _head_bytes(kind: pa.DataType) -> int:
    """Bytes of a value that are looked at: a sign and a word of a number, a bracket of a list."""
    return TEXT_HEAD_BYTES if pa.types.is_string(kind) else NUMBER_HEAD_BYTES


def _as_lists(
    kind: pa.DataType, rounds: list[tuple[Positions, pa.Array]], present: Mask
) -> pa.ListArray:
    """Lists of the items that rounds have found: of each list the first, then the second."""
    owners = np.concatenate([NO_ROWS, *(places for places, _ in rounds)])
    items = pa.concat_arrays([pa.array([], kind.value_type), *(array for _, array in rounds)])
    order = np.argsort(owners, kind="stable")
    mask = None
    if not present.all():
        # What is null has no items: others rely on it.
        order = order[present[owners[order]]]
        mask = pa.array(~present)
    if len(rounds) > 1 or len(order) < len(owners):
        items = items.take(pa.array(order))
    offsets = list_offsets(owners[order], len(present))
    return pa.ListArray.from_arrays(offsets, items, type=kind, mask=mask)
