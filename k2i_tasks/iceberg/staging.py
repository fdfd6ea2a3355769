"""The writing half of a table: create it, keep its schema wide enough, stage data files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.errors import Component, ServiceError, is_transient
from k2i_tasks.iceberg.ahead import AheadFiles
from k2i_tasks.iceberg.catalog import find_table, load_table
from k2i_tasks.iceberg.data_files import discard, why_unusable
from k2i_tasks.iceberg.references import unreferenced
from k2i_tasks.iceberg.schema import (
    METADATA_TYPES,
    check_compatible,
    create_table,
    evolve,
    payload_arrow_schema,
)
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

    def stage(self, tables: Sequence[pa.Table], *, batch_id: str) -> list[StagedFile]:
        """Writes rows as data files, widening the table's schema first where rows need it.

        Args:
            tables: all rows of the batch, those that `encode` was given included, in order.
            batch_id: of the batch.
        """
        ahead = self._encoded(batch_id)
        if not tables:
            return []
        try:
            self._cover({table.schema for table in tables})
            if ahead is None:
                return DataFileWriter(self._opened(), self._config).write(tables, batch_id=batch_id)
            ahead.follow(self._opened())
            return ahead.finish(tables)
        except BaseException:
            if ahead is not None:
                ahead.discard()
            raise

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
            self._cover({table.schema for table in tables})
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

    def why_unusable(self, files: Sequence[StagedFile]) -> str:
        """Why staged files can no longer be committed; empty if they can. May block."""
        if not files:
            return ""
        table = load_table(self.catalog, self.identifier)
        return why_unusable(table, files)

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

    def _cover(self, schemas: set[pa.Schema]) -> None:
        if self._covered is not None and all(schema.equals(self._covered) for schema in schemas):
            return
        wanted = pa.unify_schemas(list(schemas), promote_options="permissive")
        relaxed: frozenset[str] = frozenset()
        if self._config.schema_evolution.mode == "permissive":
            # Kafka's own columns are what they are.
            columns = self._config.iceberg.metadata_columns
            kept = {getattr(columns, role) for role in METADATA_TYPES}
            relaxed = frozenset(wanted.names) - kept
        self._table = evolve(self.catalog, self.identifier, wanted, may_relax=relaxed)
        self._covered = wanted

    def _opened(self) -> Table:
        if self._table is None:
            raise RuntimeError(f"table {self.name} is not open")
        return self._table
