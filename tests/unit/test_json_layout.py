"""Layouts of documents: what is learned of them, and when they are expected."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.codecs import json_habit, json_parts
from k2i_tasks.codecs.json_habit import PAUSE_RECORDS_MAX, PAUSE_RECORDS_MIN, Habit
from k2i_tasks.codecs.json_layout import (
    DOCUMENT_BYTES_MAX,
    LEAD_BYTES_MAX,
    Layout,
    UnlikeError,
    layout_of,
)
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.json_words import Heads, digits, plain
from tests.unit.asking_world import becomes
from tests.unit.codec_batches import batch_of, codes, decoder_of

SCHEMA = pa.schema(
    [
        ("a", pa.int64()),
        ("b", pa.string()),
        ("c", pa.struct([("x", pa.int64()), ("y", pa.int64())])),
        ("d", pa.list_(pa.struct([("x", pa.int64()), ("y", pa.int64())]))),
    ]
)
RECORDS = 2_000


def names_of(layout: Layout | None) -> list[str]:
    return [] if layout is None else [member.name for member in layout.members]


def layout(*documents: bytes) -> Layout:
    first, *others = (layout_of(document, SCHEMA) for document in documents)
    for other in others:
        first = first.merged(other)
    return first


def test_a_layout_has_the_bytes_between_the_values() -> None:
    found = layout(b'{ "a": 1, "b" : "x", "c":{"x":null} }')
    assert [member.lead for member in found.members] == [b'{ "a": ', b', "b" : ', b', "c":']
    assert found.closing == b" }"
    inside = found.members[2].value
    assert inside is not None
    assert [(member.name, member.lead) for member in inside.members] == [("x", b'{"x":')]


def test_members_that_are_absent_from_some_documents_have_their_place() -> None:
    documents = b'{"a":1,"d":[]}', b'{"a":1,"b":"x","d":[]}', b'{"a":1,"b":"x","c":null}'
    assert names_of(layout(*documents)) == ["a", "b", "c", "d"]


def test_what_is_inside_of_lists_and_objects_is_learned_where_there_is_some() -> None:
    documents = (
        b'{"a":1,"c":null,"d":[]}',
        b'{"a":1,"c":{"x":1},"d":[{"x":1},{"x":1,"y":2}]}',
        b'{"a":1,"c":{"x":1,"y":2},"d":[]}',
    )
    _, inner, lines = layout(*documents).members
    assert names_of(inner.value) == ["x", "y"]
    assert names_of(lines.value) == ["x", "y"]


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b'{"a":1{"b":2}',
        b',"a":1}',
        b'{"a":1,"a":1}',
        b'{"e":1}',
        b'{"a":{"x":1}}',
        b'{"a":[1]}',
        b'{"\\u0061":1}',
        b'{"b":"\\"}',
        b'{"a":\n1}',
        b'{"a":1,' + b" " * LEAD_BYTES_MAX + b'"b":"x"}',
        b'{"c":{}}',
        b'{"d":[{"x":1},{"y":1}]}',
    ],
)
def test_a_document_that_others_could_not_be_read_by_has_no_layout(document: bytes) -> None:
    with pytest.raises(UnlikeError):
        layout_of(document, SCHEMA)


@pytest.mark.parametrize(
    "other", [b'{"b":"x","a":1}', b'{"a": 1,"b":"x"}', b'{"a":1,"b":"x" }', b'{"b":"x"}']
)
def test_another_order_and_other_white_space_are_another_layout(other: bytes) -> None:
    with pytest.raises(UnlikeError):
        layout(b'{"a":1,"b":"x"}', other)


def document(number: int) -> bytes:
    return b'{"a":%d,"b":"x%d"}' % (number, number)


def other_way(number: int) -> bytes:
    return b'{"b":"x%d","a":%d}' % (number, number)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records Arrow's reader was given at a time."""
    sizes: list[int] = []
    whole = Page.read

    def read(page: Page, start: int, end: int, schema: pa.Schema) -> pa.Table:
        sizes.append(end - start)
        return whole(page, start, end, schema)

    monkeypatch.setattr(Page, "read", read)
    return sizes


def test_bad_records_among_documents_of_one_layout_are_found_by_the_walk(
    readings: list[int],
) -> None:
    values: list[bytes | None] = [document(number) for number in range(RECORDS)]
    values[7], values[500], values[1_999] = b'{"a":7,"b":"x', b'{"a":"7","b":"x"}', b"x"
    decoded = decoder_of([("a", pa.int64()), ("b", pa.string())]).decode(batch_of(values))
    assert codes(decoded) == ["json.syntax", "json.type_mismatch", "json.syntax"]
    wanted = [number for number in range(RECORDS) if number not in (7, 500, 1_999)]
    assert decoded.table.column("a").to_pylist() == wanted
    assert readings == []


