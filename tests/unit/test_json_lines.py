"""Rows as lines of JSON, on the fast way and on the other."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2i_tasks.cells import json_rows
from k2i_tasks.doors.lines import json_bytes

MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))
TEXTS = st.text(max_size=8)
#: Values by their type; what only the slow way knows stands last.
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(1 << 63), (1 << 63) - 1)),
    (pa.uint64(), st.integers(0, (1 << 64) - 1)),
    (pa.float64(), st.floats()),
    (pa.bool_(), st.booleans()),
    (pa.large_string(), TEXTS),
    (pa.date32(), st.dates(date(1, 1, 1))),
    (pa.decimal128(20, 4), st.decimals(-(10**12), 10**12, places=4)),
    (pa.timestamp("us"), MOMENTS),
    (pa.timestamp("us", "UTC"), MOMENTS.map(lambda at: at.replace(tzinfo=UTC))),
    (pa.large_list(pa.int32()), st.lists(st.none() | st.integers(-9, 9), max_size=3)),
    (
        pa.struct([("a", pa.large_string()), ("b", pa.float64())]),
        st.fixed_dictionaries({"a": st.none() | TEXTS, "b": st.none() | st.floats(-9, 9)}),
    ),
    (pa.large_binary(), st.binary(max_size=5)),
    (pa.list_(pa.timestamp("us")), st.lists(MOMENTS, max_size=2)),
    (pa.duration("us"), st.timedeltas(timedelta(-9999), timedelta(9999))),
]


def same(found: Any, wanted: Any) -> bool:
    """Equal values; of times the moment counts, not how many zeros it has."""
    if isinstance(found, str) and isinstance(wanted, str) and found != wanted:
        return datetime.fromisoformat(found) == datetime.fromisoformat(wanted)
    return bool(found == wanted)


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=lambda one: str(one)[:24])
def test_both_ways_say_the_same(kind: pa.DataType, values: st.SearchStrategy[Any]) -> None:
    @settings(deadline=None)
    @given(st.lists(st.none() | values, min_size=1, max_size=6))
    def checked(rows: list[Any]) -> None:
        batch = pa.record_batch({"x": pa.array(rows, kind), "n": range(len(rows))})
        # Not `splitlines`, which breaks at a dozen other characters.
        lines = b"".join(json_bytes(batch)).removesuffix(b"\n").split(b"\n")
        plain = "".join(json_rows(pa.Table.from_batches([batch]))).removesuffix("\n").split("\n")
        assert len(lines) == len(rows)
        for line, other in zip(lines, plain, strict=True):
            found, wanted = json.loads(line), json.loads(other)
            assert same(found["x"], wanted["x"])
            assert found["n"] == wanted["n"]

    checked()


def test_decimals_keep_their_digits() -> None:
    batch = pa.record_batch({"x": pa.array([Decimal("1.50")], pa.decimal128(10, 2))})
    assert json.loads(b"".join(json_bytes(batch))) == {"x": "1.50"}
