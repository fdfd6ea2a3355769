"""Typed JSON: what is a row, what is a dead letter, and the types of new columns."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.codecs import json_habit, json_parts
from k2i_tasks.codecs.json_pace import PART_RECORDS_MAX
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.wire import RefusedError
from tests.unit.asking_world import becomes
from tests.unit.codec_batches import (
    COLUMNS,
    batch_of,
    codes,
    decode,
    decoder_of,
    payload,
)

DEEP = b'{"a":' + b"[" * 150 + b"]" * 150 + b"}"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", "json.empty"),
        (b" \n", "json.empty"),
        (b"\xef\xbb\xbf", "json.empty"),
        (b"[]", "json.not_object"),
        (b"null", "json.not_object"),
        (b'"text"', "json.not_object"),
        (b"{", "json.syntax"),
        (b'{"a":1}}', "json.extra_data"),
        (b'{"a":1} {"a":2}', "json.extra_data"),
        (b'{"a":1}\n{"a":2}', "json.extra_data"),
        (b'{"a":1}null{"a":2}', "json.extra_data"),
        (b'{"a":1,"a":1}', "json.duplicate_key"),
        (b'{"a":1,"\\u0061":1}', "json.duplicate_key"),
        (b'{"s":{"x":1,"x":2}}', "json.duplicate_key"),
        (b'{"d":NaN}', "json.not_a_number"),
        (b'{"d":-Infinity}', "json.not_a_number"),
        (b'{"d":1e999}', "json.out_of_range"),
        (b'{"d":' + b"7" * 5000 + b"}", "json.out_of_range"),
        (b'{"a":9223372036854775808}', "json.out_of_range"),
        (b'{"d":9007199254740993}', "json.out_of_range"),
        (b'{"c":"\xff"}', "json.encoding"),
        (b'{"c":"\xed\xa0\x80"}', "json.encoding"),
        (b'{"c":"\\ud800"}', "json.lone_surrogate"),
        (b'{"c":"a\nb"}', "json.syntax"),
        (b'{"c":"\x00"}', "json.syntax"),
        (b'{"a":1}\x00}', "json.extra_data"),
        (DEEP, "json.too_deep"),
        (b"[" * 9000, "json.too_deep"),
        (b'{"c":"' + b"x" * 10_000 + b'"}', "json.too_large"),
        (b'{"a":"1"}', "json.type_mismatch"),
        (b'{"a":1.5}', "json.type_mismatch"),
        (b'{"a":true}', "json.type_mismatch"),
        (b'{"c":1}', "json.type_mismatch"),
        (b'{"s":[]}', "json.type_mismatch"),
        (b'{"l":["x"]}', "json.type_mismatch"),
        (b'{"t":"2024-01-01T00:00:00"}', "json.type_mismatch"),
        (b'{"t":"2024-01-01T00:00:00.1234567Z"}', "json.type_mismatch"),
        (b'{"t":1700000000}', "json.type_mismatch"),
        (b'{"":1}', "json.field_name"),
        (b'{"A":1}', "json.field_name"),
        (b'{"_KAFKA_offset":1}', "json.field_name"),
        (b'{"s.x":1}', "json.field_name"),
    ],
)
def test_a_bad_record_is_a_dead_letter_and_its_neighbours_are_rows(value: bytes, code: str) -> None:
    good = b'{"a":1,"c":"x","d":0.5,"s":{"x":1},"l":[1],"t":"2024-01-01T00:00:00Z"}'
    decoder = decoder_of()
    decode(decoder, good)
    decoded = decode(decoder, good, value, good)
    assert codes(decoded) == [code]
    assert decoded.dead_letters[0].value == value
    assert decoded.dead_letters[0].offset == 1
    assert decoded.dead_letters[0].stage == "decode"
    assert decoded.table.column("_kafka_offset").to_pylist() == [0, 2]
    assert payload(decoded)[0] == payload(decoded)[1] == payload(decode(decoder_of(), good))[0]


def test_a_reason_names_the_field_and_no_value() -> None:
    decoder = decoder_of()
    decode(decoder, b'{"s":{"x":[{"y":1}]}}')
    letter = decode(decoder, b'{"s":{"x":[{"y":"secret"}]}}').dead_letters[0]
    assert letter.reason == "Field s.x.element.y: expected int64, found string."
    assert "\\x" not in decode(decoder, b'{"s":"\\x"}').dead_letters[0].reason


@pytest.mark.parametrize("value", [b' {"a":1}\n', b'\xef\xbb\xbf{"a":1}', b'{\n"a"\r:\t1 }'])
def test_white_space_and_a_byte_order_mark_around_a_document_do_not_matter(value: bytes) -> None:
    assert payload(decode(decoder_of(), value)) == [{"a": 1}]


def test_a_tombstone_is_a_row_of_nulls() -> None:
    decoded = decode(decoder_of(), None, b'{"a":1}', None)
    assert payload(decoded) == [{"a": None}, {"a": 1}, {"a": None}]
    assert decode(decoder_of(), None, None).table.num_rows == 2


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1", "2"], pa.int64()),
        (["1", "0.5"], pa.float64()),
        (["true"], pa.bool_()),
        (['"x"', "null"], pa.string()),
        (["9223372036854775808", "1"], pa.decimal128(38, 0)),
        (["9223372036854775808", "0.5"], "text"),
        (["9" * 39], "text"),
        (['"2024-01-01T00:00:00Z"', '"2024-01-01 00:00:00.5+02:00"'], pa.timestamp("us", "UTC")),
        (['"2024-01-01T00:00:00"'], pa.timestamp("us")),
        (['"2024-01-01T00:00:00"', '"2024-01-01T00:00:00Z"'], pa.string()),
        (['"2024-01-01T00:00:00.123456789Z"'], pa.string()),
        (['"2024-01-01"'], pa.date32()),
        (['"2024-02-30"'], pa.string()),
        (['"2024-01-01"', '"x"'], pa.string()),
        (["[]", "[1]"], pa.list_(pa.int64())),
        (["[1]", "[0.5, null]"], pa.list_(pa.float64())),
        (['{"x":1}', '{"y":"b"}'], pa.struct([("x", pa.int64()), ("y", pa.string())])),
        (["{}"], "text"),
        (["1", "[1]"], "text"),
        (["1", '"1"'], "text"),
        (['{"x":1}', "1"], "text"),
        (['[1, "x"]'], "text"),
    ],
)
def test_the_type_of_a_column_holds_every_value_seen(values: list[str], wanted: Any) -> None:
    for order in (values, values[::-1]):
        decoder = decoder_of()
        decoded = decode(decoder, *[f'{{"f":{value}}}'.encode() for value in order])
        field = decoder.schema.field("f") if decoder.schema else None
        assert field is not None
        assert not decoded.dead_letters
        if wanted == "text":
            assert field.equals(
                pa.field("f", pa.string(), metadata={"doc": "JSON text"}), check_metadata=True
            )
            assert [json.loads(row["f"]) for row in payload(decoded)] == [
                json.loads(value) for value in order
            ]
        elif pa.types.is_struct(wanted):
            assert set(field.type) == set(wanted)
        else:
            assert field.type == wanted


def test_json_text_keeps_numbers_as_they_were_written() -> None:
    decoder = decoder_of()
    decoded = decode(decoder, b'{"f":{}}', b'{"f":[1.10, 0.12345678901234567890, -0]}')
    assert payload(decoded)[1] == {"f": "[1.10,0.12345678901234567890,-0]"}


def test_json_text_is_known_again_after_a_restart() -> None:
    decoder = decoder_of()
    decode(decoder, b'{"f":{}}')
    assert decoder.schema is not None
    again = decoder_of(decoder.schema)
    assert payload(decode(again, b'{"f":"x"}', b'{"f":1}')) == [{"f": '"x"'}, {"f": "1"}]


def test_one_bad_record_costs_a_few_readings_and_few_exact_decodings(
    monkeypatch: pytest.MonkeyPatch, unwalked: None
) -> None:
    values: list[bytes | None] = [f'{{"a":{i},"c":"x"}}'.encode() for i in range(20_000)]
    decoder = decoder_of()
    decoder.decode(batch_of(values))
    values[11_111] = b'{"a":"1","c":"x"}'
    read = 0
    whole = Page.read

    def counted(page: Page, start: int, end: int, schema: pa.Schema) -> pa.Table:
        nonlocal read
        read += end - start
        return whole(page, start, end, schema)

    monkeypatch.setattr(Page, "read", counted)
    decoded = decoder.decode(batch_of(values))
    assert codes(decoded) == ["json.type_mismatch"]
    assert decoded.table.num_rows == 19_999
    assert read < 1.3 * len(values)


def test_one_bad_record_in_a_hundred_thousand_costs_a_share(
    monkeypatch: pytest.MonkeyPatch, unwalked: None
) -> None:
    values: list[bytes | None] = [f'{{"a":{i},"c":"x"}}'.encode() for i in range(20_000)]
    decoder = decoder_of()
    decoder.decode(batch_of(values))
    spoilt = [*values]
    spoilt[11_111] = b'{"a":"1","c":"x"}'
    read: list[int] = []
    whole = Page.read

    def counted(page: Page, start: int, end: int, schema: pa.Schema) -> pa.Table:
        read.append(end - start)
        return whole(page, start, end, schema)

    monkeypatch.setattr(Page, "read", counted)
    monkeypatch.setattr(json_parts, "SHARE_BYTES_MIN", 1_000)
    monkeypatch.setattr(json_parts, "processors", lambda: 2)
    decoded = decoder.decode(batch_of(spoilt))
    assert codes(decoded) == ["json.type_mismatch"]
    assert decoded.table.num_rows == 19_999
    # One of the two again, in parts from then on.
    assert max(read) > PART_RECORDS_MAX
    assert sum(read) < 1.6 * len(values)
    read.clear()
    for batch in (*[values] * 4, spoilt):
        decoder.decode(batch_of(batch))
    assert max(read) <= PART_RECORDS_MAX
    assert sum(read) < 1.1 * 5 * len(values)


def test_a_page_is_let_go_also_when_some_of_it_was_refused(
    monkeypatch: pytest.MonkeyPatch, unwalked: None
) -> None:
    pages: list[weakref.ref[Page]] = []
    whole = Page.read

    def seen(page: Page, start: int, end: int, schema: pa.Schema) -> pa.Table:
        pages.append(weakref.ref(page))
        return whole(page, start, end, schema)

    monkeypatch.setattr(Page, "read", seen)
    monkeypatch.setattr(json_parts, "SHARE_BYTES_MIN", 1_000)
    monkeypatch.setattr(json_parts, "processors", lambda: 3)
    values: list[bytes | None] = [f'{{"a":{i},"c":"x"}}'.encode() for i in range(1_000)]
    decoder = decoder_of()
    decoder.decode(batch_of(values))
    values[100] = b'{"a":"1","c":"x"}'
    gc.disable()
    try:
        assert codes(decoder.decode(batch_of(values))) == ["json.type_mismatch"]
        assert becomes(lambda: not any(page() for page in pages))
    finally:
        gc.enable()


@pytest.fixture
def unwalked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are read by Arrow's reader only, whatever their layout."""
    monkeypatch.setattr(json_habit, "WALK_RECORDS_MIN", 1_000_000)


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch, unwalked: None) -> list[RefusedError]:
    """What Arrow's reader has refused."""
    refused: list[RefusedError] = []
    whole = Page.read

    def read(page: Page, start: int, end: int, schema: pa.Schema) -> pa.Table:
        try:
            return whole(page, start, end, schema)
        except RefusedError as error:
            refused.append(error)
            raise

    monkeypatch.setattr(Page, "read", read)
    return refused