def test_texts_with_a_backslash_are_read_as_they_are_meant(readings: list[int]) -> None:
    texts = [f"x{number}" for number in range(RECORDS)]
    texts[3], texts[4], texts[5] = '"', "a\n\\", "\u00e9" * 40 + "\U0001f600"
    values: list[bytes | None] = [
        json.dumps({"a": number, "b": text}).encode() for number, text in enumerate(texts)
    ]
    values[7] = b'{"a": 7, "b": "\\ud800"}'
    values[8] = b'{"a": 8, "b": "\\q"}'
    values[9] = b'{"a": 9, "b": "\\"}'
    decoded = decoder_of([("a", pa.int64()), ("b", pa.string())]).decode(batch_of(values))
    assert codes(decoded) == ["json.lone_surrogate", "json.syntax", "json.syntax"]
    assert decoded.table.column("b").to_pylist() == texts[:7] + texts[10:]
    assert readings == []


@pytest.mark.parametrize("text", ["\n", "sch\u00f6n", '"' * 50, "\U0001f600", "x" * 30 + "\0y"])
def test_texts_may_all_have_backslashes(readings: list[int], text: str) -> None:
    texts = [f"{number}{text}" for number in range(RECORDS)]
    values: list[bytes | None] = [
        json.dumps({"a": number, "b": each}).encode() for number, each in enumerate(texts)
    ]
    decoded = decoder_of([("a", pa.int64()), ("b", pa.string())]).decode(batch_of(values))
    assert decoded.table.column("b").to_pylist() == texts
    assert readings == []


def test_members_that_some_documents_lack_are_learned_on_the_way(readings: list[int]) -> None:
    decoder = decoder_of([("a", pa.int64()), ("b", pa.string()), ("c", pa.bool_())])
    plain_ones: list[bytes | None] = [document(number) for number in range(RECORDS)]
    decoder.decode(batch_of(plain_ones))
    some = [*plain_ones]
    some[3] = b'{"a":3,"c":true}'
    decoder.decode(batch_of(some))
    many: list[bytes | None] = [
        b'{"a":%d,"c":true}' % number if number % 2 else document(number)
        for number in range(RECORDS)
    ]
    table = decoder.decode(batch_of(many)).table
    assert table.column("c").to_pylist() == [
        True if number % 2 else None for number in range(RECORDS)
    ]
    assert table.column("b").null_count == RECORDS // 2
    assert readings == []


