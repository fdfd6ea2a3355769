"""Rows into Parquet data files: aligned, split by partition, sorted, durable, with statistics."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.partitioning import PartitionKey
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.arrow import align, arrow_schema
from k2i_tasks.iceberg.data_files import (
    BATCH_KEY,
    FRESH,
    SORT_ORDER_KEY,
    data_file,
    discard,
    read_staged,
)
from k2i_tasks.iceberg.encoding import dictionary_columns
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.files import local_path, make_folder, remove, sync_file
from k2i_tasks.iceberg.split import Group, partition_text, split
from k2i_tasks.types import StagedFile

__all__ = ["DataFileWriter", "data_file", "discard", "read_staged"]

log = logging.getLogger(__name__)

_CODECS = {"none": "none", "uncompressed": "none"}
_ROW_GROUP_ROWS_MAX = 1_000_000
_ROW_GROUP_BYTES = 128 << 20
#: One piece is sorted and copied at once; also the most that 32-bit string offsets bear.
_PIECE_BYTES_MAX = 1 << 30
_PATH_PART_CHARS_MAX = 180
_UPLOADS_AT_ONCE = 4
_BATCH_ID = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class DataFileWriter:
    """Writes batches of rows as data files of one table, as it was loaded.

    Args:
        table: a `Table` of this thread's; its schema, spec, sort order and location are used.
        config: compression and target file size.
    """

    def __init__(self, table: Table, config: Config) -> None:
        self._table = table
        self._codec = _CODECS.get(config.iceberg.compression, config.iceberg.compression)
        self._target_bytes = config.iceberg.target_file_size_mb << 20
        self._schema = arrow_schema(table.schema())
        self._spec = table.spec()
        self._types = self._spec.partition_type(table.schema())
        self._locations = table.location_provider()

    def write(self, tables: Sequence[pa.Table], *, batch_id: str) -> list[StagedFile]:
        """Writes all rows and returns once they are durable. May block.

        Not idempotent: each call writes new files. If it fails, its files are removed as far as
        the store lets it.

        Args:
            tables: rows in any column order; columns that they lack become null.
            batch_id: first part of the files' names, and in their footers.

        Returns:
            The files, ready for `data_file`; none when there are no rows.

        Raises:
            SchemaConflictError: a column that the table lacks, or a type that does not fit.
            ServiceError: the disk is full or read-only, the store refuses.
            TransientError: the store is away.
        """
        if not _BATCH_ID.fullmatch(batch_id):
            raise ValueError(f"{batch_id!r} cannot begin a file's name")
        numbers = count()
        staged: list[StagedFile] = []
        try:
            for piece in _pieces(tables, _PIECE_BYTES_MAX):
                aligned = pa.concat_tables([align(table, self._schema) for table in piece])
                self._write_groups(aligned, batch_id, numbers, staged)
        except BaseException:
            self._remove(staged)
            raise
        return staged

    def _write_groups(
        self, rows: pa.Table, batch_id: str, numbers: Iterator[int], staged: list[StagedFile]
    ) -> None:
        order = self._table.sort_order()
        groups = split(rows, self._table.schema(), self._spec, order)
        metadata = {BATCH_KEY: batch_id.encode()}
        if not order.is_unsorted:
            metadata[SORT_ORDER_KEY] = str(order.order_id).encode()
        plan = _Plan(self._schema.with_metadata(metadata), batch_id, numbers, staged)
        if local_path(self._locations.new_data_location("x")) is not None:
            for group in groups:
                self._write_group(group, plan)
            return
        with ThreadPoolExecutor(_UPLOADS_AT_ONCE, "k2i-upload") as pool:
            for done in [pool.submit(self._write_group, group, plan) for group in groups]:
                done.result()

    def _write_group(self, group: Group, plan: _Plan) -> None:
        """One group as one file, or as several when it outgrows the target size."""
        limit = _row_group_rows(group.rows)
        start = 0
        while start < group.rows.num_rows:
            hit("flush.file.before")
            start += self._write_file(group, start, limit, plan)

    def _write_file(self, group: Group, start: int, limit: int, plan: _Plan) -> int:
        """Writes row groups from row `start` until the file is large enough; rows written."""
        name = f"{plan.batch_id}-{next(plan.numbers)}-{uuid.uuid4().hex}.parquet"
        location = self._location(name, group)
        end = start
        options = self._options(group.rows.slice(start))
        with translated(f"writing {location}"):
            try:
                stream = self._create(location)
                with stream, pq.ParquetWriter(stream, plan.schema, **options) as writer:
                    while end < group.rows.num_rows and stream.tell() < self._target_bytes:
                        writer.write_table(group.rows.slice(end, limit), row_group_size=limit)
                        end = min(end + limit, group.rows.num_rows)
                        hit("flush.file.group")
                    hit("flush.file.written")
                    writer.close()
                    footer, size = writer.writer.metadata, stream.tell()
                path = local_path(location)
                if path is not None:
                    sync_file(path)
            except BaseException:
                self._remove_quietly(location)
                raise
        hit("flush.file.synced")
        FRESH.keep(location, footer)
        partition = partition_text(self._spec, self._types, group.partition)
        plan.staged.append(StagedFile(location, size, end - start, self._spec.spec_id, partition))
        return end - start

    def _create(self, location: str) -> Any:
        """An output stream of Arrow's own, without the detour through Python for each page."""
        path = local_path(location)
        if path is None:
            return self._table.io.new_output(location).create()
        make_folder(path.parent)
        return pa.OSFile(str(path), "wb")

    def _options(self, rows: pa.Table) -> dict[str, Any]:
        return {
            "use_dictionary": dictionary_columns(rows),
            "compression": self._codec,
            "store_decimal_as_integer": True,
            "write_statistics": True,
            "write_page_index": True,
            "dictionary_pagesize_limit": 1 << 20,
            "data_page_size": 1 << 20,
        }

    def _location(self, name: str, group: Group) -> str:
        if self._spec.is_unpartitioned():
            return self._locations.new_data_location(name)
        text = self._spec.partition_to_path(group.partition, self._table.schema())
        return self._locations.new_data_location(name, cast(PartitionKey, _Folder(text)))

    def _remove(self, staged: list[StagedFile]) -> None:
        for file in staged:
            FRESH.forget(file.path)
            self._remove_quietly(file.path)

    def _remove_quietly(self, location: str) -> None:
        """For the way out of a failure, which is told rather than this one."""
        try:
            remove(self._table.io, location)
        except Exception as error:
            log.warning("unfinished file %s stays: %s", location, type(error).__name__)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the files of one batch have in common, and where they are noted."""

    schema: pa.Schema
    batch_id: str
    numbers: Iterator[int]
    staged: list[StagedFile]


class _Folder:
    """Stands in for PyIceberg's partition key, which refuses two fields of one column."""

    def __init__(self, text: str) -> None:
        self._parts = [_short(part) for part in text.split("/")]

    def to_path(self) -> str:
        return "/".join(self._parts)


