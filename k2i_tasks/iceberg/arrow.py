"""Arrow tables in the shape of an Iceberg schema: by name, nested too, safe promotions only."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.schema import Schema

from k2i_tasks.errors import SchemaConflictError

_INTEGER_BITS = {pa.int8(): 8, pa.int16(): 16, pa.int32(): 32, pa.int64(): 64}
_INTEGER_BITS |= {pa.uint8(): 9, pa.uint16(): 17, pa.uint32(): 33}


def arrow_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema of the files of `schema`: field ids in the metadata, no `large_` types."""
    wide = schema_to_pyarrow(schema, include_field_ids=True)
    return pa.schema([_narrow_field(field) for field in wide])


def _narrow_field(field: pa.Field) -> pa.Field:
    return field.with_type(_narrow(field.type))


def _narrow(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_narrow_field(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_narrow_field(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_narrow_field(kind.key_field), _narrow_field(kind.item_field))
    return kind


def align(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns and types of `schema`; what it lacks is null.

    Args:
        table: n rows; columns in any order.
        schema: from `arrow_schema`.

    Raises:
        SchemaConflictError: a column that the schema lacks, or a type that is not safely promoted,
            or a value that does not fit; names the column and both types.
    """
    known = set(schema.names)
    extra = [f.name for f in table.schema if f.name not in known and not pa.types.is_null(f.type)]
    if extra:
        raise SchemaConflictError(
            f"The table has no column {', '.join(map(repr, extra))}.",
            remedy="Add it to the table, or let the schema evolve.",
        )
    columns = [_column(table, field) for field in schema]
    return pa.Table.from_arrays(columns, schema=_without_ids(schema))


def _without_ids(schema: pa.Schema) -> pa.Schema:
    """Field ids go to the Parquet writer's schema; arrays have none."""
    return pa.schema([pa.field(f.name, f.type, f.nullable) for f in schema])


def _column(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    position = table.schema.get_field_index(field.name)
    if position < 0:
        _must_be_nullable(field, field.name)
        return pa.chunked_array([pa.nulls(table.num_rows, field.type)])
    column = table.column(position)
    if column.type == field.type:
        result = column
    else:
        chunks = [align_array(chunk, field.type, field.name) for chunk in column.chunks]
        result = pa.chunked_array(chunks, type=field.type)
    if not field.nullable and result.null_count:
        raise SchemaConflictError(f"Column {field.name!r} is required, and a record has none.")
    return result


def _must_be_nullable(field: pa.Field, path: str) -> None:
    if not field.nullable:
        raise SchemaConflictError(
            f"Column {path!r} is required, and the records have none.",
            remedy="Make the column optional in the table.",
        )


def align_array(array: pa.Array, kind: pa.DataType, path: str) -> pa.Array:
    """`array` as `kind`, by safe promotion. Raises SchemaConflictError naming `path`."""
    if array.type == kind:
        return array
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), kind)
    if pa.types.is_dictionary(array.type):
        return align_array(array.dictionary_decode(), kind, path)
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        return _struct(array, kind, path)
    if _is_list(kind) and _is_list(array.type):
        return _list(array, kind, path)
    if pa.types.is_map(kind) and pa.types.is_map(array.type):
        return _map(array, kind, path)
    if isinstance(array, pa.ExtensionArray) and not isinstance(kind, pa.BaseExtensionType):
        return align_array(array.storage, kind, path)  # a UUID, against its bytes
    if not promotable(array.type, kind):
        raise SchemaConflictError(
            f"Column {path!r} is {kind} in the table and {array.type} in the records."
        )
    try:
        return array.cast(kind)
    except pa.ArrowInvalid as error:
        raise SchemaConflictError(
            f"Column {path!r}: a value of type {array.type} does not fit {kind}."
        ) from error


def _struct(array: pa.StructArray, kind: pa.StructType, path: str) -> pa.Array:
    names = [array.type.field(i).name for i in range(array.type.num_fields)]
    wanted = {kind.field(i).name for i in range(kind.num_fields)}
    extra = [
        name
        for i, name in enumerate(names)
        if name not in wanted and not pa.types.is_null(array.type.field(i).type)
    ]
    if extra:
        raise SchemaConflictError(
            f"The table has no column {', '.join(repr(f'{path}.{name}') for name in extra)}.",
            remedy="Add it to the table, or let the schema evolve.",
        )
    children = []
    for field in (kind.field(i) for i in range(kind.num_fields)):
        inner = f"{path}.{field.name}"
        if field.name in names:
            child = align_array(array.field(names.index(field.name)), field.type, inner)
        else:
            _must_be_nullable(field, inner)
            child = pa.nulls(len(array), field.type)
        children.append(child)
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(children, fields=_fields(kind), mask=mask)


def _fields(kind: pa.StructType) -> list[pa.Field]:
    return [kind.field(i) for i in range(kind.num_fields)]


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _list(array: pa.Array, kind: pa.ListType, path: str) -> pa.Array:
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_field))
    offsets, values = _rebased(array.offsets, array.values)
    values = align_array(values, kind.value_type, f"{path}.element")
    mask = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(offsets.cast(pa.int32()), values, type=kind, mask=mask)


def _map(array: pa.MapArray, kind: pa.MapType, path: str) -> pa.Array:
    first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
    keys = align_array(array.keys[first:last], kind.key_type, f"{path}.key")
    items = align_array(array.items[first:last], kind.item_type, f"{path}.value")
    offsets = pc.subtract(array.offsets, pa.scalar(first, pa.int32()))
    mask = array.is_null() if array.null_count else None
    return pa.MapArray.from_arrays(offsets, keys, items, type=kind, mask=mask)


def _rebased(offsets: pa.Array, values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Offsets from 0 and only the values that they span: a slice carries its whole parent's."""
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    return pc.subtract(offsets, pa.scalar(first, offsets.type)), values[first:last]


def promotable(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether each value of primitive type `given` is one of `wanted` (values may overflow a unit).

    Timestamps with and without a time zone are not each other's promotion.
    """
    if given == wanted:
        return True
    if given in _INTEGER_BITS and wanted in (pa.int32(), pa.int64()):
        return _INTEGER_BITS[given] <= _INTEGER_BITS[wanted]
    if pa.types.is_floating(given) and pa.types.is_floating(wanted):
        return bool(given.bit_width <= wanted.bit_width)
    if pa.types.is_decimal(given) and pa.types.is_decimal(wanted):
        return bool(given.scale == wanted.scale and given.precision <= wanted.precision)
    if pa.types.is_timestamp(given) and pa.types.is_timestamp(wanted):
        return (given.tz is None) == (wanted.tz is None)
    if pa.types.is_time(given) and pa.types.is_time(wanted):
        return True
    if pa.types.is_date(given) and pa.types.is_date(wanted):
        return True
    return any(all(is_kind(kind) for kind in (given, wanted)) for is_kind in (_is_text, _is_bytes))


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def column_at(table: pa.Table, path: Sequence[str]) -> pa.Array:
    """The column at `path` (names from the top down through structs), in one chunk."""
    column = table.column(path[0]).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # more than one chunk can hold
        raise SchemaConflictError(f"Column {path[0]!r} is too large for one batch.")
    for name in path[1:]:
        column = pc.struct_field(column, name)
    return column
