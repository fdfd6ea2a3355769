"""What of two values is a difference, and how it is told."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from k2i_tasks.verification.comparison import Compared, compare

DEEP = pa.struct([("tags", pa.list_(pa.string())), ("n", pa.int64())])


def one(kafka: pa.Array, table: pa.Array, **options: Any) -> Compared:
    """One row of one column `x` on each side, at position 0:7."""
    ours, theirs = (
        pa.table({"p": pa.array([0], pa.int32()), "o": pa.array([7], pa.int64()), "x": side})
        for side in (kafka, table)
    )
    return compare(ours, theirs, ("p", "o"), **options)


@pytest.mark.parametrize(
    ("kind", "kafka"),
    [
        (pa.list_(pa.string()), []),
        (pa.list_(pa.string()), [None]),
        (DEEP, {"tags": [], "n": None}),
        (DEEP, {"tags": None, "n": None}),
        (pa.list_(DEEP), [{"tags": [None], "n": None}, None]),
    ],
)
def test_what_is_empty_all_the_way_down_may_be_null_in_the_table_but_not_the_reverse(
    kind: pa.DataType, kafka: Any
) -> None:
    empty, null = pa.array([kafka], kind), pa.array([None], kind)
    assert not one(empty, null).cells
    assert one(null, empty).cells


@pytest.mark.parametrize(
    ("kind", "kafka", "table"),
    [
        (pa.float64(), 0.0, -0.0),
        (pa.float64(), float("nan"), None),
        (pa.list_(pa.int64()), [1], [1, None]),
        (DEEP, {"tags": ["a"], "n": 1}, {"tags": ["b"], "n": 1}),
        (DEEP, {"tags": ["a"], "n": 1}, None),
        (pa.list_(DEEP), [{"tags": ["a", "b"], "n": 1}], [{"tags": ["a", "c"], "n": 1}]),
        (pa.map_(pa.string(), pa.int64()), [("a", 1)], [("a", 2)]),
    ],
)
def test_what_differs_differs(kind: pa.DataType, kafka: Any, table: Any) -> None:
    assert one(pa.array([kafka], kind), pa.array([table], kind)).different == {0: 1}


def test_a_type_that_was_widened_in_the_table_is_no_difference() -> None:
    assert not one(pa.array([5], pa.int32()), pa.array([5], pa.int64())).cells


def uuids(*values: UUID) -> pa.ExtensionArray:
    storage = pa.array([value.bytes for value in values], pa.binary(16))
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_uuids_are_compared_whether_a_reader_gives_them_or_their_bytes(
    nested: bool, as_bytes: bool
) -> None:
    def side(value: UUID, *, plain: bool) -> pa.Array:
        array = uuids(value)
        array = array.storage if plain else array
        return pa.ListArray.from_arrays([0, 1], array) if nested else array

    first, second = UUID(int=1), UUID(int=2)
    kafka = side(first, plain=False)
    assert one(kafka, side(first, plain=as_bytes)) == Compared({0: 1}, {}, [], {})
    assert one(kafka, side(second, plain=as_bytes)).different == {0: 1}


def test_types_that_cannot_be_compared_are_told_and_not_taken_for_equal() -> None:
    found = one(pa.array(["5"]), pa.array([5]))
    assert "string" in found.unfit["x"]


def test_a_column_that_one_side_lacks_is_null_there() -> None:
    keys = {"p": pa.array([0, 0], pa.int32()), "o": pa.array([1, 2], pa.int64())}
    kafka = pa.table({**keys, "ours": pa.array([None, "a"])})
    table = pa.table({**keys, "theirs": pa.array([3, None])})
    found = compare(kafka, table, ("p", "o"))
    assert [(c.offset, c.column) for c in found.cells] == [(1, "theirs"), (2, "ours")]


def test_values_are_told_only_when_asked_for_and_then_cut() -> None:
    kafka, table = pa.array(["a" * 200]), pa.array(["secret"])
    (hidden,) = one(kafka, table).cells
    assert (hidden.kafka, hidden.table) == (None, None)
    (shown,) = one(kafka, table, show_values=True).cells
    assert shown.table == "'secret'"
    assert shown.kafka is not None
    assert len(shown.kafka) < 70
