"""What lies in the warehouse is what was handed over, value by value, to each kind of reader."""

from __future__ import annotations

import datetime as dt
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2i_tasks.errors import Component, IntegrityError, SchemaConflictError, ServiceError
from k2i_tasks.failpoints import armed
from k2i_tasks.iceberg import output, writer
from k2i_tasks.iceberg.data_files import FRESH
from k2i_tasks.iceberg.output import DataFileOutput
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter, data_file, discard, read_staged
from k2i_tasks.types import StagedFile
from tests.iceberg_tables import NAME, append, catalog_of, config_at, rows_of

UTC = dt.UTC
ROWS = [
    {
        "id": 7,
        "small": -3,
        "name": "Zoë/ü",
        "price": 1.5,
        "ok": True,
        "amount": Decimal("12.30"),
        "at": dt.datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
        "local": dt.datetime(1969, 12, 31, 23, 0, 0),
        "day": dt.date(1969, 12, 31),
        "clock": dt.time(1, 2, 3, 4),
        "raw": b"\x00\xff",
        "nested": {"a": {"b": "x"}, "tags": ["p", None]},
        "lines": [{"sku": "s1", "n": 1}, {"sku": None, "n": 2}],
        "attrs": [("k", 1), ("l", None)],
    },
    {
        "id": 8,
        "small": 2**31 - 1,
        "name": "",
        "price": -0.0,
        "ok": False,
        "amount": Decimal("-0.01"),
        "at": dt.datetime(1901, 1, 1, tzinfo=UTC),
        "local": dt.datetime(2024, 1, 1),
        "day": dt.date(2024, 2, 29),
        "clock": dt.time(0),
        "raw": b"",
        "nested": {"a": None, "tags": []},
        "lines": [],
        "attrs": [],
    },
]
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("small", pa.int32()),
        ("name", pa.string()),
        ("price", pa.float64()),
        ("ok", pa.bool_()),
        ("amount", pa.decimal128(9, 2)),
        ("at", pa.timestamp("us", "UTC")),
        ("local", pa.timestamp("us")),
        ("day", pa.date32()),
        ("clock", pa.time64("us")),
        ("raw", pa.binary()),
        (
            "nested",
            pa.struct([("a", pa.struct([("b", pa.string())])), ("tags", pa.list_(pa.string()))]),
        ),
        ("lines", pa.list_(pa.struct([("sku", pa.string()), ("n", pa.int64())]))),
        ("attrs", pa.map_(pa.string(), pa.int64())),
    ]
)
BLANK: dict[str, Any] = dict.fromkeys(SCHEMA.names)
TABLE = pa.Table.from_pylist([*ROWS, BLANK], schema=SCHEMA)

SPECS = [
    ("identity", column)
    for column in ("id", "name", "ok", "amount", "at", "local", "day", "clock", "raw")
]
SPECS += [(t, c) for t in ("year", "month", "day") for c in ("at", "local", "day")]
SPECS += [("hour", "at"), ("hour", "local")]
SPECS += [
    ("bucket[4]", column)
    for column in ("id", "small", "name", "amount", "at", "local", "day", "clock", "raw")
]
SPECS += [("truncate[3]", column) for column in ("id", "small", "name", "amount", "raw")]
SPECS += [("void", "name"), ("identity", "nested.a.b")]


@pytest.mark.parametrize(("transform", "column"), SPECS)
def test_each_transform_is_read_back_value_by_value(
    tmp_path: Path, transform: str, column: str
) -> None:
    config = config_at(tmp_path, partition_spec=[{"source_field": column, "transform": transform}])
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, SCHEMA, config)
    staged = DataFileWriter(table, config).write([TABLE], batch_id="b1")
    append(table, staged)

    expected = rows_of(TABLE)
    assert rows_of(catalog.load_table(NAME).scan().to_arrow()) == expected
    paths = [file.path for file in staged]
    seen = duckdb.read_parquet(paths, hive_partitioning=False).to_arrow_table()
    assert rows_of(seen.cast(SCHEMA)) == expected
    assert {file.partition[1000] is None for file in staged} >= {True}


