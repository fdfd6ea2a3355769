"""Dictionaries for columns whose values repeat, found by a sample; the rows stay what they were."""

from __future__ import annotations

import datetime
import decimal
import io
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.iceberg.encoding import SAMPLE_ROWS, SMALL_BYTES, Encoding

ROWS = 5_000
HEADERS = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))
#: Columns of the table below whose values repeat; of a flag there are but two, and of one none.
FEW = {
    *("few", "few_days", "few_flags", "few_bytes", "pair.few", "list.list.element"),
    *("heads.list.element.key", "map.key_value.key"),
}


def table(count: int = ROWS) -> pa.Table:
    """Every kind of column that a table may have: `few...` repeat, `many...` do not."""
    numbers = range(count)
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
        "many_uuids": pa.array([uuid.UUID(int=n).bytes for n in numbers], pa.uuid()),
        "none": pa.nulls(count, pa.float64()),
        "few_bytes": pa.array([None if n % 9 else b"x" for n in numbers], pa.large_binary()),
        "pair": pa.array([{"few": n % 3, "many": n} for n in numbers]),
        "list": pa.array([[n % 3, n % 5] for n in numbers], pa.list_(pa.int32())),
        "heads": pa.array([[{"key": "few", "value": b"%d" % n}] for n in numbers], HEADERS),
        "map": pa.array([[("few", float(n))] for n in numbers], pa.map_(pa.string(), pa.float64())),
    }
    return pa.table(columns)


def written(rows: pa.Table, like: pa.Table | None = None) -> tuple[pq.FileMetaData, io.BytesIO]:
    stream = io.BytesIO()
    options = Encoding(rows if like is None else like).options(rows.num_rows, "zstd")
    with pq.ParquetWriter(stream, rows.schema, **options) as writer:
        writer.write_table(rows)
    file = pq.ParquetFile(stream)
    assert file.read().equals(rows)
    return file.metadata, stream


def columns(found: pq.FileMetaData) -> list[pq.ColumnChunkMetaData]:
    group = found.row_group(0)
    return [group.column(index) for index in range(group.num_columns)]


def plain(found: pq.FileMetaData) -> set[str]:
    """Columns that are not compressed."""
    return {each.path_in_schema for each in columns(found) if each.compression == "UNCOMPRESSED"}


def with_dictionary(found: pq.FileMetaData) -> set[str]:
    return {each.path_in_schema for each in columns(found) if each.has_dictionary_page}


def test_columns_that_repeat_have_a_dictionary_and_others_have_none() -> None:
    rows = table()
    # Booleans are bits already; Parquet gives them no dictionary.
    assert with_dictionary(written(rows)[0]) == FEW - {"few_flags"}
    chosen = Encoding(rows).options(ROWS, "zstd")["use_dictionary"]
    assert set(chosen) == FEW


def test_what_is_small_by_its_dictionary_is_not_compressed_and_all_else_is() -> None:
    found, _ = written(table())
    assert plain(found) == {"none", "few_flags", "few_bytes"}
    assert all(
        each.total_compressed_size < SMALL_BYTES
        for each in columns(found)
        if each.path_in_schema in plain(found)
    )
    # A file of few rows, by the look of many.
    few, _ = written(table(200), like=table())
    assert plain(few) == {"none", *FEW}
    assert with_dictionary(few) == FEW - {"few_flags"}
    # And a large one.
    options = Encoding(table()).options(5_000_000, "zstd")
    assert {path for path, codec in options["compression"].items() if codec != "zstd"} == {"none"}


@pytest.mark.parametrize("codec", ["none", "snappy"])
def test_the_codec_that_was_chosen_is_used(codec: str) -> None:
    found = Encoding(table(40)).options(40, codec)
    assert set(found["compression"].values()) == {"none", codec}
    many = pa.table({"many": range(ROWS)})
    assert Encoding(many).options(ROWS, codec)["compression"] == codec


def test_a_value_that_repeats_in_many_rows_and_not_in_few_has_no_dictionary_in_few() -> None:
    rows = pa.table({"user": [n % 300 for n in range(ROWS)]})
    encoding = Encoding(rows)
    assert encoding.options(ROWS, "zstd")["use_dictionary"] == ["user"]
    assert encoding.options(600, "zstd")["use_dictionary"] == ["user"]
    assert encoding.options(599, "zstd")["use_dictionary"] == []


def test_long_values_are_compressed_however_few_they_are() -> None:
    rows = pa.table({"text": [f"{n % 2}" * SMALL_BYTES for n in range(100)]})
    found, _ = written(rows)
    assert with_dictionary(found) == {"text"}
    assert plain(found) == set()


def test_sliced_and_chunked_rows_are_looked_at_as_they_are() -> None:
    rows = table()
    pieces = pa.concat_tables([rows.slice(10, 2_000), rows.slice(2_500, 2_000)])
    assert Encoding(pieces).options(10, "zstd") == Encoding(rows).options(10, "zstd")


def test_the_end_of_the_rows_is_looked_at_too() -> None:
    count = 10 * SAMPLE_ROWS
    late = pa.table({"n": pa.array([max(0, n - count // 5) for n in range(count)])})
    assert Encoding(late).options(count, "zstd")["use_dictionary"] == []


def test_no_rows_are_encoded_as_any() -> None:
    rows = table(0)
    assert written(rows)[0].num_rows == 0


@given(st.integers(1, 3 * SAMPLE_ROWS), st.integers(1, 40), st.integers(0, 10**7))
def test_whatever_is_looked_at_a_column_has_one_codec(count: int, few: int, rows: int) -> None:
    looked = pa.table({"few": [n % few for n in range(count)], "many": range(count)})
    options = Encoding(looked).options(rows, "zstd")
    codecs = options["compression"]
    assert codecs == "zstd" or (codecs.keys() == {"few", "many"} and "none" in codecs.values())
    assert set(options["use_dictionary"]) <= {"few", "many"}


@pytest.mark.parametrize("count", [100, 400, 1_000])
def test_a_file_of_few_rows_is_no_larger_than_with_dictionaries_for_all(count: int) -> None:
    rows = table(count)
    _, chosen = written(rows, like=table())
    stream = io.BytesIO()
    with pq.ParquetWriter(stream, rows.schema, compression="zstd") as writer:
        writer.write_table(rows)
    assert chosen.getbuffer().nbytes < stream.getbuffer().nbytes


def test_a_file_of_keys_is_smaller_without_their_dictionary() -> None:
    keys = pa.table({"key": [f"key-{n}" for n in range(50_000)]})
    _, sampled = written(keys)
    stream = io.BytesIO()
    with pq.ParquetWriter(stream, keys.schema, compression="zstd") as writer:
        writer.write_table(keys)
    assert sampled.getbuffer().nbytes < stream.getbuffer().nbytes
