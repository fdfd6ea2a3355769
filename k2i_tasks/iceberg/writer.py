"""Rows into Parquet data files: aligned, split by partition, sorted, durable, with statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.iceberg.arrow import align
from k2i_tasks.iceberg.data_files import data_file, discard, read_staged
from k2i_tasks.iceberg.encoding import Encoding
from k2i_tasks.iceberg.output import DataFileOutput
from k2i_tasks.iceberg.partition_files import BatchFiles, PartitionFiles
from k2i_tasks.iceberg.split import Group
from k2i_tasks.types import StagedFile

__all__ = ["DataFileWriter", "data_file", "discard", "read_staged"]

#: One piece is sorted and copied at once; also the most that 32-bit string offsets bear.
PIECE_BYTES_MAX = 1 << 30
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
        self._output = DataFileOutput(table, config.iceberg.compression)
        self._target_bytes = config.iceberg.target_file_size_mb << 20

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
        must_name_files(batch_id)
        batch = BatchFiles(self._output, batch_id, self._target_bytes)
        try:
            for piece in pieces(tables):
                self._write_groups(aligned(piece, self._output), batch)
        except BaseException:
            batch.remove()
            raise
        return batch.staged

    def _write_groups(self, rows: pa.Table, batch: BatchFiles) -> None:
        groups, like = self._output.groups(rows), Encoding(rows)
        if self._output.is_local:
            for group in groups:
                _write_group(group, batch, like)
            return
        with ThreadPoolExecutor(_UPLOADS_AT_ONCE, "k2i-upload") as pool:
            for done in [pool.submit(_write_group, group, batch, like) for group in groups]:
                done.result()


def _write_group(group: Group, batch: BatchFiles, like: Encoding) -> None:
    files = PartitionFiles(batch, group.partition, like)
    try:
        files.write(group.rows, is_last=True)
        files.close()
    except BaseException:
        files.discard()
        raise


def must_name_files(batch_id: str) -> None:
    """Raises `ValueError` if that cannot be the first part of a file's name."""
    if not _BATCH_ID.fullmatch(batch_id):
        raise ValueError(f"{batch_id!r} cannot begin a file's name")


def aligned(tables: Sequence[pa.Table], output: DataFileOutput) -> pa.Table:
    """One table of all rows, in the columns of the files; nothing is copied that fits."""
    return pa.concat_tables([align(table, output.schema) for table in tables])


def pieces(
    tables: Sequence[pa.Table], most_bytes: int = PIECE_BYTES_MAX
) -> Iterator[list[pa.Table]]:
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
