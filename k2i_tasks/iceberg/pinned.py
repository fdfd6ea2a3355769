"""Reads of a table as of one moment, however often it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
from pyiceberg.catalog import Catalog

from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.scan import read_table


def pinned_reader(
    catalog: Catalog, identifier: tuple[str, ...], branch: str
) -> Callable[[Sequence[str], int | None], pa.Table]:
    """A function `(columns, limit) -> rows` that always reads the snapshot of now. May block.

    Args:
        catalog: used by one thread at a time.
        identifier: namespace parts and table name.
        branch: whose newest snapshot is read.

    Raises:
        ServiceError: no such table, or no right to read it.
        TransientError: catalog or store is away.
    """
    with translated("reading table " + ".".join(identifier)):
        snapshot = catalog.load_table(identifier).snapshot_by_name(branch)

    def read(columns: Sequence[str], limit: int | None) -> pa.Table:
        if snapshot is None:
            # Nothing is committed there yet: the columns are known, the rows are none.
            return read_table(catalog, identifier, columns=columns, limit=0)
        return read_table(
            catalog, identifier, columns=columns, limit=limit, snapshot_id=snapshot.snapshot_id
        )

    return read
