"""Removes the files in a table's folders that nothing in the table refers to.

They are what killed writers, failed commits and interrupted expiries leave. First the folders are
listed, then the table is loaded, so that what was committed while the listing went on is known.
Younger files than the bound are not looked at: a writer may be about to commit them.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from k2i_tasks.clock import Clock
from k2i_tasks.errors import Component, IntegrityError, K2IError, ServiceError, TransientError
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.avro import File
from k2i_tasks.iceberg.catalog import load_table
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.maintenance.deleting import THREADS, Deleted, delete_all
from k2i_tasks.iceberg.maintenance.interruption import Interrupted
from k2i_tasks.iceberg.maintenance.search import Search, places_of

log = logging.getLogger(__name__)

#: A younger file may be one that a writer has staged and not committed yet.
FLOOR_SECONDS = 86_400.0
#: So many paths are told in a plan.
PATHS_TOLD = 1_000


@dataclass(frozen=True, slots=True)
class Orphans:
    """What one run did, or would do.

    Args:
        listed: files in the table's folders.
        found: those that are old enough and that nothing refers to.
        removed: of those, deleted or gone already.
        bytes: of those removed; in a plan, of those found.
        left: could not be deleted, or were not tried any more.
        folders: empty folders removed from a local disk.
        paths: in a plan, the first of them.
    """

    listed: int = 0
    found: int = 0
    removed: int = 0
    bytes: int = 0
    left: int = 0
    folders: int = 0
    paths: tuple[str, ...] = ()


class OrphanRemoval:
    """Removes orphan files of one table. One thread at a time; calls may block.

    Not for a catalog that hides other branches of the table from its clients, as Nessie does.

    Args:
        catalog: used by this object's thread only.
        identifier: namespace and table name.
        older_than_seconds: files younger than this are left alone.
        stopping: asked between folders, reads and deletions; when true the run ends early.
        clock: time, to be compared with the store's.
        floor_seconds: the least that `older_than_seconds` may be.

    Raises:
        ValueError: `older_than_seconds` is below the floor.
    """

    def __init__(
        self,
        catalog: Catalog,
        identifier: tuple[str, ...],
        *,
        older_than_seconds: float,
        stopping: Callable[[], bool],
        clock: Clock,
        floor_seconds: float = FLOOR_SECONDS,
    ) -> None:
        if not older_than_seconds >= floor_seconds:
            raise ValueError(
                f"files {older_than_seconds} s old may still be committed; the least is "
                f"{floor_seconds} s"
            )
        self._catalog = catalog
        self._identifier = identifier
        self._older_than = older_than_seconds
        self._stopping = stopping
        self._clock = clock

    def plan(self) -> Orphans:
        """What `run` would remove; changes nothing.

        Raises:
            as `run`.
        """
        try:
            with self._searched() as search:
                found, total = 0, 0
                told: list[str] = []
                for number in range(len(search.places)):
                    for one in search.orphans(number):
                        if not one.is_folder:
                            found, total = found + 1, total + one.bytes
                            told += [one.path] if len(told) < PATHS_TOLD else []
                return Orphans(search.listed, found, bytes=total, left=found, paths=tuple(told))
        except Interrupted:
            return Orphans()

    def run(self) -> Orphans:
        """One attempt; removes nothing unless folders and table could be read to the end.

        Raises:
            ConfigError: the data folder is one that holds other tables too.
            IntegrityError: another table's metadata is in the folder, or the table was dropped and
                made again meanwhile.
            ServiceError: no such table, no right to list its folders, or a file of it is missing.
            TransientError: catalog or store is away, or a file was not read whole.
        """
        try:
            with self._searched() as search:
                return self._remove(search)
        except Interrupted:
            log.info("Asked to stop before any orphan file of %s was removed.", self._name)
            return Orphans()

    def _remove(self, search: Search) -> Orphans:
        done, folders = Deleted(), 0
        for number, place in enumerate(search.places):
            local = place.folder.is_local
            part = delete_all(
                (File(one.path, one.bytes) for one in search.orphans(number) if not one.is_folder),
                place.folder.store.delete_file,
                threads=1 if local else THREADS,
                stopping=self._stopping,
                after_each=lambda: hit("orphans.file.removed"),
            )
            done.files += part.files
            done.bytes += part.bytes
            done.left += part.left
            if local and not self._stopping():
                empty = [one.path for one in search.orphans(number) if one.is_folder]
                folders += sum(map(_remove_folder, empty))
        log.info("Table %s: %d orphan files removed.", self._name, done.files)
        return Orphans(
            listed=search.listed,
            found=done.files + done.left,
            removed=done.files,
            bytes=done.bytes,
            left=done.left,
            folders=folders,
        )

    @contextmanager
    def _searched(self) -> Iterator[Search]:
        """Lists the folders, then loads the table and compares."""
        before = self._load()
        search = Search(
            places_of(before),
            before=self._clock.unix() - self._older_than,
            stopping=self._stopping,
        )
        with closing(search):
            search.list_files()
            hit("orphans.listed")
            table = self._load()
            if table.metadata.table_uuid != before.metadata.table_uuid:
                raise IntegrityError(
                    f"Table {self._name} was dropped and made again while its files were listed.",
                    component=Component.ICEBERG,
                    remedy="Nothing was removed; run it again.",
                )
            try:
                search.compare_with(table)
            except ServiceError as error:
                self._must_not_have_expired(table, error)
                raise
            yield search

    def _must_not_have_expired(self, table: Table, error: ServiceError) -> None:
        """Whether a file is gone for good is only known while its snapshot is there."""
        if not isinstance(error.__cause__, FileNotFoundError):
            return
        there = {one.snapshot_id for one in self._load().metadata.snapshots}
        if any(one.snapshot_id not in there for one in table.metadata.snapshots):
            raise TransientError(
                f"Snapshots of {self._name} were expired while they were read.",
                component=Component.ICEBERG,
            ) from error

    @property
    def _name(self) -> str:
        return ".".join(self._identifier)

    def _load(self) -> Table:
        return load_table(self._catalog, self._identifier)


def _remove_folder(path: str) -> bool:
    """Removes a folder of a local disk if it is empty still; whether it did."""
    try:
        with translated(f"removing the empty folder {path}"):
            os.rmdir(path)
    except K2IError as error:
        if getattr(error.__cause__, "errno", None) in (errno.ENOENT, errno.ENOTEMPTY):
            return False
        log.warning("An empty folder is left: %s", error)
        return False
    return True