def _short(part: str) -> str:
    """`part` as a folder's name; names over 255 bytes are refused by file systems.

    The folder has no meaning to readers, so a digest may stand for the rest of a long value.
    """
    if len(part) <= _PATH_PART_CHARS_MAX:
        return part
    digest = blake2b(part.encode(), digest_size=8).hexdigest()
    return f"{part[: _PATH_PART_CHARS_MAX - 20]}~{digest}"


def _row_group_rows(rows: pa.Table) -> int:
    """Rows per row group: 128 MiB of Arrow data, at most a million."""
    per_row = max(1.0, rows.nbytes / max(1, rows.num_rows))
    return max(1, min(_ROW_GROUP_ROWS_MAX, int(_ROW_GROUP_BYTES / per_row)))


def _pieces(tables: Sequence[pa.Table], most_bytes: int) -> Iterator[list[pa.Table]]:
    """`tables` in order, in pieces of at most `most_bytes` (or one row)."""
    piece: list[pa.Table] = []
    size = 0
    for table in tables:
        if table.num_rows == 0:
            continue
        per_row = max(1.0, table.nbytes / table.num_rows)
        step = max(1, int(most_bytes / per_row))
        for start in range(0, table.num_rows, step):
            part = table.slice(start, step)
            weight = int(part.num_rows * per_row)
            if piece and size + weight > most_bytes:
                yield piece
                piece, size = [], 0
            piece.append(part)
            size += weight
    if piece:
        yield piece
