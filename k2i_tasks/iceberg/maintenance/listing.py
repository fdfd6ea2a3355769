"""Lists the files below a folder of a local disk or an object store, one folder at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import PyArrowFileIO

from k2i_tasks.errors import ConfigError
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.maintenance.interruption import go_on


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as PyArrow reaches it.

    Args:
        store: its file system.
        path: there, without scheme.
    """

    store: FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.store, LocalFileSystem)


@dataclass(frozen=True, slots=True)
class Listed:
    """One file, or one folder with nothing in it.

    Args:
        path: in its store, without scheme.
        bytes: size; 0 for a folder.
        modified: Unix time in seconds; infinite where the store does not tell.
        is_folder: whether it is an empty folder.
    """

    path: str
    bytes: int
    modified: float
    is_folder: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def folder_at(files: FileIO, location: str) -> Folder:
    """The folder that a table's metadata calls `location`.

    Raises:
        ConfigError: the table's files are not reached by way of PyArrow.
    """
    if not isinstance(files, PyArrowFileIO):
        raise ConfigError(
            f"{location} cannot be listed: {type(files).__name__} reaches it, not PyArrow.",
            remedy="Unset py-io-impl.",
        )
    with translated(f"opening {location}"):
        scheme, host, path = files.parse_location(location, files.properties)
        return Folder(files.fs_by_scheme(scheme, host), path.rstrip("/"))


def walk(root: Folder, stopping: Callable[[], bool]) -> Iterator[Listed]:
    """Every file below `root` that is not hidden, and every empty folder. May block.

    Holds one folder's entries at a time, and follows no symbolic link to a folder. What is gone
    when its turn comes is passed over; a `root` that is not there has no files.

    Raises:
        ServiceError: a folder may not be listed.
        TransientError: the store is away.
        Interrupted: `stopping` said so.
    """
    waiting: list[tuple[str, FileInfo | None]] = [(root.path, None)]
    while waiting:
        go_on(stopping)
        path, info = waiting.pop()
        with translated(f"listing {path}"):
            entries = root.store.get_file_info(FileSelector(path, allow_not_found=True))
        if not entries and info is not None:
            yield Listed(info.path, 0, _modified(info), is_folder=True)
        for entry in entries:
            if _is_hidden(entry.base_name):
                continue
            if entry.type == FileType.Directory:
                if root.is_local and os.path.islink(entry.path):
                    continue  # whoever set it knows what else is there
                waiting.append((entry.path, entry))
            elif entry.type == FileType.File:
                yield Listed(entry.path, entry.size or 0, _modified(entry))


def _is_hidden(name: str) -> bool:
    """Not ours to judge, such as `_temporary`; but `_kafka_partition=0` is a partition's folder."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _modified(info: FileInfo) -> float:
    return info.mtime_ns / 1e9 if info.mtime_ns is not None else float("inf")
