"""The reader of every Avro type; those of records and unions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.avro_leaves import (
    BooleanReader,
    BytesReader,
    EnumReader,
    FixedReader,
    FloatReader,
    NumberReader,
    Reader,
    VoidReader,
)
from k2i_tasks.codecs.avro_lists import ListReader, MapReader
from k2i_tasks.codecs.avro_rows import Rows
from k2i_tasks.codecs.avro_schema import (
    Array,
    AvroType,
    Enum,
    Fixed,
    Map,
    Primitive,
    Record,
    Union,
)
from k2i_tasks.codecs.avro_types import column_type, is_null, is_void
from k2i_tasks.codecs.vector import Mask, spread


def reader_of(kind: AvroType, where: str) -> Reader:
    """What reads values of `kind`.

    Args:
        kind: any type.
        where: dotted path of the field, for errors.
    """
    if is_void(kind):
        return VoidReader(None if is_null(kind) else True)
    if isinstance(kind, Primitive):
        if kind.name in ("bytes", "string"):
            return BytesReader(kind, where)
        if kind.name == "boolean":
            return BooleanReader(where)
        return (NumberReader if kind.name in ("int", "long") else FloatReader)(kind, where)
    if isinstance(kind, Fixed):
        return FixedReader(kind, where)
    if isinstance(kind, Enum):
        return EnumReader(kind, where)
    if isinstance(kind, Record):
        return RecordReader(kind, where)
    if isinstance(kind, Array):
        return ListReader(kind, reader_of(kind.items, _inner(where, "element")), where)
    if isinstance(kind, Map):
        return MapReader(kind, reader_of(kind.values, _inner(where, "value")), where)
    kept = [branch for branch in kind.branches if not is_null(branch)]
    return (OptionalReader if len(kept) <= 1 else UnionReader)(kind, where)


def _inner(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


class RecordReader:
    """A record with fields, as a struct."""

    def __init__(self, kind: Record, where: str) -> None:
        self.type = column_type(kind)
        self._members = [
            reader_of(member, _inner(where, name))
            for name, member in kind.fields
            if not is_void(member)
        ]

    def read(self, rows: Rows) -> pa.Array:
        return pa.StructArray.from_arrays(self.columns(rows), fields=list(self.type))

    def columns(self, rows: Rows) -> list[pa.Array]:
        """The members' values."""
        return [member.read(rows) for member in self._members]


class _Branches:
    """Reads the branch of each row."""

    def __init__(self, kind: Union, where: str) -> None:
        self._count = len(kind.branches)
        self._what = f"Field {where!r} is no branch of its union."
        self._where = where

    def read(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Indices; 0 for rows that have failed."""
        doubled = rows.varints(self._where)
        # In zigzag form an index is twice itself; a negative one is odd.
        odd = (doubled & np.uint64(1)).astype(bool)
        indices = (doubled >> np.uint64(1)).view(np.int64)
        if len(indices) and (int(indices.max()) >= self._count or bool(odd.any())):
            bad = odd | (indices >= self._count)
            indices[rows.refuse_where(bad, "avro.union", self._what)] = 0
        return indices


class OptionalReader:
    """A union of one type, of null, or of both: values that may be null."""

    def __init__(self, kind: Union, where: str) -> None:
        self.type = column_type(kind)
        self._branches = _Branches(kind, where)
        wanted = [index for index, branch in enumerate(kind.branches) if not is_null(branch)]
        self._wanted = wanted[0] if wanted else -1
        inner = kind.branches[self._wanted] if wanted else Primitive("null")
        self._inner = reader_of(inner, where)

    def read(self, rows: Rows) -> pa.Array:
        present = self._branches.read(rows) == self._wanted
        if present.all():
            return self._inner.read(rows)
        return _spread_branch(self._inner, rows, present)


class UnionReader:
    """A union of more types: a struct with a member for each but null."""

    def __init__(self, kind: Union, where: str) -> None:
        self.type = column_type(kind)
        self._branches = _Branches(kind, where)
        kept = [index for index, branch in enumerate(kind.branches) if not is_null(branch)]
        nulls = [index for index, branch in enumerate(kind.branches) if is_null(branch)]
        self._null = nulls[0] if nulls else -1
        self._members = [
            (index, reader_of(kind.branches[index], _inner(where, field.name)))
            for index, field in zip(kept, self.type, strict=True)
        ]

    def read(self, rows: Rows) -> pa.Array:
        indices = self._branches.read(rows)
        members = [
            _spread_branch(reader, rows, indices == index) for index, reader in self._members
        ]
        nulls = indices == self._null
        mask = pa.array(nulls) if nulls.any() else None
        return pa.StructArray.from_arrays(members, fields=list(self.type), mask=mask)


def _spread_branch(reader: Reader, rows: Rows, present: Mask) -> pa.Array:
    """Reads the rows that are present; the others are null."""
    places = np.flatnonzero(present)
    if not len(places):
        return pa.nulls(len(rows), reader.type)
    inner = rows.take(places)
    values = reader.read(inner)
    rows.at[places] = inner.at
    return spread(values, present)
