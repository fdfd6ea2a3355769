"""Avro payloads that are not what they should be, and the forms that writers rarely use."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Sequence
from typing import Any

import fastavro
import numpy as np
import pytest

from k2i_tasks.codecs import chunked
from k2i_tasks.codecs.avro import AvroDecoder
from k2i_tasks.codecs.avro_rows import MAX_EMPTY_ITEMS
from k2i_tasks.codecs.payloads import DecodedPayloads, Payloads

ORDER: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["view", "buy"]}},
        {"name": "note", "type": ["null", "string"]},
        {"name": "price", "type": "double"},
        {"name": "paid", "type": "boolean"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "array", "items": "int"}},
        {"name": "labels", "type": {"type": "map", "values": "float"}},
        {"name": "by", "type": ["null", "long", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 4}},
        {
            "name": "sum",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        },
        {"name": "key", "type": {"type": "string", "logicalType": "uuid"}},
    ],
}
VALUE: dict[str, Any] = {
    "id": 2**40,
    "kind": "buy",
    "note": "grün",
    "price": 12.5,
    "paid": True,
    "tags": ["new", "", "sale"],
    "counts": [1, -300, 2**31 - 1, 0, 5, 6, 7],
    "labels": {"a": 1.5, "b": -2.0},
    "by": "someone",
    "at": 1_700_000_000_123,
    "hash": b"\x00\x01\x02\x03",
    "sum": b"\xff\x00",
    "key": "12345678-1234-5678-1234-567812345678",
}


def encoded(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def decode(schema: Any, payloads: Sequence[bytes]) -> DecodedPayloads:
    return AvroDecoder(json.dumps(schema)).decode(Payloads.joined(payloads))


def values(schema: Any, *payloads: bytes) -> list[Any]:
    decoded = decode(schema, payloads)
    assert not decoded.errors
    return list(decoded.columns["value"].to_pylist())


def codes(schema: Any, *payloads: bytes) -> dict[int, str]:
    decoded = decode(schema, payloads)
    assert decoded.columns.num_rows == len(payloads) - len(decoded.errors)
    decoded.columns.validate(full=True)
    return {row: error.code for row, error in decoded.errors.items()}


def long(number: int) -> bytes:
    return encoded("long", number)


def test_a_payload_cut_at_any_byte_is_an_error_and_its_neighbours_are_rows() -> None:
    whole = encoded(ORDER, VALUE)
    payloads = [one for size in range(len(whole)) for one in (whole[:size], whole)]
    decoded = decode(ORDER, payloads)
    assert {error.code for error in decoded.errors.values()} == {"avro.truncated"}
    assert sorted(decoded.errors) == list(range(0, len(payloads), 2))
    wanted = decode(ORDER, [whole]).columns.to_pylist()
    assert decoded.columns.to_pylist() == wanted * len(whole)


def test_a_changed_byte_changes_no_other_row() -> None:
    whole = encoded(ORDER, VALUE)
    changed = []
    for place in range(len(whole)):
        for byte in (0, 1, 0x7F, 0x80, 0xFF, whole[place] ^ 1):
            changed.append(whole[:place] + bytes([byte]) + whole[place + 1 :])
    payloads = [one for some in changed for one in (some, whole)]
    decoded = decode(ORDER, payloads)
    decoded.columns.validate(full=True)
    assert decoded.errors
    assert all(row % 2 == 0 for row in decoded.errors)
    row_of = np.flatnonzero([row not in decoded.errors for row in range(len(payloads))])
    wholes = np.flatnonzero(row_of % 2 == 1)
    wanted = decode(ORDER, [whole]).columns.to_pylist()
    assert decoded.columns.take(wholes).to_pylist() == wanted * len(changed)


@pytest.mark.parametrize(
    ("schema", "payload", "code"),
    [
        ("long", b"", "avro.truncated"),
        ("long", b"\x80" * 10 + b"\x00", "avro.number"),
        ("long", b"\xff" * 9 + b"\x02", "avro.number"),
        ("int", encoded("long", 2**31), "avro.number"),
        ("int", encoded("long", -(2**31) - 1), "avro.number"),
        ("boolean", b"\x02", "avro.boolean"),
        ("string", long(1) + b"\xff", "avro.encoding"),
        ("string", long(-1), "avro.number"),
        ("string", long(2**62) + b"abc", "avro.truncated"),
        ("bytes", long(-(2**63)), "avro.number"),
        ("bytes", long(2**63 - 1), "avro.truncated"),
        (["null", "int"], long(2), "avro.union"),
        (["null", "int"], long(-1), "avro.union"),
        (["null", "int", "string"], long(3), "avro.union"),
        (["null", "int", "string"], long(-2), "avro.union"),
        ({"type": "enum", "name": "e", "symbols": ["A"]}, long(1), "avro.enum"),
        ({"type": "enum", "name": "e", "symbols": ["A"]}, long(-1), "avro.enum"),
        ("null", b"\x00", "avro.trailing"),
        ("int", b"\x02\x00", "avro.trailing"),
        ({"type": "string", "logicalType": "uuid"}, long(3) + b"abc", "avro.uuid"),
        ({"type": "int", "logicalType": "date"}, long(2_932_897), "avro.range"),
        ({"type": "int", "logicalType": "time-millis"}, long(86_400_000), "avro.range"),
        ({"type": "int", "logicalType": "time-millis"}, long(-1), "avro.range"),
        ({"type": "long", "logicalType": "timestamp-millis"}, long(2**62), "avro.range"),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 2},
            long(1) + b"\x64",
            "avro.decimal",
        ),
        (
            {"type": "bytes", "logicalType": "decimal", "precision": 38},
            long(17) + b"\x01" + b"\x00" * 16,
            "avro.decimal",
        ),
        ({"type": "array", "items": "int"}, long(2**62), "avro.truncated"),
        ({"type": "array", "items": "int"}, long(-(2**63)) + long(0) + long(0), "avro.length"),
        ({"type": "array", "items": "int"}, long(-1) + long(-1) + long(0), "avro.length"),
        ({"type": "array", "items": "int"}, long(-1) + long(99) + long(0), "avro.length"),
        ({"type": "array", "items": "int"}, long(6) + b"\x80" * 6, "avro.truncated"),
        ({"type": "array", "items": "double"}, long(1) + b"\x00" * 7, "avro.truncated"),
        ({"type": "array", "items": "null"}, long(2**62) + long(0), "avro.items"),
        ({"type": "map", "values": "int"}, long(1) + long(1) + b"\xff" + b"\x00", "avro.encoding"),
    ],
    ids=str,
)
def test_a_hostile_payload_is_an_error_between_two_rows(
    schema: Any, payload: bytes, code: str
) -> None:
    fine = b"" if schema == "null" else b"\x00"
    if "uuid" in str(schema):
        fine = encoded("string", VALUE["key"])
    assert codes(schema, fine, payload, fine) == {1: code}


def test_items_without_bytes_are_bounded_in_all_lists_of_a_payload_together() -> None:
    nulls = {"type": "array", "items": "null"}
    lists = {"type": "array", "items": nulls}
    most = long(MAX_EMPTY_ITEMS) + long(0)
    assert values(nulls, most) == [[None] * MAX_EMPTY_ITEMS]
    two = long(2) + most * 2 + long(0)
    thousand = long(1000) + most * 1000 + long(0)
    assert codes(lists, two, long(1) + most + long(0), thousand) == {
        0: "avro.items",
        2: "avro.items",
    }


def test_nan_and_infinities_are_read() -> None:
    for schema in ("float", "double"):
        numbers = [math.nan, math.inf, -math.inf, -0.0]
        found = values(schema, *(encoded(schema, number) for number in numbers))
        assert list(map(repr, found)) == list(map(repr, numbers))


def test_a_decimal_of_no_bytes_or_of_more_than_necessary_is_read() -> None:
    schema = {"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 1}
    payloads = [long(0)]
    for number in (0, 1, -1, 99_999, -99_999):
        payloads += [
            long(size) + number.to_bytes(size, "big", signed=True) for size in (3, 8, 9, 16, 17, 40)
        ]
    numbers = [0.0] + [n / 10 for n in (0, 1, -1, 99_999, -99_999) for _ in range(6)]
    assert list(map(float, values(schema, *payloads))) == numbers


def test_a_uuid_in_a_form_that_is_not_canonical_is_read() -> None:
    schema = {"type": "string", "logicalType": "uuid"}
    texts = [VALUE["key"], VALUE["key"].replace("-", ""), "{" + VALUE["key"] + "}"]
    payloads = [encoded("string", text) for text in texts]
    assert set(map(str, values(schema, *payloads))) == {VALUE["key"]}


def test_of_a_key_that_a_map_has_twice_the_last_value_counts() -> None:
    schema = {"type": "map", "values": "int"}

    def entries(*pairs: tuple[str, int]) -> bytes:
        return b"".join(encoded("string", key) + long(value) for key, value in pairs)

    twice = long(2) + entries(("a", 1), ("b", 2)) + long(1) + entries(("a", 3)) + long(0)
    once = long(1) + entries(("a", 4)) + long(0)
    assert list(map(dict, values(schema, twice, once))) == [{"a": 3, "b": 2}, {"a": 4}]


@pytest.mark.parametrize(
    "items",
    ["string", "int", "double", ["null", "string"], {"type": "array", "items": "long"}],
    ids=str,
)
def test_a_list_of_very_many_items_is_read_in_one_block_and_in_blocks_of_one(items: Any) -> None:
    schema = {"type": "array", "items": items}
    one = {"string": "ü", "int": -70, "double": 0.5}.get(
        str(items), [1, 300] if "{" in str(items) else "x"
    )
    count = 50_000
    item = encoded(items, one)
    payloads = [
        long(count) + item * count + long(0),
        (long(1) + item) * count + long(0),
        (long(-1) + long(len(item)) + item) * count + long(0),
        long(0),
    ]
    started = time.process_time()
    found = values(schema, *payloads)
    # A round for each item would take a minute.
    assert time.process_time() - started < 15
    assert found == [[one] * count] * 3 + [[]]


def test_payloads_are_decoded_in_parts_and_errors_keep_their_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ROWS", 3)
    payloads = [long(number) if number % 4 else b"" for number in range(20)]
    decoded = decode("long", payloads)
    assert sorted(decoded.errors) == [0, 4, 8, 12, 16]
    wanted = [number for number in range(20) if number % 4]
    assert decoded.columns["value"].to_pylist() == wanted
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 1)
    assert decode("long", payloads).columns["value"].to_pylist() == wanted


def test_no_payloads_are_a_table_of_no_rows() -> None:
    decoded = decode(ORDER, [])
    assert decoded.columns.num_rows == 0
    assert decoded.columns.schema == AvroDecoder(json.dumps(ORDER)).schema


def test_an_error_tells_the_field_and_nothing_of_the_payload() -> None:
    payload = encoded(ORDER, {**VALUE, "tags": ["secret"]}).replace(b"secret", b"secre\xff")
    (error,) = decode(ORDER, [payload]).errors.values()
    assert error.what == "Field 'tags.element' is not UTF-8."
