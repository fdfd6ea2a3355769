"""What becomes of several writers' rows in one table: growth, promotion, conflict, order."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.codecs.rules import Rules, SchemaLimits
from tests.schema_registry import frame
from tests.unit.codec_batches import COLUMNS, codes, payload
from tests.unit.framed_rows import Known, decoded, framed, row

LONG, INT, TEXT = pa.int64(), pa.int32(), pa.string()


def schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


def test_rows_of_several_writers_come_in_record_order_over_all_columns() -> None:
    decoder = framed(Known({1: schema(a=LONG), 2: schema(b=TEXT, a=LONG)}))
    found = decoded(
        decoder, row(1, a=1), row(2, a=2, b="x"), None, row(1, a=3), frame(2, b"!"), row(2, b="y")
    )
    assert payload(found) == [
        {"a": 1, "b": None},
        {"a": 2, "b": "x"},
        {"a": None, "b": None},
        {"a": 3, "b": None},
        {"a": None, "b": "y"},
    ]
    assert found.table["_kafka_offset"].to_pylist() == [0, 1, 2, 3, 5]
    assert [(letter.offset, letter.code) for letter in found.dead_letters] == [(4, "rows.bad")]
    assert found.dead_letters[0].value == frame(2, b"!")


def test_what_is_no_frame_or_has_no_schema_is_a_dead_letter_with_its_code() -> None:
    decoder = framed(Known({1: schema(a=LONG)}))
    found = decoded(
        decoder, b"", b"\0\0", b"{}xxx", row(9, a=1), row(1, a=1), frame(1, b" " * 1000)
    )
    assert codes(found) == [
        "frame.short",
        "frame.short",
        "frame.magic",
        "registry.unknown_id",
        "avro.too_large",
    ]
    assert payload(found) == [{"a": 1}]
    ids = [letter.schema_id for letter in found.dead_letters]
    assert ids == [None, None, None, 9, 1]


def test_nothing_but_tombstones_and_dead_letters_has_no_columns() -> None:
    decoder = framed(Known({}))
    found = decoded(decoder, None, b"", None)
    assert decoder.schema is None
    assert found.table.column_names == COLUMNS.schema().names
    assert found.table.num_rows == 2


@pytest.mark.parametrize(
    ("first", "second", "value", "wanted", "seen"),
    [
        (INT, LONG, 2**40, LONG, 2**40),
        (LONG, INT, 7, LONG, 7),
        (pa.float32(), pa.float64(), 0.1, pa.float64(), 0.1),
        (pa.float64(), INT, 7, pa.float64(), 7.0),
        (pa.decimal128(5, 2), pa.decimal128(9, 2), 123456, pa.decimal128(9, 2), 123456),
        (pa.list_(INT), pa.list_(LONG), [2**40, None], pa.list_(LONG), [2**40, None]),
        (
            pa.map_(TEXT, INT),
            pa.map_(TEXT, LONG),
            [("k", 2**40), ("n", None)],
            pa.map_(TEXT, LONG),
            [("k", 2**40), ("n", None)],
        ),
        (
            pa.struct([("x", INT)]),
            pa.struct([("y", TEXT), ("x", LONG)]),
            {"x": 1, "y": "t"},
            pa.struct([("x", LONG), ("y", TEXT)]),
            {"x": 1, "y": "t"},
        ),
        (
            pa.list_(pa.struct([("x", INT)])),
            pa.list_(pa.struct([("y", TEXT)])),
            [{"y": "t"}, None],
            pa.list_(pa.struct([("x", INT), ("y", TEXT)])),
            [{"x": None, "y": "t"}, None],
        ),
        (pa.null(), LONG, 1, LONG, 1),
        (LONG, pa.null(), None, LONG, None),
    ],
    ids=str,
)
def test_a_column_is_widened_by_safe_promotions_alone(
    first: pa.DataType, second: pa.DataType, value: Any, wanted: pa.DataType, seen: Any
) -> None:
    decoder = framed(Known({1: schema(k=LONG, c=first), 2: schema(k=LONG, c=second)}))
    found = decoded(decoder, row(1, k=1), row(2, k=2, c=value), row(1, k=3))
    assert codes(found) == []
    assert found.table.schema.field("c").type == wanted
    assert [one["c"] for one in payload(found)] == [None, seen, None]
    again = decoded(decoder, row(2, k=4, c=value))
    assert again.table.schema.field("c").type == wanted
    assert payload(again)[0]["c"] == seen


@pytest.mark.parametrize(
    ("table", "given", "bad", "good"),
    [
        (LONG, TEXT, "x", None),
        (TEXT, LONG, 1, None),
        (LONG, pa.float64(), 1.5, None),
        (pa.decimal128(9, 2), pa.decimal128(9, 3), 1, None),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), 0, None),
        (pa.struct([("x", LONG)]), LONG, 1, None),
        (pa.list_(LONG), pa.list_(TEXT), ["x"], []),
        (pa.struct([("x", LONG)]), pa.struct([("x", TEXT)]), {"x": "t"}, {"x": None}),
        (pa.list_(pa.struct([("x", LONG)])), pa.list_(pa.struct([("x", TEXT)])), [{"x": ""}], []),
    ],
    ids=str,
)
def test_a_value_that_no_promotion_brings_into_its_column_is_a_dead_letter(
    table: pa.DataType, given: pa.DataType, bad: Any, good: Any
) -> None:
    decoder = framed(Known({1: schema(k=LONG, c=given)}), schema(k=LONG, c=table))
    found = decoded(decoder, row(1, k=1, c=bad), row(1, k=2, c=good), row(1, k=3))
    assert codes(found) == ["schema.conflict"]
    reason = found.dead_letters[0].reason
    assert "'c" in reason
    assert "in the table and" in reason
    assert [(one["k"], one["c"]) for one in payload(found)] == [(2, good), (3, None)]
    assert found.table.schema.field("c").type == table


def test_manual_takes_no_new_columns_and_widens_none() -> None:
    table = schema(a=INT, s=pa.struct([("x", LONG)]))
    inner = pa.struct([("x", LONG), ("y", LONG)])
    known = Known({1: schema(a=INT, b=TEXT, s=inner), 2: schema(a=LONG)})
    decoder = framed(known, table, mode="manual")
    found = decoded(
        decoder,
        row(1, a=1, b="x"),
        row(1, a=2),
        row(1, s={"x": 1, "y": 2}),
        row(1, s={"x": 3}),
        row(2, a=5),
    )
    assert codes(found) == ["schema.unknown_field", "schema.unknown_field", "schema.conflict"]
    assert "'s.y'" in found.dead_letters[1].reason
    assert payload(found) == [{"a": 2, "s": None}, {"a": None, "s": {"x": 3}}]
    assert decoder.schema == table


def test_manual_makes_the_columns_once_where_there_is_no_table() -> None:
    known = Known({1: schema(a=LONG), 2: schema(b=LONG), 3: schema(c=LONG)})
    decoder = framed(known, mode="manual")
    assert codes(decoded(decoder, row(1, a=1), row(2, b=2))) == []
    assert codes(decoded(decoder, row(3, c=1))) == ["schema.unknown_field"]
    ahead = framed(known, mode="manual")
    ahead.adopt(schema(a=LONG))
    assert codes(decoded(ahead, row(1, a=1), row(2, b=2))) == ["schema.unknown_field"]


def test_names_that_cannot_be_columns_are_refused_only_where_they_have_a_value() -> None:
    twice = pa.struct([("x", LONG), ("X", LONG)])
    names = ["a", "A", "_KAFKA_offset", ""]
    known = Known({1: pa.schema([*((name, LONG) for name in names), ("t", twice)])})
    decoder = framed(known)
    found = decoded(
        decoder,
        row(1, a=1),
        row(1, A=1),
        row(1, _KAFKA_offset=1),
        row(1, **{"": 1}),
        row(1, t={"x": 1}),
    )
    assert codes(found) == ["schema.field_name"] * 4
    assert payload(found) == [{"a": 1}]


def test_columns_have_a_bound() -> None:
    known = Known({1: pa.schema([(f"c{n}", LONG) for n in range(6)])})
    decoder = framed(known, rules=Rules(limits=SchemaLimits(columns=5)))
    found = decoded(decoder, row(1, c0=1, c4=2), row(1, c5=1))
    assert codes(found) == ["schema.too_many_columns"]
    assert len(payload(found)[0]) == 5


def test_a_value_that_the_table_requires_has_to_be_there() -> None:
    inner = pa.struct([pa.field("x", LONG, nullable=False)])
    table = pa.schema([pa.field("a", LONG, nullable=False), ("l", pa.list_(inner))])
    items = pa.list_(pa.struct([("x", LONG)]))
    known = Known({1: schema(a=LONG, l=items), 2: schema(b=LONG)})
    found = decoded(
        framed(known, table),
        row(1, a=1, l=[{"x": 1}, None]),
        row(1, a=2, l=[{"x": 1}, {"x": None}]),
        row(1, l=[]),
        row(2, b=1),
        None,
    )
    assert codes(found) == ["schema.missing_field"] * 4
    assert "'l.element.x'" in found.dead_letters[0].reason
    assert [one["a"] for one in payload(found)] == [1]
    assert found.table.schema.field("a").nullable is False


def test_a_time_beyond_what_its_column_holds_is_a_dead_letter_alone() -> None:
    table = schema(t=pa.timestamp("us"))
    known = Known({1: schema(t=pa.timestamp("ms"))})
    found = decoded(framed(known, table), row(1, t=1000), row(1, t=2**62), row(1, t=2000))
    assert codes(found) == ["schema.out_of_range"]
    assert [one["t"].timestamp() for one in payload(found)] == pytest.approx([1.0, 2.0], abs=86_400)
