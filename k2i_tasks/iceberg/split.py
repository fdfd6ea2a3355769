"""Rows into groups of one partition each, in the table's sort order, with one `take`.

Each partition field's values are computed for the whole batch and turned into small integers; the
combination numbers the groups. No filter per partition value, so thousands of values cost little
more than one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.conversions import from_bytes, to_bytes
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import NullOrder, SortDirection, SortOrder
from pyiceberg.typedef import Record
from pyiceberg.types import PrimitiveType, StructType

from k2i_tasks.errors import IntegrityError, SchemaConflictError
from k2i_tasks.iceberg.arrow import column_at
from k2i_tasks.iceberg.transforms import apply_transform

#: Parts in which rows are put in the order of their groups. Each looks through all rows, so that
#: more of them cost more; with one, all rows are there twice.
BLOCKS = 4


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one partition.

    Args:
        rows: aligned to the table's schema, sorted.
        partition: the partition's values in Iceberg's internal form, in the order of the spec.
    """

    rows: pa.Table
    partition: Record


def split(rows: pa.Table, schema: Schema, spec: PartitionSpec, order: SortOrder) -> Iterator[Group]:
    """`rows` by partition value; their union is `rows`, no group is empty.

    Args:
        rows: n rows aligned to `schema`.
        schema: the table's.
        spec: partition spec; may be empty.
        order: sort order within a group; may be empty. The sort is stable.

    Raises:
        SchemaConflictError: spec or order use a transform that cannot be computed.
    """
    if rows.num_rows == 0:
        return
    try:
        sorting = _sorting(rows, schema, order)
        keys = [_transformed(rows, schema, f.source_id, f.transform) for f in spec.fields]
    except NotImplementedError as error:
        raise SchemaConflictError(f"The table has a {error}, which cannot be written.") from error
    encoded = [key.dictionary_encode() for key in keys]
    groups, count = _numbered(encoded, rows.num_rows)
    if count == 1:
        whole = rows if sorting is None else rows.take(pa.array(sorting))
        yield Group(whole, _values(encoded, 0))
        return
    if sorting is None:
        sorting = np.argsort(groups, kind="stable")
    else:
        sorting = sorting[np.argsort(groups[sorting], kind="stable")]
    ends = np.cumsum(np.bincount(groups, minlength=count))
    block_rows = -(-rows.num_rows // BLOCKS)
    start = first = 0
    while first < count:
        # A copy of a part of the groups at a time: at least one, else as many as are a block.
        last = max(first + 1, int(np.searchsorted(ends, start + block_rows, side="right")))
        low = start
        ordered = rows.take(pa.array(sorting[low : ends[last - 1]]))
        for end in ends[first:last].tolist():
            part = ordered.slice(start - low, end - start)
            yield Group(part, _values(encoded, int(sorting[start])))
            start = end
        del part, ordered
        first = last


def in_order(rows: pa.Table, schema: Schema, order: SortOrder) -> pa.Table:
    """`rows` of one partition, sorted; as they are when there is no order. The sort is stable.

    Raises:
        SchemaConflictError: the order uses a transform that cannot be computed.
    """
    try:
        sorting = _sorting(rows, schema, order)
    except NotImplementedError as error:
        raise SchemaConflictError(f"The table has a {error}, which cannot be written.") from error
    return rows if sorting is None else rows.take(pa.array(sorting))


def _transformed(rows: pa.Table, schema: Schema, source_id: int, transform: Any) -> pa.Array:
    path = _path(schema, source_id)
    source = schema.find_field(source_id).field_type
    return apply_transform(transform, source, column_at(rows, path))


def _path(schema: Schema, source_id: int) -> list[str]:
    """Names from the top down; a name may hold dots, so the dotted one is of no use."""
    parents = schema._lazy_id_to_parent
    path, at = [], source_id
    while True:
        path.append(schema.find_field(at).name)
        if at not in parents:
            return path[::-1]
        at = parents[at]


def _numbered(encoded: list[pa.DictionaryArray], rows: int) -> tuple[npt.NDArray[np.int64], int]:
    """A group number from 0 on for each row, and how many there are."""
    groups, count = np.zeros(rows, dtype=np.int64), 1
    for column in encoded:
        size = len(column.dictionary) + 1
        codes = column.indices.fill_null(size - 1).to_numpy(zero_copy_only=False)
        if size == 2 and (codes[0] == codes).all():
            continue
        distinct, groups = np.unique(groups * size + codes, return_inverse=True)
        count = len(distinct)
    return groups, count


def _values(encoded: list[pa.DictionaryArray], row: int) -> Record:
    values = []
    for column in encoded:
        code = column.indices[row].as_py()
        values.append(None if code is None else column.dictionary[code].as_py())
    return Record(*values)


def _sorting(rows: pa.Table, schema: Schema, order: SortOrder) -> npt.NDArray[Any] | None:
    """Row numbers in sort order; None when there is no order."""
    if order.is_unsorted:
        return None
    columns: dict[str, pa.Array] = {}
    keys: list[tuple[str, str]] = []
    for number, field in enumerate(order.fields):
        values = _transformed(rows, schema, field.source_id, field.transform)
        if pa.types.is_null(values.type):
            continue
        if values.null_count:
            # The place of nulls is a key of its own, since it may differ from field to field.
            first = field.null_order == NullOrder.NULLS_FIRST
            columns[f"null{number}"] = pc.is_valid(values) if first else pc.is_null(values)
            keys.append((f"null{number}", "ascending"))
        descending = field.direction == SortDirection.DESC
        columns[f"value{number}"] = values
        keys.append((f"value{number}", "descending" if descending else "ascending"))
    found = pc.sort_indices(pa.table(columns), sort_keys=keys)
    return np.asarray(found.to_numpy())


def partition_text(spec: PartitionSpec, types: StructType, values: Record) -> dict[int, str | None]:
    """Per partition field id the value in Iceberg's single-value form, base64; None for null."""
    found: dict[int, str | None] = {}
    for position, field in enumerate(spec.fields):
        value, kind = values[position], types.fields[position].field_type
        if value is None:
            found[field.field_id] = None
        else:
            assert isinstance(kind, PrimitiveType)
            found[field.field_id] = base64.b64encode(to_bytes(kind, value)).decode("ascii")
    return found


def partition_record(spec: PartitionSpec, types: StructType, text: Any) -> Record:
    """The partition's values again from what `partition_text` gave.

    Raises:
        IntegrityError: a field of the spec is not there.
    """
    values = []
    for field, kind in zip(spec.fields, types.fields, strict=True):
        if field.field_id not in text:
            raise IntegrityError(
                f"A staged file has no value for partition field {field.name!r} "
                f"({field.field_id}) of spec {spec.spec_id}."
            )
        value = text[field.field_id]
        primitive = kind.field_type
        assert isinstance(primitive, PrimitiveType)
        values.append(None if value is None else from_bytes(primitive, base64.b64decode(value)))
    return Record(*values)
