"""Typed JSON: how columns grow, and what the columns of a table take."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from k2i_tasks.codecs.json import JsonDecoder
from k2i_tasks.codecs.rules import Rules, SchemaLimits
from k2i_tasks.errors import SchemaConflictError
from tests.unit.codec_batches import (
    COLUMNS,
    codes,
    decode,
    decoder_of,
    payload,
    types_of,
)


def test_nulls_and_empty_lists_get_a_column_with_the_first_value_that_has_a_type() -> None:
    decoder = decoder_of()
    assert payload(decode(decoder, b'{"a":1,"n":null,"l":[]}')) == [{"a": 1}]
    assert types_of(decoder) == {"a": pa.int64()}
    decoded = decode(decoder, b'{"l":[]}', b'{"n":"x","l":[1]}')
    assert payload(decoded) == [
        {"a": None, "n": None, "l": []},
        {"a": None, "n": "x", "l": [1]},
    ]


@pytest.mark.parametrize("value", [b"5", b'"x"', b'{"a":1}', b'"2024-01-01"'])
@pytest.mark.parametrize("place", [b'{"l":%s}', b'{"s":{"l":%s,"n":1}}'])
def test_lists_of_nothing_become_what_the_first_value_is(value: bytes, place: bytes) -> None:
    decoder = decoder_of()
    empty, full = place % b"[]", place % value
    assert not decode(decoder, b'{"n":1}', empty, empty).dead_letters
    # More of them before it than are looked at for its type.
    decoded = decode(decoder, *[empty] * 1500, full, empty)
    assert codes(decoded) in ([], ["json.type_mismatch"])
    found = payload(decoded)[1500]
    wanted = json.loads(value)
    stored = found["s"]["l"] if "s" in found else found["l"]
    assert stored in (wanted, value.decode(), date(2024, 1, 1))


@pytest.mark.parametrize("value", [b"0", b'[1,"x"]', b'{"a":1}'])
def test_a_list_of_nothing_beside_its_first_value_is_kept(value: bytes) -> None:
    decoder = decoder_of()
    assert not decode(decoder, b'{"n":1}').dead_letters
    decoded = decode(decoder, b'{"m":[],"f":[]}', b'{"f":%s}' % value)
    assert codes(decoded) == []
    assert [row["f"] for row in payload(decoded)] == ["[]", value.decode()]


def test_new_fields_are_added_at_the_end_also_in_structs_and_lists() -> None:
    decoder = decoder_of()
    decode(decoder, b'{"s":{"x":1},"l":[{"x":1}]}')
    decoded = decode(
        decoder,
        b'{"s":{"x":2},"l":[{"x":2}]}',
        b'{"n":1,"s":{"y":"b"},"l":[{"x":3},{"y":[0.5]}]}',
    )
    assert payload(decoded) == [
        {"s": {"x": 2, "y": None}, "l": [{"x": 2, "y": None}], "n": None},
        {
            "s": {"x": None, "y": "b"},
            "l": [{"x": 3, "y": None}, {"x": None, "y": [0.5]}],
            "n": 1,
        },
    ]


def test_a_new_field_is_typed_by_all_records_of_its_batch() -> None:
    decoder = decoder_of()
    values = [b'{"a":1}'] * 50
    decode(decoder, *values)
    decoded = decode(decoder, *values, b'{"a":1,"n":1}', *values, b'{"a":1,"n":0.5}')
    assert not decoded.dead_letters
    assert types_of(decoder)["n"] == pa.float64()


def test_the_manual_mode_makes_a_dead_letter_of_a_record_with_an_unknown_field() -> None:
    decoder = decoder_of([("a", pa.int64())], mode="manual")
    decoded = decode(decoder, b'{"a":1}', b'{"a":1,"b":2}', b'{"b":[]}', b'{"b":null}')
    assert codes(decoded) == ["json.unknown_field"] * 2
    assert payload(decoded) == [{"a": 1}, {"a": None}]
    assert types_of(decoder) == {"a": pa.int64()}


def test_the_manual_mode_creates_columns_once_where_there_is_no_table() -> None:
    decoder = decoder_of(mode="manual")
    assert not decode(decoder, b"{}", None).dead_letters
    assert not decode(decoder, b'{"a":1}').dead_letters
    assert codes(decode(decoder, b'{"b":1}')) == ["json.unknown_field"]


def test_columns_are_bounded_and_what_is_over_is_a_dead_letter() -> None:
    decoder = JsonDecoder(
        COLUMNS,
        None,
        max_message_bytes=10_000,
        mode="permissive",
        rules=Rules(limits=SchemaLimits(columns=5, depth=3)),
    )
    decoded = decode(decoder, *[f'{{"f{i}":1}}'.encode() for i in range(8)])
    assert codes(decoded) == ["json.too_many_columns"] * 3
    assert len(decoder.schema or ()) == 5


def test_what_is_nested_too_deep_for_a_schema_is_held_as_json_text() -> None:
    decoder = decoder_of()
    value: Any = 1
    for _ in range(30):
        value = {"x": value}
    decoded = decode(decoder, json.dumps(value).encode())
    found: Any = payload(decoded)[0]
    levels = 0
    while isinstance(found, dict):
        found = found["x"]
        levels += 1
    assert levels == 20
    assert json.loads(found)["x"]


def test_numbers_keep_their_value_in_the_column_that_is_there() -> None:
    decoder = decoder_of([("i", pa.int64()), ("d", pa.float64()), ("n", pa.int32())])
    decoded = decode(
        decoder,
        b'{"i":2e3,"d":3,"n":1.0}',
        b'{"i":-9223372036854775808,"d":9007199254740994,"n":-0}',
        b'{"i":9007199254740993.0,"d":1e300}',
        b'{"i":9223372036854775808}',
    )
    assert payload(decoded) == [
        {"i": 2000, "d": 3.0, "n": 1},
        {"i": -(2**63), "d": 2.0**53 + 2, "n": 0},
        {"i": 2**53 + 1, "d": 1e300, "n": None},
    ]
    assert codes(decoded) == ["json.out_of_range"]


def test_values_fit_the_types_of_a_table_that_is_there() -> None:
    ident = UUID("12345678-1234-5678-1234-567812345678")
    decoder = decoder_of(
        [
            ("f", pa.float32()),
            ("m", pa.decimal128(10, 2)),
            ("day", pa.date32()),
            ("at", pa.time64("us")),
            ("local", pa.timestamp("us")),
            ("id", pa.uuid()),
            ("text", pa.large_string()),
            ("list", pa.large_list(pa.field("element", pa.large_string()))),
            ("map", pa.map_(pa.string(), pa.timestamp("us", "UTC"))),
            ("bin", pa.binary()),
        ]
    )
    full = {
        "f": 0.5,
        "m": "12.50",
        "day": "2024-02-29",
        "at": "12:30:00.25",
        "local": "2024-01-01 10:00",
        "id": str(ident),
        "text": "x",
        "list": ["y", None],
    }
    mapped = json.dumps({"m": 1.5, "map": {"k": "2024-01-01T00:00:00Z", "n": None}}).encode()
    plain = json.dumps(full).encode()
    decoded = decode(decoder, plain, mapped, b'{"bin":"AA=="}', b'{"m":0.001}')
    assert codes(decoded) == ["json.unsupported_type", "json.out_of_range"]
    assert payload(decoded)[0] == full | {
        "m": Decimal("12.50"),
        "day": date(2024, 2, 29),
        "at": time(12, 30, 0, 250_000),
        "local": datetime(2024, 1, 1, 10),
        "id": ident,
        "map": None,
        "bin": None,
    }
    assert payload(decoded)[1]["map"] == [("k", datetime(2024, 1, 1, tzinfo=UTC)), ("n", None)]
    assert types_of(decoder)["text"] == pa.string()


def test_a_required_column_without_a_value_makes_a_dead_letter() -> None:
    inner = pa.struct([pa.field("x", pa.int64(), nullable=False)])
    decoder = decoder_of([pa.field("a", pa.int64(), nullable=False), pa.field("s", inner)])
    decoded = decode(decoder, b'{"a":1}', b'{"a":null}', b"{}", None, b'{"a":1,"s":{}}')
    assert codes(decoded) == ["json.missing_field"] * 4
    assert payload(decoded) == [{"a": 1, "s": None}]


def test_a_required_column_that_json_cannot_fill_stops_the_start() -> None:
    with pytest.raises(SchemaConflictError, match="'b'"):
        decoder_of([pa.field("b", pa.binary(), nullable=False)])


def test_metadata_columns_in_the_tables_schema_are_not_payload() -> None:
    decoder = decoder_of([("a", pa.int64()), *COLUMNS.schema()])
    assert types_of(decoder) == {"a": pa.int64()}
    assert decode(decoder, b'{"a":1}').table.schema.names == ["a", *COLUMNS.schema().names]


def test_field_ids_and_docs_of_the_table_are_kept() -> None:
    field = pa.field("a", pa.int64(), metadata={"PARQUET:field_id": "7", "doc": "the a"})
    decoded = decode(decoder_of([field]), b'{"a":1,"b":2}')
    assert decoded.table.schema.field("a").equals(field, check_metadata=True)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("99999999999999999.999", True),
        ("-99999999999999999.999", True),
        ("100000000000000000", False),
        ("-100000000000000000", False),
        ("18446744073709551614", False),
        ("1e18", False),
    ],
)
@pytest.mark.parametrize("form", ['{"m":%s}', '{"l":[%s]}', '{"s":{"m":%s}}'])
def test_a_decimal_has_no_more_digits_than_its_column(text: str, fits: bool, form: str) -> None:
    kind = pa.decimal128(20, 3)
    columns = [("m", kind), ("l", pa.list_(kind)), ("s", pa.struct([("m", kind)]))]
    values = [b'{"m":1,"l":[1],"s":{"m":1}}', b'{"l":[]}'] * 20 + [(form % text).encode()]
    decoded = decode(decoder_of(columns, mode="manual"), *values)
    decoded.table.validate(full=True)
    assert decoded.table.num_rows == 40 + fits
    assert codes(decoded) == ([] if fits else ["json.out_of_range"])
