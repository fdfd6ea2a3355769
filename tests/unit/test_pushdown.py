"""Conditions that a scan checks let no row less through than the query wants."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table
from pyiceberg.types import DoubleType

from k2i_tasks.cold_frame import lazy_batches
from k2i_tasks.iceberg import reading
from k2i_tasks.iceberg.arrow import arrow_schema
from k2i_tasks.iceberg.pinned import Pinned
from k2i_tasks.iceberg.pushdown import COMPARISONS_MAX, pushed
from k2i_tasks.predicates import plain
from tests.iceberg_tables import NAME, catalog_of, config_at

#: Near where floats and doubles round apart, and beyond what floats can hold.
VALUES = [0.7, 0.1, 0.3, 1e10, -0.0, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan")]
BOUNDS = [0.7, float(np.float32(0.7)), 0.1, 0.30000001192092896, 0.0, 1e39, -1e39, 3.4028235e38]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A column of doubles whose first file has floats."""
    reading.correct()
    catalog = catalog_of(config_at(tmp_path))
    catalog.create_namespace("db")
    floats = pa.table({"x": pa.array([*VALUES, None], pa.float32())})
    found = catalog.create_table(NAME, schema=floats.schema)
    found.append(floats)
    with found.update_schema() as update:
        update.update_column("x", DoubleType())
    found.append(pa.table({"x": pa.array([*VALUES, None], pa.float64())}))
    return catalog.load_table(NAME)


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("operator", ["__lt__", "__le__", "__eq__", "__ge__", "__gt__", "__ne__"])
def test_files_of_floats_in_a_column_of_doubles_lose_no_row(
    table: Table, operator: str, bound: float
) -> None:
    now = Pinned(table, "main")

    def read(names: Any, predicate: Any, limit: Any) -> Any:
        return now.read(now.schema, names, predicate, limit)

    cold = lazy_batches(arrow_schema(now.schema), read)
    condition = getattr(pl.col("x"), operator)(bound)
    wanted = cold.collect().filter(condition)
    assert cold.filter(condition).collect()["x"].sort().equals(wanted["x"].sort())


@pytest.mark.parametrize("count", [COMPARISONS_MAX, COMPARISONS_MAX + 1, 490])
def test_a_long_chain_of_conditions_is_pushed_or_left_to_the_query(
    table: Table, count: int
) -> None:
    now = Pinned(table, "main")
    chain = reduce(lambda a, b: a | b, [pl.col("x") == float(n) for n in range(count)])
    found = plain(chain)
    assert (pushed(found, now.schema) == AlwaysTrue()) == (count > COMPARISONS_MAX)
    rows = pa.concat_tables(now.read(now.schema, None, found, None))
    assert 0.0 in rows["x"].to_pylist()
