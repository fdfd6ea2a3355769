"""Keys and values decoded on their own, and put together row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.codecs import MetadataColumns, make_decoder
from k2i_tasks.codecs.base import decoded_whole
from k2i_tasks.codecs.keyed import KEY_COLUMNS, KeyedDecoder, key_table_schema
from k2i_tasks.errors import SchemaConflictError
from k2i_tasks.types import DecodedBatch, RawBatch
from tests.unit.codec_batches import batch_of

COLUMN = "_kafka_key_decoded"
COLUMNS = MetadataColumns(decoded_key=COLUMN)
GOOD, BAD = [b'{"a":1}', b'{"a":2}', None], [b"{", b'{"a":"text"}']


def keyed(
    kind: str, table: pa.Schema | None = None, mode: str = "auto-additive", value: str = "json"
) -> KeyedDecoder:
    present = key_table_schema(table, COLUMN, plain=kind == "string")
    values, keys = (
        make_decoder(one, columns=columns, table_schema=schema, max_message_bytes=1000, mode=mode)
        for one, columns, schema in ((value, COLUMNS, table), (kind, KEY_COLUMNS, present))
    )
    return KeyedDecoder(values, keys, COLUMN)


def records(values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> RawBatch:
    raw = batch_of(values)
    # Offsets of two partitions, so that neither alone names a record.
    half = len(values) // 2
    partitions = np.repeat([0, 1], [half, len(values) - half]).astype(np.int32)
    offsets = np.concatenate([np.arange(half), np.arange(len(values) - half)]).astype(np.int64)
    return replace(raw, keys=list(keys), partitions=partitions, offsets=offsets)


def decoded(decoder: KeyedDecoder, values: Sequence[bytes | None], keys: Any) -> DecodedBatch:
    return decoded_whole(decoder, records(values, keys), 0.0)


@given(st.lists(st.tuples(st.sampled_from([*GOOD, *BAD]), st.sampled_from([*GOOD, *BAD]))))
def test_each_record_is_a_row_or_a_dead_letter_by_its_value_and_its_key(
    pairs: list[tuple[bytes | None, bytes | None]],
) -> None:
    typed = pa.schema([("a", pa.int64()), (COLUMN, pa.struct([("a", pa.int64())]))])
    raw = records([value for value, _ in pairs], [key for _, key in pairs])
    found = decoded_whole(keyed("json", typed), raw, 0.0)
    places = list(zip(raw.partitions.tolist(), raw.offsets.tolist(), strict=True))
    kept = [n for n, (value, key) in enumerate(pairs) if value not in BAD and key not in BAD]
    rows = found.table.to_pylist()
    at = [(row["_kafka_partition"], row["_kafka_offset"]) for row in rows]
    assert at == [places[n] for n in kept]

    def number(text: bytes | None) -> int | None:
        return None if text is None else GOOD.index(text) + 1

    assert [row["a"] for row in rows] == [number(pairs[n][0]) for n in kept]
    assert [(row[COLUMN] or {}).get("a") for row in rows] == [number(pairs[n][1]) for n in kept]
    assert [row[COLUMN] is None for row in rows] == [pairs[n][1] is None for n in kept]
    letters = {(one.partition, one.offset): one for one in found.dead_letters}
    assert sorted(letters) == sorted(set(places) - set(at))
    for n, (value, key) in enumerate(pairs):
        if n not in kept:
            letter = letters[places[n]]
            assert (letter.value, letter.key) == (value, key)
            assert letter.code.startswith("json." if value in BAD else "key.json.")
    assert found.records == len(raw)


def test_text_keys_are_a_text_column_beside_their_bytes() -> None:
    decoder = keyed("string")
    found = decoded(decoder, [b'{"a":1}'] * 3, [b"k", None, b"\xff"])
    rows = found.table.to_pylist()
    assert [(row[COLUMN], row["_kafka_key"]) for row in rows] == [("k", b"k"), (None, None)]
    assert [letter.code for letter in found.dead_letters] == ["key.string.encoding"]
    assert found.dead_letters[0].reason == "The key: The payload is not UTF-8 at byte 0."
    assert decoder.schema == pa.schema([("a", pa.int64()), (COLUMN, pa.string())])


def test_a_field_of_a_value_does_not_take_the_name_of_the_keys_column() -> None:
    found = decoded(keyed("json"), [b'{"a":1,"%s":2}' % COLUMN.encode()], [b'{"k":1}'])
    assert [letter.code for letter in found.dead_letters] == ["json.field_name"]


def test_there_is_no_column_before_the_first_key_and_a_struct_that_grows_from_then_on() -> None:
    decoder = keyed("json")
    assert COLUMN not in decoded(decoder, [b'{"a":1}'], [None]).table.column_names
    found = decoded(decoder, [b'{"a":1}'], [b'{"k":1}'])
    assert found.table.column(COLUMN).to_pylist() == [{"k": 1}]
    found = decoded(decoder, [b'{"a":1}'] * 2, [b'{"l":"x"}', None])
    assert found.table.column(COLUMN).to_pylist() == [{"k": None, "l": "x"}, None]


def test_manual_takes_no_key_into_a_table_without_its_column() -> None:
    decoder = keyed("json", pa.schema([("a", pa.int64())]), "manual")
    found = decoded(decoder, [b'{"a":1}'] * 2, [b'{"k":1}', None])
    assert [letter.code for letter in found.dead_letters] == ["key.json.unknown_field"]
    assert found.table.column("a").to_pylist() == [1]


def test_a_column_of_the_other_kind_is_refused_at_the_start() -> None:
    for kind, held in (("string", pa.struct([("a", pa.int64())])), ("json", pa.string())):
        with pytest.raises(SchemaConflictError, match=COLUMN):
            keyed(kind, pa.schema([(COLUMN, held)]))
