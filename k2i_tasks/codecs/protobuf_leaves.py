"""Values without parts: from what is on the wire to columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from k2i_tasks.codecs.protobuf_rows import Span
from k2i_tasks.codecs.protobuf_tags import BYTES4, BYTES8, LENGTH, NUMBER
from k2i_tasks.codecs.vector import Mask, Positions, as_text, gather, zigzag

_Raw = npt.NDArray[Any]
_Types = FieldDescriptor


class Leaf(Protocol):
    """A type of values. On the wire the default of each is 0, or has no bytes.

    Attributes:
        type: of the arrays.
        wire: the wire type.
    """

    @property
    def type(self) -> pa.DataType: ...

    @property
    def wire(self) -> int: ...

    def values(self, span: Span, at: Positions, raw: _Raw) -> pa.Array:
        """One value for each message of `span`, without nulls. Never raises for bad bytes.

        Args:
            at: where each begins; of numbers, not looked at.
            raw: as in `Found`.
        """
        ...


def fixed_width(values: _Raw, kind: pa.DataType) -> pa.Array:
    """An array without nulls over the memory of `values`."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def with_nulls(array: pa.Array, present: Mask) -> pa.Array:
    """`array`, which has no nulls and no parts, null where nothing is present."""
    if bool(present.all()):
        return array
    validity = pa.py_buffer(np.packbits(present, bitorder="little"))
    if array.offset:
        return pc.if_else(pa.array(present), array, pa.scalar(None, array.type))
    return pa.Array.from_buffers(array.type, len(array), [validity, *array.buffers()[1:]])


def leaf_of(field: FieldDescriptor, where: str) -> Leaf:
    """What reads values of a field's type, which is no message."""
    if field.type in (_Types.TYPE_STRING, _Types.TYPE_BYTES):
        return RangeLeaf(where, text=field.type == _Types.TYPE_STRING)
    if field.type == _Types.TYPE_ENUM:
        return EnumLeaf(field.enum_type)
    if field.type == _Types.TYPE_BOOL:
        return BooleanLeaf()
    return NumberLeaf(*_NUMBERS[field.type])


def _narrow(raw: _Raw) -> _Raw:
    # Of a longer number the lower bits count, as every reader of Protobuf has it.
    return raw.astype(np.uint32).view(np.int32)


def _zigzag32(raw: _Raw) -> _Raw:
    return zigzag(raw & np.uint64(0xFFFFFFFF)).astype(np.int32)


def _unsigned(raw: _Raw) -> _Raw:
    return raw.astype(np.uint32).astype(np.int64)


def _decimal(raw: _Raw) -> _Raw:
    words = np.zeros((len(raw), 2), np.uint64)
    words[:, 0] = raw
    return words


_UINT64 = pa.decimal128(20, 0)
#: Type -> wire type, type of the column, and how its numbers are made.
_NUMBERS: dict[int, tuple[int, pa.DataType, Callable[[_Raw], _Raw]]] = {
    _Types.TYPE_INT32: (NUMBER, pa.int32(), _narrow),
    _Types.TYPE_INT64: (NUMBER, pa.int64(), lambda raw: raw),
    _Types.TYPE_UINT32: (NUMBER, pa.int64(), _unsigned),
    _Types.TYPE_UINT64: (NUMBER, _UINT64, _decimal),
    _Types.TYPE_SINT32: (NUMBER, pa.int32(), _zigzag32),
    _Types.TYPE_SINT64: (NUMBER, pa.int64(), zigzag),
    _Types.TYPE_FIXED32: (BYTES4, pa.int64(), lambda raw: raw.astype(np.int64)),
    _Types.TYPE_SFIXED32: (BYTES4, pa.int32(), lambda raw: raw),
    _Types.TYPE_FLOAT: (BYTES4, pa.float32(), lambda raw: raw),
    _Types.TYPE_FIXED64: (BYTES8, _UINT64, _decimal),
    _Types.TYPE_SFIXED64: (BYTES8, pa.int64(), lambda raw: raw),
    _Types.TYPE_DOUBLE: (BYTES8, pa.float64(), lambda raw: raw),
}


class NumberLeaf:
    """Numbers of a type of `_NUMBERS`."""

    def __init__(self, wire: int, kind: pa.DataType, convert: Callable[[_Raw], _Raw]) -> None:
        self.wire = wire
        self.type = kind
        self._convert = convert

    def values(self, span: Span, at: Positions, raw: _Raw) -> pa.Array:
        return fixed_width(self._convert(raw), self.type)


class BooleanLeaf:
    """Any number but 0 is true."""

    wire = NUMBER
    type = pa.bool_()

    def values(self, span: Span, at: Positions, raw: _Raw) -> pa.Array:
        return pa.array(raw != 0)


class EnumLeaf:
    """The name of a number, or the number as text where the schema has no name for it."""

    wire = NUMBER
    type = pa.string()

    def __init__(self, kind: EnumDescriptor) -> None:
        names: dict[int, str] = {}
        for value in kind.values:
            # Of several names for one number the first.
            names.setdefault(value.number, value.name)
        numbers = sorted(names)
        self._numbers = np.array(numbers, np.int32)
        self._names = pa.array([names[number] for number in numbers], pa.string())
        self._dense = numbers == list(range(len(numbers)))

    def values(self, span: Span, at: Positions, raw: _Raw) -> pa.Array:
        numbers = _narrow(raw)
        known = len(self._numbers)
        if self._dense and len(raw) and int(numbers.view(np.uint32).max()) < known:
            return pc.take(self._names, pa.array(numbers), boundscheck=False)
        places = np.searchsorted(self._numbers, numbers)
        near = np.minimum(places, known - 1)
        unknown = self._numbers[near] != numbers
        names = self._names
        if bool(unknown.any()):
            others = np.unique(numbers[unknown])
            near[unknown] = known + np.searchsorted(others, numbers[unknown])
            names = pa.concat_arrays([names, pa.array(map(str, others.tolist()), pa.string())])
        return pc.take(names, pa.array(near), boundscheck=False)


class RangeLeaf:
    """Strings, which are UTF-8, and bytes."""

    wire = LENGTH

    def __init__(self, where: str, *, text: bool) -> None:
        self.type = pa.string() if text else pa.binary()
        self._text = text
        self._what = f"Field {where!r} is not UTF-8."

    def values(self, span: Span, at: Positions, raw: _Raw) -> pa.Array:
        found = gather(span.source, at + raw, raw)
        if not self._text:
            return found
        text, bad = as_text(found)
        span.refuse(bad, "protobuf.encoding", self._what)
        return text