def test_a_filter_on_the_partition_column_finds_its_rows_and_skips_other_files(
    tmp_path: Path,
) -> None:
    config = config_at(tmp_path, partition_spec=[{"source_field": "at", "transform": "day"}])
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, SCHEMA, config)
    append(table, DataFileWriter(table, config).write([TABLE], batch_id="b1"))
    scan = catalog.load_table(NAME).scan(row_filter="at > '2024-01-01T00:00:00+00:00'")
    assert len(list(scan.plan_files())) == 1
    assert scan.to_arrow()["id"].to_pylist() == [7]


def test_files_carry_field_ids_and_manifests_carry_bounds(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, SCHEMA, config)
    [staged] = DataFileWriter(table, config).write([TABLE], batch_id="b1")
    schema = pq.read_schema(staged.path)
    for field in table.schema().fields:
        assert (
            schema.field(field.name).metadata[b"PARQUET:field_id"] == str(field.field_id).encode()
        )
    inner = schema.field("lines").type.value_type.field("sku").metadata[b"PARQUET:field_id"]
    assert int(inner) == table.schema().find_field("lines.element.sku").field_id

    append(table, [staged])
    [task] = catalog.load_table(NAME).scan().plan_files()
    ids = {field.name: field.field_id for field in table.schema().fields}
    assert task.file.lower_bounds[ids["id"]] == (7).to_bytes(8, "little")
    assert task.file.upper_bounds[ids["id"]] == (8).to_bytes(8, "little")
    assert task.file.upper_bounds[ids["name"]] == "Zoë/ü".encode()
    assert task.file.null_value_counts[ids["name"]] == 1
    assert task.file.value_counts[ids["id"]] == 3
    assert task.file.record_count == 3
    assert task.file.file_size_in_bytes == os.path.getsize(staged.path)


def test_partition_values_with_nulls_unicode_slashes_and_300_chars_are_kept(tmp_path: Path) -> None:
    values = [None, "", "a/b", "../x", "Zoë", "=&?#%", "null", "x" * 300, "ü" * 300]
    rows = pa.table({"city": values * 2, "n": range(len(values) * 2)})
    config = config_at(tmp_path, partition_spec=[{"source_field": "city", "transform": "identity"}])
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, rows.schema, config)
    staged = DataFileWriter(table, config).write([rows], batch_id="b1")
    append(table, staged)
    assert len(staged) == len(values)
    assert rows_of(catalog.load_table(NAME).scan().to_arrow()) == rows_of(rows)
    root = (tmp_path / "warehouse").resolve()
    assert all(Path(file.path).resolve().is_relative_to(root) for file in staged)


def test_rows_of_a_file_are_in_the_tables_sort_order(tmp_path: Path) -> None:
    order = [
        {"source_field": "group", "direction": "desc", "null_order": "first"},
        {"source_field": "n", "direction": "asc", "null_order": "last"},
    ]
    rows = pa.table({"group": ["a", None, "b", "a", "b"], "n": [2, 1, None, 1, 5]})
    config = config_at(tmp_path, sort_order=order)
    table = create_table(catalog_of(config), NAME, rows.schema, config)
    [staged] = DataFileWriter(table, config).write([rows], batch_id="b1")
    seen = pq.read_table(staged.path)
    assert list(zip(*(column.to_pylist() for column in seen.columns), strict=True)) == [
        (None, 1),
        ("b", 5),
        ("b", None),
        ("a", 1),
        ("a", 2),
    ]
    assert data_file(table, staged).sort_order_id == table.sort_order().order_id


