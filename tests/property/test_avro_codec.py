"""The Avro decoder against fastavro: any schema, any values, and any bytes."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.codecs.avro import AvroDecoder
from k2i_tasks.codecs.payloads import DecodedPayloads, Payloads
from k2i_tasks.codecs.vector import PADDING
from tests.property.avro_values import KINDS, Kind

SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def encoded(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def read_by_fastavro(schema: Any, payload: bytes) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(payload), fastavro.parse_schema(schema), None)


def decoder_of(kind: Kind) -> AvroDecoder:
    return AvroDecoder(json.dumps(kind.schema))


def rows(kind: Kind, decoded: DecodedPayloads) -> list[Any]:
    """The rows' values as `Kind.column` gives them."""
    decoded.columns.validate(full=True)
    found: list[Any] = decoded.columns.to_pylist()
    record = isinstance(kind.schema, dict) and kind.schema["type"] == "record"
    return found if record and not kind.void else [row["value"] for row in found]


@SETTINGS
@given(st.data(), KINDS)
def test_what_fastavro_writes_is_read_as_fastavro_reads_it(data: st.DataObject, kind: Kind) -> None:
    values = data.draw(st.lists(kind.values, max_size=8))
    payloads = [encoded(kind.schema, value) for value in values]
    # That what the test expects is what the reference reads.
    for value, payload in zip(values, payloads, strict=True):
        assert read_by_fastavro(kind.schema, payload) == kind.read(value)
    decoder = decoder_of(kind)
    decoded = decoder.decode(Payloads.joined(payloads))
    assert not decoded.errors
    assert decoded.columns.schema == decoder.schema
    assert rows(kind, decoded) == [kind.column(value) for value in values]


@SETTINGS
@given(st.data(), KINDS)
def test_any_bytes_are_a_row_or_an_error_and_change_no_other_row(
    data: st.DataObject, kind: Kind
) -> None:
    values = data.draw(st.lists(kind.values, min_size=1, max_size=6))
    payloads = [encoded(kind.schema, value) for value in values]
    bad: dict[int, bytes] = {}
    for row in data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1)):
        bad[row] = data.draw(st.one_of(st.binary(max_size=20), damaged(payloads[row])))
    together = [bad.get(row, payload) for row, payload in enumerate(payloads)]
    decoded = decoder_of(kind).decode(Payloads.joined(together))
    assert set(decoded.errors) <= set(bad)
    alone = {
        row: decoder_of(kind).decode(Payloads.joined([payload])) for row, payload in bad.items()
    }
    reasons = {
        row: (one.errors[0].code, one.errors[0].what) for row, one in alone.items() if one.errors
    }
    assert {row: (error.code, error.what) for row, error in decoded.errors.items()} == reasons
    kept = [row for row in range(len(values)) if row not in decoded.errors]
    for row, found in zip(kept, rows(kind, decoded), strict=True):
        if row in bad:
            # By its text: damage makes NaN, which equals nothing.
            assert repr([found]) == repr(rows(kind, alone[row]))
        else:
            assert found == kind.column(values[row])


def damaged(payload: bytes) -> st.SearchStrategy[bytes]:
    """`payload` with a byte changed, or cut off."""
    if not payload:
        return st.just(b"\x00")
    cut = st.integers(0, len(payload)).map(lambda size: payload[:size])
    changed = st.tuples(st.integers(0, len(payload) - 1), st.integers(0, 255)).map(
        lambda change: payload[: change[0]] + bytes([change[1]]) + payload[change[0] + 1 :]
    )
    return st.one_of(cut, changed)


@SETTINGS
@given(st.data(), KINDS)
def test_what_lies_between_payloads_and_their_order_do_not_matter(
    data: st.DataObject, kind: Kind
) -> None:
    values = data.draw(st.lists(kind.values, min_size=1, max_size=5))
    gap = data.draw(st.binary(max_size=PADDING + 2))
    payloads = [gap + encoded(kind.schema, value) for value in values]
    together = Payloads.joined(payloads, skip=len(gap))
    order = data.draw(st.permutations(range(len(values))))
    decoded = decoder_of(kind).decode(together.take(np.array(order, np.int64)))
    assert not decoded.errors
    assert rows(kind, decoded) == [kind.column(values[row]) for row in order]


@SETTINGS
@given(st.data(), KINDS)
def test_blocks_of_any_number_of_items_are_read_like_one(data: st.DataObject, kind: Kind) -> None:
    values = data.draw(st.lists(kind.values, max_size=30))
    items = [encoded(kind.schema, value) for value in values]
    payload = b""
    while items:
        size = data.draw(st.integers(1, len(items)))
        block, items = b"".join(items[:size]), items[size:]
        if data.draw(st.booleans()):
            payload += encoded("long", -size) + encoded("long", len(block)) + block
        else:
            payload += encoded("long", size) + block
    payload += encoded("long", 0)
    schema = {"type": "array", "items": kind.schema}
    assert read_by_fastavro(schema, payload) == [kind.read(value) for value in values]
    decoded = AvroDecoder(json.dumps(schema)).decode(Payloads.joined([payload] * 3))
    assert not decoded.errors
    expected = [kind.column(value) for value in values]
    assert decoded.columns["value"].to_pylist() == [expected] * 3
