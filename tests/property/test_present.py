"""Which records are rows already: the same as reading all of the table says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.schema import Schema
from pyiceberg.types import IntegerType, LongType, NestedField, StringType

from k2i_tasks.iceberg.positions import PositionColumns
from k2i_tasks.iceberg.present import rows_at
from tests.iceberg_tables import NAME, catalog_of, config_at

SCHEMA = Schema(
    NestedField(1, "p", IntegerType()),
    NestedField(2, "o", LongType()),
    NestedField(3, "t", StringType()),
)
PLACES = st.tuples(st.sampled_from(["t", "other"]), st.integers(0, 2), st.integers(0, 30))


@settings(max_examples=40, deadline=None)
@given(
    files=st.lists(st.sets(PLACES, min_size=1, max_size=8), max_size=4),
    wanted=st.sets(st.tuples(st.just("t"), st.integers(0, 2), st.integers(0, 30)), min_size=1),
    bounds=st.booleans(),
)
def test_rows_are_found_at_exactly_the_places_that_have_one(
    files: list[set[tuple[str, int, int]]], wanted: set[tuple[str, int, int]], bounds: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        catalog = catalog_of(config_at(Path(folder)))
        catalog.create_namespace(NAME[0])
        mode = {} if bounds else {"write.metadata.metrics.default": "none"}
        table = catalog.create_table(NAME, SCHEMA, properties=mode)
        for places in files:
            rows = [{"t": topic, "p": number, "o": offset} for topic, number, offset in places]
            table.append(pa.Table.from_pylist(rows, SCHEMA.as_arrow()))
        found = rows_at(table, "main", PositionColumns("p", "o", "t"), sorted(wanted))
        assert found == wanted & set().union(*files)
