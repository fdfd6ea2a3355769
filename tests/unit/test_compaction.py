"""Files that are joined hold what they held: values, columns, partitions, order, statistics."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.types import DecimalType, DoubleType, LongType, StringType

from k2i_tasks.clock import SystemClock
from k2i_tasks.config import Config
from k2i_tasks.errors import IntegrityError, ServiceError
from k2i_tasks.iceberg.maintenance import rewriting
from k2i_tasks.iceberg.maintenance.compaction import Compacted, Compaction, CompactionOptions
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter
from tests.iceberg_tables import NAME, append, catalog_of, config_at, rows_of
from tests.support import read_by_metadata

UTC = dt.UTC
#: Whatever there is is small.
ALL = CompactionOptions(small_bytes=64 << 20, target_bytes=64 << 20, min_files=2)
ID = pa.schema([("id", pa.int64())])
IS_PLAIN = rewriting._is_plain


def compaction(
    catalog: Catalog,
    options: CompactionOptions = ALL,
    *,
    branch: str = "main",
    stopping: Callable[[], bool] = lambda: False,
) -> Compaction:
    return Compaction(
        catalog,
        NAME,
        branch=branch,
        options=options,
        lane=nullcontext(),
        stopping=stopping,
        clock=SystemClock(),
    )


def add(catalog: Catalog, config: Config, rows: pa.Table) -> None:
    """One commit of one batch."""
    table = catalog.load_table(NAME)
    append(table, DataFileWriter(table, config).write([rows], batch_id="b"))


def files(table: Table) -> list[DataFile]:
    return [task.file for task in table.scan().plan_files()]


def totals(table: Table) -> dict[str, int]:
    """What the head's summary says, against what a scan finds."""
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    told = snapshot.summary.additional_properties
    found = files(table)
    assert int(told["total-data-files"]) == len(found)
    assert int(told["total-records"]) == sum(each.record_count for each in found)
    assert int(told["total-files-size"]) == sum(each.file_size_in_bytes for each in found)
    return {key: int(value) for key, value in told.items() if value.isdigit()}


def seen(table: Table) -> list[dict[str, Any]]:
    """All rows by PyIceberg; they must be DuckDB's too."""
    rows = rows_of(table.scan().to_arrow())
    assert len(read_by_metadata(table.metadata_location)) == len(rows)
    return rows


def outside(table: Table) -> list[str]:
    return sorted(map(repr, read_by_metadata(table.metadata_location)))


EVERYTHING = pa.schema(
    [
        ("id", pa.int64()),
        ("small", pa.int32()),
        ("name", pa.string()),
        ("half", pa.float32()),
        ("ok", pa.bool_()),
        ("amount", pa.decimal128(9, 2)),
        ("huge", pa.decimal128(38, 6)),
        ("at", pa.timestamp("us", "UTC")),
        ("local", pa.timestamp("us")),
        ("day", pa.date32()),
        ("clock", pa.time64("us")),
        ("raw", pa.binary()),
        ("four", pa.binary(4)),
        ("key", pa.uuid()),
        (
            "nested",
            pa.struct([("a", pa.struct([("b", pa.string())])), ("t", pa.list_(pa.string()))]),
        ),
        ("lines", pa.list_(pa.struct([("sku", pa.string()), ("n", pa.int64())]))),
        ("attrs", pa.map_(pa.string(), pa.struct([("x", pa.int64())]))),
    ]
)


def everything(number: int) -> dict[str, Any]:
    sometimes = number % 3
    return {
        "id": number,
        "small": -number,
        "name": f"Zoë {number}",
        "half": number / 4,
        "ok": bool(number % 2),
        "amount": Decimal(number) / 100,
        "huge": Decimal(10) ** 30 + Decimal(number) / 1_000_000,
        "at": dt.datetime(1901, 1, 1, tzinfo=UTC) + dt.timedelta(microseconds=number),
        "local": dt.datetime(2024, 2, 29) + dt.timedelta(microseconds=number),
        "day": dt.date(1969, 12, 1) + dt.timedelta(days=number),
        "clock": dt.time(1, 2, 3, number),
        "raw": b"\x00\xff" * number,
        "four": number.to_bytes(4, "big"),
        "key": uuid.UUID(int=number).bytes,
        "nested": None if sometimes == 0 else {"a": {"b": "x"}, "t": ["p", None]},
        "lines": [None, [], [{"sku": None, "n": number}, None]][sometimes],
        "attrs": [None, [], [("k", {"x": number}), ("l", None)]][sometimes],
    }


def of_everything(first: int, count: int) -> pa.Table:
    rows = [everything(number) for number in range(first, first + count)]
    rows.append(dict.fromkeys(EVERYTHING.names))
    return pa.table(
        [pa.array([row[f.name] for row in rows], f.type) for f in EVERYTHING], schema=EVERYTHING
    )