def test_a_staged_file_found_after_a_restart_gives_the_same_entry(tmp_path: Path) -> None:
    spec = [
        {"source_field": "name", "transform": "truncate[2]"},
        {"source_field": "at", "transform": "day"},
        {"source_field": "at", "transform": "hour"},
        {"source_field": "amount", "transform": "identity"},
    ]
    config = config_at(tmp_path, partition_spec=spec, sort_order=[{"source_field": "id"}])
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    for staged in DataFileWriter(table, config).write([TABLE], batch_id="b1"):
        fresh = data_file(table, staged)
        FRESH.forget(staged.path)
        again = StagedFile.from_json(staged.to_json())
        reloaded = catalog_of(config).load_table(NAME)
        found = data_file(reloaded, again)
        assert found._data == fresh._data
        assert found.spec_id == fresh.spec_id
        FRESH.forget(staged.path)


def test_a_staged_file_is_committed_by_its_own_columns_after_a_rename(tmp_path: Path) -> None:
    rows = pa.table({"a": [1], "b": [900]})
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, rows.schema, config)
    [staged] = DataFileWriter(table, config).write([rows], batch_id="b1")
    with table.update_schema() as update:
        update.rename_column("a", "c")
    FRESH.forget(staged.path)
    entry = data_file(catalog.load_table(NAME), staged)
    assert entry.lower_bounds == {1: (1).to_bytes(8, "little"), 2: (900).to_bytes(8, "little")}


def test_columns_are_matched_by_name_and_what_is_missing_is_null(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    schema = pa.schema(
        [("id", pa.int64()), ("s", pa.struct([("x", pa.int64()), ("y", pa.string())]))]
    )
    table = create_table(catalog_of(config), NAME, schema, config)
    first = pa.table({"s": [{"y": "why", "x": 1}, None], "id": pa.array([1, 2], pa.int32())})
    second = pa.table({"id": [3]})
    third = pa.table({"s": pa.array([{"x": 4}], pa.struct([("x", pa.int16())])), "gone": [None]})
    [staged] = DataFileWriter(table, config).write([first, second, third], batch_id="b1")
    assert read_staged(table, staged).to_pylist() == [
        {"id": 1, "s": {"x": 1, "y": "why"}},
        {"id": 2, "s": None},
        {"id": 3, "s": None},
        {"id": None, "s": {"x": 4, "y": None}},
    ]


def test_sliced_nested_columns_keep_their_own_rows(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    wide = pa.schema(
        [("l", pa.list_(pa.struct([("n", pa.int64())]))), ("m", pa.map_(pa.string(), pa.int64()))]
    )
    table = create_table(catalog_of(config), NAME, wide, config)
    narrow = pa.schema(
        [("l", pa.list_(pa.struct([("n", pa.int32())]))), ("m", pa.map_(pa.string(), pa.int32()))]
    )
    rows = [{"l": [{"n": i}] * (i % 3), "m": [("k", i)] if i % 2 else None} for i in range(10)]
    rows[5]["l"] = None
    given = pa.Table.from_pylist(rows, schema=narrow).slice(3, 5)
    [staged] = DataFileWriter(table, config).write([given], batch_id="b1")
    assert read_staged(table, staged).to_pylist() == given.to_pylist()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"id": ["text"]}, "'id' is int64 in the table and string in the records"),
        ({"id": [1], "new": [1]}, "no column 'new'"),
        ({"s": [{"x": 1, "z": 2}]}, "no column 's.z'"),
        ({"id": [1.5]}, "'id' is int64 in the table and double"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_column_and_leave_no_file(
    tmp_path: Path, rows: dict[str, list[Any]], told: str
) -> None:
    config = config_at(tmp_path)
    schema = pa.schema([("id", pa.int64()), ("s", pa.struct([("x", pa.int64())]))])
    table = create_table(catalog_of(config), NAME, schema, config)
    with pytest.raises(SchemaConflictError, match=told):
        DataFileWriter(table, config).write([pa.table(rows)], batch_id="b1")
    assert not list((tmp_path / "warehouse").rglob("*.parquet"))


@pytest.mark.parametrize("place", ["flush.file.written", "flush.file.synced"])
def test_a_failure_in_mid_write_leaves_no_file(tmp_path: Path, place: str) -> None:
    config = config_at(tmp_path, partition_spec=[{"source_field": "id", "transform": "identity"}])
    table = create_table(catalog_of(config), NAME, SCHEMA, config)

    def fail(name: str) -> None:
        raise OSError(28, "No space left on device")

    with armed(place, fail, nth=2), pytest.raises((ServiceError, OSError)):
        DataFileWriter(table, config).write([TABLE], batch_id="b1")
    assert list((tmp_path / "warehouse").rglob("*.parquet")) == []


def test_a_full_disk_is_told_with_place_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - the writer closes it
    monkeypatch.setattr(DataFileOutput, "_create", lambda self, location: full)
    with pytest.raises(ServiceError, match="No space left") as caught:
        DataFileWriter(table, config).write([TABLE], batch_id="b1")
    assert caught.value.component is Component.STORAGE
    assert "space" in caught.value.remedy


def test_large_batches_roll_over_at_the_target_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "ROW_GROUP_BYTES", 256 << 10)
    config = config_at(tmp_path, target_file_size_mb=1, compression="none")
    noise = pa.table({"x": pa.array([os.urandom(1000) for _ in range(3000)], pa.binary())})
    table = create_table(catalog_of(config), NAME, noise.schema, config)
    staged = DataFileWriter(table, config).write([noise], batch_id="b1")
    assert len(staged) == 3
    assert all(1 << 20 <= file.size_bytes < 2 << 20 for file in staged[:-1])
    assert sum(file.rows for file in staged) == 3000
    assert pq.read_metadata(staged[0].path).num_row_groups > 2


