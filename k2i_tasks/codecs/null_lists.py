"""Lists of nothing but nulls, of which Arrow's JSON reader makes an array that is too short.

It gives the nulls in lists whose type is not known one for each list, not one for each element
(PyArrow 26): offsets point behind the end, so that whatever is made of such an array is refused, or
reads memory that is not its own. A test tells when this is not needed any more.
"""

from __future__ import annotations

import pyarrow as pa


def with_all_nulls(table: pa.Table) -> pa.Table:
    """What Arrow's JSON reader has made, with as many nulls in its lists as there are.

    Args:
        table: as it was read, not sliced.
    """
    for index, field in enumerate(table.schema):
        if _has_such_lists(field.type):
            chunks = [_whole(chunk) for chunk in table.column(index).chunks]
            table = table.set_column(index, field, pa.chunked_array(chunks, field.type))
    return table


def _has_such_lists(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_has_such_lists(member.type) for member in kind)
    if pa.types.is_list(kind):
        return pa.types.is_null(kind.value_type) or _has_such_lists(kind.value_type)
    return False


def _whole(array: pa.Array) -> pa.Array:
    kind = array.type
    if not _has_such_lists(kind):
        return array
    mask = array.is_null() if array.null_count else None
    if pa.types.is_struct(kind):
        members = [_whole(array.field(index)) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=mask)
    count = array.offsets[-1].as_py() if len(array) else 0
    values = pa.nulls(count) if pa.types.is_null(kind.value_type) else _whole(array.values)
    return pa.ListArray.from_arrays(array.offsets, values, type=kind, mask=mask)
