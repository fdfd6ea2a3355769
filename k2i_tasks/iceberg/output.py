"""Parquet data files of one table on their way to the store: where, how encoded, durable, noted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.partitioning import PartitionKey
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from k2i_tasks.iceberg.arrow import arrow_schema
from k2i_tasks.iceberg.data_files import FRESH, Footer
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.files import in_folder, local_path, remove, sync_file
from k2i_tasks.iceberg.split import Group, partition_text, split
from k2i_tasks.types import StagedFile

log = logging.getLogger(__name__)

_CODECS = {"none": "none", "uncompressed": "none"}
#: Most rows of one row group, and most bytes of Arrow data.
ROW_GROUP_ROWS_MAX = 1_000_000
ROW_GROUP_BYTES = 128 << 20
_FEW_ROWS = 4_096
_PATH_PART_CHARS_MAX = 180
_OPTIONS: dict[str, Any] = {
    "store_decimal_as_integer": True,
    "write_statistics": True,
    "write_page_index": True,
    "dictionary_pagesize_limit": 1 << 20,
    "data_page_size": 1 << 20,
}


class DataFileOutput:
    """Opens data files of one table, as it was loaded. Thread-safe.

    Args:
        table: its schema, spec, location and file access are used.
        codec: as `iceberg.compression`.
    """

    def __init__(self, table: Table, codec: str) -> None:
        self.table = table
        self.schema = arrow_schema(table.schema())
        self.spec = table.spec()
        #: Parquet's name of it.
        self.codec = _CODECS.get(codec, codec)
        self._types = self.spec.partition_type(table.schema())
        self._locations = table.location_provider()

    @property
    def is_local(self) -> bool:
        """Whether the files go to a folder of this machine."""
        return local_path(self._locations.new_data_location("x")) is not None

    def groups(self, rows: pa.Table) -> Iterator[Group]:
        """`rows`, in the columns of the files, by partition and sorted; see `split`."""
        table = self.table
        return split(rows, table.schema(), self.spec, table.sort_order())

    def partition_text(self, partition: Record) -> dict[int, str | None]:
        """A partition's values as text, by partition field id; see `split.partition_text`."""
        return partition_text(self.spec, self._types, partition)

    @contextmanager
    def open(
        self,
        name: str,
        partition: Record,
        encoding: Mapping[str, Any],
        metadata: Mapping[bytes, bytes],
    ) -> Iterator[OpenFile]:
        """A file to be filled in the block; durable once the block is left. May block.

        If the block fails, the file is removed as far as the store lets it.

        Args:
            name: of the file, without its folder.
            partition: the partition's values in Iceberg's internal form.
            encoding: of its columns, as `Encoding.options` says.
            metadata: for the footer.

        Raises:
            ServiceError: the disk is full or read-only, the store refuses.
            TransientError: the store is away.
        """
        location = self._location(name, partition)
        schema = self.schema.with_metadata(dict(metadata))
        with translated(f"writing {location}"):
            try:
                stream = self._create(location)
                with stream, pq.ParquetWriter(stream, schema, **encoding, **_OPTIONS) as writer:
                    found = OpenFile(location, stream, writer)
                    yield found
                    writer.close()
                    footer, size = writer.writer.metadata, stream.tell()
                path = local_path(location)
                if path is not None:
                    sync_file(path)
            except BaseException:
                self.remove_quietly(location)
                raise
        FRESH.keep(location, Footer(footer, self.schema))
        text = self.partition_text(partition)
        found.staged = StagedFile(location, size, found.rows, self.spec.spec_id, text)

    def remove_quietly(self, location: str) -> None:
        """For the way out of a failure, which is told rather than this one."""
        FRESH.forget(location)
        try:
            remove(self.table.io, location)
        except Exception as error:
            log.warning("unfinished file %s stays: %s", location, type(error).__name__)

    def _create(self, location: str) -> Any:
        """An output stream of Arrow's own, without the detour through Python for each page."""
        path = local_path(location)
        if path is None:
            return self.table.io.new_output(location).create()
        return in_folder(path, lambda: pa.OSFile(str(path), "wb"))

    def _location(self, name: str, partition: Record) -> str:
        if self.spec.is_unpartitioned():
            return self._locations.new_data_location(name)
        text = self.spec.partition_to_path(partition, self.table.schema())
        return self._locations.new_data_location(name, cast(PartitionKey, _Folder(text)))


class OpenFile:
    """One data file while it is written, and what it has become."""

    def __init__(self, location: str, stream: Any, writer: pq.ParquetWriter) -> None:
        self.location = location
        self.rows = 0
        self.staged: StagedFile | None = None
        self._stream = stream
        self._writer = writer

    @property
    def size_bytes(self) -> int:
        """Bytes written so far."""
        return int(self._stream.tell())

    def write(self, rows: pa.Table, row_group_rows: int) -> None:
        """Appends rows, in the columns of the table, in row groups of so many at most."""
        self._writer.write_table(rows, row_group_size=row_group_rows)
        self.rows += rows.num_rows

    def sync(self) -> None:
        """Makes what is written so far durable, if it is a file of this machine. May block."""
        path = local_path(self.location)
        if path is not None:
            sync_file(path)


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


def row_group_rows(rows: pa.Table) -> int:
    """Rows per row group: 128 MiB of Arrow data, at most a million."""
    # Bytes of all that they are slices of are told in a twentieth of the time.
    if rows.num_rows <= _FEW_ROWS and rows.get_total_buffer_size() <= ROW_GROUP_BYTES:
        return max(1, int(rows.num_rows))
    per_row = max(1.0, rows.nbytes / max(1, rows.num_rows))
    return max(1, min(ROW_GROUP_ROWS_MAX, int(ROW_GROUP_BYTES / per_row)))
