"""Small real tables for tests: an SQLite catalog and a warehouse in a temporary folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.iceberg.catalog import guard_commits, open_catalog
from k2i_tasks.iceberg.committer import MemoTransaction
from k2i_tasks.iceberg.pending import PendingSchema
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


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """The rows in an order that does not depend on files."""
    return sorted(table.to_pylist(), key=repr)