@pytest.mark.parametrize("plain", [True, False], ids=["as it lies there", "by projection"])
def test_every_type_keeps_its_values_nulls_and_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    found = []

    def is_plain(*schemas: pa.Schema) -> bool:
        found.append(IS_PLAIN(*schemas))
        return found[-1] and plain

    monkeypatch.setattr(rewriting, "_is_plain", is_plain)
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, EVERYTHING, config)
    for first in range(0, 50, 10):
        add(catalog, config, of_everything(first, 10))
    before = catalog.load_table(NAME)
    done = compaction(catalog).run()
    after = catalog.load_table(NAME)
    sizes = [each.file_size_in_bytes for each in files(before)]
    assert done == Compacted(5, 1, 55, sum(sizes), files(after)[0].file_size_in_bytes, 1)
    assert seen(after) == seen(before)
    assert outside(after) == outside(before)
    head = after.current_snapshot()
    assert head is not None
    assert head.summary is not None
    assert head.summary.operation is Operation.REPLACE
    told = totals(after)
    assert (told["added-data-files"], told["deleted-data-files"]) == (1, 5)
    assert told["added-records"] == told["deleted-records"] == 55
    assert (told["added-files-size"], told["removed-files-size"]) == (done.bytes_after, sum(sizes))
    (joined,), some = files(after), files(before)
    bounds = [each.lower_bounds[1] for each in some], [each.upper_bounds[1] for each in some]
    by_value = {"key": lambda raw: int.from_bytes(raw, "little", signed=True)}
    assert joined.lower_bounds[1] == min(bounds[0], **by_value)
    assert joined.upper_bounds[1] == max(bounds[1], **by_value)
    for column in some[0].value_counts:
        for what in ("value_counts", "null_value_counts"):
            counts = [getattr(each, what)[column] for each in some]
            assert getattr(joined, what)[column] == sum(counts), (what, column)
    assert joined.lower_bounds.keys() == some[0].lower_bounds.keys()
    assert compaction(catalog).run() == Compacted(), "there is nothing left to do"
    assert found == [True] * 5, "files of ours need no projection"


def test_rows_of_every_type_are_written_and_joined_by_the_thousand(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, EVERYTHING, config)
    for first in (0, 1_500):
        add(catalog, config, of_everything(first, 1_500))
    before = catalog.load_table(NAME)
    assert compaction(catalog).run().rows == 3_002
    after = catalog.load_table(NAME)
    assert len(seen(after)) == 3_002
    assert seen(after) == seen(before)
    assert outside(after) == outside(before)


def test_files_come_to_lie_in_their_partitions(tmp_path: Path) -> None:
    spec = [
        {"source_field": "day", "transform": "identity"},
        {"source_field": "at", "transform": "hour"},
        {"source_field": "amount", "transform": "truncate[100]"},
        {"source_field": "key", "transform": "bucket[2]"},
        {"source_field": "name", "transform": "identity"},
    ]
    config = config_at(tmp_path, partition_spec=spec)
    catalog = catalog_of(config)
    create_table(catalog, NAME, EVERYTHING, config)
    for _ in range(3):
        add(catalog, config, of_everything(0, 6))
    before = catalog.load_table(NAME)
    planned = compaction(catalog).plan()
    assert catalog.load_table(NAME).metadata == before.metadata, "a plan changes nothing"
    joins = [join for group in planned for join in group.joins]
    assert len(joins) == 7
    assert {len(join.sources) for join in joins} == {3}
    assert sum("name=Zo%C3%AB+3" in join.partition for join in joins) == 1
    done = compaction(catalog).run()
    assert (done.files_before, done.files_after, done.commits) == (21, 7, 1)
    after = catalog.load_table(NAME)
    assert seen(after) == seen(before)
    assert outside(after) == outside(before)
    totals(after)
    was = {repr(each.partition) for each in files(before)}
    assert {repr(each.partition) for each in files(after)} == was
    folders = {str(Path(each.file_path).parent) for each in files(before)}
    assert {str(Path(each.file_path).parent) for each in files(after)} == folders


def test_later_columns_and_wider_types_are_those_of_the_table(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("id", pa.int32()),
            ("ratio", pa.float32()),
            ("price", pa.decimal128(9, 2)),
            ("gone", pa.string()),
            ("in", pa.struct([("n", pa.int32())])),
            ("lists", pa.list_(pa.struct([("n", pa.int32())]))),
        ]
    )
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, schema, config)
    narrow = [
        {"id": n, "ratio": n / 4, "price": Decimal(n), "gone": "x", "in": {"n": n}, "lists": lists}
        for n, lists in enumerate([None, [], [None, {"n": 3}]])
    ]
    add(catalog, config, pa.Table.from_pylist(narrow, schema=schema))
    table = catalog.load_table(NAME)
    with table.update_schema() as update:
        update.update_column("id", LongType())
        update.update_column("ratio", DoubleType())
        update.update_column("price", DecimalType(18, 2))
        update.update_column(("in", "n"), LongType())
        update.update_column("lists.element.n", LongType())
        update.add_column(("in", "new"), StringType())
        update.add_column("later", StringType())
        update.delete_column("gone")
        update.rename_column("price", "cost")
    wide = catalog.load_table(NAME)
    rows = [
        {"id": 2**40, "ratio": 0.1, "cost": Decimal("1e12"), "in": {"n": 2**33, "new": "y"}},
        {"id": None, "later": "z", "lists": [{"n": 2**40}]},
    ]
    columns = wide.scan().to_arrow().schema
    add(catalog, config, pa.Table.from_pylist(rows, schema=columns))
    before = catalog.load_table(NAME)
    assert compaction(catalog).run().files_after == 1
    after = catalog.load_table(NAME)
    assert seen(after) == seen(before)
    assert outside(after) == outside(before)
    assert [row["lists"] for row in seen(after)].count(None) == 2
    path = files(after)[0].file_path.removeprefix("file://")
    assert pq.read_schema(path).names == ["id", "ratio", "cost", "in", "lists", "later"]


