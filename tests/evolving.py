"""Batches whose columns grow, on a small real table, and another writer of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.table import Table

from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.operations import Operations
from k2i_tasks.types import OffsetRange, SealedBatch, SealReason
from tests.iceberg_tables import NAME, catalog_of, config_at, rows_of
from tests.unit.test_recover import P0

GIVEN = pa.schema([("n", pa.int64()), ("m", pa.map_(pa.string(), pa.struct({"x": pa.int32()})))])
STRUCT = pa.struct({"x": pa.int32()})


def batch(number: int, **columns: pa.Array) -> SealedBatch:
    """Two rows: their numbers, and the columns given."""
    first = 2 * number
    numbers = pa.array([first, first + 1], pa.int64())
    rows = pa.table({"n": numbers, **columns})
    span = OffsetRange(first, first + 2)
    return SealedBatch(
        f"batch-{number}", (rows,), (), {P0: span}, 2, rows.nbytes, SealReason.ROWS, -1
    )


def text(*values: str) -> pa.Array:
    return pa.array(values, pa.string())


def table_at(folder: Path) -> Table:
    return catalog_of(config_at(folder)).load_table(NAME)


def rival(folder: Path, name: str, kind: pa.DataType | None = None) -> None:
    """Another writer adds a column."""
    evolve(catalog_of(config_at(folder)), NAME, pa.schema([(name, kind or pa.string())]))


def payload(folder: Path) -> list[dict[str, Any]]:
    """The rows, without what is null and without Kafka's columns, in order."""
    found = [
        {key: value for key, value in row.items() if value is not None and key[0] != "_"}
        for row in rows_of(table_at(folder).scan().to_arrow())
    ]
    return sorted(found, key=lambda row: row["n"])


def land(found: Operations, *batches: SealedBatch) -> None:
    for each in batches:
        found.flush(each)
    for each in batches:
        found.commit(each)