@pytest.mark.parametrize("value", ['"1"', '{"x":1}', "[1]", "true"])
def test_records_that_drift_alike_are_refused_once(
    refusals: list[RefusedError], value: str
) -> None:
    values: list[bytes | None] = [f'{{"a": {i}, "c":"x"}}'.encode() for i in range(20_000)]
    decoder = decoder_of()
    decoder.decode(batch_of(values))
    for place in range(500, 20_000, 1_000):
        values[place] = f'{{"a": {value}, "c":"x"}}'.encode()
    decoded = decoder.decode(batch_of(values))
    assert codes(decoded) == ["json.type_mismatch"] * 20
    assert [letter.offset for letter in decoded.dead_letters] == list(range(500, 20_000, 1_000))
    assert len(refusals) == 1


#: How a document is broken, and what it is refused as.
BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a comma too many": (lambda text: text[:-1] + b",}", "json.syntax"),
    "a brace too many": (lambda text: text + b"}", "json.extra_data"),
    "a bracket too many": (lambda text: text[:-1] + b"]}", "json.syntax"),
    "a text without its end": (lambda text: text[:-2] + b"}", "json.syntax"),
    "cut in a text": (lambda text: text[: text.index(b"x") + 1] + b"}", "json.syntax"),
    "a bare word": (lambda text: text.replace(b"true", b"True"), "json.syntax"),
    "no colon": (lambda text: text.replace(b'"c":', b'"c"'), "json.syntax"),
    "two documents": (lambda text: text * 2, "json.extra_data"),
    "a field without a column": (lambda text: text[:-1] + b', "z": 1}', "json.unknown_field"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_records_that_are_broken_alike_are_refused_once_and_no_more_in_later_batches(
    refusals: list[RefusedError], way: str
) -> None:
    values: list[bytes | None] = [
        b'{"a": %d, "b": true, "c": "x%d"}' % (number, number) for number in range(20_000)
    ]
    decoder = decoder_of([("a", pa.int64()), ("b", pa.bool_()), ("c", pa.string())], mode="manual")
    spoil, code = BROKEN[way]
    places = list(range(500, 20_000, 1_000))
    for place in places:
        values[place] = spoil(values[place] or b"")
    for batch in range(3):
        decoded = decoder.decode(batch_of(values))
        assert codes(decoded) == [code] * 20
        assert [letter.offset for letter in decoded.dead_letters] == places
        wanted = [number for number in range(20_000) if number not in places]
        assert decoded.table.column("a").to_pylist() == wanted
        if batch == 0:
            # Where the reader does not name the record it is sought by halves, once.
            assert 0 < len(refusals) < 10
            refusals.clear()
    assert refusals == []


def test_what_looks_like_a_broken_record_and_is_none_stays_a_row(
    refusals: list[RefusedError],
) -> None:
    decoder = decoder_of()
    sound: list[bytes | None] = [b'{"a": %d, "c": "x"}' % number for number in range(2_000)]
    decoder.decode(batch_of(sound))
    values = list(sound)
    values[100] = b'{"a": 100, "c": "x",}'
    decoder.decode(batch_of(values))
    assert refusals
    refusals.clear()
    tricky = {7: b"},{ ,} {{", 8: b"]", 9: rb"\" ,}"}
    for place, text in tricky.items():
        values[place] = b'{"a": %d, "c": "%b"}' % (place, text)
    decoded = decoder.decode(batch_of(values))
    assert codes(decoded) == ["json.syntax"]
    found = decoded.table.column("c").to_pylist()
    assert [found[place] for place in tricky] == ["},{ ,} {{", "]", '" ,}']
    assert refusals == []


def test_a_page_of_records_that_are_broken_each_in_its_own_way_takes_few_searches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches = 0
    whole = Page.holding

    def counted(page: Page, needles: Sequence[bytes], most: int) -> list[list[int]]:
        nonlocal searches
        searches += len(needles)
        return whole(page, needles, most)

    monkeypatch.setattr(Page, "holding", counted)
    decoder = decoder_of([("a", pa.int64())])
    values: list[bytes | None] = [b'{"a": %d, w%d}' % (number, number) for number in range(3_000)]
    assert codes(decoder.decode(batch_of(values))) == ["json.syntax"] * 3_000
    assert searches < 30


def test_a_batch_of_nothing_has_the_columns_and_no_rows() -> None:
    decoder = decoder_of()
    assert decoder.schema is None
    assert decode(decoder).table.schema == COLUMNS.schema()
    decode(decoder, b'{"a":1}')
    empty = decode(decoder)
    assert (empty.table.num_rows, empty.newest_timestamp_ms) == (0, -1)
    assert empty.table.schema.names[0] == "a"
