"""Readers of Avro's values without parts: each reads one value of every row at once."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.codecs.avro_rows import Rows
from k2i_tasks.codecs.avro_schema import Decimal, Enum, Fixed, Primitive
from k2i_tasks.codecs.avro_types import column_type
from k2i_tasks.codecs.avro_words import decimals, uuids
from k2i_tasks.codecs.vector import (
    Positions,
    as_text,
    gather,
    read_bytes,
    read_doubles,
    read_floats,
    read_ranges,
)


class Reader(Protocol):
    """Reads one value of a type from every row.

    Attributes:
        type: of the arrays.
    """

    @property
    def type(self) -> pa.DataType: ...

    def read(self, rows: Rows) -> pa.Array:
        """len(rows) values; the rows' cursors move behind them. Never raises for bad bytes."""
        ...


_INT32 = np.iinfo(np.int32)
#: Microseconds of 0001-01-01T00:00:00 and of 10000-01-01T00:00:00; readers fail outside.
_FIRST_MICROSECOND = -62_135_596_800_000_000
_END_MICROSECOND = 253_402_300_800_000_000
_DAY = 86_400_000_000
#: Logical type -> lowest value, the one after the highest, factor to the column's unit.
_RANGES: dict[str, tuple[int, int, int]] = {
    "date": (_FIRST_MICROSECOND // _DAY, _END_MICROSECOND // _DAY, 1),
    "time-millis": (0, _DAY // 1000, 1000),
    "time-micros": (0, _DAY, 1),
    "timestamp-millis": (_FIRST_MICROSECOND // 1000, _END_MICROSECOND // 1000, 1000),
    "timestamp-micros": (_FIRST_MICROSECOND, _END_MICROSECOND, 1),
    "local-timestamp-millis": (_FIRST_MICROSECOND // 1000, _END_MICROSECOND // 1000, 1000),
    "local-timestamp-micros": (_FIRST_MICROSECOND, _END_MICROSECOND, 1),
}


def fixed_width(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """An array without nulls over the memory of `values`."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


class VoidReader:
    """Null, or true for a record without fields: neither has bytes."""

    def __init__(self, value: bool | None) -> None:
        self.type = pa.bool_()
        self._value = value

    def read(self, rows: Rows) -> pa.Array:
        return pa.repeat(pa.scalar(self._value, pa.bool_()), len(rows))


class BooleanReader:
    """One byte, 0 or 1."""

    def __init__(self, where: str) -> None:
        self.type = pa.bool_()
        self._where = where

    def read(self, rows: Rows) -> pa.Array:
        values = rows.settle(read_bytes(rows.source, rows.at, rows.ends), self._where)
        if len(values) and int(values.max()) > 1:
            what = f"Field {self._where!r} is a boolean that is neither 0 nor 1."
            rows.refuse_where(values > 1, "avro.boolean", what)
        return pa.array(values.astype(bool))


class NumberReader:
    """An int or long, or a logical type that stands on one."""

    def __init__(self, kind: Primitive, where: str) -> None:
        self.type = column_type(kind)
        self._where = where
        self._narrow = kind.name == "int"
        self._range = _RANGES.get(str(kind.logical))
        self._what = str(kind.logical)

    def read(self, rows: Rows) -> pa.Array:
        values = rows.longs(self._where)
        if self._narrow:
            what = f"Field {self._where!r} is an int of more than 32 bits."
            self._keep(rows, values, _INT32.min, _INT32.max, "avro.number", what)
        if self._range is not None:
            low, end, factor = self._range
            what = f"Field {self._where!r} is no {self._what} that a table holds."
            self._keep(rows, values, low, end - 1, "avro.range", what)
            if factor != 1:
                values *= factor
        if self.type.bit_width == 32:
            return fixed_width(values.astype(np.int32), self.type)
        return fixed_width(values, self.type)

    def _keep(
        self, rows: Rows, values: npt.NDArray[np.int64], low: int, high: int, code: str, what: str
    ) -> None:
        """Fails the rows outside `low` to `high`; their values become 0."""
        if len(values) and (int(values.min()) < low or int(values.max()) > high):
            values[rows.refuse_where((values < low) | (values > high), code, what)] = 0


class FloatReader:
    """A float or a double."""

    def __init__(self, kind: Primitive, where: str) -> None:
        self.type = column_type(kind)
        self._where = where
        self._read = read_floats if kind.name == "float" else read_doubles

    def read(self, rows: Rows) -> pa.Array:
        read = self._read(rows.source, rows.at, rows.ends)
        return fixed_width(rows.settle(read, self._where), self.type)


class BytesReader:
    """Bytes or a string, or a logical type that stands on one."""

    def __init__(self, kind: Primitive, where: str) -> None:
        self.type = column_type(kind)
        self._where = where
        self._text = kind.name == "string"
        self._logical = kind.logical

    def read(self, rows: Rows) -> pa.Array:
        lengths = self.lengths(rows)
        if isinstance(self._logical, Decimal):
            return decimals(rows, rows.at - lengths, lengths, self.type, self._where)
        found = gather(rows.source, rows.at, lengths)
        if not self._text:
            return found
        text, bad = as_text(found)
        if len(bad):
            what = f"Field {self._where!r} is not UTF-8."
            rows.refuse(bad, "avro.encoding", what)
        return uuids(rows, text, self._where) if self._logical == "uuid" else text

    def lengths(self, rows: Rows) -> Positions:
        """The bytes of each value; the rows' cursors move behind them."""
        lengths = rows.longs(self._where)
        return rows.settle(read_ranges(rows.at, rows.ends, lengths), self._where)


class FixedReader:
    """A fixed number of bytes, or a logical type that stands on them."""

    def __init__(self, kind: Fixed, where: str) -> None:
        self.type = column_type(kind)
        self._where = where
        self._size = kind.size
        self._logical = kind.logical

    def read(self, rows: Rows) -> pa.Array:
        wanted = np.full(len(rows), self._size, np.int64)
        lengths = rows.settle(read_ranges(rows.at, rows.ends, wanted), self._where)
        if isinstance(self._logical, Decimal):
            return decimals(rows, rows.at - lengths, lengths, self.type, self._where)
        values = gather(rows.source, rows.at, lengths).buffers()[2]
        if not len(rows) or int(lengths.min()) < self._size:
            # Rows that have failed have zeros.
            whole = np.zeros((len(rows), self._size), np.uint8)
            if lengths.any():
                whole[lengths > 0] = np.frombuffer(values, np.uint8).reshape(-1, self._size)
            values = pa.py_buffer(whole)
        plain = pa.Array.from_buffers(pa.binary(self._size), len(rows), [None, values])
        if self._logical == "uuid":
            return pa.ExtensionArray.from_storage(pa.uuid(), plain)
        return plain


class EnumReader:
    """One of a type's symbols, as text."""

    def __init__(self, kind: Enum, where: str) -> None:
        self.type = pa.string()
        self._where = where
        self._symbols = pa.array(kind.symbols, pa.string())

    def read(self, rows: Rows) -> pa.Array:
        # In zigzag form an index is twice itself; a negative one is odd.
        doubled = rows.varints(self._where)
        indices = (doubled >> np.uint64(1)).view(np.int64)
        if len(rows):
            odd = bool((doubled & np.uint64(1)).any())
            if odd or int(indices.max()) >= len(self._symbols):
                bad = (doubled & np.uint64(1)).astype(bool) | (indices >= len(self._symbols))
                what = f"Field {self._where!r} is no symbol of its enum."
                indices[rows.refuse_where(bad, "avro.enum", what)] = 0
        return pc.take(self._symbols, pa.array(indices), boundscheck=False)
