"""JSON decoding against plain `json`, and the fast path against the exact one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.codecs import MetadataColumns, json_parts, make_decoder
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.wire import RefusedError
from k2i_tasks.types import DecodedBatch, OffsetRange, RawBatch, TopicPartition
from tests.property.json_payloads import BATCHES, BROKEN_ALIKE, ORDERS, TABLE, TYPED, written

COLUMNS = MetadataColumns()
QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def batch_of(values: Sequence[bytes | None]) -> RawBatch:
    count = len(values)
    return RawBatch(
        topic="t",
        partitions=np.zeros(count, np.int32),
        offsets=np.arange(count, dtype=np.int64) * 3,
        timestamps_ms=np.full(count, 1, np.int64),
        keys=[None] * count,
        values=values,
        headers=None,
        ranges={TopicPartition("t", 0): OffsetRange(0, count * 3)},
        payload_bytes=sum(len(value or b"") for value in values),
    )


def decode_all(
    batches: Sequence[Sequence[bytes | None]],
    mode: str,
    *,
    exact: bool,
    table: pa.Schema | None = None,
) -> list[DecodedBatch]:
    decoder = make_decoder(
        "json", columns=COLUMNS, table_schema=table, max_message_bytes=4000, mode=mode
    )
    if not exact:
        # Several shares of each page, though it is small.
        with (
            patch.object(json_parts, "SHARE_BYTES_MIN", 64),
            patch.object(json_parts, "processors", return_value=3),
        ):
            return [decoder.decode(batch_of(values)) for values in batches]
    with patch.object(Page, "read", side_effect=RefusedError()):
        return [decoder.decode(batch_of(values)) for values in batches]


@QUICK
@given(st.one_of(BATCHES, BROKEN_ALIKE), st.sampled_from(["auto-additive", "manual"]))
def test_every_record_is_one_row_or_one_dead_letter_at_its_own_offset(
    batches: list[list[bytes | None]], mode: str
) -> None:
    for values, decoded in zip(batches, decode_all(batches, mode, exact=False), strict=True):
        rows = decoded.table.column("_kafka_offset").to_pylist()
        letters = [letter.offset for letter in decoded.dead_letters]
        assert sorted(rows + letters) == [3 * i for i in range(len(values))]
        assert rows == sorted(rows)
        assert letters == sorted(letters)
        for letter in decoded.dead_letters:
            assert letter.value == values[letter.offset // 3]
        decoded.table.validate(full=True)


@QUICK
@given(st.one_of(BATCHES, BROKEN_ALIKE), st.sampled_from(["auto-additive", "manual"]))
def test_the_fast_path_gives_what_the_exact_path_gives(
    batches: list[list[bytes | None]], mode: str
) -> None:
    fast = decode_all(batches, mode, exact=False)
    exact = decode_all(batches, mode, exact=True)
    for left, right in zip(fast, exact, strict=True):
        assert left.table.schema.equals(right.table.schema, check_metadata=True)
        assert _bits(left.table.to_pylist()) == _bits(right.table.to_pylist())
        assert left.dead_letters == right.dead_letters


@QUICK
@given(st.lists(TYPED, min_size=1, max_size=30))
def test_both_paths_give_the_same_for_the_columns_of_a_table(values: list[bytes]) -> None:
    fast = decode_all([values], "manual", exact=False, table=TABLE)[0]
    exact = decode_all([values], "manual", exact=True, table=TABLE)[0]
    assert _bits(fast.table.to_pylist()) == _bits(exact.table.to_pylist())
    assert fast.dead_letters == exact.dead_letters
    alone = [decode_all([[v]], "manual", exact=False, table=TABLE)[0] for v in values]
    assert sum(one.table.num_rows for one in alone) == fast.table.num_rows
    fast.table.validate(full=True)


@QUICK
@given(st.one_of(BATCHES, BROKEN_ALIKE))
def test_every_value_in_a_row_is_what_json_says(batches: list[list[bytes | None]]) -> None:
    for values, decoded in zip(
        batches, decode_all(batches, "permissive", exact=False), strict=True
    ):
        payload = COLUMNS.without(decoded.table.schema)
        for row in decoded.table.to_pylist():
            value = values[row["_kafka_offset"] // 3]
            document = {} if value is None else json.loads(value.decode("utf-8-sig"))
            _assert_same(document, {name: row[name] for name in payload.names}, list(payload))


@QUICK
@given(st.lists(ORDERS.map(lambda order: written(order, 0)), min_size=1, max_size=12), st.data())
def test_the_columns_do_not_depend_on_the_order_of_the_first_batch(
    values: list[bytes], data: st.DataObject
) -> None:
    again = data.draw(st.permutations(values))
    types = []
    for batch in (values, again):
        table = decode_all([batch], "auto-additive", exact=False)[0].table
        types.append({field.name: field.type for field in table.schema})
    assert types[0] == types[1]


def _assert_same(document: dict[str, Any], row: dict[str, Any], fields: list[pa.Field]) -> None:
    """Each member has its value in the row; only null and empty lists may have no column."""
    for name, value in document.items():
        if name not in row:
            assert _says_nothing(value), name
    for field in fields:
        _assert_value(document.get(field.name), row[field.name], field)


def _assert_value(value: Any, stored: Any, field: pa.Field) -> None:
    kind = field.type
    if value is None:
        assert stored is None
    elif (field.metadata or {}).get(b"doc") == b"JSON text":
        assert json.loads(stored) == value
    elif pa.types.is_struct(kind):
        _assert_same(value, stored, list(kind))
    elif pa.types.is_list(kind):
        assert len(value) == len(stored)
        for item, kept in zip(value, stored, strict=True):
            _assert_value(item, kept, kind.value_field)
    elif pa.types.is_timestamp(kind):
        wanted = datetime.fromisoformat(value)
        assert (wanted.tzinfo is None) == (kind.tz is None)
        assert stored == (wanted.astimezone(UTC) if wanted.tzinfo else wanted)
    elif pa.types.is_date32(kind):
        assert stored.isoformat() == value
    elif pa.types.is_decimal(kind):
        assert isinstance(stored, Decimal)
        assert stored == value
    else:
        assert type(value) in (type(stored), int, float)
        assert isinstance(value, bool) == isinstance(stored, bool)
        assert stored == value


def _says_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_says_nothing, value)))


def _bits(value: Any) -> Any:
    """Values that compare equal only if zeros have the same sign and types are the same."""
    if isinstance(value, dict):
        return {name: _bits(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_bits(item) for item in value]
    if isinstance(value, float):
        return (math.copysign(1, value), value)
    return (type(value), value)
