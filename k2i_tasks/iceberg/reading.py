"""One correction to PyIceberg's reader: a null list or map of structs stays null.

PyIceberg 0.12 rebuilds such lists from their offsets alone and so reads each null as an empty
list; whatever is read to be written again would be changed by that. A test tells when the
correction is not needed any more.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyiceberg.io.pyarrow as reader
from pyiceberg.types import ListType, MapType


class NullKeepingProjection(reader.ArrowProjectionVisitor):
    """PyIceberg's projection of file columns to table columns, with nulls put back."""

    def list(
        self, list_type: ListType, list_array: pa.Array | None, value_array: pa.Array | None
    ) -> pa.Array | None:
        found = super().list(list_type, list_array, value_array)
        if found is None or list_array is None or found.null_count == list_array.null_count:
            return found
        kind = pa.LargeListArray if pa.types.is_large_list(found.type) else pa.ListArray
        offsets = pc.add(found.offsets, 0)  # a slice's offsets cannot be given with a mask
        mask = list_array.is_null()
        return kind.from_arrays(offsets, found.values, type=found.type, mask=mask)

    def map(
        self,
        map_type: MapType,
        map_array: pa.Array | None,
        key_result: pa.Array | None,
        value_result: pa.Array | None,
    ) -> pa.Array | None:
        found = super().map(map_type, map_array, key_result, value_result)
        if found is None or map_array is None or found.null_count == map_array.null_count:
            return found
        offsets = pc.add(found.offsets, 0)
        mask = map_array.is_null()
        return pa.MapArray.from_arrays(offsets, found.keys, found.items, type=found.type, mask=mask)


def keep_nulls() -> None:
    """Puts the correction in place for this process. Idempotent."""
    reader.ArrowProjectionVisitor = NullKeepingProjection  # type: ignore[misc]
