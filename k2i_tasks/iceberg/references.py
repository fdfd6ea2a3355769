"""Which files a table refers to: looked up before any file is deleted, and kept by each append.

PyIceberg reads a manifest list that is cut behind its header, or garbled there, as an empty one,
without an error. An append would then carry no file on.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update.snapshot import _FastAppendFiles

from k2i_tasks.iceberg.avro import manifests_of, must_list_files, named_files


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


def unreferenced(table: Table, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that no snapshot of `table` names. Reads manifests; may block.

    Raises:
        TransientError: the store is away, or a list or a manifest was not read whole.
    """
    left = set(paths)
    seen: set[str] = set()
    for snapshot in reversed(table.metadata.snapshots):
        for manifest in manifests_of(table.io, snapshot):
            if left and manifest.path not in seen:
                seen.add(manifest.path)
                left -= named_files(table.io, manifest)
    return left
