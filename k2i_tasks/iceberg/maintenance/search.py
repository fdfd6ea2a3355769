"""Looks for the files in a table's folders that nothing in the table refers to.

A file counts as referred to if its name is that of any file that any snapshot reaches, in whatever
folder: names hold unique ids, and two spellings of one folder, such as by way of a symbolic link,
could otherwise make every file of the table look like an orphan.
"""

from __future__ import annotations

import gzip
import heapq
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from pyarrow.fs import FileSystem
from pyiceberg.io import FileIO
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata

from k2i_tasks.errors import Component, ConfigError, IntegrityError, ServiceError
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.maintenance.listing import Folder, Listed, folder_at, walk
from k2i_tasks.iceberg.maintenance.reachable import names_reached, plain

log = logging.getLogger(__name__)

#: Of the newest metadata files that the table does not name, so many are looked into.
_LOOKED_INTO = 20
#: And so many of the folder's newest are noted until it is known which the table names.
_NOTED = 5_000
#: The list of old files goes to a temporary file beyond this.
_SPOOL_BYTES = 16 << 20
_METADATA_FILE = re.compile(r"\.metadata\.json(\.gz)?$")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of the table, and the location that its metadata gives it."""

    location: str
    folder: Folder


def places_of(table: Table) -> list[Place]:
    """The folders that hold the table's files, none inside another.

    Raises:
        ConfigError: one of them holds the whole table and so perhaps other tables, or PyArrow does
            not reach it.
    """
    location = table.location().rstrip("/")
    found: list[Place] = []
    for kind in ("data", "metadata"):
        key = f"write.{kind}.path"
        at = table.properties.get(key, f"{location}/{kind}").rstrip("/")
        if _is_below(location, at) and plain(location) != plain(at):
            raise ConfigError(
                f"The table's {kind} folder is {at}, and the table is inside it.",
                remedy=f"Set the table's property {key} to a folder that is this table's alone.",
            )
        if not any(_is_below(at, other.location) for other in found):
            found.append(Place(at, folder_at(table.io, at)))
    return found


def _is_below(location: str, folder: str) -> bool:
    return f"{plain(location)}/".startswith(f"{plain(folder).rstrip('/')}/")


class Search:
    """The old files in some folders, listed before the table is looked at. Ends with `close`.

    Args:
        places: the folders.
        before: Unix time in seconds; what was modified later is not looked at.
        stopping: asked between folders and reads.
    """

    def __init__(
        self, places: Sequence[Place], *, before: float, stopping: Callable[[], bool]
    ) -> None:
        self.places = places
        #: Files in the folders, of any age.
        self.listed = 0
        self._before = before
        self._stopping = stopping
        self._old = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+", encoding="utf-8")  # noqa: SIM115
        #: The newest metadata files: when, place, path.
        self._metadata: list[tuple[float, int, str]] = []
        self._names: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def close(self) -> None:
        self._old.close()

    def list_files(self) -> None:
        """Notes all old files. May block.

        Raises:
            ServiceError: a folder may not be listed.
            TransientError: the store is away.
            Interrupted: `stopping` said so.
        """
        for number, place in enumerate(self.places):
            for one in walk(place.folder, self._stopping):
                self.listed += not one.is_folder
                if _METADATA_FILE.search(one.name):
                    _note(self._metadata, (one.modified, number, one.path))
                if one.modified < self._before:
                    entry = [number, one.path, one.bytes, one.modified, one.is_folder]
                    self._old.write(json.dumps(entry) + "\n")

    def compare_with(self, table: Table) -> None:
        """Reads what the table refers to. The table was loaded after the listing. May block.

        Raises:
            IntegrityError: metadata of another table is in the folders.
            ServiceError: something that the table refers to is not there, or may not be read.
            TransientError: the store is away, or a file was not read whole.
            Interrupted: `stopping` said so.
        """
        known = _hashes_of(table.metadata, table.io, table.metadata_location, self._stopping)
        self._names = np.unique(known)
        newest = sorted(self._metadata, reverse=True)
        unknown = [one for one in newest if not self._is_named(one[2].rpartition("/")[2])]
        for _, number, path in unknown[:_LOOKED_INTO]:
            uuid = _uuid_in(self.places[number].folder.store, path)
            if uuid not in (None, str(table.metadata.table_uuid)):
                raise IntegrityError(
                    f"{path} is metadata of another table, {uuid}, in the folder of "
                    f"{'.'.join(table.name())}, {table.metadata.table_uuid}: whose the files are "
                    "cannot be told.",
                    component=Component.ICEBERG,
                    remedy="If that table was dropped, delete its metadata.json files there; else "
                    "give each table a folder of its own.",
                )

    def orphans(self, number: int) -> Iterator[Listed]:
        """Old files and empty folders of a place that nothing refers to, and that are not hidden.

        Args:
            number: of the place, from 0 on.
        """
        self._old.seek(0)
        for line in self._old:
            place, *fields = json.loads(line)
            one = Listed(*fields)
            if place == number and (one.is_folder or not self._is_named(one.name)):
                yield one

    def _is_named(self, name: str) -> bool:
        for hashed in {hash(name), hash(unquote(name))}:
            at = int(np.searchsorted(self._names, hashed))
            if at < len(self._names) and self._names[at] == hashed:
                return True
        return False


def _note(newest: list[tuple[float, int, str]], one: tuple[float, int, str]) -> None:
    if len(newest) < _NOTED:
        heapq.heappush(newest, one)
    else:
        heapq.heappushpop(newest, one)


def _hashes_of(
    metadata: TableMetadata, files: FileIO, location: str, stopping: Callable[[], bool]
) -> NDArray[np.int64]:
    """Hashes of the names of all files that the table refers to, as written and decoded."""

    def names() -> Iterator[str]:
        yield "version-hint.text"
        yield location
        yield from names_reached(metadata, files, stopping)

    def hashes() -> Iterator[int]:
        for path in names():
            name = path.rpartition("/")[2]
            yield hash(name)
            if "%" in name:
                yield hash(unquote(name))

    return np.fromiter(hashes(), dtype=np.int64)


def _uuid_in(store: FileSystem, path: str) -> str | None:
    """The id of the table that a metadata file is of; None if it does not tell any more."""
    try:
        with translated(f"reading {path}"), store.open_input_file(path) as stream:
            data = stream.read()
    except ServiceError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None  # its own table has removed it meanwhile
        raise
    try:
        text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        found: Any = json.loads(text)
        return str(found["table-uuid"])
    except (ValueError, KeyError, TypeError, OSError, EOFError):
        log.warning("%s is no whole metadata file: what wrote it was killed.", path)
        return None