def test_a_stream_of_two_layouts_is_read_otherwise_and_the_walk_tried_again_later(
    readings: list[int],
) -> None:
    decoder = decoder_of([("a", pa.int64()), ("b", pa.string())])
    one: list[bytes | None] = [document(number) for number in range(RECORDS)]
    both = [other_way(number) if number % 2 else document(number) for number in range(RECORDS)]
    decoder.decode(batch_of(one))
    assert readings == []
    found = decoder.decode(batch_of(both)).table
    assert found.column("a").to_pylist() == list(range(RECORDS))
    assert found.column("b").to_pylist() == [f"x{number}" for number in range(RECORDS)]
    assert sum(readings) == RECORDS
    for _ in range(PAUSE_RECORDS_MIN // RECORDS):
        decoder.decode(batch_of(one))
    readings.clear()
    decoder.decode(batch_of(one))
    assert readings == []


def test_further_processors_have_a_share_of_a_clean_stream_and_none_of_another(
    readings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_parts, "SHARE_BYTES_MIN", 1_000)
    monkeypatch.setattr(json_parts, "processors", lambda: 4)
    decoder = decoder_of([("a", pa.int64()), ("b", pa.string())])
    values: list[bytes | None] = [document(number) for number in range(RECORDS)]
    decoded = decoder.decode(batch_of(values)).table
    assert decoded.column("a").to_pylist() == list(range(RECORDS))
    assert len(readings) == 2
    assert 0.4 * RECORDS < sum(readings) < 0.55 * RECORDS
    readings.clear()
    values[9] = b'{"a":"9","b":"x"}'
    decoder.decode(batch_of(values))
    readings.clear()
    decoder.decode(batch_of(values))
    assert readings == []


def test_a_habit_that_fails_again_and_again_is_asked_more_and_more_seldom() -> None:
    habit = Habit()
    pauses = []
    for _ in range(10):
        assert habit.layout(SCHEMA, 1_000, 9_000, lambda most: [b'{"a":1}']) is not None
        habit.judged(held=False)
        pause = 0
        while habit.layout(SCHEMA, 1_000, 9_000, lambda most: [b'{"a":1}']) is None:
            pause += 1_000
        pauses.append(pause)
    assert pauses[:3] == [PAUSE_RECORDS_MIN, 2 * PAUSE_RECORDS_MIN, 4 * PAUSE_RECORDS_MIN]
    assert max(pauses) == pauses[-1] == PAUSE_RECORDS_MAX
    habit.judged(held=True)
    habit.judged(held=False)
    assert habit.layout(SCHEMA, PAUSE_RECORDS_MIN, 9_000, lambda most: []) is None
    assert habit.layout(SCHEMA, 1_000, 9_000, lambda most: [b'{"a":1}']) is not None


def test_a_layout_that_failed_is_forgotten_for_that_of_other_documents() -> None:
    habit = Habit()
    odd, usual = b'{"b":"x","a":1}', b'{"a":1,"b":"x"}'
    assert names_of(habit.layout(SCHEMA, 1_000, 9_000, lambda most: [odd])) == ["b", "a"]
    habit.judged(held=False)
    assert habit.layout(SCHEMA, PAUSE_RECORDS_MIN, 9_000, lambda most: [usual]) is None
    assert names_of(habit.layout(SCHEMA, 1_000, 9_000, lambda most: [usual])) == ["a", "b"]


def test_documents_without_a_layout_are_not_asked_for_one_on_each_page() -> None:
    habit, asked = Habit(), 0

    def sample(most: int) -> list[bytes]:
        nonlocal asked
        asked += 1
        return [b'{"e":1}']

    for _ in range(PAUSE_RECORDS_MIN // 1_000):
        assert habit.layout(SCHEMA, 1_000, 9_000, sample) is None
    assert asked == 1


def test_long_documents_are_neither_learned_from_nor_walked() -> None:
    with pytest.raises(UnlikeError):
        layout_of(b'{"b":"' + b"x" * DOCUMENT_BYTES_MAX + b'"}', SCHEMA)
    size = 1_000 * (json_habit.WALK_BYTES_MEAN_MAX + 1)
    assert Habit().layout(SCHEMA, 1_000, size, lambda most: [b'{"a":1}']) is None


def test_other_columns_are_another_habit_and_some_types_are_none() -> None:
    habit = Habit()
    sample = [b'{"a":1}']
    assert names_of(habit.layout(SCHEMA, 1_000, 9_000, lambda most: sample)) == ["a"]
    wider = pa.schema([*SCHEMA, ("e", pa.int64())])
    assert names_of(habit.layout(wider, 1_000, 9_000, lambda most: [b'{"e":1}'])) == ["e"]
    decimals = pa.schema([("a", pa.int64()), ("m", pa.decimal128(9, 2))])
    assert habit.layout(decimals, 1_000, 9_000, lambda most: sample) is None
    assert habit.layout(SCHEMA, json_habit.WALK_RECORDS_MIN - 1, 9_000, lambda most: sample) is None


def test_a_page_that_was_walked_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[weakref.ref[Page]] = []
    whole = Page.walk

    def seen(
        page: Page, start: int, end: int, layout: Layout, schema: pa.Schema
    ) -> tuple[pa.Table, np.ndarray] | None:
        pages.append(weakref.ref(page))
        return whole(page, start, end, layout, schema)

    monkeypatch.setattr(Page, "walk", seen)
    values: list[bytes | None] = [document(number) for number in range(RECORDS)]
    values[9] = b'{"a":9,"b":'
    decoder = decoder_of([("a", pa.int64()), ("b", pa.string())])
    gc.disable()
    try:
        assert codes(decoder.decode(batch_of(values))) == ["json.syntax"]
        assert pages
        assert becomes(lambda: not any(page() for page in pages))
    finally:
        gc.enable()


@given(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=20))
def test_words_are_read_as_a_loop_over_their_bytes_would(pieces: list[bytes]) -> None:
    words = np.frombuffer(b"".join(pieces), "<u8")
    numbers, counts = digits(words)
    clear = plain(words)
    for piece, number, count, size in zip(pieces, numbers, counts, clear, strict=True):
        led = len(piece) - len(piece.lstrip(b"0123456789"))
        assert (count, number) == (led, int(piece[:led] or b"0"))
        ends = (at for at, sign in enumerate(piece) if sign < 0x20 or sign in b'"\\')
        assert size == next(ends, 8)


@given(st.lists(st.text("0123456789ab", min_size=8, max_size=8), min_size=1, max_size=20))
def test_digits_are_read_as_a_loop_over_their_bytes_would(texts: list[str]) -> None:
    test_words_are_read_as_a_loop_over_their_bytes_would.hypothesis.inner_test(  # type: ignore[attr-defined]
        [text.encode() for text in texts]
    )


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=30), st.data())
def test_ranges_are_packed_one_behind_the_other(rows: list[bytes], data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(0, 16)) for _ in rows]
    # A window of 24 bytes, of which the first is none of the range.
    windows = np.frombuffer(b"".join(b"-" + row + b"-" * 7 for row in rows), np.uint8)
    heads = Heads(windows.reshape(len(rows), 24).copy())
    offsets, packed = heads.packed(1, np.array(sizes, np.int64), max(sizes))
    array = pa.Array.from_buffers(pa.binary(), len(rows), [None, offsets, packed])
    array.validate(full=True)
    assert array.to_pylist() == [row[:size] for row, size in zip(rows, sizes, strict=True)]
