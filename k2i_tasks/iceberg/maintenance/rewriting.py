"""Several small data files into one: the same rows, a row group in memory at a time."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table

from k2i_tasks.errors import Component, IntegrityError, K2IError
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.arrow import align
from k2i_tasks.iceberg.data_files import SORT_ORDER_KEY, data_file
from k2i_tasks.iceberg.encoding import Encoding
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.few_ahead import few_ahead
from k2i_tasks.iceberg.maintenance.survey import Source
from k2i_tasks.iceberg.output import (
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS_MAX,
    DataFileOutput,
    row_group_rows,
)
from k2i_tasks.iceberg.split import in_order
from k2i_tasks.no_rows import no_rows
from k2i_tasks.types import StagedFile

#: Rows and bytes that are decoded at once.
_BATCH_ROWS = 1 << 16
_BATCH_BYTES = 16 << 20
#: Files up to that size are fetched whole, in one request, so many ahead of the one that is read.
_WHOLE_BYTES_MAX = 16 << 20
_AHEAD = 3
_READERS = 2
_FIELD_ID = b"PARQUET:field_id"


class StoppedError(K2IError):
    """The job was asked to stop while a file was being written; the file is gone."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A file that holds the rows of others.

    Args:
        sources: the others.
        staged: the file, durable, in no snapshot yet.
        entry: Iceberg's entry for it.
    """

    sources: tuple[Source, ...]
    staged: StagedFile
    entry: DataFile

    @property
    def sequence_number(self) -> int:
        """Data sequence number to be recorded: a later delete applies as it did to the sources."""
        return max(source.sequence_number for source in self.sources)


class Rewriter:
    """Joins files of a table as it was loaded. For one thread.

    Args:
        table: the rows are written by its schema, current spec and sort order.
        codec: as `iceberg.compression`.
        stopping: asked between row groups; when true, the file is given up.
        change: what is made of the rows: as many, of the same partition.
    """

    def __init__(
        self,
        table: Table,
        codec: str,
        stopping: Callable[[], bool],
        change: Callable[[pa.Table], pa.Table] = lambda rows: rows,
    ) -> None:
        self._table = table
        self._output = DataFileOutput(table, codec)
        self._order = table.sort_order()
        self._stopping = stopping
        self._change = change
        self._scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())

    def join(self, sources: Sequence[Source]) -> Joined:
        """Writes the rows of files of one partition as one file. May block; not idempotent.

        If it fails, the file is removed as far as the store lets it.

        Raises:
            IntegrityError: other rows were read than the table says there are.
            StoppedError: the job was asked to stop.
            ServiceError: a file is not there, or the store refuses.
            TransientError: the store is away.
        """
        pieces = self._pieces(sources)
        # Only a table with an order needs to know whether there is a second piece.
        ahead = list(islice(pieces, 1 if self._order.is_unsorted else 2))
        name = f"compact-{uuid.uuid4().hex}.parquet"
        metadata = self._metadata(is_whole=len(ahead) == 1)
        encoding = Encoding(ahead[0]).options(ahead[0], self._output.codec, is_whole=False)
        with self._output.open(name, sources[0].partition, encoding, metadata) as file:
            while ahead:
                piece = ahead.pop(0)
                file.write(piece, row_group_rows(piece))
                del piece  # before the next is read
                ahead = ahead or list(islice(pieces, 1))
            told = sum(source.rows for source in sources)
            if file.rows != told:
                raise _other_rows(f"{len(sources)} files", told, file.rows)
            hit("compact.file.written")
        assert file.staged is not None
        return Joined(tuple(sources), file.staged, data_file(self._table, file.staged))

    def _metadata(self, *, is_whole: bool) -> Mapping[bytes, bytes]:
        """A file is in the table's order only if all of it was sorted at once."""
        if self._order.is_unsorted or not is_whole:
            return {}
        return {SORT_ORDER_KEY: str(self._order.order_id).encode()}

    def _pieces(self, sources: Sequence[Source]) -> Iterator[pa.Table]:
        """All rows, in pieces of a row group, each in the table's order; at least one piece."""
        waiting: list[pa.Table] = []
        size = rows = 0
        for batch in self._batches(sources):
            if waiting and (
                size + batch.nbytes > ROW_GROUP_BYTES or rows + batch.num_rows > ROW_GROUP_ROWS_MAX
            ):
                yield self._piece(waiting)
                waiting, size, rows = [], 0, 0
                if self._stopping():
                    raise StoppedError("Compaction was asked to stop.", component=Component.ICEBERG)
            waiting.append(batch)
            size += batch.nbytes
            rows += batch.num_rows
        yield self._piece(waiting)

    def _piece(self, batches: Sequence[pa.Table]) -> pa.Table:
        if not batches:
            return no_rows(self._output.schema)
        rows = self._change(pa.concat_tables(batches))
        return in_order(rows, self._table.schema(), self._order)

    def _batches(self, sources: Sequence[Source]) -> Iterator[pa.Table]:
        """All rows in the order of the files, in the table's columns."""
        for source, whole in _fetched(self._table, sources):
            found = 0
            for batch in self._rows(source, whole):
                found += batch.num_rows
                yield batch
            if found != source.rows:
                raise _other_rows(source.path, source.rows, found)

    def _rows(self, source: Source, whole: pa.Buffer | None) -> Iterator[pa.Table]:
        with translated(f"reading {source.path}"):
            with self._open(source, whole) as stream:
                file = pq.ParquetFile(stream, pre_buffer=whole is None)
                if _is_plain(file.schema_arrow, self._output.schema):
                    yield from _plain_batches(file)
                    return
            task = FileScanTask(source.data_file())
            batches = self._scan._record_batches_from_scan_tasks_and_deletes([task], {})
            for batch in batches:
                yield align(pa.Table.from_batches([batch]), self._output.schema)

    def _open(self, source: Source, whole: pa.Buffer | None) -> Any:
        if whole is not None:
            return pa.BufferReader(whole)
        return self._table.io.new_input(source.path).open()


