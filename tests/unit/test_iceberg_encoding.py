"""Dictionaries for columns whose values repeat, found by a sample; the rows stay what they were."""

from __future__ import annotations

import datetime
import decimal
import io
import uuid

import pyarrow as pa
import pyarrow.parquet as pq

from k2i_tasks.iceberg.encoding import ROWS_MIN, dictionary_columns

ROWS = 5_000
HEADERS = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))


def table() -> pa.Table:
    """Every kind of column that a table may have: `few...` repeat, `many...` do not."""
    numbers = range(ROWS)
    day = datetime.date(2026, 1, 1)
    columns = {
        "few": pa.array([f"city-{n % 50}" for n in numbers]),
        "many": pa.array([f"key-{n}" for n in numbers]),
        "many_offsets": pa.array(numbers, pa.int64()),
        "few_days": pa.array([day + datetime.timedelta(n % 7) for n in numbers]),
        "many_times": pa.array(numbers, pa.timestamp("us", "UTC")),
        "few_flags": pa.array([n % 2 == 0 for n in numbers]),
        "many_prices": pa.array([decimal.Decimal(n) for n in numbers], pa.decimal128(18, 4)),
        "many_ids": pa.array([uuid.UUID(int=n).bytes for n in numbers], pa.binary(16)),
        "few_nulls": pa.nulls(ROWS, pa.float64()),
        "few_bytes": pa.array([None if n % 9 else b"x" for n in numbers], pa.large_binary()),
        "pair": pa.array([{"few": n % 3, "many": n} for n in numbers]),
        "list": pa.array([[n % 3, n % 5] for n in numbers], pa.list_(pa.int32())),
        "heads": pa.array([[{"key": "few", "value": b"%d" % n}] for n in numbers], HEADERS),
        "map": pa.array([[("few", float(n))] for n in numbers], pa.map_(pa.string(), pa.float64())),
    }
    return pa.table(columns)


def written(rows: pa.Table) -> tuple[pq.ParquetFile, io.BytesIO]:
    stream = io.BytesIO()
    with pq.ParquetWriter(
        stream, rows.schema, use_dictionary=dictionary_columns(rows), compression="zstd"
    ) as writer:
        writer.write_table(rows)
    return pq.ParquetFile(stream), stream


def test_columns_that_repeat_have_a_dictionary_and_others_have_none() -> None:
    rows = table()
    file, _ = written(rows)
    group = file.metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    found = {column.path_in_schema for column in columns if column.has_dictionary_page}
    everything = {column.path_in_schema for column in columns}
    wanted = {
        *("few", "few_days", "few_nulls", "few_bytes", "pair.few", "list.list.element"),
        *("heads.list.element.key", "map.key_value.key"),
    }
    # Booleans are bits already; Parquet gives them no dictionary.
    assert found == wanted
    chosen = dictionary_columns(rows)
    assert isinstance(chosen, list)
    assert set(chosen) == wanted | {"few_flags"}
    assert set(chosen) <= everything
    assert file.read().equals(rows)


def test_sliced_and_chunked_rows_are_looked_at_as_they_are() -> None:
    rows = table()
    pieces = pa.concat_tables([rows.slice(10, 2_000), rows.slice(2_500, 2_000)])
    assert dictionary_columns(pieces) == dictionary_columns(rows)


def test_a_few_rows_are_not_worth_a_look() -> None:
    assert dictionary_columns(table().slice(0, ROWS_MIN - 1)) is True


def test_a_file_of_keys_is_smaller_without_their_dictionary() -> None:
    keys = pa.table({"key": [f"key-{n}" for n in range(50_000)]})
    _, sampled = written(keys)
    stream = io.BytesIO()
    with pq.ParquetWriter(stream, keys.schema, compression="zstd") as writer:
        writer.write_table(keys)
    assert sampled.getbuffer().nbytes < stream.getbuffer().nbytes
