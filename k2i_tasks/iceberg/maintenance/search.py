"""Looks for the files in a table's folders that nothing in the table refers to.

A file counts as referred to if its name is that of any file that any snapshot reaches, in whatever
folder: names hold unique ids, and two spellings of one folder, such as by way of a symbolic link,
could otherwise make every file of the table look like an orphan.
"""

from __future__ import annotations

import gzip
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
from k2i_tasks.iceberg.maintenance.interruption import go_on
from k2i_tasks.iceberg.maintenance.listing import Folder, Listed, folder_at, walk
from k2i_tasks.iceberg.maintenance.reachable import names_reached, plain

log = logging.getLogger(__name__)

#: So much of a metadata file is read at first; the table's id stands near its beginning.
_HEAD_BYTES = 4 << 10
#: The list of files goes to a temporary file beyond this.
_SPOOL_BYTES = 16 << 20
_METADATA_FILE = re.compile(r"\.metadata\.json(\.gz)?$")
_UUID = re.compile(rb'"table-uuid"\s*:\s*"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of the table, and the location that its metadata gives it."""

    location: str
    folder: Folder


def places_of(table: Table) -> list[Place]:
    """The folders that hold the table's files and no other table's, none inside another.

    Left out is a folder outside of the table's location that does not say by its path that it is
    this table's alone: with Iceberg's object store layout tables share one, and metadata that would
    tell is elsewhere.

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
        if not _is_below(at, location) and not _names_table(at, table):
            log.warning(
                "%s is not searched for orphan files: other tables may have theirs there too.", at
            )
            continue
        if not any(_is_below(at, other.location) for other in found):
            found.append(Place(at, folder_at(table.io, at)))
    return found


def _names_table(folder: str, table: Table) -> bool:
    """Whether a part of the path is the table's name, or the last of the table's location."""
    names = {table.name()[-1], plain(table.location()).rstrip("/").rpartition("/")[2]}
    return not names.isdisjoint(plain(folder).split("/"))


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
        #: Old files, and metadata files of any age.
        self._noted = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+", encoding="utf-8")  # noqa: SIM115
        self._names: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def close(self) -> None:
        self._noted.close()

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
                if one.modified < self._before or _METADATA_FILE.search(one.name):
                    entry = [number, one.path, one.bytes, one.modified, one.is_folder]
                    self._noted.write(json.dumps(entry) + "\n")

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
        mine = str(table.metadata.table_uuid)
        spared: list[int] = []
        # All of them: another table's newest may be older than many of this one's failed commits.
        for number, one in self._lines():
            if one.is_folder or not _METADATA_FILE.search(one.name) or self._is_named(one.name):
                continue
            go_on(self._stopping)
            store = self.places[number].folder.store
            uuid = _uuid_in(store, one.path)
            if uuid in (None, mine):
                continue
            spared.append(hash(one.name))
            if _has_snapshots(store, one.path):
                raise IntegrityError(
                    f"{one.path} is metadata of another table, {uuid}, in the folder of "
                    f"{'.'.join(table.name())}, {mine}: whose the files are cannot be told.",
                    component=Component.ICEBERG,
                    remedy="If that table was dropped, delete its metadata.json files there; else "
                    "give each table a folder of its own.",
                )
        self._names = np.union1d(self._names, np.array(spared, dtype=np.int64))

    def orphans(self, number: int) -> Iterator[Listed]:
        """Old files and empty folders of a place that nothing refers to, and that are not hidden.

        Args:
            number: of the place, from 0 on.
        """
        for place, one in self._lines():
            if place != number or one.modified >= self._before:
                continue
            if one.is_folder or not self._is_named(one.name):
                yield one

    def _lines(self) -> Iterator[tuple[int, Listed]]:
        """What was noted, each with the number of its place."""
        self._noted.seek(0)
        for line in self._noted:
            number, *fields = json.loads(line)
            yield number, Listed(*fields)

    def _is_named(self, name: str) -> bool:
        for hashed in {hash(name), hash(unquote(name))}:
            at = int(np.searchsorted(self._names, hashed))
            if at < len(self._names) and self._names[at] == hashed:
                return True
        return False


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


def _has_snapshots(store: FileSystem, path: str) -> bool:
    """Whether the table of a whole metadata file may have files.

    Who loses a race to create a table leaves the metadata of one that has none.
    """
    with translated(f"reading {path}"), store.open_input_file(path) as stream:
        data = stream.read()
    try:
        return bool(_parsed(data).get("snapshots"))
    except (ValueError, OSError, EOFError):
        return True


def _uuid_in(store: FileSystem, path: str) -> str | None:
    """The id of the table that a metadata file is of; None if it does not tell any more."""
    try:
        with translated(f"reading {path}"), store.open_input_file(path) as stream:
            data = stream.read(_HEAD_BYTES)
            if found := _UUID.search(data):
                return found[1].decode()
            data += stream.read()
    except ServiceError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None  # its own table has removed it meanwhile
        raise
    try:
        return str(_parsed(data)["table-uuid"])
    except (ValueError, KeyError, TypeError, OSError, EOFError):
        log.warning("%s is no whole metadata file: what wrote it was killed.", path)
        return None


def _parsed(data: bytes) -> Any:
    """A metadata file's content, which may be compressed."""
    return json.loads(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
