"""Entries of manifests are those that PyIceberg reads, and few are in memory at once."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
)
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from k2i_tasks.errors import ServiceError, TransientError
from k2i_tasks.iceberg import manifests as module
from k2i_tasks.iceberg.committer import Intent
from k2i_tasks.iceberg.maintenance.replace import replace_files
from k2i_tasks.iceberg.maintenance.rewriting import Joined
from k2i_tasks.iceberg.maintenance.survey import Source, Survey
from k2i_tasks.iceberg.manifests import Fetched, fetched
from k2i_tasks.types import OffsetRange, StagedFile
from tests.unit import test_committer as rows
from tests.upkeep import fresh

FILES, COLUMNS = 400, 40
SCHEMA = pa.schema([(f"column_{number}", pa.int64()) for number in range(COLUMNS)])


def file_of(table: Table, number: int, rows: int = 10) -> DataFile:
    """An entry with statistics of each column; of a file that nobody asks for."""
    ids = range(1, COLUMNS + 1)
    found = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=f"{table.location()}/data/{number:05}.parquet",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=rows,
        file_size_in_bytes=1_000 + number,
        column_sizes={each: 1_000 * number + each for each in ids},
        value_counts=dict.fromkeys(ids, 10),
        null_value_counts=dict.fromkeys(ids, 0),
        lower_bounds={each: (number * each).to_bytes(8, "little") for each in ids},
        upper_bounds={each: (number * each + 9).to_bytes(8, "little") for each in ids},
    )
    found.spec_id = 0
    return found


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """One manifest, of many files."""
    catalog = rows.open_catalog(tmp_path)
    catalog.create_namespace(rows.NAME[0])
    made = catalog.create_table(rows.NAME, SCHEMA)
    with made.transaction() as transaction, transaction.update_snapshot().fast_append() as append:
        for number in range(FILES):
            append.append_data_file(file_of(made, number))
    return fresh(made)


def manifests(table: Table) -> list[ManifestFile]:
    head = table.current_snapshot()
    assert head is not None
    return head.manifests(table.io)


def traced(function: Callable[[], object]) -> int:
    """Most bytes of Python objects that there were at once because of a call."""
    function()  # what is made once is made now
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def as_list(table: Table) -> int:
    (manifest,) = manifests(table)
    return traced(lambda: manifest.fetch_manifest_entry(table.io))


def same(entry: ManifestEntry) -> tuple[object, ...]:
    """All of it: PyIceberg's files are equal by their paths."""
    return (*entry._data[:-1], *entry.data_file._data, entry.data_file.spec_id)


def joined(table: Table, numbers: range) -> Joined:
    """One file for many."""
    files = [file_of(table, number) for number in numbers]
    sources = tuple(
        Source(each.file_path, each.file_size_in_bytes, each.record_count, 1, 0, each.partition)
        for each in files
    )
    entry = file_of(table, FILES, sum(each.rows for each in sources))
    staged = StagedFile(entry.file_path, entry.file_size_in_bytes, entry.record_count, 0)
    return Joined(sources, staged, entry)


def put(one: Joined, table: Table, intent: Intent = lambda _id, _parent: None) -> None:
    """Replaces files of the table's one manifest."""
    (manifest,) = manifests(table)
    replace_files(table, "main", [manifest], {manifest.manifest_path}, [one], intent)


def away(_io: FileIO, manifest: ManifestFile) -> Fetched:
    raise TransientError(f"{manifest.manifest_path} is away.")


class SentError(Exception):
    """Where a commit would be sent."""


def stop(_snapshot: int, _parent: int | None) -> None:
    raise SentError


def test_the_entries_are_those_that_pyiceberg_reads(table: Table) -> None:
    put(joined(table, range(10)), table)
    seen = set()
    for snapshot in fresh(table).snapshots():
        there = snapshot.manifests(table.io)
        assert [each.manifest for each in fetched(table.io, there)] == there
        for each in fetched(table.io, there):
            for discard, read in ((False, each.entries), (True, each.live)):
                wanted = each.manifest.fetch_manifest_entry(table.io, discard)
                assert [same(entry) for entry in read()] == [same(entry) for entry in wanted]
                seen |= {entry.status for entry in wanted}
    assert seen == set(ManifestEntryStatus)


