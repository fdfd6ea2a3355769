"""The writing half of a table: create it, keep its schema wide enough, stage data files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.errors import Component, ServiceError
from k2i_tasks.iceberg.catalog import find_table, load_table
from k2i_tasks.iceberg.data_files import discard, why_unusable
from k2i_tasks.iceberg.references import unreferenced
from k2i_tasks.iceberg.schema import check_compatible, create_table, evolve, payload_arrow_schema
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

    @property
    def name(self) -> str:
        return ".".join(self.identifier)

    def open(self) -> bool:
        """Whether the table exists; loads it and checks that its columns suit.

        Raises:
            SchemaConflictError: it exists with columns that contradict the configuration.
        """
        self._table = find_table(self.catalog, self.identifier)
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
        """Writes rows as data files, widening the table's schema first where rows need it."""
        if not tables:
            return []
        self._cover({table.schema for table in tables})
        return DataFileWriter(self._opened(), self._config).write(tables, batch_id=batch_id)

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

    def _cover(self, schemas: set[pa.Schema]) -> None:
        if self._covered is not None and all(schema.equals(self._covered) for schema in schemas):
            return
        wanted = pa.unify_schemas(list(schemas), promote_options="permissive")
        self._table = evolve(self.catalog, self.identifier, wanted)
        self._covered = wanted

    def _opened(self) -> Table:
        if self._table is None:
            raise RuntimeError(f"table {self.name} is not open")
        return self._table