def test_files_of_an_older_spec_are_left_alone(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, ID, config)
    for number in range(4):
        add(catalog, config, pa.table({"id": [number]}))
    with catalog.load_table(NAME).update_spec() as update:
        update.add_identity("id")
    for _ in range(2):
        add(catalog, config, pa.table({"id": [1, 2, 3]}))
    before = catalog.load_table(NAME)
    done = compaction(catalog).run()
    assert (done.files_before, done.files_after) == (6, 3)
    after = catalog.load_table(NAME)
    assert seen(after) == seen(before)
    assert outside(after) == outside(before)
    assert sorted(each.spec_id for each in files(after)) == [0, 0, 0, 0, 1, 1, 1]
    totals(after)


@pytest.mark.parametrize("rows_at_once", [1_000_000, 25])
def test_a_file_is_told_to_be_in_order_only_if_all_of_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(rewriting, "ROW_GROUP_ROWS_MAX", rows_at_once)
    config = config_at(tmp_path, sort_order=[{"source_field": "id", "direction": "desc"}])
    catalog = catalog_of(config)
    create_table(catalog, NAME, ID, config)
    for first in range(0, 100, 20):
        add(catalog, config, pa.table({"id": range(first, first + 20)}))
    compaction(catalog).run()
    (file,) = files(catalog.load_table(NAME))
    ids = pq.read_table(file.file_path.removeprefix("file://"))["id"].to_pylist()
    assert sorted(ids) == list(range(100))
    whole = rows_at_once > 100
    assert (ids == sorted(ids, reverse=True)) is whole
    assert file.sort_order_id == (1 if whole else None)


def test_what_is_rewritten_at_once_is_bounded_and_large_files_are_left(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, ID, config)
    for number in range(12):
        add(catalog, config, pa.table({"id": [number]}))
    add(catalog, config, pa.table({"id": range(12, 2000)}))
    size = files(catalog.load_table(NAME))[-1].file_size_in_bytes
    small = (
        max(
            each.file_size_in_bytes
            for each in files(catalog.load_table(NAME))
            if each.record_count == 1
        )
        + 1
    )
    options = CompactionOptions(small, 4 * small, min_files=4, group_bytes_max=4 * small)
    done = compaction(catalog, options).run()
    assert (done.files_before, done.files_after, done.commits) == (12, 3, 3), size
    table = catalog.load_table(NAME)
    assert sorted(row["id"] for row in seen(table)) == list(range(2000))
    totals(table)


def test_rows_that_do_not_add_up_stop_it_before_anything_is_committed(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, ID, config)
    for number in range(3):
        add(catalog, config, pa.table({"id": [number, number]}))
    table = catalog.load_table(NAME)
    path = files(table)[1].file_path.removeprefix("file://")
    pq.write_table(pq.read_table(path).slice(0, 1), path)
    with pytest.raises(IntegrityError, match=r"read 1 rows of .* says 2"):
        compaction(catalog).run()
    assert catalog.load_table(NAME).metadata == table.metadata
    assert not list(tmp_path.rglob("compact-*.parquet"))


def test_a_file_that_is_not_there_though_the_table_has_it_is_an_error(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    create_table(catalog, NAME, ID, config)
    for number in range(3):
        add(catalog, config, pa.table({"id": [number]}))
    Path(files(catalog.load_table(NAME))[1].file_path.removeprefix("file://")).unlink()
    with pytest.raises(ServiceError, match="FileNotFoundError"):
        compaction(catalog).run()
    assert not list(tmp_path.rglob("compact-*.parquet"))


def test_a_table_without_a_snapshot_and_a_branch_that_is_not_there_have_nothing_to_join(
    tmp_path: Path,
) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    with pytest.raises(ServiceError, match="NoSuchTableError"):
        compaction(catalog).run()
    create_table(catalog, NAME, ID, config)
    assert compaction(catalog).plan() == []
    assert compaction(catalog, branch="audit").run() == Compacted()


@pytest.mark.parametrize(
    "wrong",
    [
        {"small_bytes": 0},
        {"small_bytes": 11},
        {"min_files": 1},
        {"group_bytes_max": 0},
    ],
)
def test_options_that_contradict_each_other_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"small files of|files, groups"):
        CompactionOptions(**{"small_bytes": 5, "target_bytes": 10, **wrong})  # type: ignore[arg-type]
