"""Rows into Parquet data files: aligned, split by partition, sorted, durable, with statistics."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import pyarrow as pa
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.arrow import align
from k2i_tasks.iceberg.data_files import (
    BATCH_KEY,
    SORT_ORDER_KEY,
    data_file,
    discard,
    read_staged,
)
from k2i_tasks.iceberg.output import DataFileOutput, row_group_rows
from k2i_tasks.iceberg.split import Group, split
from k2i_tasks.types import StagedFile

__all__ = ["DataFileWriter", "data_file", "discard", "read_staged"]

#: One piece is sorted and copied at once; also the most that 32-bit string offsets bear.
_PIECE_BYTES_MAX = 1 << 30
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
        if not _BATCH_ID.fullmatch(batch_id):
            raise ValueError(f"{batch_id!r} cannot begin a file's name")
        numbers = count()
        staged: list[StagedFile] = []
        try:
            for piece in _pieces(tables, _PIECE_BYTES_MAX):
                aligned = pa.concat_tables([align(table, self._output.schema) for table in piece])
                self._write_groups(aligned, batch_id, numbers, staged)
        except BaseException:
            self._remove(staged)
            raise
        return staged

    def _write_groups(
        self, rows: pa.Table, batch_id: str, numbers: Iterator[int], staged: list[StagedFile]
    ) -> None:
        order = self._table.sort_order()
        groups = split(rows, self._table.schema(), self._output.spec, order)
        metadata = {BATCH_KEY: batch_id.encode()}
        if not order.is_unsorted:
            metadata[SORT_ORDER_KEY] = str(order.order_id).encode()
        plan = _Plan(metadata, batch_id, numbers, staged)
        if self._output.is_local:
            for group in groups:
                self._write_group(group, plan)
            return
        with ThreadPoolExecutor(_UPLOADS_AT_ONCE, "k2i-upload") as pool:
            for done in [pool.submit(self._write_group, group, plan) for group in groups]:
                done.result()

    def _write_group(self, group: Group, plan: _Plan) -> None:
        """One group as one file, or as several when it outgrows the target size."""
        limit = row_group_rows(group.rows)
        start = 0
        while start < group.rows.num_rows:
            hit("flush.file.before")
            start += self._write_file(group, start, limit, plan)

    def _write_file(self, group: Group, start: int, limit: int, plan: _Plan) -> int:
        """Writes row groups from row `start` until the file is large enough; rows written."""
        name = f"{plan.batch_id}-{next(plan.numbers)}-{uuid.uuid4().hex}.parquet"
        end, sample = start, group.rows.slice(start)
        with self._output.open(name, group.partition, sample, plan.metadata) as file:
            while end < group.rows.num_rows and file.size_bytes < self._target_bytes:
                file.write(group.rows.slice(end, limit), limit)
                end = min(end + limit, group.rows.num_rows)
                hit("flush.file.group")
            hit("flush.file.written")
        hit("flush.file.synced")
        assert file.staged is not None
        plan.staged.append(file.staged)
        return end - start

    def _remove(self, staged: list[StagedFile]) -> None:
        for file in staged:
            self._output.remove_quietly(file.path)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the files of one batch have in common, and where they are noted."""

    metadata: dict[bytes, bytes]
    batch_id: str
    numbers: Iterator[int]
    staged: list[StagedFile]


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
