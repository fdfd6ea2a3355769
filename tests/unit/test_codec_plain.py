"""Payloads kept as they are, Kafka's columns, and the choice of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from k2i_tasks.codecs import Decoder, MetadataColumns, make_decoder
from k2i_tasks.errors import ConfigError, SchemaConflictError
from k2i_tasks.types import Headers, OffsetRange, RawBatch, TopicPartition

COLUMNS = MetadataColumns()


def batch_of(
    values: Sequence[bytes | None],
    *,
    headers: Sequence[Headers | None] | None = None,
    timestamps_ms: Sequence[int] | None = None,
) -> RawBatch:
    count = len(values)
    return RawBatch(
        topic="orders",
        partitions=np.arange(count, dtype=np.int32),
        offsets=np.arange(count, dtype=np.int64) + 10,
        timestamps_ms=np.array(timestamps_ms or [0] * count, np.int64),
        keys=[None if i % 2 else b"\xff%d" % i for i in range(count)],
        values=values,
        headers=headers,
        ranges={TopicPartition("orders", 0): OffsetRange(10, 10 + count)},
        payload_bytes=sum(len(value or b"") for value in values),
    )


def decoder_of(
    form: str, table: pa.Schema | None = None, columns: MetadataColumns = COLUMNS
) -> Decoder:
    return make_decoder(
        form, columns=columns, table_schema=table, max_message_bytes=8, mode="auto-additive"
    )


def test_raw_keeps_any_bytes_and_tombstones() -> None:
    values = [b"\xff\x00", b"", None, b"x" * 9]
    decoded = decoder_of("raw").decode(batch_of(values))
    assert decoded.table.column("value").to_pylist() == values[:3]
    assert decoded.table.schema.field("value").type == pa.binary()
    assert [(letter.code, letter.value) for letter in decoded.dead_letters] == [
        ("raw.too_large", b"x" * 9)
    ]
    assert decoded.nbytes > decoded.table.nbytes
    assert decoded.records == 4


def test_string_refuses_what_is_not_utf8_and_what_is_too_large() -> None:
    values = ["ä".encode(), b"\xff", None, b"x" * 9, b"\xff" * 9]
    decoded = decoder_of("string").decode(batch_of(values))
    assert decoded.table.column("value").to_pylist() == ["ä", None]
    assert decoded.table.column("_kafka_offset").to_pylist() == [10, 12]
    assert [letter.code for letter in decoded.dead_letters] == [
        "string.encoding",
        "string.too_large",
        "string.too_large",
    ]


@pytest.mark.parametrize("first", [0xC1, 0xE0, 0xED, 0xF0, 0xF4])
def test_string_takes_what_python_decodes_and_nothing_else(first: int) -> None:
    # Around overlong forms, surrogates, and the end of Unicode.
    values = [
        bytes([first, second, *rest])
        for second in range(256)
        for rest in ((), (0x80,), (0x80, 0x80))
    ]
    kept = [value for value in values if value.decode("utf-8", "ignore").encode() == value]
    decoded = decoder_of("string").decode(batch_of(values))
    assert decoded.table.column("value").to_pylist() == [value.decode() for value in kept]
    assert {letter.code for letter in decoded.dead_letters} == {"string.encoding"}


def test_a_tombstone_of_a_required_column_is_a_dead_letter_beside_one_that_is_too_large() -> None:
    table = pa.schema([pa.field("value", pa.binary(), nullable=False)])
    decoded = decoder_of("raw", table).decode(batch_of([b"a", None, b"x" * 9, b""]))
    assert decoded.table.column("value").to_pylist() == [b"a", b""]
    assert [letter.code for letter in decoded.dead_letters] == [
        "raw.missing_value",
        "raw.too_large",
    ]


def test_a_dead_letter_holds_the_whole_record() -> None:
    headers: Headers = [("h", b"1")]
    raw = batch_of([b"ok", b"ok", b"\xff"], headers=[None, None, headers], timestamps_ms=[1, 2, 3])
    letter = decoder_of("string").decode(raw).dead_letters[0]
    assert (letter.topic, letter.partition, letter.offset) == ("orders", 2, 12)
    assert (letter.timestamp_ms, letter.key, letter.value) == (3, b"\xff2", b"\xff")
    assert letter.headers == headers
    assert letter.stage == "decode"


def test_metadata_columns_hold_what_kafka_says() -> None:
    headers: list[Headers | None] = [
        None,
        [("same", b"1"), ("same", b"2"), ("none", None)],
        [],
        [("odd\udcff", b"")],
    ]
    raw = batch_of([b"v"] * 4, headers=headers, timestamps_ms=[-1, 1_700_000_000_123, 2**62, -5])
    decoded = decoder_of("raw").decode(raw)
    table = decoded.table.drop_columns(["value"])
    assert table.schema == COLUMNS.schema()
    table.validate(full=True)
    assert table.column("_kafka_topic").to_pylist() == ["orders"] * 4
    assert table.column("_kafka_partition").to_pylist() == [0, 1, 2, 3]
    assert table.column("_kafka_key").to_pylist() == [b"\xff0", None, b"\xff2", None]
    # None from the broker, and what is no time that a reader can show, are null.
    assert table.column("_kafka_timestamp").to_pylist() == [
        None,
        datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC),
        None,
        datetime(1969, 12, 31, 23, 59, 59, 995_000, UTC),
    ]
    assert table.column("_kafka_headers").to_pylist() == [
        None,
        [
            {"key": "same", "value": b"1"},
            {"key": "same", "value": b"2"},
            {"key": "none", "value": None},
        ],
        [],
        [{"key": "odd\\udcff", "value": b""}],
    ]


def test_metadata_stays_with_its_row_when_others_are_dead_letters() -> None:
    headers: list[Headers | None] = [[("n", b"0")], [("n", b"1")], None]
    decoded = decoder_of("string").decode(batch_of([b"a", b"\xff", b"c"], headers=headers))
    assert decoded.table.column("_kafka_partition").to_pylist() == [0, 2]
    assert decoded.table.column("_kafka_key").to_pylist() == [b"\xff0", b"\xff2"]
    assert decoded.table.column("_kafka_headers").to_pylist() == [
        [{"key": "n", "value": b"0"}],
        None,
    ]


def test_a_metadata_column_without_a_name_is_left_out() -> None:
    columns = MetadataColumns(topic="", key="", headers="", timestamp="at")
    decoded = decoder_of("raw", columns=columns).decode(batch_of([b"v"]))
    assert decoded.table.schema.names == ["value", "_kafka_partition", "_kafka_offset", "at"]


@pytest.mark.parametrize("names", [{"offset": ""}, {"partition": ""}, {"key": "_KAFKA_TOPIC"}])
def test_metadata_names_that_cannot_work_are_configuration_errors(names: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        MetadataColumns(**names)
    assert caught.value.field.startswith("iceberg.metadata_columns")


def test_a_metadata_column_may_not_take_the_payloads_name() -> None:
    with pytest.raises(ConfigError, match="'value'"):
        decoder_of("raw", columns=MetadataColumns(key="Value"))


def test_the_tables_value_column_keeps_its_field_id_and_its_large_type_is_made_plain() -> None:
    field = pa.field("value", pa.large_binary(), metadata={"PARQUET:field_id": "1"})
    decoder = decoder_of("raw", pa.schema([field, *COLUMNS.schema()]))
    assert decoder.schema is not None
    assert decoder.schema.field("value").equals(field.with_type(pa.binary()), check_metadata=True)


@pytest.mark.parametrize(
    "field", [pa.field("value", pa.int64()), pa.field("other", pa.int64(), nullable=False)]
)
def test_a_table_that_cannot_hold_plain_payloads_is_refused(field: pa.Field) -> None:
    with pytest.raises(SchemaConflictError, match=field.name):
        decoder_of("raw", pa.schema([field]))


def test_a_tombstone_for_a_required_column_is_a_dead_letter() -> None:
    table = pa.schema([pa.field("value", pa.binary(), nullable=False)])
    decoded = decoder_of("raw", table).decode(batch_of([b"v", None]))
    assert [letter.code for letter in decoded.dead_letters] == ["raw.missing_value"]


@pytest.mark.parametrize(
    ("form", "mode", "field"),
    [
        ("avro", "manual", "kafka.format.type"),
        ("json", "wild", "schema_evolution.mode"),
    ],
)
def test_an_unknown_format_or_mode_names_the_setting(form: str, mode: str, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_decoder(form, columns=COLUMNS, table_schema=None, max_message_bytes=8, mode=mode)
    assert caught.value.field == field
