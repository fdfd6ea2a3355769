"""Manifest lists and manifests, never read short; and read for their paths alone.

PyIceberg takes a file that is cut anywhere for one that ends there, and its decoder reads on behind
the end, into memory that is not its own. Where files are deleted for not being listed that would
delete what is needed, and a commit that builds on such a list would lose files: so each file's
header and end are looked at before it is decoded (`reading.correct` has PyIceberg do so, too), and,
where paths are read, each manifest's count of live files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from pyiceberg.avro.decoder import StreamingBinaryDecoder
from pyiceberg.avro.file import MAGIC, META_SCHEMA, AvroFile, AvroFileHeader
from pyiceberg.avro.resolver import construct_reader
from pyiceberg.io import FileIO, InputFile, InputStream
from pyiceberg.manifest import (
    DEFAULT_READ_VERSION,
    MANIFEST_ENTRY_SCHEMAS,
    MANIFEST_LIST_FILE_SCHEMAS,
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    PartitionFieldSummary,
)
from pyiceberg.schema import Schema
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.typedef import StructProtocol

from k2i_tasks.errors import Component, TransientError
from k2i_tasks.iceberg.errors import translated

Row = TypeVar("Row", bound=StructProtocol)


@dataclass(frozen=True, slots=True)
class File:
    """A file that metadata names: its path as it stands there, and its size in bytes."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest(File):
    """A manifest, and how many files it has that are live; None where its list does not say."""

    live: int | None


class _Bytes(InputFile):
    """A file that was read whole, and is no shorter than it was written."""

    def __init__(self, location: str, data: bytes) -> None:
        super().__init__(location)
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def exists(self) -> bool:
        return True

    def open(self, seekable: bool = True) -> InputStream:
        return _Stream(self._data)


class _Stream(io.BytesIO):
    """`BytesIO` as PyIceberg's stream, whose `__exit__` gives nothing back."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def manifests_of(files: FileIO, snapshot: Snapshot) -> tuple[Manifest, ...]:
    """The manifests that a snapshot's list names. May block.

    Raises:
        ServiceError: the list is not there (its cause is `FileNotFoundError`), or not readable.
        TransientError: the store is away; or the list came cut, garbled, or without entries
            though the snapshot has files.
    """
    schema = MANIFEST_LIST_FILE_SCHEMAS[DEFAULT_READ_VERSION]
    types = {-1: ManifestFile, 508: PartitionFieldSummary}
    found = []
    with translated(f"reading {snapshot.manifest_list}"):
        source = files.new_input(snapshot.manifest_list)
        for one in _records(source, schema, types, {517: ManifestContent}):
            added, existing = one.added_files_count, one.existing_files_count
            live = None if added is None or existing is None else added + existing
            found.append(Manifest(one.manifest_path, one.manifest_length, live))
    must_list_files(snapshot, found)
    return tuple(found)


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


def live_files(files: FileIO, manifest: Manifest) -> tuple[File, ...]:
    """The data or delete files that are live in a manifest. May block.

    Raises:
        ServiceError: it is not there (its cause is `FileNotFoundError`), or not readable.
        TransientError: the store is away; or the manifest came cut, garbled or short.
    """
    return tuple(
        File(entry.data_file.file_path, entry.data_file.file_size_in_bytes)
        for entry in _entries(files, manifest)
        if is_live(entry)
    )


def named_files(files: FileIO, manifest: Manifest) -> set[str]:
    """Paths of all files that a manifest names, those that it says are deleted too. May block.

    Raises:
        as `live_files`.
    """
    return {entry.data_file.file_path for entry in _entries(files, manifest)}


def entries_in(source: InputFile) -> Iterator[ManifestEntry]:
    """The entries of a manifest as they are stored, each read as it is asked for. May block.

    Raises:
        TransientError: it came cut, or something else came.
    """
    schema = MANIFEST_ENTRY_SCHEMAS[DEFAULT_READ_VERSION]
    types = {-1: ManifestEntry, 2: DataFile}
    enums = {0: ManifestEntryStatus, 101: FileFormat, 134: DataFileContent}
    return _records(source, schema, types, enums)


def _entries(files: FileIO, manifest: Manifest) -> Iterator[ManifestEntry]:
    live = 0
    with translated(f"reading {manifest.path}"):
        for entry in entries_in(files.new_input(manifest.path)):
            live += is_live(entry)
            yield entry
    if manifest.live is not None and live != manifest.live:
        raise _short(manifest.path, f"has {live} live files of {manifest.live}")


def is_live(entry: ManifestEntry) -> bool:
    """Whether the file is there, and not told to be deleted."""
    return bool(entry.status != ManifestEntryStatus.DELETED)


def _records(
    source: InputFile, schema: Schema, types: dict[int, Any], enums: dict[int, Any]
) -> Iterator[Any]:
    with WholeAvroFile[Any](source, schema, types, enums) as reader:
        yield from reader


class WholeAvroFile(AvroFile[Row]):
    """PyIceberg's reader of a file that is whole."""

    def __enter__(self) -> WholeAvroFile[Row]:
        """Reads the file. May block.

        Raises:
            TransientError: it came cut, or something else came.
        """
        self.input_file = whole(self.input_file)
        super().__enter__()
        return self


def whole(source: InputFile) -> InputFile:
    """An Avro file in memory. May block.

    Raises:
        TransientError: it came cut, or something else came.
    """
    if isinstance(source, _Bytes):
        return source
    path = source.location
    with source.open() as stream:
        data = stream.read()
    if not data.endswith(_header(path, data).sync):
        raise _short(path, "ends in the middle")
    return _Bytes(path, data)


def _header(path: str, data: bytes) -> AvroFileHeader:
    """By the decoder that is slower, and minds where the data ends."""
    if not data.startswith(MAGIC):
        raise _short(path, "is no Avro file")
    try:
        found: AvroFileHeader = construct_reader(META_SCHEMA, {-1: AvroFileHeader}).read(
            StreamingBinaryDecoder(data)
        )
    except (EOFError, ValueError) as error:
        raise _short(path, "ends in its header, or is garbled there") from error
    return found


def _short(path: str, what: str) -> TransientError:
    return TransientError(
        f"{path} was not read whole: it {what}.",
        component=Component.STORAGE,
        remedy="Another answer than the file came from the store, or the file is damaged. "
        "Nothing is committed or deleted because of it.",
    )
