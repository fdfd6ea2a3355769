"""Equal is equal, and each changed cell is found, whatever the type and the order of the rows."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import assume, given
from hypothesis import strategies as st

from k2i_tasks.verification.comparison import compare, matches
from k2i_tasks.verification.distinct import hollow

KEYS = ("p", "o")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
PLACES = st.tuples(st.integers(0, 2), st.integers(0, 9))
STRUCT = pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string())), ("c", pa.float64())])


def struct_values() -> st.SearchStrategy[Any]:
    members = {
        "a": maybe(st.integers(0, 3)),
        "b": maybe(st.lists(maybe(TEXT), max_size=2)),
        "c": maybe(st.floats(width=64)),
    }
    return st.fixed_dictionaries(members)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-3, 3)),
    (pa.bool_(), st.booleans()),
    (pa.float32(), st.sampled_from([0.0, -0.0, 1.5, math.nan, math.inf])),
    (pa.float64(), st.floats(width=64)),
    (pa.string(), TEXT),
    (pa.binary(), st.binary(max_size=2)),
    (pa.decimal128(9, 2), st.integers(-9, 9).map(lambda n: Decimal(n).scaleb(-2))),
    (pa.date32(), st.dates()),
    (
        pa.timestamp("us", "UTC"),
        st.datetimes(dt.datetime(1700, 1, 1)).map(lambda d: d.replace(tzinfo=dt.UTC)),
    ),
    (pa.list_(pa.float64()), st.lists(maybe(st.floats(width=64)), max_size=3)),
    (pa.list_(pa.list_(pa.int64())), st.lists(maybe(st.lists(st.integers(0, 1))), max_size=2)),
    (STRUCT, struct_values()),
    (pa.list_(STRUCT), st.lists(maybe(struct_values()), max_size=2)),
    (
        pa.map_(pa.string(), pa.int64()),
        st.dictionaries(TEXT, maybe(st.integers(0, 2)), max_size=2).map(lambda d: [*d.items()]),
    ),
]


@st.composite
def columns(draw: st.DrawFn) -> tuple[pa.DataType, list[Any], st.SearchStrategy[Any]]:
    kind, values = draw(st.sampled_from(KINDS))
    return kind, draw(st.lists(maybe(values), min_size=1, max_size=12)), maybe(values)


def rows(kind: pa.DataType, cells: list[Any], order: list[int], pieces: int) -> pa.Table:
    """Cell n at position (n % 3, n), rows in this order, in several slices of larger arrays."""
    array = pa.array([cells[0], *(cells[n] for n in order)], kind)[1:]
    table = pa.table(
        {
            "p": pa.array([n % 3 for n in order], pa.int32()),
            "o": pa.array(order, pa.int64()),
            "x": array,
        }
    )
    step = max(1, len(order) // pieces)
    return pa.concat_tables(table[at : at + step] for at in range(0, len(order), step))


def plain(value: Any) -> Any:
    """A value with which `==` says what is meant: NaN is NaN, and 0.0 is not -0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else (value, math.copysign(1.0, value))
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [*map(plain, value)] if isinstance(value, list | tuple) else value


@given(columns(), st.data(), st.integers(1, 3))
def test_equal_rows_are_equal_in_any_order(
    column: tuple[pa.DataType, list[Any], st.SearchStrategy[Any]], data: st.DataObject, pieces: int
) -> None:
    kind, cells, _ = column
    order = data.draw(st.permutations(range(len(cells))))
    found = compare(
        rows(kind, cells, [*range(len(cells))], 1), rows(kind, cells, order, pieces), KEYS
    )
    assert sum(found.rows.values()) == len(cells)
    assert not found.cells
    assert not found.different
    assert not found.unfit


@given(columns(), st.data())
def test_a_cell_that_was_changed_is_found_and_no_other(
    column: tuple[pa.DataType, list[Any], st.SearchStrategy[Any]], data: st.DataObject
) -> None:
    kind, cells, values = column
    at = data.draw(st.integers(0, len(cells) - 1))
    other = data.draw(values)
    before = pa.array([cells[at]], kind)
    assume(plain(pa.array([other], kind).to_pylist()) != plain(before.to_pylist()))
    assume(other is not None or not hollow(before)[0])
    order = data.draw(st.permutations(range(len(cells))))
    changed = [other if n == at else cell for n, cell in enumerate(cells)]
    kafka = rows(kind, cells, [*range(len(cells))], 2)
    found = compare(kafka, rows(kind, changed, order, 2), KEYS)
    if not kind.equals(STRUCT) and not pa.types.is_nested(kind):
        assert [(c.partition, c.offset, c.column) for c in found.cells] == [(at % 3, at, "x")]
        assert found.different == {at % 3: 1}
    else:
        # Within it, what is empty in Kafka and null in the table may be all that differs.
        assert {(c.partition, c.offset) for c in found.cells} <= {(at % 3, at)}


@given(st.lists(PLACES), st.lists(PLACES))
def test_what_both_sides_have_is_matched_once(
    ours: list[tuple[int, int]], theirs: list[tuple[int, int]]
) -> None:
    here, there = (np.array(side, np.int64).reshape(-1, 2) for side in (ours, theirs))
    a, b = matches(here, there)
    assert here[a].tolist() == there[b].tolist()
    assert sorted(map(tuple, here[a].tolist())) == sorted(set(ours) & set(theirs))
