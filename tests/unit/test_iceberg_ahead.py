"""A batch that is encoded while it is filled becomes the same rows as one written at its flush."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2i_tasks import durable
from k2i_tasks.errors import K2IError, ServiceError, TransientError
from k2i_tasks.failpoints import armed
from k2i_tasks.iceberg import ahead, partition_files
from k2i_tasks.iceberg.pending import PendingSchema
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.types import StagedFile
from tests.iceberg_tables import NAME, append, catalog_of, config_at, rows_of

SCHEMA = pa.schema(
    [("id", pa.int64()), ("part", pa.int32()), ("kind", pa.string()), ("amount", pa.float64())]
)
#: Of Kafka's fields only those that must be there.
METADATA = dict.fromkeys(("topic", "timestamp", "key", "headers"), "")
METADATA |= {"partition": "part", "offset": "id"}
BATCH = "run-1"


def rows(first: int, count: int, kinds: int = 3) -> pa.Table:
    numbers = range(first, first + count)
    columns = {
        "id": list(numbers),
        "part": [0] * count,
        "kind": [f"kind {n % kinds}" for n in numbers],
        "amount": [n / 4 for n in numbers],
    }
    return pa.table(columns, schema=SCHEMA)


class World:
    """A table, what stages files for it, and what lies in its folder."""

    def __init__(self, folder: Path, **iceberg: Any) -> None:
        self.config = config_at(folder, metadata_columns=METADATA, **iceberg)
        self.warehouse = folder / "warehouse"
        self.catalog = catalog_of(self.config)
        self.staging = Staging(self.catalog, NAME, self.config)
        self.staging.create(SCHEMA)
        self.change: PendingSchema | None = None

    def data_files(self) -> set[str]:
        return {str(path) for path in self.warehouse.rglob("*.parquet")}

    def stage(self, tables: list[pa.Table], *, batch_id: str) -> list[StagedFile]:
        found = self.staging.stage(tables, batch_id=batch_id)
        self.change = found.schema
        return list(found.files)

    def committed(self, staged: list[StagedFile]) -> pa.Table:
        append(self.catalog.load_table(NAME), staged, self.change)
        return self.catalog.load_table(NAME).scan().to_arrow()


def local(staged: list[StagedFile]) -> set[str]:
    return {file.path.removeprefix("file://") for file in staged}


SPECS: dict[str, dict[str, Any]] = {
    "no partitions": {},
    "identity": {"partition_spec": [{"source_field": "kind", "transform": "identity"}]},
    "bucket": {"partition_spec": [{"source_field": "id", "transform": "bucket[4]"}]},
    "more partitions than open files": {
        "partition_spec": [{"source_field": "id", "transform": "truncate[7]"}]
    },
    "sorted": {"sort_order": [{"source_field": "amount", "direction": "desc"}]},
}


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=10, deadline=None)
@given(
    parts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    ahead_of=st.integers(0, 8),
    least=st.sampled_from([1, 20, 1000]),
    target=st.sampled_from([1, 3_000, 1 << 30]),
)
def test_the_rows_are_the_same_however_many_were_encoded_before(
    tmp_path_factory: pytest.TempPathFactory,
    spec: str,
    parts: list[int],
    ahead_of: int,
    least: int,
    target: int,
) -> None:
    world = World(tmp_path_factory.mktemp("ahead"), **SPECS[spec])
    starts = [sum(parts[:index]) for index in range(len(parts))]
    tables = [rows(first, count) for first, count in zip(starts, parts, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "GROUP_ROWS_MIN", least)
        patch.setattr(partition_files, "SYNC_BYTES", 100)
        original = partition_files.BatchFiles

        def small(output: Any, batch_id: str, _bytes: int, staged: list[StagedFile]) -> Any:
            return original(output, batch_id, target, staged)

        patch.setattr(ahead, "BatchFiles", small)
        for table in tables[:ahead_of]:
            world.staging.encode([table], batch_id=BATCH)
        staged = world.stage(tables, batch_id=BATCH)
    assert local(staged) == world.data_files()
    assert sum(file.rows for file in staged) == sum(parts)
    assert rows_of(world.committed(staged)) == rows_of(pa.concat_tables(tables))


def test_what_was_encoded_is_not_written_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    tables = [rows(0, 9_000), rows(9_000, 9_000), rows(18_000, 10)]
    world.staging.encode(tables[:1], batch_id=BATCH)
    world.staging.encode(tables[1:2], batch_id=BATCH)
    (began,) = world.data_files()
    [staged] = world.staging.stage(tables, batch_id=BATCH).files
    assert local([staged]) == {began}
    footer = pq.read_metadata(began)
    groups = [footer.row_group(n).num_rows for n in range(footer.num_row_groups)]
    assert groups == [9_000, 9_000, 10]


def test_a_column_that_comes_in_the_middle_ends_the_file_and_is_null_before(tmp_path: Path) -> None:
    world = World(tmp_path)
    later = rows(9_000, 9_000).append_column("note", pa.array(["new"] * 9_000))
    last = rows(18_000, 5).append_column("note", pa.array(["last"] * 5))
    tables = [rows(0, 9_000), later, last]
    for table in tables[:2]:
        world.staging.encode([table], batch_id=BATCH)
    staged = world.stage(tables, batch_id=BATCH)
    assert [file.rows for file in staged] == [9_000, 9_005]
    found = world.committed(staged)
    assert rows_of(found) == rows_of(pa.concat_tables(tables, promote_options="default"))


def fails(error: BaseException) -> Any:
    def act(_name: str) -> None:
        raise error

    return act


@pytest.mark.parametrize(
    "place", ["flush.file.before", "flush.file.group", "flush.file.written", "flush.file.synced"]
)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_passing_fault_leaves_nothing_behind_and_the_flush_writes_all(
    tmp_path: Path, place: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "GROUP_ROWS_MIN", 1)
    world = World(tmp_path, partition_spec=[{"source_field": "kind", "transform": "identity"}])
    tables = [rows(0, 30), rows(30, 30), rows(60, 30)]
    failed = False
    with armed(place, fails(TransientError("the store is away")), nth=nth):
        for table in tables[:2]:
            try:
                world.staging.encode([table], batch_id=BATCH)
            except TransientError:
                failed = True
                assert world.data_files() == set()
        try:
            staged = world.stage(tables, batch_id=BATCH)
        except TransientError:
            failed = True
            assert world.data_files() == set()
            staged = world.stage(tables, batch_id=BATCH)
    assert failed
    assert local(staged) == world.data_files()
    assert rows_of(world.committed(staged)) == rows_of(pa.concat_tables(tables))


def test_a_failed_fsync_is_final_though_it_was_of_rows_encoded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    monkeypatch.setattr(partition_files, "SYNC_BYTES", 1)
    with monkeypatch.context() as patch:

        def broken(path: Path) -> None:
            raise OSError(errno.EIO, "Input/output error", str(path))

        patch.setattr(durable, "sync", broken)
        with pytest.raises(ServiceError, match="Check the disk"):
            world.staging.encode([rows(0, 9_000)], batch_id=BATCH)
    with pytest.raises(ServiceError, match="Check the disk"):
        world.staging.stage([rows(0, 9_000)], batch_id=BATCH)
    # The next batch is another one.
    assert world.stage([rows(0, 5)], batch_id="run-2")


def test_what_was_encoded_for_a_batch_that_never_comes_is_removed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.staging.encode([rows(0, 9_000)], batch_id=BATCH)
    assert world.data_files()
    world.staging.forget()
    assert world.data_files() == set()
    world.staging.encode([rows(0, 9_000)], batch_id=BATCH)
    staged = world.stage([rows(0, 5)], batch_id="run-2")
    assert local(staged) == world.data_files()


def test_nothing_but_dead_letters_is_nothing_to_encode(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.staging.encode([], batch_id=BATCH)
    assert world.stage([], batch_id=BATCH) == []
    world.staging.encode([], batch_id="run-2")
    staged = world.stage([rows(0, 5)], batch_id="run-2")
    assert local(staged) == world.data_files()


def test_few_rows_that_wait_hold_no_more_memory_than_they_are(tmp_path: Path) -> None:
    world = World(tmp_path, partition_spec=[{"source_field": "kind", "transform": "identity"}])
    many = rows(0, 100_000, kinds=1)
    few = rows(100_000, 2, kinds=2).slice(1)
    mixed = pa.concat_tables([many, few])
    before = pa.total_allocated_bytes()
    world.staging.encode([mixed], batch_id=BATCH)
    assert pa.total_allocated_bytes() - before < many.nbytes / 4
    staged = world.stage([mixed], batch_id=BATCH)
    assert rows_of(world.committed(staged)) == rows_of(mixed)


def test_rows_that_the_table_cannot_hold_are_refused_by_the_flush_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    bad = pa.table({"id": ["no number"]})
    with pytest.raises(K2IError, match="id"):
        world.staging.encode([bad], batch_id=BATCH)
    with pytest.raises(K2IError, match="id"):
        world.staging.stage([bad], batch_id=BATCH)
    assert world.data_files() == set()
