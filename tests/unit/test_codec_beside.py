"""What a writer has and its columns cannot hold: beside them, or in the rest, as JSON text."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.codecs.beside import set_beside
from k2i_tasks.codecs.conflicts import Conflicts, Policy
from k2i_tasks.codecs.infer import is_json_text
from k2i_tasks.codecs.rules import Rules, SchemaLimits
from tests.unit.codec_batches import payload
from tests.unit.framed_rows import Known, decoded, framed, row

VARIANT = Rules(conflicts=Conflicts(Policy.VARIANT_COLUMN))
DAY = datetime(2024, 1, 1, tzinfo=UTC)


def column(kind: pa.DataType) -> pa.Schema:
    return pa.schema([("a", kind)])


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (pa.string(), "x", '"x"'),
        (pa.float64(), 0.1, "0.1"),
        (pa.float64(), float("nan"), '"nan"'),
        (pa.bool_(), True, "true"),
        (pa.decimal128(20, 3), Decimal("12345678901234567.890"), "12345678901234567.890"),
        (pa.binary(), b"\0\xff", '"AP8="'),
        (pa.timestamp("us", "UTC"), DAY, '"2024-01-01T00:00:00+00:00"'),
        (pa.list_(pa.int64()), [1, None], "[1,null]"),
        (pa.struct([("b", pa.string())]), {"b": "y"}, '{"b":"y"}'),
        (pa.map_(pa.string(), pa.int64()), [("k", 1)], '{"k":1}'),
    ],
)
def test_what_has_no_room_is_text_with_every_digit(
    kind: pa.DataType, value: Any, text: str
) -> None:
    rows = pa.Table.from_pylist([{"a": value}, {"a": None}], schema=column(kind))
    found = set_beside(rows.combine_chunks(), [("a",)], (), "")
    assert found.to_pylist() == [{"a": None, "a__string": text}, {"a": None, "a__string": None}]
    rest = set_beside(rows.combine_chunks(), [], (("a",),), "_rest").column("_rest")
    assert rest.to_pylist() == [f'{{"a":{text}}}', None]


def test_a_writers_column_of_another_type_goes_beside_the_tables() -> None:
    decoder = framed(Known({1: column(pa.int64()), 2: column(pa.string())}), rules=VARIANT)
    result = decoded(decoder, row(1, a=1), row(2, a="x"), row(2), row(1, a=2))
    assert not result.dead_letters
    assert payload(result) == [
        {"a": 1, "a__string": None},
        {"a": None, "a__string": '"x"'},
        {"a": None, "a__string": None},
        {"a": 2, "a__string": None},
    ]
    assert is_json_text(result.table.schema.field("a__string"))


def test_members_of_structs_vary_where_they_are_also_in_lists() -> None:
    def nested(kind: pa.DataType) -> pa.Schema:
        inner = pa.struct([("m", kind), ("l", pa.list_(pa.field("element", kind)))])
        return pa.schema([("s", inner), ("l", pa.list_(pa.field("element", inner)))])

    decoder = framed(Known({1: nested(pa.int64()), 2: nested(pa.string())}), rules=VARIANT)
    one, other = {"m": 1, "l": [1]}, {"m": "x", "l": ["y", None]}
    result = decoded(decoder, row(1, s=one, l=[one]), row(2, s=other, l=[other, None]), row(2))
    assert not result.dead_letters
    plain = {"m": 1, "l": [1], "m__string": None, "l__string": None}
    varied = {"m": None, "l": None, "m__string": '"x"', "l__string": '["y",null]'}
    assert payload(result) == [
        {"s": plain, "l": [plain]},
        {"s": varied, "l": [varied, None]},
        {"s": None, "l": None},
    ]


def test_a_name_that_is_taken_leaves_the_conflict_a_dead_letter() -> None:
    taken = pa.schema([("a", pa.int64()), ("a__string", pa.string())])
    known = Known({1: taken, 2: column(pa.string())})
    result = decoded(framed(known, rules=VARIANT), row(1, a=1), row(2, a="x"), row(2))
    assert [letter.conflict for letter in result.dead_letters] == ["a"]
    assert result.table.num_rows == 2


def test_the_columns_of_a_writer_beyond_the_bound_go_into_the_rest() -> None:
    inner = pa.struct([("m", pa.int64())])
    wide = pa.schema([("a", pa.int64()), ("s", inner), ("b", pa.string()), ("c", pa.float64())])
    more = pa.schema([("s", pa.struct([("m", pa.int64()), ("n", pa.string())]))])
    rules = Rules(limits=SchemaLimits(columns=3), overflow="_rest")
    decoder = framed(Known({1: wide, 2: more}), rules=rules)
    result = decoded(
        decoder,
        row(1, a=1, s={"m": 1}, b="x", c=0.5),
        row(1, a=2),
        row(2, s={"m": 3, "n": "y"}),
    )
    assert not result.dead_letters
    assert payload(result) == [
        {"a": 1, "s": {"m": 1}, "_rest": '{"b":"x","c":0.5}'},
        {"a": 2, "s": None, "_rest": None},
        {"a": None, "s": {"m": 3}, "_rest": '{"s":{"n":"y"}}'},
    ]


def test_required_columns_become_optional_for_rows_without_them_if_that_is_wanted() -> None:
    inner = pa.struct([pa.field("m", pa.int64(), nullable=False)])
    table = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("s", inner)])
    known = Known({1: pa.schema([("a", pa.int64()), ("s", pa.struct([("m", pa.int64())]))])})
    payloads = [row(1, a=1, s={"m": 1}), row(1, a=2, s={"m": None}), row(1), None]
    strict = decoded(framed(known, table), *payloads)
    assert [letter.code for letter in strict.dead_letters] == ["schema.missing_field"] * 3
    decoder = framed(known, table, rules=Rules(relaxes=True))
    result = decoded(decoder, *payloads)
    assert not result.dead_letters
    assert [each["a"] for each in payload(result)] == [1, 2, None, None]
    schema = decoder.schema
    assert schema is not None
    assert schema.field("a").nullable
    assert schema.field("s").type.field("m").nullable
