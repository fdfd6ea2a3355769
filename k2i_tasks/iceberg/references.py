"""Which files a table refers to: looked up before any file is deleted, and kept by each append.

A manifest list that is cut behind its header, or garbled there, is read as an empty one, without an
error. An append would then carry no file on, and a staged file seem to be referred to by nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update.snapshot import _FastAppendFiles

from k2i_tasks.errors import Component, TransientError
from k2i_tasks.iceberg.errors import translated


def keep_all(producer: _FastAppendFiles, parent: Snapshot | None) -> None:
    """Has an append fail, rather than drop the files of `parent`, if it reads that as empty.

    Args:
        producer: not yet committed; its `commit` raises `TransientError` then.
        parent: the snapshot that it is built on.
    """
    read = producer._existing_manifests

    def checked() -> list[ManifestFile]:
        found = read()
        if parent is not None:
            must_list_files(parent, found)
        return found

    producer._existing_manifests = checked  # type: ignore[method-assign]


def must_list_files(snapshot: Snapshot, manifests: Sequence[object]) -> None:
    """Checks that manifests were read of a snapshot that has files.

    Raises:
        TransientError: none were.
    """
    summary = snapshot.summary.additional_properties if snapshot.summary is not None else {}
    files = int(summary.get("total-data-files") or 0)
    if files and not manifests:
        raise TransientError(
            f"The manifest list of snapshot {snapshot.snapshot_id} was read as empty, and the "
            f"snapshot has {files} data files.",
            component=Component.STORAGE,
            remedy="Another answer than the file came from the store, or the file is damaged: "
            f"{snapshot.manifest_list}.",
        )


def unreferenced(table: Table, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that no snapshot of `table` refers to. Reads manifests; may block."""
    left = set(paths)
    seen: set[str] = set()
    with translated("reading the manifests of " + ".".join(table.name())):
        for snapshot in reversed(table.metadata.snapshots):
            manifests = snapshot.manifests(table.io)
            must_list_files(snapshot, manifests)
            for manifest in manifests:
                if not left or manifest.manifest_path in seen:
                    continue
                seen.add(manifest.manifest_path)
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                    left.discard(entry.data_file.file_path)
    return left
