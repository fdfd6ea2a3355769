"""Which data files a branch has, and which deletes apply to them: each manifest is read once.

Manifests never change, so after a first reading only those that have come since are read. That
keeps the time short between a look at the head and the commit that is built on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestFile,
)
from pyiceberg.table import Table
from pyiceberg.table.delete_file_index import DeleteFileIndex
from pyiceberg.typedef import Record

from k2i_tasks.errors import Component, ServiceError
from k2i_tasks.iceberg.avro import must_list_files
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.manifests import fetched


@dataclass(frozen=True, slots=True)
class Source:
    """A live Parquet file.

    Args:
        path: location of the file.
        size_bytes: as stored, compressed.
        rows: how many it holds.
        sequence_number: data sequence number, by which deletes apply or do not.
        spec_id: partition spec it was written with.
        partition: its partition's values in Iceberg's internal form.
    """

    path: str
    size_bytes: int
    rows: int
    sequence_number: int
    spec_id: int
    partition: Record

    def data_file(self) -> DataFile:
        """As much of Iceberg's entry as a scan needs."""
        found = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.path,
            file_format=FileFormat.PARQUET,
            partition=self.partition,
            record_count=self.rows,
            file_size_in_bytes=self.size_bytes,
        )
        found.spec_id = self.spec_id
        return found


class Survey:
    """What was read of one branch so far. For one thread; `first` and `again` may block.

    Args:
        branch: the branch.
    """

    def __init__(self, branch: str) -> None:
        self._branch = branch
        self._seen: set[str] = set()
        self._located: dict[str, str] = {}
        self._deletes: set[str] = set()
        self._came = DeleteFileIndex()
        self._equality_came = False

    def first(self, table: Table, small_bytes: int) -> list[Source]:
        """Live Parquet files of the current spec below a size, without deletes; oldest first.

        Raises:
            ServiceError: the branch has equality deletes.
            TransientError: the store is away, or gave something else than the file.
        """
        manifests = head_manifests(table, self._branch)
        deletes = DeleteFileIndex()
        for _manifest, entries in _read(table, manifests, ManifestContent.DELETES):
            for entry in entries:
                self._deletes.add(entry.data_file.file_path)
                if entry.data_file.content == DataFileContent.EQUALITY_DELETES:
                    raise _equality_deletes(table)
                deletes.add_delete_file(entry, partition_key=entry.data_file.partition)
        spec_id = table.metadata.default_spec_id
        found: list[Source] = []
        current = [each for each in manifests if each.partition_spec_id == spec_id]
        for manifest, entries in _read(table, current, ManifestContent.DATA):
            for entry in entries:
                file = entry.data_file
                if file.file_format != FileFormat.PARQUET or file.file_size_in_bytes >= small_bytes:
                    continue
                sequence = entry.sequence_number or 0
                if not deletes.for_data_file(sequence, file, file.partition):
                    self._located[file.file_path] = manifest.manifest_path
                    found.append(_source(entry))
        self._seen.update(each.manifest_path for each in manifests)
        return sorted(found, key=lambda each: each.sequence_number)

    def keep(self, paths: Iterable[str]) -> None:
        """Notes no other files than these from now on."""
        self._located = {path: self._located.get(path, "") for path in paths}

    def also(self, path: str) -> None:
        """Notes this file too, should it come."""
        self._located.setdefault(path, "")

    def again(self, table: Table) -> list[ManifestFile]:
        """Reads what the head has now and had not before; the head's manifests."""
        manifests = head_manifests(table, self._branch)
        unread = [each for each in manifests if each.manifest_path not in self._seen]
        for manifest, entries in _read(table, unread, ManifestContent.DELETES):
            for entry in entries:
                file = entry.data_file
                if file.file_path in self._deletes:
                    continue
                self._deletes.add(file.file_path)
                if file.content == DataFileContent.EQUALITY_DELETES:
                    self._equality_came = True
                else:
                    self._came.add_delete_file(entry, partition_key=file.partition)
            self._seen.add(manifest.manifest_path)
        for manifest, entries in _read(table, unread, ManifestContent.DATA):
            for entry in entries:
                if entry.data_file.file_path in self._located:
                    self._located[entry.data_file.file_path] = manifest.manifest_path
            self._seen.add(manifest.manifest_path)
        return manifests

    def manifest_of(self, path: str) -> str:
        """Where a file was seen last: location of a manifest, empty if nowhere."""
        return self._located.get(path, "")

    def is_deleted_from(self, source: Source) -> bool:
        """Whether a delete file that came since `first` may apply to it."""
        if self._equality_came:
            return True
        return bool(
            self._came.for_data_file(source.sequence_number, source.data_file(), source.partition)
        )


def head_manifests(table: Table, branch: str) -> list[ManifestFile]:
    """The manifests of a branch's head, none if there is no head. May block.

    Raises:
        TransientError: the store is away, or the list was read as empty and cannot be.
    """
    snapshot = table.metadata.snapshot_by_name(branch)
    if snapshot is None:
        return []
    with translated("reading the manifest list of " + ".".join(table.name())):
        manifests = snapshot.manifests(table.io)
    must_list_files(snapshot, manifests)
    return manifests


def _read(
    table: Table, manifests: Sequence[ManifestFile], content: ManifestContent
) -> Iterator[tuple[ManifestFile, Iterator[ManifestEntry]]]:
    """Manifest by manifest, with the entries of files that are there."""
    chosen = [each for each in manifests if each.content == content]
    with closing(fetched(table.io, chosen)) as read:
        for each in read:
            yield each.manifest, each.live()


def _source(entry: ManifestEntry) -> Source:
    file = entry.data_file
    return Source(
        file.file_path,
        file.file_size_in_bytes,
        file.record_count,
        entry.sequence_number or 0,
        file.spec_id,
        file.partition,
    )


def _equality_deletes(table: Table) -> ServiceError:
    name = ".".join(table.name())
    return ServiceError(
        f"Table {name} has equality deletes: they apply to files older than themselves, "
        "and a joined file has one age, so that rows would come back or go.",
        component=Component.ICEBERG,
        remedy="Have the engine that wrote them rewrite its files (Spark: rewrite_data_files with "
        "delete-file-threshold 1), or do not compact this table here.",
    )
