"""The entries of manifests, one at a time.

An entry is some 500 bytes as stored and, with the statistics of each column, 5 KB as an object of
18 columns: a manifest as a list of them, which is what PyIceberg reads, may take hundreds of MB of
a process that ingests. Here a manifest is in memory as stored, and an entry for as long as it is
used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyiceberg.io import FileIO, InputFile
from pyiceberg.manifest import (
    ManifestEntry,
    ManifestFile,
    _inherit_from_manifest,
)
from pyiceberg.table.update.snapshot import _SnapshotProducer

from k2i_tasks.errors import Component, K2IError, TransientError
from k2i_tasks.iceberg.avro import entries_in, is_live, whole
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.few_ahead import few_ahead

#: Manifests that are fetched at the same time, and waited for by the one that is read.
READERS = 4


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest that is in memory.

    Args:
        manifest: what its list tells of it.
        file: the file, in memory.
    """

    manifest: ManifestFile
    file: InputFile

    def entries(self) -> Iterator[ManifestEntry]:
        """All of them, with what they inherit from the manifest; each is read as it is asked for.

        Raises:
            ServiceError: it is not readable.
            TransientError: at the end, not all came that the manifest's list tells of.
        """
        live = 0
        with translated(f"reading manifest {self.manifest.manifest_path}"):
            for entry in entries_in(self.file):
                live += is_live(entry)
                yield _inherit_from_manifest(entry, self.manifest)
        told = live_count(self.manifest)
        if told is not None and told != live:
            raise TransientError(
                f"Manifest {self.manifest.manifest_path} was read with {live} live files, its "
                f"list says {told}.",
                component=Component.STORAGE,
                remedy="Another answer than the file came from the store, or the file is damaged.",
            )

    def live(self) -> Iterator[ManifestEntry]:
        """Those of files that are there; raises as `entries`."""
        return filter(is_live, self.entries())


def fetched(
    io: FileIO, manifests: Iterable[ManifestFile], known: Mapping[str, Fetched] | None = None
) -> Generator[Fetched]:
    """Manifest by manifest in their order, a few fetched ahead. May block.

    Args:
        io: file access of their table.
        manifests: which.
        known: those that are in memory, by their paths.

    Raises:
        ServiceError: one is not there (its cause is `FileNotFoundError`), or the store refuses.
        TransientError: the store is away; or a manifest came cut or garbled.
    """

    def found(manifest: ManifestFile) -> Fetched:
        there = known.get(manifest.manifest_path) if known else None
        return there or _fetch(io, manifest)

    return few_ahead(found, manifests, threads=READERS, most=READERS)


def live_count(manifest: ManifestFile) -> int | None:
    """How many files that are there it tells of; None where it does not say (format version 1)."""
    added, existing = manifest.added_files_count, manifest.existing_files_count
    return None if added is None or existing is None else added + existing


@contextmanager
def merged_by_and_by(producer: _SnapshotProducer[Any]) -> Iterator[None]:
    """Has a commit, if it merges manifests in the block, read their entries one at a time.

    Raises:
        ServiceError, TransientError: as `fetched`, if a manifest could not be read.
    """
    failures: list[K2IError] = []

    def entries(manifest: ManifestFile, discard_deleted: bool = True) -> Iterator[ManifestEntry]:
        try:
            found = _fetch(producer._io, manifest)
            yield from found.live() if discard_deleted else found.entries()
        except K2IError as error:
            failures.append(error)
            raise

    chosen: Callable[..., Any] = entries  # PyIceberg's gives a list, which it iterates over
    producer.fetch_manifest_entry = chosen  # type: ignore[method-assign]
    try:
        yield
    except Exception as error:
        # Of a manifest without an entry yet, PyIceberg says that it is empty, and nothing else.
        if failures and error is not failures[0]:
            raise failures[0] from error
        raise


def _fetch(io: FileIO, manifest: ManifestFile) -> Fetched:
    path = manifest.manifest_path
    with translated(f"reading manifest {path}"):
        return Fetched(manifest, whole(io.new_input(path)))
