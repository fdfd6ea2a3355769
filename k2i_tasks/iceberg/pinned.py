"""Reads of a table as of one moment, however often it is read, and only what a query needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table

from k2i_tasks.iceberg.arrow import align, arrow_schema
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.pushdown import pushed
from k2i_tasks.iceberg.reading import of_file
from k2i_tasks.predicates import Predicate


class Pinned:
    """A branch's newest snapshot, as it was when it was loaded.

    Args:
        table: as loaded; used by nobody else.
        branch: whose head it is.
    """

    def __init__(self, table: Table, branch: str) -> None:
        self._table = table
        found = table.metadata.snapshot_by_name(branch)
        self.snapshot_id = None if found is None else found.snapshot_id
        #: The table's columns, also those that came after the snapshot.
        self.schema: Schema = table.schema()

    @property
    def name(self) -> str:
        return ".".join(self._table.name())

    def read(
        self,
        schema: Schema,
        columns: Sequence[str] | None,
        predicate: Predicate,
        limit: int | None,
    ) -> Iterator[pa.Table]:
        """The committed rows, file by file. May block.

        Args:
            schema: of the rows; it has all columns of the table, and may have more.
            columns: which; all when None.
            predicate: rows that it does not want may be left out, by Iceberg's statistics for one.
            limit: so many rows are enough.

        Raises:
            TransientError: the store is away.
            ServiceError: it refuses us, or a file is gone: the snapshot was expired.
        """
        wanted = schema if columns is None else schema.select(*columns)
        target = arrow_schema(wanted)
        if self.snapshot_id is None:
            return
        where = pushed(predicate, self.schema)
        with translated(f"reading table {self.name}"):
            scan = self._table.scan(row_filter=where, snapshot_id=self.snapshot_id)
            tasks = list(scan.plan_files())
            reading = ArrowScan(self._table.metadata, self._table.io, wanted, where)
        for task in tasks:
            for batch in self._batches(reading, task):
                yield align(pa.Table.from_batches([batch]), target)
                if limit is not None:
                    limit -= batch.num_rows
                    if limit <= 0:
                        return

    def _batches(self, reading: ArrowScan, task: FileScanTask) -> Iterator[pa.RecordBatch]:
        with translated(f"reading table {self.name}"):
            yield from of_file(reading, task)


def pinned(catalog: Catalog, identifier: tuple[str, ...], branch: str) -> Pinned:
    """The branch as it is now. May block.

    Args:
        catalog: used by one thread at a time.
        identifier: namespace parts and table name.
        branch: whose newest snapshot is read.

    Raises:
        ServiceError: no such table, or no right to read it.
        TransientError: the catalog is away.
    """
    with translated("reading table " + ".".join(identifier)):
        return Pinned(catalog.load_table(identifier), branch)
