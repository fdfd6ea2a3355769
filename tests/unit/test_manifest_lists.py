"""A manifest list that comes without its entries costs no row and no file."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.table import Table

from k2i_tasks.errors import Component, TransientError
from k2i_tasks.iceberg.references import keep_all, unreferenced
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter, data_file
from k2i_tasks.types import StagedFile
from tests.iceberg_tables import NAME, append, catalog_of, config_at
from tests.unit import test_committer as rows
from tests.unit import test_compaction_commits as joining

SYNC_BYTES = 16


@pytest.fixture
def filled(tmp_path: Path) -> tuple[Table, StagedFile]:
    """A table with one file."""
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, pa.schema([("id", pa.int64())]), config)
    (staged,) = DataFileWriter(table, config).write([pa.table({"id": [1]})], batch_id="a")
    append(table, [staged])
    return catalog.load_table(NAME), staged


def cut_behind_the_header(table: Table) -> tuple[Path, bytes]:
    """Leaves the manifest list without its entries; where it is, and all of it."""
    snapshot = table.current_snapshot()
    assert snapshot is not None
    path = Path(snapshot.manifest_list.removeprefix("file://"))
    whole = path.read_bytes()
    header = whole.index(whole[-SYNC_BYTES:]) + SYNC_BYTES
    assert header < len(whole)
    path.write_bytes(whole[:header])
    assert snapshot.manifests(table.io) == [], "PyIceberg notices it by itself by now"
    return path, whole


@pytest.mark.parametrize("merge", [False, True])
def test_an_append_does_not_drop_what_it_could_not_read(
    filled: tuple[Table, StagedFile], merge: bool
) -> None:
    table, staged = filled
    path, whole = cut_behind_the_header(table)
    for there in (False, True):
        if there:
            path.write_bytes(whole)
        update = table.transaction().update_snapshot()
        producer = update.merge_append() if merge else update.fast_append()
        producer.append_data_file(data_file(table, staged))
        keep_all(producer, table.current_snapshot())
        if there:
            producer.commit()
            continue
        with pytest.raises(TransientError, match="read as empty") as caught:
            producer.commit()
        assert caught.value.component is Component.STORAGE


def test_a_file_is_not_free_because_a_list_came_without_its_entries(
    filled: tuple[Table, StagedFile],
) -> None:
    table, staged = filled
    path, whole = cut_behind_the_header(table)
    with pytest.raises(TransientError, match="read as empty"):
        unreferenced(table, [staged.path])
    path.write_bytes(whole)
    assert unreferenced(table, [staged.path]) == set()


def test_a_file_is_not_free_because_its_manifest_came_without_its_entries(
    filled: tuple[Table, StagedFile],
) -> None:
    table, staged = filled
    (manifest,) = joining.head(table).manifests(table.io)
    path = Path(manifest.manifest_path.removeprefix("file://"))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(whole[-SYNC_BYTES:]) + SYNC_BYTES])
    with pytest.raises(TransientError, match="0 live files of 1"):
        unreferenced(table, [staged.path])
    path.write_bytes(whole)
    assert unreferenced(table, [staged.path]) == set()


def test_a_commit_waits_for_the_whole_list(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int64())])
    create_table(rows.open_catalog(tmp_path), rows.NAME, schema, rows.config(tmp_path))
    by = rows.claimed(tmp_path, "a")
    rows.commit(by, tmp_path, "a-1", 0, 5)
    path, whole = cut_behind_the_header(by.look().table)
    with pytest.raises(TransientError, match="read as empty"):
        rows.commit(by, tmp_path, "a-2", 5, 9)
    path.write_bytes(whole)
    rows.commit(by, tmp_path, "a-2", 5, 9)
    assert rows.values(tmp_path) == list(range(9))


def test_a_compaction_waits_for_the_whole_list_and_for_whole_manifests(
    tmp_path: Path,
) -> None:
    joining.filled(tmp_path)
    job = joining.compaction(tmp_path)
    path, whole = cut_behind_the_header(joining.table_at(tmp_path))
    with pytest.raises(TransientError, match="read as empty"):
        job.run()
    path.write_bytes(whole)
    table = joining.table_at(tmp_path)
    manifest = Path(
        joining.head(table).manifests(table.io)[0].manifest_path.removeprefix("file://")
    )
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[: whole.index(whole[-16:]) + 16])
    with pytest.raises(TransientError, match="with 0 live files, its list says"):
        job.run()
    manifest.write_bytes(whole)
    assert job.run().files_before == joining.BATCHES
    joining.assert_whole(tmp_path)