def _fetched(table: Table, sources: Sequence[Source]) -> Iterator[tuple[Source, pa.Buffer | None]]:
    """Each file with its bytes, a few fetched ahead; without them where it is large."""

    def fetch(source: Source) -> pa.Buffer | None:
        if source.size_bytes > _WHOLE_BYTES_MAX:
            return None
        reading = translated(f"reading {source.path}")
        with reading, table.io.new_input(source.path).open() as stream:
            return pa.py_buffer(stream.read())

    bytes_ = few_ahead(fetch, sources, threads=_READERS, most=_AHEAD)
    return zip(sources, bytes_, strict=True)


def _is_plain(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether a file has exactly the columns that are written, by name, type and field id."""
    return len(found) == len(wanted) and all(map(_alike, found, wanted))


def _alike(one: pa.Field, other: pa.Field) -> bool:
    """The same to a table, whatever else stands in the metadata or names a map's entries."""
    ids = [(each.metadata or {}).get(_FIELD_ID) for each in (one, other)]
    if ids[0] != ids[1] or (one.name, one.nullable) != (other.name, other.nullable):
        return False
    inner = [_inner(each.type) for each in (one, other)]
    if len(inner[0]) != len(inner[1]) or one.type.id != other.type.id:
        return False
    return all(map(_alike, *inner)) if inner[0] else bool(one.type.equals(other.type))


def _inner(kind: pa.DataType) -> list[pa.Field]:
    if pa.types.is_struct(kind):
        return [kind.field(number) for number in range(kind.num_fields)]
    if pa.types.is_map(kind):
        return [kind.key_field, kind.item_field]
    return [kind.value_field] if pa.types.is_list(kind) else []


def _plain_batches(file: pq.ParquetFile) -> Iterator[pa.Table]:
    bytes_, rows = 0, 1
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        bytes_, rows = bytes_ + group.total_byte_size, rows + group.num_rows
    at_once = max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(1.0, bytes_ / rows))))
    for batch in file.iter_batches(at_once, use_threads=False):
        yield pa.Table.from_batches([batch])


def _other_rows(where: str, told: int, found: int) -> IntegrityError:
    return IntegrityError(
        f"Compaction read {found} rows of {where}, the table says {told}: nothing is committed.",
        component=Component.STORAGE,
        remedy="Run `k2i verify`; the file may be damaged, or its entry in the manifest wrong.",
    )
