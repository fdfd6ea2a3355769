"""Rows into data files while their batch is still filled, so that its flush has little left to do.

A flush that encodes a whole batch takes as long as the batch is large, and one of the cores stands
idle meanwhile. Here each part of a batch becomes row groups as soon as it is large enough to be
one; the flush appends the rest and ends the files. Whatever fails here costs no row: the batch is
in memory until it is committed, and the flush writes all of it anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.iceberg.output import DataFileOutput
from k2i_tasks.iceberg.partition_files import BatchFiles, PartitionFiles
from k2i_tasks.iceberg.writer import DataFileWriter, aligned, must_name_files, pieces
from k2i_tasks.types import StagedFile

#: Most files that are open at once, one per partition: each may hold a part of an upload in memory.
OPEN_MAX = 8
#: Less of one partition than that waits for more, or for the flush: row groups are not to be tiny
#: where some partitions get few rows.
GROUP_ROWS_MIN = 8_192
GROUP_BYTES_MIN = 2 << 20


class AheadFiles:
    """Data files of one batch that is still filled. One thread at a time; calls may block.

    Args:
        table: a `Table` of this thread's, as loaded now.
        config: compression and target file size.
        batch_id: of the batch.
    """

    def __init__(self, table: Table, config: Config, batch_id: str) -> None:
        must_name_files(batch_id)
        self.batch_id = batch_id
        #: Rows that were taken, from the first of the batch on.
        self.rows = 0
        self._config = config
        self._refuses = False
        self._staged: list[StagedFile] = []
        self._batch: BatchFiles
        self._open: dict[tuple[str | None, ...], _Partition] = {}
        self._use(table)

    def add(self, tables: Sequence[pa.Table]) -> bool:
        """Takes the next rows of the batch, all or none; whether it did.

        Refused are rows of more partitions than files may be open, and all of a sorted table, whose
        files are to be in order from end to end. From then on everything is.

        Args:
            tables: rows in any column order; columns that they lack become null.

        Raises:
            SchemaConflictError: a column that the table lacks, or a type that does not fit.
            ServiceError: the disk is full or read-only, the store refuses.
            TransientError: the store is away.
        """
        if self._refuses:
            return False
        output = self._batch.output
        rows = aligned(tables, output)
        groups = {
            tuple(output.partition_text(group.partition).values()): group
            for group in output.groups(rows)
        }
        if len(groups.keys() | self._open.keys()) > OPEN_MAX:
            self._refuses = True
            return False
        for key, group in groups.items():
            if key not in self._open:
                self._open[key] = _Partition(PartitionFiles(self._batch, group.partition))
            self._open[key].add(group.rows)
        self.rows += rows.num_rows
        return True

    def follow(self, table: Table) -> None:
        """Goes on with the table as it is now; what was written by another schema or spec ends.

        Raises:
            ServiceError, TransientError: as `add`.
        """
        known = self._batch.table
        if table.schema() == known.schema() and table.spec() == known.spec():
            return
        self._end_files()
        self._use(table)

    def finish(self, tables: Sequence[pa.Table]) -> list[StagedFile]:
        """Writes the rest of the batch and ends all files; nothing is added after it.

        Args:
            tables: all rows of the batch, those that were taken before included, in order.

        Returns:
            The files, durable.

        Raises:
            SchemaConflictError, ServiceError, TransientError: as `add`; `discard` is next.
        """
        for piece in pieces(_after(tables, self.rows)):
            if not self.add(piece):
                break
        self._end_files()
        rest = _after(tables, self.rows)
        if rest:
            writer = DataFileWriter(self._batch.table, self._config)
            self._staged += writer.write(rest, batch_id=self.batch_id)
        return self._staged

    def discard(self) -> None:
        """Removes all that was written, as far as the store lets it. Idempotent."""
        self._refuses = True
        for part in self._open.values():
            part.files.discard()
        self._open.clear()
        self._batch.remove()

    def _use(self, table: Table) -> None:
        config = self._config.iceberg
        output = DataFileOutput(table, config.compression)
        target_bytes = config.target_file_size_mb << 20
        self._batch = BatchFiles(output, self.batch_id, target_bytes, self._staged)
        self._refuses = self._refuses or not table.sort_order().is_unsorted

    def _end_files(self) -> None:
        for part in self._open.values():
            part.end()
        self._open.clear()


class _Partition:
    """Rows of one partition on their way into its file."""

    def __init__(self, files: PartitionFiles) -> None:
        self.files = files
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._rows >= GROUP_ROWS_MIN or self._bytes >= GROUP_BYTES_MIN:
            self._write()
            self.files.sync()
        else:
            # A slice would keep all the rows in memory that it was cut from.
            self._waiting[-1] = rows.take(pa.array(np.arange(rows.num_rows)))

    def end(self) -> None:
        self._write(is_last=True)
        self.files.close()

    def _write(self, *, is_last: bool = False) -> None:
        if self._waiting:
            self.files.write(pa.concat_tables(self._waiting), is_last=is_last)
            self._waiting, self._rows, self._bytes = [], 0, 0


def _after(tables: Sequence[pa.Table], rows: int) -> list[pa.Table]:
    """`tables` without their first `rows` rows."""
    rest = []
    for table in tables:
        if rows < table.num_rows:
            rest.append(table.slice(rows))
        rows = max(0, rows - table.num_rows)
    return rest
