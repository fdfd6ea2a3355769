"""Dictionaries for columns whose values repeat, found by a sample; the rows stay what they were."""

from __future__ import annotations

import datetime
import decimal
import io
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2i_tasks.iceberg import encoding
from k2i_tasks.iceberg.ahead import AheadFiles
from k2i_tasks.iceberg.data_files import data_file
from k2i_tasks.iceberg.encoding import SAMPLE_ROWS, SMALL_ARROW_BYTES, SMALL_BYTES, Encoding
from k2i_tasks.iceberg.files import local_path
from k2i_tasks.iceberg.maintenance.rewriting import Rewriter
from k2i_tasks.iceberg.maintenance.survey import Survey
from k2i_tasks.iceberg.writer import DataFileWriter
from tests.unit import test_committer as rows_of

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


def options(like: pa.Table, rows: pa.Table, *, is_whole: bool = True) -> dict[str, Any]:
    return Encoding(like).options(rows, "zstd", is_whole=is_whole)


def written(rows: pa.Table, like: pa.Table | None = None) -> tuple[pq.FileMetaData, io.BytesIO]:
    stream = io.BytesIO()
    chosen = options(rows if like is None else like, rows)
    with pq.ParquetWriter(stream, rows.schema, **chosen) as writer:
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
    assert set(options(rows, rows)["use_dictionary"]) == FEW
    # Of what may come yet, nothing is known: a dictionary does no harm.
    assert set(options(rows, rows, is_whole=False)["use_dictionary"]) == FEW | {"none"}


def test_what_is_small_by_its_dictionary_is_not_compressed_and_all_else_is() -> None:
    found, _ = written(table())
    assert plain(found) == {"none", "few_flags"}
    assert all(
        each.total_compressed_size < SMALL_BYTES
        for each in columns(found)
        if each.path_in_schema in plain(found)
    )
    # A file of few rows, by the look of many.
    few, _ = written(table(200), like=table())
    assert plain(few) == {"none", *(each for each in FEW if "." not in each)}
    assert with_dictionary(few) == FEW - {"few_flags"}


def test_a_file_that_may_get_other_rows_is_compressed_and_so_is_a_large_one() -> None:
    assert options(table(), table(200), is_whole=False)["compression"] == "zstd"
    one = pa.table({"same": [1] * (SAMPLE_ROWS + 1)})
    assert options(one, one)["compression"] == "zstd"
    assert options(one, one.slice(0, 1_000))["compression"] == {"same": "none"}


@pytest.mark.parametrize("codec", ["none", "snappy"])
def test_the_codec_that_was_chosen_is_used(codec: str) -> None:
    rows = table(40)
    found = Encoding(rows).options(rows, codec, is_whole=True)
    assert set(found["compression"].values()) == {"none", codec}
    assert Encoding(rows).options(rows, codec, is_whole=False)["compression"] == codec


def test_a_value_that_repeats_in_many_rows_and_not_in_few_has_no_dictionary_in_few() -> None:
    rows = pa.table({"user": [n % 300 for n in range(ROWS)]})
    for count, found in ((ROWS, ["user"]), (600, ["user"]), (599, [])):
        assert options(rows, rows.slice(0, count))["use_dictionary"] == found


def test_long_values_are_compressed_however_few_they_are() -> None:
    rows = pa.table({"text": [f"{n % 2}" * SMALL_BYTES for n in range(100)]})
    found, _ = written(rows)
    assert with_dictionary(found) == {"text"}
    assert plain(found) == set()


def test_sliced_and_chunked_rows_are_looked_at_as_they_are() -> None:
    rows = table()
    pieces = pa.concat_tables([rows.slice(10, 2_000), rows.slice(2_500, 2_000)])
    few = rows.slice(7, 10)
    assert options(pieces, few) == options(rows, few)


