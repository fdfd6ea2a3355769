"""The data files of one partition of one batch: one, or several if it outgrows the target size."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count

import pyarrow as pa
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.data_files import BATCH_KEY, SORT_ORDER_KEY
from k2i_tasks.iceberg.encoding import Encoding
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.output import DataFileOutput, OpenFile, row_group_rows
from k2i_tasks.types import StagedFile

#: Rows of a file from which its encoding is chosen by its own.
SAMPLED_ROWS_MIN = 1_024
#: Bytes of a local file after which it is made durable so far.
SYNC_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class BatchFiles:
    """What the files of one batch have in common, and those that are durable.

    Args:
        output: where they go and how they are encoded.
        batch_id: first part of their names, and in their footers.
        target_bytes: size at which a file ends and the next one begins.
        staged: the files that are durable.
    """

    output: DataFileOutput
    batch_id: str
    target_bytes: int
    staged: list[StagedFile] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def table(self) -> Table:
        return self.output.table

    def next_name(self) -> str:
        """A file's name that is used once."""
        return f"{self.batch_id}-{next(self._numbers)}-{uuid.uuid4().hex}.parquet"

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """For the footers."""
        found = {BATCH_KEY: self.batch_id.encode()}
        order = self.table.sort_order()
        if not order.is_unsorted:
            found[SORT_ORDER_KEY] = str(order.order_id).encode()
        return found

    def remove(self) -> None:
        """Deletes the durable ones, as far as the store lets it."""
        for file in self.staged:
            self.output.remove_quietly(file.path)
        self.staged.clear()


class PartitionFiles:
    """Files that are filled with rows of one partition, one after the other. Calls may block.

    Args:
        batch: theirs.
        partition: the partition's values in Iceberg's internal form.
        like: of rows like theirs, for a file of few: to look at each costs more than it gives.
    """

    def __init__(self, batch: BatchFiles, partition: Record, like: Encoding | None = None) -> None:
        self._batch = batch
        self._partition = partition
        self._like = like
        self._open = ExitStack()
        self._file: OpenFile | None = None
        self._synced_bytes = 0

    def write(self, rows: pa.Table, *, is_last: bool = False) -> None:
        """Appends rows as row groups.

        Args:
            rows: n rows of the partition, in the columns of the table.
            is_last: whether `close` comes next.

        Raises:
            ServiceError: the disk is full or read-only, the store refuses.
            TransientError: the store is away.
        """
        limit = row_group_rows(rows)
        for start in range(0, rows.num_rows, limit):
            file = self._file or self._begin(rows.slice(start), is_whole=is_last)
            with translated(f"writing {file.location}"):
                file.write(rows.slice(start, limit), limit)
            hit("flush.file.group")
            if file.size_bytes >= self._batch.target_bytes:
                self.close()

    def sync(self) -> None:
        """Makes what is written so far durable once it is much: the file's end waits for less."""
        file = self._file
        if file is not None and file.size_bytes - self._synced_bytes >= SYNC_BYTES:
            with translated(f"writing {file.location}"):
                file.sync()
            self._synced_bytes = file.size_bytes

    def close(self) -> None:
        """Ends the file that is open: it is durable then, and one of the batch's."""
        file, self._file = self._file, None
        if file is None:
            return
        hit("flush.file.written")
        self._open.close()
        assert file.staged is not None
        self._batch.staged.append(file.staged)
        hit("flush.file.synced")

    def discard(self) -> None:
        """Gives up the open file and removes it, as far as the store lets it. Idempotent."""
        self._file = None
        self._open.__exit__(_GivenUp, _GivenUp(), None)

    def _begin(self, rows: pa.Table, *, is_whole: bool) -> OpenFile:
        hit("flush.file.before")
        batch = self._batch
        few = rows.num_rows < SAMPLED_ROWS_MIN
        sampled = self._like if self._like is not None and few else Encoding(rows)
        encoding = sampled.options(rows, batch.output.codec, is_whole=is_whole)
        opened = batch.output.open(batch.next_name(), self._partition, encoding, batch.metadata)
        self._file = self._open.enter_context(opened)
        self._synced_bytes = 0
        return self._file


class _GivenUp(BaseException):
    """Ends a file's block as a failure does; nobody catches it as an error."""
