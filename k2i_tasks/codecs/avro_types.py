"""The Arrow types of Avro types, as a table's columns hold them. See `column_type`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from k2i_tasks.codecs.avro_schema import (
    Array,
    AvroType,
    Decimal,
    Enum,
    Fixed,
    Map,
    Primitive,
    Record,
    Union,
    short_name,
)
from k2i_tasks.errors import DecodeError

VALUE = "value"

_PRIMITIVES = {
    "null": pa.bool_(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_LOGICAL = {
    "date": pa.date32(),
    "time-millis": pa.time64("us"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("us", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("us"),
    "local-timestamp-micros": pa.timestamp("us"),
    "uuid": pa.uuid(),
}


def column_type(kind: AvroType) -> pa.DataType:
    """The type of a column that holds values of `kind`; every part of it may be null.

    - int, long, float, double, boolean, bytes, string, fixed, array and map are what they are
      called; an enum is a string, a record a struct.
    - date, time-millis and -micros, timestamp-millis and -micros (in UTC), local-timestamp-millis
      and -micros, uuid and decimal are typed; times have microseconds. timestamp-nanos stay a
      long: a table of Iceberg version 2 holds microseconds, and nothing is cut off.
    - A union of null and one type is that type. Any other union is a struct with one member for
      each branch but null, of which one holds the value: `string`, `long`, `array`, or the name of
      a named type, with its namespace (dots as underscores) where two have one name. It is null
      if the value is. A value of a branch that holds nothing is the boolean true.
    - A null, and a record without fields, hold nothing. A record leaves out fields of such types;
      elsewhere they are a boolean: null for the one, true for the other.
    """
    if isinstance(kind, Primitive | Fixed):
        if isinstance(kind.logical, Decimal):
            return pa.decimal128(kind.logical.precision, kind.logical.scale)
        if kind.logical is not None:
            return _LOGICAL[kind.logical]
        return pa.binary(kind.size) if isinstance(kind, Fixed) else _PRIMITIVES[kind.name]
    if isinstance(kind, Enum):
        return pa.string()
    if isinstance(kind, Record):
        return pa.bool_() if is_void(kind) else pa.struct(list(member_fields(kind)))
    if isinstance(kind, Array):
        return pa.list_(pa.field("element", column_type(kind.items)))
    if isinstance(kind, Map):
        return pa.map_(pa.string(), column_type(kind.values))
    kept = value_branches(kind)
    if len(kept) <= 1:
        return column_type(kept[0]) if kept else pa.bool_()
    names = branch_names(kept)
    return pa.struct(
        [(name, column_type(branch)) for name, branch in zip(names, kept, strict=True)]
    )


def row_schema(kind: AvroType) -> pa.Schema:
    """The columns of rows of `kind`: one for each field of a record, or one called `value`."""
    if isinstance(kind, Record) and not is_void(kind):
        return pa.schema(list(member_fields(kind)))
    return pa.schema([(VALUE, column_type(kind))])


def member_fields(kind: Record) -> Iterator[pa.Field]:
    """The struct members, or columns, of a record."""
    for name, member in kind.fields:
        if not is_void(member):
            yield pa.field(name, column_type(member))


def is_void(kind: AvroType) -> bool:
    """Whether all values are the same and have no bytes: null, and a record of nothing else."""
    if isinstance(kind, Record):
        return all(is_void(member) for _, member in kind.fields)
    return isinstance(kind, Primitive) and kind.name == "null"


def value_branches(kind: Union) -> list[AvroType]:
    """The branches of a union but null."""
    return [branch for branch in kind.branches if not is_null(branch)]


def is_null(kind: AvroType) -> bool:
    """Whether it is the type null."""
    return isinstance(kind, Primitive) and kind.name == "null"


def branch_names(branches: Sequence[AvroType]) -> list[str]:
    """A name for each branch of a union, different from the others' whatever the case.

    Raises:
        DecodeError: their full names differ in nothing but case or dots.
    """
    names = [short_name(branch) for branch in branches]
    lower = [name.lower() for name in names]
    for place, branch in enumerate(branches):
        if lower.count(lower[place]) > 1 and isinstance(branch, Fixed | Enum | Record):
            names[place] = branch.name.replace(".", "_")
    if len({name.lower() for name in names}) < len(names):
        what = f"The Avro schema: branches of a union cannot be told apart: {', '.join(names)}."
        raise DecodeError("schema.invalid", what)
    return names
