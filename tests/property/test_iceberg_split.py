"""Whatever the values, a split loses no row, doubles none, and each group has one partition."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.transforms import IdentityTransform, parse_transform
from pyiceberg.types import (
    BinaryType,
    DateType,
    DecimalType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

from k2i_tasks.iceberg.arrow import arrow_schema
from k2i_tasks.iceberg.split import partition_record, partition_text, split
from k2i_tasks.iceberg.transforms import apply_transform, internal

EPOCH = dt.datetime(1970, 1, 1)
INSTANTS = st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(2400, 1, 1)) | st.sampled_from(
    [EPOCH, EPOCH - dt.timedelta(microseconds=1), dt.datetime(1969, 12, 31)]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TIMES = ("identity", "void", "year", "month", "day", "hour", "bucket[7]")
PLAIN = ("identity", "void", "bucket[1]", "bucket[16]", "truncate[1]", "truncate[10]")

#: Iceberg type, values, and the transforms that take it.
KINDS: list[tuple[IcebergType, st.SearchStrategy[Any], tuple[str, ...]]] = [
    (IntegerType(), st.integers(-(2**31) + 10, 2**31 - 1), PLAIN),
    (LongType(), st.integers(-(2**63) + 10, 2**63 - 1), PLAIN),
    (StringType(), TEXTS, PLAIN),
    (BinaryType(), st.binary(max_size=6), PLAIN),
    (
        DecimalType(9, 2),
        st.integers(-(10**8), 10**8).map(lambda n: Decimal(n).scaleb(-2)),
        PLAIN,
    ),
    (DateType(), INSTANTS.map(lambda d: d.date()), tuple(t for t in TIMES if t != "hour")),
    (TimestampType(), INSTANTS, TIMES),
    (TimestamptzType(), INSTANTS.map(lambda d: d.replace(tzinfo=dt.UTC)), TIMES),
    (TimeType(), st.times(), ("identity", "void", "bucket[7]")),
    (UUIDType(), st.uuids().map(lambda u: u.bytes), ("identity", "void", "bucket[7]")),
]


@st.composite
def columns(draw: st.DrawFn) -> tuple[IcebergType, list[Any], str]:
    kind, values, transforms = draw(st.sampled_from(KINDS))
    few = st.lists(values, min_size=1, max_size=4).flatmap(st.sampled_from)
    rows = draw(st.lists(st.none() | few | values, min_size=1, max_size=40))
    return kind, rows, draw(st.sampled_from(transforms))


def as_array(kind: IcebergType, values: list[Any]) -> pa.Array:
    schema = arrow_schema(Schema(NestedField(1, "c", kind)))
    if isinstance(kind, UUIDType):
        return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(values, pa.binary(16)))
    return pa.array(values, schema.field("c").type)


@given(columns())
@settings(max_examples=300, deadline=None)
def test_each_vector_transform_equals_pyicebergs_scalar_one(
    column: tuple[IcebergType, list[Any], str],
) -> None:
    kind, values, text = column
    array = as_array(kind, values)
    transform = parse_transform(text)
    scalar = transform.transform(kind)
    expected = [scalar(value) for value in internal(array).to_pylist()]
    assert apply_transform(transform, kind, array).to_pylist() == expected


@given(st.lists(columns(), min_size=1, max_size=3), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_groups_are_the_rows_each_of_one_partition(
    given_columns: list[tuple[IcebergType, list[Any], str]], ordered: bool, falling: bool
) -> None:
    size = min(len(values) for _, values, _ in given_columns)
    fields = [NestedField(i + 1, f"c{i}", kind) for i, (kind, _, _) in enumerate(given_columns)]
    row = NestedField(99, "row", LongType())
    schema = Schema(*fields, row)
    spec = PartitionSpec(
        *(
            PartitionField(i + 1, 1000 + i, parse_transform(text), f"p{i}")
            for i, (_, _, text) in enumerate(given_columns)
        )
    )
    direction = SortDirection.DESC if falling else SortDirection.ASC
    by_row = SortField(99, IdentityTransform(), direction, NullOrder.NULLS_LAST)
    order = SortOrder(by_row) if ordered else SortOrder(order_id=0)
    arrays = [as_array(kind, values[:size]) for kind, values, _ in given_columns]
    table = pa.table([*arrays, pa.array(range(size), pa.int64())], names=schema.column_names)

    groups = list(split(table, schema, spec, order))

    found = [number for group in groups for number in group.rows["row"].to_pylist()]
    assert Counter(found) == Counter(range(size))
    scalars = [parse_transform(text).transform(kind) for kind, _, text in given_columns]
    inner = [internal(array).to_pylist() for array in arrays]
    seen = set()
    types = spec.partition_type(schema)
    for group in groups:
        rows = group.rows["row"].to_pylist()
        assert rows == sorted(rows, reverse=ordered and falling)
        values = tuple(group.partition[i] for i in range(len(spec.fields)))
        seen.add(values)
        for number in rows:
            assert values == tuple(f(c[number]) for f, c in zip(scalars, inner, strict=True))
            for position, column in enumerate(arrays):
                at = rows.index(number)
                assert group.rows.column(position)[at].as_py() == column[number].as_py()
        text = partition_text(spec, types, group.partition)
        assert partition_record(spec, types, text) == group.partition
    assert len(seen) == len(groups)


def test_ten_thousand_partitions_cost_one_pass() -> None:
    schema = Schema(NestedField(1, "id", LongType()))
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "id"))
    ids = np.random.default_rng(1).permutation(np.repeat(np.arange(10_000), 3))
    groups = list(split(pa.table({"id": ids}), schema, spec, SortOrder(order_id=0)))
    assert len(groups) == 10_000
    assert all(group.rows.num_rows == 3 for group in groups)
