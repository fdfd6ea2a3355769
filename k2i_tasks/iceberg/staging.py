"""The writing half of a table: create it, stage data files, with the schema that they need.

Columns that rows need and the table lacks are not made here: the files are written as if they were
there, and the change is part of the commit of these files (`pending`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.errors import Component, SchemaRacedError, ServiceError, is_transient
from k2i_tasks.iceberg.ahead import AheadFiles
from k2i_tasks.iceberg.catalog import find_table, load_table
from k2i_tasks.iceberg.data_files import discard, why_unusable
from k2i_tasks.iceberg.evolution import wanted_columns, widened
from k2i_tasks.iceberg.pending import Changes, PendingSchema
from k2i_tasks.iceberg.references import unreferenced
from k2i_tasks.iceberg.schema import check_compatible, create_table, payload_arrow_schema
from k2i_tasks.iceberg.staged import StagedRows
from k2i_tasks.iceberg.writer import DataFileWriter
from k2i_tasks.types import StagedFile


class Staging:
    """Stages data files for one table. Used by one thread at a time; calls may block.

    Args:
        catalog: used by this object only.
        identifier: namespace and table name.
        config: schema, partition and file settings.
    """

    def __init__(self, catalog: Catalog, identifier: tuple[str, ...], config: Config) -> None:
        self.catalog = catalog
        #: What is told of commits, by the thread that commits.
        self.changes = Changes()
        self.identifier = identifier
        self._config = config
        self._table: Table | None = None
        self._covered: pa.Schema | None = None
        self._ahead: AheadFiles | None = None
        #: Batch whose rows could not be encoded ahead, and why.
        self._failed: tuple[str, Exception] | None = None

    @property
    def name(self) -> str:
        return ".".join(self.identifier)

    def open(self) -> bool:
        """Whether the table exists; loads it, anew if need be, and checks that its columns suit.

        Raises:
            SchemaConflictError: it exists with columns that contradict the configuration.
        """
        self._table, self._covered = find_table(self.catalog, self.identifier), None
        self.changes.lost()
        if self._table is None:
            return False
        check_compatible(self._table, self._config)
        return True

    def create(self, schema: pa.Schema) -> None:
        """Creates the table for rows of `schema`; no harm if another did so meanwhile."""
        if not self._config.iceberg.table_management.auto_create_if_missing:
            raise ServiceError(
                f"Table {self.name} does not exist.",
                component=Component.ICEBERG,
                remedy="Create it, or set iceberg.table_management.auto_create_if_missing = true.",
            )
        self._table = create_table(self.catalog, self.identifier, schema, self._config)
        check_compatible(self._table, self._config)

    def payload_schema(self) -> pa.Schema:
        """Arrow schema of the table's columns other than Kafka's metadata columns."""
        return payload_arrow_schema(self._opened(), self._config.iceberg.metadata_columns)

    def stage(self, tables: Sequence[pa.Table], *, batch_id: str) -> StagedRows:
        """Writes rows as data files, of a schema that is widened where rows need it.

        Args:
            tables: all rows of the batch, those that `encode` was given included, in order.
            batch_id: of the batch.
        """
        ahead = self._encoded(batch_id)
        if not tables:
            return StagedRows(())
        try:
            if not self._cover({table.schema for table in tables}) and ahead is not None:
                ahead.discard()
                ahead = None
            if ahead is None:
                writer = DataFileWriter(self._opened(), self._config)
                files = writer.write(tables, batch_id=batch_id)
            else:
                ahead.follow(self._opened())
                files = ahead.finish(tables)
        except BaseException:
            if ahead is not None:
                ahead.discard()
            raise
        return StagedRows(files, self.changes.hand_over())

    def encode(self, tables: Sequence[pa.Table], *, batch_id: str) -> None:
        """Encodes the next rows of a batch that is still filled, so that `stage` has less to do.

        Args:
            tables: in order; the first call of a batch begins with its first row.
            batch_id: that the batch will have.

        Raises:
            K2IError: nothing was encoded, and `stage` writes the whole batch; what no retry can
                mend it raises again.
        """
        if not tables or (self._failed is not None and self._failed[0] == batch_id):
            return
        try:
            if self._ahead is None or self._ahead.batch_id != batch_id:
                self.forget()
                self._ahead = AheadFiles(self._opened(), self._config, batch_id)
            if not self._cover({table.schema for table in tables}):
                raise SchemaRacedError(f"Another writer has changed the schema of {self.name}.")
            self._ahead.follow(self._opened())
            self._ahead.add(tables)
        except Exception as error:
            self.forget()
            self._failed = (batch_id, error)
            raise

    def forget(self) -> None:
        """Removes what was encoded of a batch that will not be staged. Idempotent."""
        ahead, self._ahead, self._failed = self._ahead, None, None
        if ahead is not None:
            ahead.discard()

    def why_unusable(self, files: Sequence[StagedFile], schema: PendingSchema | None = None) -> str:
        """Why staged files can no longer be committed; empty if they can. May block.

        Args:
            files: of one batch.
            schema: the change that was staged with them.
        """
        if not files:
            return ""
        table = load_table(self.catalog, self.identifier)
        lost = schema.why_lost(table) if schema is not None else ""
        return lost or why_unusable(table, files)

    def discard(self, files: Iterable[StagedFile]) -> int:
        """Deletes those of `files` that the table refers to nowhere; how many those were."""
        by_path = {file.path: file for file in files}
        if not by_path:
            return 0
        table = load_table(self.catalog, self.identifier)
        free = unreferenced(table, by_path)
        discard(table.io, [by_path[path] for path in sorted(free)])
        return len(free)

    def _encoded(self, batch_id: str) -> AheadFiles | None:
        """What was encoded of this batch; it is the caller's from now on."""
        if self._failed is not None and self._failed[0] == batch_id:
            failure = self._failed[1]
            if not is_transient(failure):
                # After such an error, a disk's for one, a second try proves nothing.
                raise failure
        ahead = self._ahead
        if ahead is None or ahead.batch_id != batch_id:
            self.forget()
            return None
        self._ahead = None
        return ahead

    def _cover(self, schemas: set[pa.Schema]) -> bool:
        """Has the table take rows of these schemas; whether what was encoded so far still fits."""
        fits = not self.changes.start_anew()
        if not fits:
            self._covered = None
        covered = self._covered
        if covered is not None and all(schema.equals(covered) for schema in schemas):
            return fits
        wanted, relaxed = wanted_columns(schemas, self._config)
        loaded = load_table(self.catalog, self.identifier)
        table = self.changes.on(loaded)
        if table is None:
            self.changes.clear()
            table, fits = loaded, False
        self._table, change = widened(table, wanted, may_relax=relaxed)
        if change is not None:
            self.changes.grow(change)
        self._covered = wanted
        return fits

    def _opened(self) -> Table:
        if self._table is None:
            raise RuntimeError(f"table {self.name} is not open")
        return self._table