def test_a_manifest_with_fewer_entries_than_its_list_tells_of_is_told(table: Table) -> None:
    (manifest,) = manifests(table)
    (found,) = fetched(table.io, [manifest])
    told = ManifestFile.from_args(
        manifest_path=manifest.manifest_path,
        partition_spec_id=0,
        sequence_number=1,
        added_files_count=FILES,
        existing_files_count=1,
    )
    with pytest.raises(TransientError, match=f"{FILES} live files, its list says {FILES + 1}"):
        list(Fetched(told, found.file).live())


def test_a_manifest_that_is_cut_or_gone_is_told(table: Table) -> None:
    (manifest,) = manifests(table)
    path = Path(manifest.manifest_path.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TransientError, match="ends in the middle"):
        list(fetched(table.io, [manifest]))
    path.unlink()
    with pytest.raises(ServiceError) as told:
        list(fetched(table.io, [manifest]))
    assert isinstance(told.value.__cause__, FileNotFoundError)


def test_few_entries_are_in_memory_when_they_are_looked_at(table: Table, as_list: int) -> None:
    def look() -> None:
        assert sum(1 for each in fetched(table.io, manifests(table)) for _ in each.live()) == FILES

    assert traced(look) < as_list / 4
    # What is kept of each is small, too.
    assert traced(lambda: Survey("main").first(table, 1 << 20)) < as_list / 4


@pytest.mark.parametrize("left", [0, 100])
def test_few_entries_are_in_memory_when_files_are_replaced(
    table: Table, as_list: int, left: int
) -> None:
    one = joined(table, range(left, FILES))

    def build() -> None:
        with pytest.raises(SentError):
            put(one, table, stop)

    assert traced(build) < as_list / 3
    put(one, table)
    head = fresh(table).current_snapshot()
    assert head is not None
    assert head.summary is not None
    summary = head.summary.additional_properties
    assert summary["total-data-files"] == str(left + 1)
    assert summary["deleted-data-files"] == str(FILES - left)
    assert summary["total-records"] == str(10 * FILES)
    assert summary["removed-files-size"] == str(sum(1_000 + n for n in range(left, FILES)))


def test_replaced_files_that_are_many_are_told_of_in_manifests_of_the_tables_size(
    table: Table,
) -> None:
    with table.transaction() as transaction:
        transaction.set_properties({"commit.manifest.target-size-bytes": "20000"})
    table = fresh(table)
    put(joined(table, range(10)), table)
    table = fresh(table)
    _added, *rest = sorted(manifests(table), key=lambda each: each.existing_files_count or 0)
    sizes = sorted(each.manifest_length for each in rest)
    assert len(sizes) > 3
    assert all(20_000 <= size < 22_000 for size in sizes[1:])
    assert sum(each.existing_files_count or 0 for each in rest) == FILES - 10
    assert (
        len([entry for each in rest for entry in each.fetch_manifest_entry(table.io)]) == FILES - 10
    )


def ahead_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("k2i-ahead")]


def test_a_replacement_that_fails_leaves_no_file_and_no_thread(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(Path(table.location().removeprefix("file://")).rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_fetch", away)
        with pytest.raises(TransientError, match="is away") as told:
            put(joined(table, range(10)), table)
        assert ahead_threads() == [], told  # though the error is held
    assert sorted(Path(table.location().removeprefix("file://")).rglob("*")) == files
    with pytest.raises(SentError) as sent:
        put(joined(table, range(10)), table, stop)
    assert ahead_threads() == [], sent


def test_few_entries_are_in_memory_when_a_commit_merges_manifests(
    tmp_path: Path, table: Table, as_list: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    merging = {
        "commit.manifest-merge.enabled": "true",
        "commit.manifest.min-count-to-merge": "2",
    }
    with table.transaction() as transaction:
        transaction.set_properties(merging)
    by = rows.claimed(tmp_path, "a")

    def build(intent: Intent) -> None:
        one = file_of(table, FILES)
        by.commit("a-1", {rows.P0: OffsetRange(0, 10)}, lambda _: [one], summary={}, intent=intent)

    def stopped() -> None:
        with pytest.raises(SentError):
            build(stop)

    assert traced(stopped) < as_list / 3

    # PyIceberg has begun to write what they are merged into by then.
    with monkeypatch.context() as patch:
        patch.setattr(module, "_fetch", away)
        with pytest.raises(TransientError, match="is away"):
            build(stop)
    build(lambda _snapshot, _parent: None)
    (merged,) = manifests(fresh(table))
    assert (merged.added_files_count, merged.existing_files_count) == (1, FILES)
