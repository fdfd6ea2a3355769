"""Manifest lists and manifests that come short are told, wherever they are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyiceberg.manifest import write_manifest_list
from pyiceberg.table import Table

from k2i_tasks.errors import K2IError, TransientError
from k2i_tasks.iceberg.avro import File, live_files, manifests_of
from tests.upkeep import new_table, numbers, reached, rewritten


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = new_table(tmp_path)
    rewritten(made)
    made.append(numbers(1, 2, 3))
    return made


def local(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def test_the_paths_are_those_that_pyiceberg_reads(table: Table) -> None:
    found: set[str] = set()
    for snapshot in table.metadata.snapshots:
        found.add(snapshot.manifest_list)
        for manifest in manifests_of(table.io, snapshot):
            assert manifest.bytes == local(manifest.path).stat().st_size
            found |= {manifest.path, *(file.path for file in live_files(table.io, manifest))}
            for file in live_files(table.io, manifest):
                if local(file.path).exists():
                    assert file == File(file.path, local(file.path).stat().st_size)
    assert {str(local(path)) for path in found} == reached(table)


def test_a_manifest_list_that_is_cut_anywhere_is_told(table: Table) -> None:
    snapshot = table.metadata.snapshots[-1]
    path = local(snapshot.manifest_list)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(TransientError):
            manifests_of(table.io, snapshot)
    header = whole.index(whole[-16:]) + 16
    for length in range(header - 2, header + 3):
        path.write_bytes(whole[:length])
        with pytest.raises(TransientError):
            manifests_of(table.io, snapshot)
    path.write_bytes(whole)
    assert len(manifests_of(table.io, snapshot)) == len(snapshot.manifests(table.io))


def test_a_list_that_is_cut_behind_its_first_block_is_told(table: Table) -> None:
    snapshot = table.metadata.snapshots[-1]
    manifests = snapshot.manifests(table.io)
    path = local(snapshot.manifest_list)
    with write_manifest_list(
        2, table.io.new_output(str(path)), snapshot.snapshot_id, None, 1, "null"
    ) as writer:
        for one in manifests:
            writer.add_manifests([one])  # a block each
    whole = path.read_bytes()
    assert len(manifests_of(table.io, snapshot)) == len(manifests) > 1
    header = whole.index(whole[-16:]) + 16
    first = whole.index(whole[-16:], header) + 16
    path.write_bytes(whole[: first + 1])
    with pytest.raises(TransientError):
        manifests_of(table.io, snapshot)


def test_a_manifest_that_is_cut_anywhere_is_told(table: Table) -> None:
    manifest = manifests_of(table.io, table.metadata.snapshots[-1])[0]
    path = local(manifest.path)
    whole = path.read_bytes()
    header = whole.index(whole[-16:]) + 16
    for length in {*range(0, len(whole), 13), *range(header - 2, header + 3)}:
        path.write_bytes(whole[:length])
        with pytest.raises(TransientError):
            live_files(table.io, manifest)
    path.write_bytes(whole)
    assert live_files(table.io, manifest)


GARBAGE = [
    b"<html>502 Bad Gateway</html>",
    b"Obj\x01<html>502 Bad Gateway</html>",
    b"Obj\x01\xff\xff",
]


@pytest.mark.parametrize("data", GARBAGE)
def test_garbage_is_an_error_of_ours(table: Table, data: bytes) -> None:
    manifest = manifests_of(table.io, table.metadata.snapshots[-1])[0]
    local(manifest.path).write_bytes(data)
    with pytest.raises(K2IError):
        live_files(table.io, manifest)


def test_pyiceberg_is_told_too_where_it_reads_by_itself(table: Table) -> None:
    """A commit builds on the list that it reads: what was cut off would be lost."""
    snapshot = table.metadata.snapshots[-1]
    path = local(snapshot.manifest_list)
    whole = path.read_bytes()
    for data in (*GARBAGE, *(whole[:length] for length in range(0, len(whole), 7))):
        path.write_bytes(data)
        with pytest.raises(TransientError):
            snapshot.manifests(table.io)
    path.write_bytes(whole)
    entries = snapshot.manifests(table.io)[0]
    manifest = local(entries.manifest_path)
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(TransientError):
        entries.fetch_manifest_entry(table.io)
