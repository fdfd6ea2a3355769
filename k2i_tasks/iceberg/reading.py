"""Corrections to PyIceberg's readers: nulls stay nulls, files come by and by, metadata whole.

PyIceberg 0.12 rebuilds such lists from their offsets alone and so reads each null as an empty
list; whatever is read to be written again would be changed by that. It lets Arrow decode a file
ahead of whoever reads its rows, to the end. What it makes of cut manifests is told in `avro`. Tests
tell when a correction is not needed any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyiceberg.io.pyarrow as reader
from pyarrow import dataset
from pyiceberg import manifest
from pyiceberg.table import FileScanTask
from pyiceberg.types import ListType, MapType

from k2i_tasks.iceberg.avro import WholeAvroFile


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


#: Rows of a batch, where little is to be read ahead.
BATCH_ROWS = 16_384
_wishes = threading.local()


class _Scanner:
    """The way to Arrow's scanner."""

    @staticmethod
    def from_fragment(fragment: dataset.Fragment, **options: Any) -> dataset.Scanner | _RowGroups:
        if getattr(_wishes, "little", False):
            return _RowGroups(fragment, options)
        return dataset.Scanner.from_fragment(fragment, **options)


class _RowGroups:
    """A scanner of a file that has one row group in memory at a time, as it is stored.

    Arrow's own keeps all that it has fetched of a file to the end, and with threads it decodes
    all of it, whatever it is told of reading ahead.
    """

    def __init__(self, fragment: dataset.Fragment, options: dict[str, Any]) -> None:
        self._fragment = fragment
        little = {"batch_size": BATCH_ROWS, "batch_readahead": 1, "use_threads": False}
        self._options = {**little, **options}

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        parts = [self._fragment]
        if isinstance(self._fragment, dataset.ParquetFileFragment):
            parts = self._fragment.split_by_row_group(self._options.get("filter"))
        for part in parts:
            yield from dataset.Scanner.from_fragment(part, **self._options).to_batches()


class _Dataset:
    """`pyarrow.dataset` as PyIceberg's reader sees it."""

    Scanner = _Scanner

    def __getattr__(self, name: str) -> Any:
        return getattr(dataset, name)


def of_file(reading: reader.ArrowScan, task: FileScanTask) -> Iterator[pa.RecordBatch]:
    """The rows of one file as they are read, on the thread that asks for them. May block.

    Only of a file with deletes, all are in memory at once.
    """
    if task.delete_files:
        yield from reading.to_record_batches([task])
        return
    # The public way holds the rows of the whole file.
    batches = reading._record_batches_from_scan_tasks_and_deletes([task], {})
    _wishes.little = True
    try:
        first = next(batches, None)  # with it the scanner is made
    finally:
        _wishes.little = False
    if first is not None:
        yield first
        yield from batches


def correct() -> None:
    """Puts the corrections in place for this process. Idempotent."""
    reader.ArrowProjectionVisitor = NullKeepingProjection  # type: ignore[misc]
    reader.ds = _Dataset()  # type: ignore[attr-defined]
    manifest.AvroFile = WholeAvroFile  # type: ignore[attr-defined]
