"""Readers of fields and of messages: from the values that were found to columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.protobuf_leaves import Leaf, with_nulls
from k2i_tasks.codecs.protobuf_packed import unpacked
from k2i_tasks.codecs.protobuf_rows import MAX_CELLS, RAW_TYPES, Found, Pieces, Span, together
from k2i_tasks.codecs.protobuf_scan import scan
from k2i_tasks.codecs.protobuf_tags import LENGTH, tag_of
from k2i_tasks.codecs.vector import Mask, Positions, last_of_each, list_offsets

Values = Mapping[int, Found]


class FieldReader(Protocol):
    """Reads one field of many messages.

    Attributes:
        type: of the arrays.
        tags: that its values may have.
    """

    @property
    def type(self) -> pa.DataType: ...

    @property
    def tags(self) -> tuple[int, ...]: ...

    def read(self, span: Span, found: Values) -> pa.Array:
        """One value for each message. Never raises for bad bytes.

        Args:
            span: the messages.
            found: by tag, in no order of tags.
        """
        ...


class MessageReader(Protocol):
    """Reads messages of one type.

    Attributes:
        type: of the arrays.
        cells: members, counted with those nested in them; at least 1.
    """

    @property
    def type(self) -> pa.DataType: ...

    @property
    def cells(self) -> int: ...

    def read(self, span: Span, pieces: Pieces, present: Mask | None) -> pa.Array:
        """One value for each message of `span`. Never raises for bad bytes.

        Args:
            pieces: the bytes of all of them; a message without any is the empty one.
            present: where there is one at all, null elsewhere; None for everywhere.
        """
        ...


class ScalarReader:
    """A field with at most one value, of a type without parts; of several the last one counts.

    Args:
        leaf: its type.
        explicit: whether an absent value is null, and not the type's default.
        where: dotted path, for errors.
    """

    def __init__(self, number: int, leaf: Leaf, *, explicit: bool) -> None:
        self.type = leaf.type
        self.tags = (tag_of(number, leaf.wire),)
        self._leaf = leaf
        self._explicit = explicit

    def read(self, span: Span, found: Values) -> pa.Array:
        one = found.get(self.tags[0])
        if one is None and self._explicit:
            return pa.nulls(len(span), self.type)
        if one is None:
            raw = np.zeros(len(span), RAW_TYPES[self._leaf.wire])
            return self._leaf.values(span, span.anchors, raw)
        if one.whole:
            return self._leaf.values(span, one.at, one.raw)
        present = np.zeros(len(span), bool)
        present[one.rows] = True
        if self._leaf.wire == LENGTH:
            one = self._last(span, one, present)
        raw = np.zeros(len(span), one.raw.dtype)
        raw[one.rows] = one.raw
        at = span.anchors
        if self._leaf.wire == LENGTH:
            at = at.copy()
            at[one.rows] = one.at
        values = self._leaf.values(span, at, raw)
        return with_nulls(values, present) if self._explicit else values

    def _last(self, span: Span, one: Found, present: Mask) -> Found:
        """The last value of each message; those before it have to be valid, too."""
        if int(present.sum()) == len(one):
            return one
        last = np.full(len(span), -1, np.int64)
        last[one.rows] = np.arange(len(one))
        kept = np.zeros(len(one), bool)
        kept[last[last >= 0]] = True
        other = one.where(~kept)
        self._leaf.values(span.elements(other.rows, other.ends), other.at, other.raw)
        return one.where(kept)


class NestedReader:
    """A field with at most one message; several are merged.

    Args:
        wire: LENGTH or GROUP.
        explicit: whether an absent one is null, and not the empty message.
    """

    def __init__(self, number: int, wire: int, message: MessageReader, *, explicit: bool) -> None:
        self.type = message.type
        self.tags = (tag_of(number, wire),)
        self.message = message
        self._explicit = explicit

    def read(self, span: Span, found: Values) -> pa.Array:
        one = found.get(self.tags[0])
        if one is None and self._explicit:
            return pa.nulls(len(span), self.type)
        if one is None:
            none = np.empty(0, np.int64)
            return self.message.read(span, Pieces(none, none, none, False), None)
        present = None
        if self._explicit and not one.whole:
            present = np.zeros(len(span), bool)
            present[one.rows] = True
        return self.message.read(span, one.pieces(), present)


class ListReader:
    """A repeated field of a type without parts: values one by one, or packed, or both."""

    def __init__(self, number: int, leaf: Leaf, where: str) -> None:
        self.type = pa.list_(pa.field("element", leaf.type))
        self._own, self._packed = tag_of(number, leaf.wire), tag_of(number, LENGTH)
        self.tags = (self._own,) if leaf.wire == LENGTH else (self._own, self._packed)
        self._leaf = leaf
        self._where = where

    def read(self, span: Span, found: Values) -> pa.Array:
        parts = []
        if self._own in found:
            parts.append(found[self._own])
        if self._leaf.wire != LENGTH and self._packed in found:
            parts.append(unpacked(span, found[self._packed], self._leaf.wire, self._where))
        if not parts:
            return _empty_lists(span, self.type)
        all_of = by_message(together(parts))
        ends = all_of.ends if self._leaf.wire == LENGTH else all_of.at
        items = self._leaf.values(span.elements(all_of.rows, ends), all_of.at, all_of.raw)
        return pa.ListArray.from_arrays(list_offsets(all_of.rows, len(span)), items, type=self.type)


class MessagesReader:
    """A repeated field of messages."""

    def __init__(self, number: int, wire: int, message: MessageReader, where: str) -> None:
        self.type = pa.list_(pa.field("element", message.type))
        self.tags = (tag_of(number, wire),)
        self._elements = _Elements(message, where)

    def read(self, span: Span, found: Values) -> pa.Array:
        if self.tags[0] not in found:
            return _empty_lists(span, self.type)
        rows, items = self._elements.read(span, found[self.tags[0]])
        return pa.ListArray.from_arrays(list_offsets(rows, len(span)), items, type=self.type)


class MapReader:
    """A map: messages of a key and a value. Of a key that is there twice the last value counts.

    Args:
        entry: reads a struct of key and value.
    """

    def __init__(self, number: int, entry: StructReader, where: str) -> None:
        key, value = entry.type[0], entry.type[1]
        self.type = pa.map_(key.type, value.type)
        self.tags = (tag_of(number, LENGTH),)
        self._elements = _Elements(entry, where)

    def read(self, span: Span, found: Values) -> pa.Array:
        if self.tags[0] not in found:
            return _empty_lists(span, self.type)
        rows, entries = self._elements.read(span, found[self.tags[0]])
        kept = last_of_each(rows, entries.field(0))
        if kept is not None:
            rows, entries = rows[kept], entries.take(pa.array(kept))
        offsets = list_offsets(rows, len(span))
        keys, values = entries.field(0), entries.field(1)
        return pa.MapArray.from_arrays(offsets, keys, values, type=self.type)


class _Elements:
    """Reads every message of a repeated field, as far as they are not too many."""

    def __init__(self, message: MessageReader, where: str) -> None:
        self._message = message
        self._what = f"Field {where!r} has too many elements, with {message.cells} members each."

    def read(self, span: Span, found: Found) -> tuple[Positions, pa.Array]:
        """The messages of the lists, rising, and the elements."""
        found = by_message(found)
        cells = span.failures.cells
        np.add.at(cells, span.owners[found.rows], self._message.cells)
        over = cells[span.owners[found.rows]] > MAX_CELLS
        if bool(over.any()):
            span.refuse(found.rows[over], "protobuf.items", self._what)
            found = found.where(~over)
        inner = span.elements(found.rows, found.ends)
        return found.rows, self._message.read(inner, found.alone().pieces(), None)


class StructReader:
    """A message as a struct.

    Args:
        members: of the struct.
        fields: reads each of them.
        oneofs: the readers of members of which only the last one counts that is there.
        paths: tag -> dotted path, for errors.
        cells: see `MessageReader`.
    """

    def __init__(
        self,
        members: Sequence[pa.Field],
        fields: Sequence[FieldReader],
        oneofs: Sequence[Sequence[FieldReader]],
        paths: Mapping[int, str],
        cells: int,
    ) -> None:
        self.type = pa.struct(members)
        self.cells = cells
        self._fields = fields
        self._oneofs = [{field.tags[0]: field for field in oneof} for oneof in oneofs]
        self._paths = paths

    def read(self, span: Span, pieces: Pieces, present: Mask | None) -> pa.Array:
        mask = None if present is None or bool(present.all()) else pa.array(~present)
        arrays = self.columns(span, pieces)
        return pa.StructArray.from_arrays(arrays, fields=list(self.type), mask=mask)

    def columns(self, span: Span, pieces: Pieces) -> list[pa.Array]:
        """The members' values."""
        found = scan(self._paths, span, pieces)
        for oneof in self._oneofs:
            _settle(span, found, oneof)
        return [field.read(span, found) for field in self._fields]