def test_pieces_bound_what_is_copied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"x": pa.array(range(1000), pa.int64())})
    pieces = list(writer.pieces([rows, rows.slice(0, 0), rows.slice(0, 10)], 1600))
    assert [sum(part.num_rows for part in piece) for piece in pieces] == [200] * 5 + [10]


@pytest.mark.parametrize("compression", ["snappy", "zstd", "lz4", "gzip", "none"])
def test_files_have_the_configured_compression(tmp_path: Path, compression: str) -> None:
    config = config_at(tmp_path, compression=compression)
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    [staged] = DataFileWriter(table, config).write([TABLE], batch_id="b1")
    codec = pq.read_metadata(staged.path).row_group(0).column(0).compression
    expected = {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert codec == expected
    word = "uncompressed" if compression == "none" else compression
    assert table.properties["write.parquet.compression-codec"] == word


def test_files_are_synced_before_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    synced: list[Path] = []
    monkeypatch.setattr(output, "sync_file", synced.append)
    staged = DataFileWriter(table, config).write([TABLE], batch_id="b1")
    assert [str(path) for path in synced] == [file.path for file in staged]


def test_metadata_files_of_a_local_warehouse_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from k2i_tasks.iceberg import files

    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_file", synced.append)
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    append(table, DataFileWriter(table, config).write([TABLE], batch_id="b1"))
    kinds = {"".join(path.suffixes) for path in synced}
    assert kinds == {".metadata.json", ".avro"}
    assert set(synced) == set((Path(table.location()) / "metadata").iterdir())


@pytest.mark.parametrize("damage", ["gone", "cut", "garbage"])
def test_a_damaged_staged_file_is_never_committed(tmp_path: Path, damage: str) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    [staged] = DataFileWriter(table, config).write([TABLE], batch_id="b1")
    FRESH.forget(staged.path)
    path = Path(staged.path)
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.write_bytes(bytes(staged.size_bytes))
    with pytest.raises(IntegrityError, match="Staged file"):
        data_file(table, staged)


def test_discarding_twice_does_no_harm(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    staged = DataFileWriter(table, config).write([TABLE], batch_id="b1")
    discard(table.io, staged)
    discard(table.io, staged)
    assert not Path(staged[0].path).exists()


def test_no_rows_give_no_files(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, SCHEMA, config)
    assert DataFileWriter(table, config).write([TABLE.slice(0, 0)], batch_id="b1") == []
    assert DataFileWriter(table, config).write([], batch_id="b1") == []
