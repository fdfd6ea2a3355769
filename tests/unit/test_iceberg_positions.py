"""The positions of a table's rows, whoever wrote its files and whatever was deleted from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import FileScanTask, Table
from pyiceberg.typedef import Record

from k2i_tasks.iceberg import positions
from k2i_tasks.iceberg.fixed import FixedTable
from k2i_tasks.iceberg.positions import PositionBatch, PositionColumns, read_positions
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.types import OffsetRange
from tests.iceberg_tables import NAME, catalog_of, config_at

SCHEMA = pa.schema(
    [("topic", pa.string()), ("p", pa.int32()), ("o", pa.int64()), ("text", pa.string())]
)
COLUMNS = PositionColumns("p", "o", "topic")
LONG = "a-topic-whose-name-is-longer-than-what-statistics-keep-of-it"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    config = config_at(tmp_path)
    return create_table(catalog_of(config), NAME, SCHEMA, config)


def rows(*places: tuple[str | None, int | None, int | None]) -> pa.Table:
    body = [{"topic": t, "p": p, "o": o, "text": f"{p}:{o}"} for t, p, o in places]
    return pa.Table.from_pylist(body, SCHEMA)


def found(batches: Any) -> set[tuple[int, int]]:
    return {
        place
        for batch in batches
        for place in zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True)
    }


def read(table: Table, topic: str = LONG) -> tuple[int, list[PositionBatch]]:
    snapshot = table.current_snapshot()
    count, batches = read_positions(
        table, snapshot.snapshot_id if snapshot else None, COLUMNS, topic
    )
    return count, list(batches)


def test_rows_of_all_files_are_found_in_batches_of_any_size(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "BATCH_ROWS", 7)
    for first in range(0, 100, 25):
        table.append(rows(*((LONG, n % 3, n) for n in range(first, first + 25))))
    count, batches = read(table)
    assert count == 100
    assert found(batches) == {(n % 3, n) for n in range(100)}
    assert len(batches) >= 16


def test_other_topics_are_counted_and_rows_without_a_place_too(table: Table) -> None:
    table.append(rows((LONG, 0, 1), (LONG + "x", 0, 2), (LONG + "x", 0, 3), (None, 0, 4)))
    table.append(rows((LONG, None, 5), (LONG, 0, None), (LONG, 1, 6)))
    _, batches = read(table)
    assert found(batches) == {(0, 1), (1, 6)}
    assert sum(batch.others.get(LONG + "x", 0) for batch in batches) == 2
    assert sum(batch.unplaced for batch in batches) == 3


def test_columns_that_were_renamed_are_found_by_their_ids(table: Table) -> None:
    table.append(rows((LONG, 0, 1)))
    with table.update_schema() as update:
        update.rename_column("o", "position")
    table.append(rows((LONG, 0, 2)).rename_columns(["topic", "p", "position", "text"]))
    snapshot = table.current_snapshot()
    assert snapshot is not None
    columns = PositionColumns("p", "position", "topic")
    assert found(read_positions(table, snapshot.snapshot_id, columns, LONG)[1]) == {(0, 1), (0, 2)}


def test_rows_that_another_engine_deleted_by_position_are_not_there(
    table: Table, tmp_path: Path
) -> None:
    table.append(rows(*((LONG, 0, n) for n in range(10))))
    (task,) = table.scan().plan_files()
    path = str(tmp_path / "deletes.parquet")
    deleted = {"file_path": [task.file.file_path] * 2, "pos": pa.array([3, 7], pa.int64())}
    pq.write_table(pa.table(deleted), path)
    deletes = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=2,
        file_size_in_bytes=Path(path).stat().st_size,
    )
    reading = positions._Reading(table, table.schema().select("topic", "p", "o"), COLUMNS, LONG)
    with_deletes = FileScanTask(task.file, delete_files={deletes})
    left = found(positions._batches(reading, [with_deletes]))
    assert left == {(0, n) for n in range(10)} - {(0, 3), (0, 7)}
    assert len(found(positions._batches(reading, [task]))) == 10


def test_files_without_ids_are_read_through_the_names(table: Table, tmp_path: Path) -> None:
    path = str(tmp_path / "theirs.parquet")
    pq.write_table(rows((LONG, 2, 9)), path)
    table.add_files([path])
    assert found(read(table)[1]) == {(2, 9)}


def test_the_rows_of_windows_are_those_of_the_topic_and_of_the_snapshot(table: Table) -> None:
    table.append(rows((LONG, 0, 1), (LONG, 0, 2), (LONG, 1, 2), ("other", 0, 2), (LONG, 0, 9)))
    fixed = FixedTable(table, "main", COLUMNS, LONG)
    table.append(rows((LONG, 0, 3)))
    windows = [(0, OffsetRange(2, 9)), (1, OffsetRange(0, 5)), (7, OffsetRange(0, 99))]
    assert sorted(fixed.rows(windows)["text"].to_pylist()) == ["0:2", "1:2"]
    assert fixed.rows(windows, ["p", "o"]).schema.names == ["p", "o"]


def test_a_table_without_a_snapshot_has_no_rows_and_its_columns(table: Table) -> None:
    assert read(table) == (0, [])
    fixed = FixedTable(table, "main", COLUMNS, LONG)
    assert fixed.rows([(0, OffsetRange(0, 5))]).schema.names == SCHEMA.names
