"""Batches whose columns grow, on a small real table, and another writer of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2i_tasks.errors import CommitStateUnknownError
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


def joined(first: SealedBatch, second: SealedBatch) -> SealedBatch:
    """Both as one batch, with the first one's name."""
    tables, size = (*first.tables, *second.tables), first.nbytes + second.nbytes
    span = first.ranges[P0].then(second.ranges[P0])
    rows = first.rows + second.rows
    return replace(first, tables=tables, ranges={P0: span}, rows=rows, nbytes=size)


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


class Wire:
    """The way of commits to a kind of catalog; `hold` keeps the next, and it is not answered."""

    def __init__(self, patch: pytest.MonkeyPatch, kind: type[Catalog]) -> None:
        self._plain: Callable[..., Any] = kind.commit_table
        self._holds = False
        self._late: Callable[[], Any]
        wire = self

        def send(catalog: Catalog, *what: Any) -> Any:
            if not wire._holds:
                return wire._plain(catalog, *what)
            wire._holds = False
            wire._late = lambda: wire._plain(catalog, *what)
            raise CommitStateUnknownError("the answer was lost")

        patch.setattr(kind, "commit_table", send)

    def hold(self) -> None:
        self._holds = True

    def deliver(self) -> None:
        self._late()