def test_the_end_of_the_rows_is_looked_at_too() -> None:
    count = 10 * SAMPLE_ROWS
    late = pa.table({"n": pa.array([max(0, n - count // 5) for n in range(count)])})
    assert options(late, late)["use_dictionary"] == []


def test_few_rows_are_looked_at_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    leaf = encoding._Leaf
    monkeypatch.setattr(
        encoding,
        "_Leaf",
        lambda *of: looked.append(of[2]) or leaf(*of),  # type: ignore[func-returns-value]
    )
    rows = pa.table({"text": [f"{n}" * 2_000 for n in range(10_000)]})
    options(rows, rows)
    assert len(looked) == 1
    assert 500 < looked[0] < 2_000
    options(rows, rows.slice(0, 10))
    large = pa.table({"text": ["x" * (1 << 20)] * 100})
    options(large, large)
    assert looked[2:] == [encoding.SLICES]


def test_the_rows_are_not_kept() -> None:
    encoding = Encoding(table())
    encoding.options(table(10), "zstd", is_whole=True)
    assert encoding._slices == []


# What the sample has nothing of.

TEXT = [f"{'text of a row, which is not short ' * 8}{n}" for n in range(900)]


def quiet(count: int) -> pa.Table:
    return pa.table({"n": range(count), "note": pa.nulls(count, pa.string())})


def same(count: int) -> pa.Table:
    return pa.table({"n": range(count), "note": ["nothing"] * count})


@pytest.mark.parametrize("like", [quiet(ROWS), same(ROWS)], ids=["nulls", "one value"])
def test_rows_unlike_the_sample_are_compressed(like: pa.Table) -> None:
    loud = pa.table({"n": range(900), "note": TEXT})
    found, _ = written(loud, like=like)
    assert plain(found) == set()
    # Up to some bytes, it may be wrong.
    assert plain(written(loud.slice(0, 4), like=like)[0]) <= {"note"}
    assert loud["note"].nbytes > SMALL_ARROW_BYTES


@pytest.mark.parametrize("start", [quiet(9_000), same(9_000)], ids=["nulls", "one value"])
def test_files_that_begin_unlike_they_go_on_are_compressed(tmp_path: Path, start: pa.Table) -> None:
    catalog = rows_of.open_catalog(tmp_path)
    catalog.create_namespace(rows_of.NAME[0])
    table = catalog.create_table(rows_of.NAME, start.schema)
    ahead = AheadFiles(table, rows_of.config(tmp_path), "a-1")
    loud = pa.table({"n": range(900), "note": TEXT})
    assert ahead.add([start])
    (file,) = ahead.finish([start, *[loud] * 20])
    assert file.size_bytes < loud["note"].nbytes
    # And joined behind the one that began it.
    for number, rows in enumerate([start, loud]):
        (one,) = DataFileWriter(table, rows_of.config(tmp_path)).write(
            [rows], batch_id=f"b-{number}"
        )
        with table.transaction() as change, change.update_snapshot().fast_append() as append:
            append.append_data_file(data_file(table, one))
    joined = Rewriter(table, "zstd", lambda: False).join(Survey("main").first(table, 1 << 30))
    assert plain(pq.read_metadata(local_path(joined.staged.path))) == set()


def test_no_rows_are_encoded_as_any() -> None:
    rows = table(0)
    assert written(rows)[0].num_rows == 0


@st.composite
def types(draw: st.DrawFn, depth: int = 3) -> pa.DataType:
    """Of columns as tables have them, lists, maps and structs of one another included."""
    kinds = [pa.int64(), pa.string(), pa.uuid(), pa.binary(4), pa.decimal128(9, 2), pa.bool_()]
    kind = draw(st.sampled_from(["plain", "plain", "list", "large list", "struct", "map"]))
    if depth == 0 or kind == "plain":
        return draw(st.sampled_from(kinds))
    inner = types(depth=depth - 1)
    if kind == "struct":
        names = draw(
            st.lists(
                st.sampled_from(["a", "b.c", "list", "element"]),
                min_size=1,
                max_size=3,
                unique=True,
            )
        )
        return pa.struct([pa.field(name, draw(inner)) for name in names])
    if kind == "map":
        return pa.map_(pa.string(), draw(inner))
    return (pa.list_ if kind == "list" else pa.large_list)(draw(inner))


@settings(deadline=None)
@given(st.lists(types(), min_size=1, max_size=3), st.integers(0, 5), st.integers(0, 5))
def test_each_primitive_column_of_any_type_has_a_codec(
    kinds: list[pa.DataType], rows: int, others: int
) -> None:
    schema = pa.schema([(f"column.{number}", kind) for number, kind in enumerate(kinds)])
    found = options(nothing(schema, others), nothing(schema, rows))
    stream = io.BytesIO()
    pq.write_table(nothing(schema, rows), stream, **found)
    parquet = pq.ParquetFile(stream).metadata.schema
    paths = {parquet.column(index).path for index in range(len(parquet))}
    assert found["compression"].keys() == paths
    assert set(found["use_dictionary"]) <= paths


def nothing(schema: pa.Schema, rows: int) -> pa.Table:
    return pa.table([pa.nulls(rows, field.type) for field in schema], schema=schema)


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
