"""What is staged of one batch: durable files, and what their commit has to change in the schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.catalog import Catalog

from k2i_tasks.config import Config
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.evolution import evolve, wanted_columns, widened
from k2i_tasks.iceberg.pending import PendingSchema
from k2i_tasks.iceberg.writer import DataFileWriter
from k2i_tasks.types import StagedFile


@dataclass(frozen=True, slots=True)
class StagedRows:
    """Files of a batch's rows, and the schema change that their commit has to carry."""

    files: Sequence[StagedFile]
    schema: PendingSchema | None = None


@dataclass(frozen=True, slots=True)
class Staged:
    """Durable files of one batch, not yet committed.

    Args:
        files, dead_letter_files: the files.
        rows: of the batch.
        at: when they were durable, unix seconds.
        schema: the change of the table's schema that `files` were written for.
    """

    files: tuple[StagedFile, ...]
    dead_letter_files: tuple[StagedFile, ...]
    rows: int
    at: float
    schema: PendingSchema | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def write_anew(
    catalog: Catalog,
    identifier: tuple[str, ...],
    config: Config,
    tables: Sequence[pa.Table],
    *,
    batch_id: str,
    evolved: bool,
) -> StagedRows:
    """Writes the rows of a batch whose staged files another writer's change has made useless.

    May block.

    Args:
        catalog, identifier: of the table; the catalog is the calling thread's.
        config: schema and file settings.
        tables: all rows of the batch, in order.
        batch_id: of the batch.
        evolved: whether the columns that they need are made first, in a commit of their own, so
            that no other race can be lost; else they come with the rows.

    Raises:
        SchemaMovedError: a column has a type now that the rows contradict.
        K2IError: as `evolve` and `DataFileWriter.write`.
    """
    wanted, relaxed = wanted_columns({table.schema for table in tables}, config)
    if evolved:
        table, change = evolve(catalog, identifier, wanted, may_relax=relaxed), None
    else:
        with translated("reading table " + ".".join(identifier)):
            table = catalog.load_table(identifier)
        table, change = widened(table, wanted, may_relax=relaxed)
    return StagedRows(DataFileWriter(table, config).write(tables, batch_id=batch_id), change)
