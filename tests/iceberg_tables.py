"""Small real tables for tests: an SQLite catalog and a warehouse in a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.iceberg.catalog import guard_commits, open_catalog
from k2i_tasks.iceberg.committer import MemoTransaction
from k2i_tasks.iceberg.pending import PendingSchema
from k2i_tasks.iceberg.pinned import pinned
from k2i_tasks.iceberg.writer import data_file
from k2i_tasks.types import StagedFile

NAME = ("db", "events")


def config_at(folder: Path, **iceberg: Any) -> Config:
    """A configuration with everything under `folder`; `iceberg` adds to or replaces its section."""
    section = {
        "catalog_type": "sql",
        "warehouse_path": str(folder / "warehouse"),
        "database_name": NAME[0],
        "table_name": NAME[1],
        "compression": "zstd",
        "sql_catalog": {"url": f"sqlite:///{folder}/catalog.db"},
        **iceberg,
    }
    kafka = {"bootstrap_servers": ["127.0.0.1:1"], "topic": "events", "consumer_group": "g"}
    return Config.model_validate({"kafka": kafka, "iceberg": section})


def catalog_of(config: Config) -> Catalog:
    return guard_commits(open_catalog(config.iceberg, {}))


def append(table: Table, staged: Sequence[StagedFile], change: PendingSchema | None = None) -> None:
    """Commits staged files as a plain append, with the schema change that they need."""
    transaction = MemoTransaction(table)
    with transaction:
        if change is not None:
            transaction.change(change.due(table))
        with transaction.update_snapshot().fast_append() as update:
            for file in staged:
                update.append_data_file(data_file(table, file))


def read(catalog: Catalog) -> pa.Table:
    """All committed rows, as a query reads them."""
    now = pinned(catalog, NAME, "main")
    return pa.concat_tables(now.read(now.schema, None, None, None))


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows in an order that does not depend on files."""
    return sorted(table.to_pylist(), key=repr)


def field_ids(schema: Schema) -> dict[str, int]:
    """By full name, parts of lists and maps included."""
    return {name: number for number, name in schema._lazy_id_to_name.items()}


def history(table: Table) -> list[tuple[Schema, int | None]]:
    """Schema and current snapshot of each version of the metadata that is left, oldest first."""
    found = []
    for place in [each.metadata_file for each in table.metadata.metadata_log]:
        with table.io.new_input(place).open() as stream:
            body = json.loads(stream.read())
        [schema] = [s for s in body["schemas"] if s["schema-id"] == body["current-schema-id"]]
        found.append((Schema.model_validate(schema), body.get("current-snapshot-id")))
    return [*found, (table.schema(), table.metadata.current_snapshot_id)]


def columns_alone(table: Table) -> list[set[str]]:
    """What each commit added to the schema that brought no snapshot."""
    versions = history(table)
    return [
        set(after.column_names) - set(before.column_names)
        for (before, old), (after, new) in pairwise(versions)
        if old == new and before != after
    ]