def _settle(span: Span, found: dict[int, Found], oneof: Mapping[int, FieldReader]) -> None:
    """Leaves of the members of a oneof what comes after the last value of any other one."""
    there = [tag for tag in oneof if tag in found]
    if sum(len(found[tag]) for tag in there) <= 1 or len(there) < 2:
        return
    last = np.full((len(there), len(span)), -1, np.int64)
    for place, tag in enumerate(there):
        last[place, found[tag].rows] = found[tag].at
    if int((last >= 0).sum(axis=0).max()) <= 1:
        return
    for place, tag in enumerate(there):
        one = found[tag]
        others = np.delete(last, place, axis=0).max(axis=0)
        over = one.at < others[one.rows]
        if bool(over.any()):
            dropped = one.where(over)
            found[tag] = one.where(~over)
            # What does not count has to be valid, too.
            inner = span.elements(dropped.rows, dropped.at, shown=False)
            oneof[tag].read(inner, {tag: dropped.alone()})


def by_message(found: Found) -> Found:
    """`found` in the order of the messages."""
    if found.whole or not len(found) or not bool((np.diff(found.rows) < 0).any()):
        return found
    order = np.argsort(found.rows, kind="stable")
    return Found(found.rows[order], found.at[order], found.raw[order], False)


def _empty_lists(span: Span, kind: pa.DataType) -> pa.Array:
    none = np.empty(0, np.int64)
    offsets = list_offsets(none, len(span))
    if pa.types.is_map(kind):
        keys, values = pa.nulls(0, kind.key_type), pa.nulls(0, kind.item_type)
        return pa.MapArray.from_arrays(offsets, keys, values, type=kind)
    return pa.ListArray.from_arrays(offsets, pa.nulls(0, kind.value_type), type=kind)
