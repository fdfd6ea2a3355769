"""Rows of one writer brought into the table's columns; the rows that do not fit, and why."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.codecs.growth import ELEMENT, VALUE, Place
from k2i_tasks.codecs.unite import Union
from k2i_tasks.errors import ConflictError, DecodeError

Rows = npt.NDArray[np.int64]


def misfits(table: pa.Table, union: Union) -> dict[int, DecodeError]:
    """The rows that `union` has no room for. Does not block.

    Args:
        table: n rows of a writer, each column one chunk that is no slice.
        union: the columns, and what of this writer's schema is not in them.

    Returns:
        Row -> why: it has a value in a refused place, or none where the table requires one.
    """
    errors: dict[int, DecodeError] = {}
    for refusal in union.refusals:
        column = table.column(refusal.place[0]).chunk(0)
        for row in _present(column, refusal.place[1:]).tolist():
            errors.setdefault(row, ConflictError(refusal.code, refusal.what, refusal.path))
    for path, rows in absences(table, union.schema):
        what = f"Column {'.'.join(path)[:200]!r} is required by the table and has no value."
        error = ConflictError("schema.missing_field", what, ".".join(path))
        for row in rows.tolist():
            errors.setdefault(row, error)
    return errors


def absences(table: pa.Table, schema: pa.Schema) -> list[tuple[Place, Rows]]:
    """Places that require a value, and the rows of `table` that have none there."""
    found: list[tuple[Place, Rows]] = []
    every = np.arange(table.num_rows, dtype=np.int64)
    for field in schema:
        if _requires(field):
            at = table.schema.get_field_index(field.name)
            column = None if at < 0 else table.column(at).chunk(0)
            found += _absent(column, field, every, (field.name,))
    return found


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` in the columns of `schema`: by name, what it lacks as nulls, the rest left out.

    Args:
        table: n rows without misfits, each column one chunk that is no slice.
        schema: of the union with the table's.
    """
    arrays = []
    for field in schema:
        at = table.schema.get_field_index(field.name)
        column = None if at < 0 else table.column(at).chunk(0)
        arrays.append(_as(column, field.type, table.num_rows))
    return pa.Table.from_arrays(arrays, schema=schema)


def solid(table: pa.Table) -> pa.Table:
    """`table` with each column in one chunk that is no slice: others cannot be rebuilt."""
    return pa.Table.from_arrays([_solid(c) for c in table.columns], schema=table.schema)


def _solid(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        array = column.chunk(0)
    elif column.num_chunks == 0:
        array = pa.array([], type=column.type)
    else:
        array = pa.concat_arrays(column.chunks)
    return _whole(array)


def _whole(array: pa.Array) -> pa.Array:
    """`array`, copied if it is a slice, as what a struct holds may be."""
    return array.take(pa.array(np.arange(len(array)))) if array.offset else array


def _as_list(array: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """The elements of a list or items of a map, and for each the place of its list."""
    array = _whole(array)
    if pa.types.is_map(array.type):
        inner = pa.StructArray.from_arrays([array.items], names=[VALUE])
        mask = array.is_null() if array.null_count else None
        array = pa.ListArray.from_arrays(array.offsets, inner, mask=mask)
        owners = pc.list_parent_indices(array).to_numpy().astype(np.int64)
        return pc.struct_field(array.flatten(), [VALUE]), owners
    return array.flatten(), pc.list_parent_indices(array).to_numpy().astype(np.int64)


def _member(array: pa.Array, name: str) -> pa.Array:
    # Not `array.field`: where the struct is null, what lies in its members is no value.
    return pc.struct_field(array, [name])


def _present(array: pa.Array, place: Place) -> Rows:
    """Rows with a value at `place` below `array`, rising."""
    rows = np.arange(len(array), dtype=np.int64)
    for name in place:
        if pa.types.is_struct(array.type):
            array = _member(array, name)
        else:
            array, owners = _as_list(array)
            rows = rows[owners]
    return np.unique(rows[array.is_valid().to_numpy(zero_copy_only=False)])


def _requires(field: pa.Field) -> bool:
    """Whether a value is required in `field` or anywhere below."""
    kind = field.type
    if not field.nullable:
        return True
    if pa.types.is_struct(kind):
        return any(map(_requires, kind))
    if pa.types.is_list(kind):
        return _requires(kind.value_field)
    return bool(pa.types.is_map(kind) and _requires(kind.item_field))


def _absent(
    array: pa.Array | None, field: pa.Field, rows: Rows, path: Place
) -> list[tuple[Place, Rows]]:
    """Places below `field` that lack a required value, each with the rows.

    Args:
        array: the writer's values; None when it has no such column.
        field: as the table has it.
        rows: for each value its row.
        path: down to the place.
    """
    if array is None or pa.types.is_null(array.type):
        return [] if field.nullable or not len(rows) else [(path, rows)]
    found: list[tuple[Place, Rows]] = []
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    if not field.nullable and not valid.all():
        found.append((path, np.unique(rows[~valid])))
    kind = field.type
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        kept, of = (array, rows) if valid.all() else (array.drop_null(), rows[valid])
        names = {member.name for member in array.type}
        for member in filter(_requires, kind):
            inner = _member(kept, member.name) if member.name in names else None
            found += _absent(inner, member, of, (*path, member.name))
    elif pa.types.is_list(kind) and pa.types.is_list(array.type):
        if _requires(kind.value_field):
            inner, owners = _as_list(array)
            found += _absent(inner, kind.value_field, rows[owners], (*path, ELEMENT))
    elif pa.types.is_map(kind) and pa.types.is_map(array.type) and _requires(kind.item_field):
        inner, owners = _as_list(array)
        found += _absent(inner, kind.item_field, rows[owners], (*path, VALUE))
    return found


def _as(array: pa.Array | None, wanted: pa.DataType, size: int) -> pa.Array:
    """`array` as `wanted`; nulls where it has no values of that kind."""
    types = pa.types
    if array is None or types.is_null(array.type):
        return pa.nulls(size, wanted)
    if array.type == wanted:
        return array
    array = _whole(array)
    mask = array.is_null() if array.null_count else None
    if types.is_struct(wanted) and types.is_struct(array.type):
        names = {member.name for member in array.type}
        members = [
            _as(_member(array, field.name) if field.name in names else None, field.type, size)
            for field in wanted
        ]
        if not members:
            return pa.nulls(size, wanted)
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=mask)
    if types.is_list(wanted) and types.is_list(array.type):
        values = _as(array.values, wanted.value_type, len(array.values))
        return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=mask)
    if types.is_map(wanted) and types.is_map(array.type) and array.type.key_type == wanted.key_type:
        items = _as(array.items, wanted.item_type, len(array.items))
        return pa.MapArray.from_arrays(array.offsets, array.keys, items, type=wanted, mask=mask)
    if array.null_count == size:
        # Of another kind altogether: only rows without a value are left of it.
        return pa.nulls(size, wanted)
    return array.cast(wanted)


def unfitting(table: pa.Table, schema: pa.Schema) -> dict[int, DecodeError]:
    """The rows with a value that its column cannot hold, found by halving; rows as in `misfits`."""
    errors: dict[int, DecodeError] = {}
    waiting = [(0, table.num_rows)]
    while waiting:
        start, end = waiting.pop()
        part = solid(table.take(pa.array(np.arange(start, end))))
        try:
            fitted(part, schema)
        except pa.ArrowInvalid:
            if end - start == 1:
                what = "A value is out of the range of its column."
                errors[start] = ConflictError("schema.out_of_range", what, "")
            else:
                middle = (start + end) // 2
                waiting += [(start, middle), (middle, end)]
    return errors
