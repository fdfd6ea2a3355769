"""What snapshots reach: manifest lists, manifests, data and delete files, statistics.

As in Iceberg's own clean-up, a file counts as reached where it is live in a manifest; one that a
snapshot only records as deleted is not needed to read that snapshot.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pyiceberg.io import FileIO
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from k2i_tasks.errors import ServiceError
from k2i_tasks.iceberg.avro import File, Manifest, live_files, manifests_of
from k2i_tasks.iceberg.maintenance.interruption import go_on

log = logging.getLogger(__name__)

#: Data files whose manifests are remembered between runs; 8 bytes each.
FILES_REMEMBERED = 2_000_000

_Read = TypeVar("_Read")


def plain(path: str) -> str:
    """`path` as far as two spellings of it can be told apart: no scheme, no doubled slashes.

    `s3://b/k`, `s3a://b//k` and `b/k` are one, `file:///k`, `file:/k` and `/k` another.
    """
    scheme, colon, rest = path.partition(":")
    bare = rest if colon and "/" not in scheme else path
    bare = bare.removeprefix("//")
    while "//" in bare:
        bare = bare.replace("//", "/")
    return bare


@dataclass(frozen=True, slots=True)
class Reached:
    """Snapshots, and the statistics files that the table's metadata lists for them."""

    snapshots: Sequence[Snapshot]
    statistics: Sequence[File] = ()


def statistics_of(metadata: TableMetadata, ids: set[int]) -> list[File]:
    """The statistics and partition statistics files of these snapshots."""
    return [
        File(each.statistics_path, each.file_size_in_bytes)
        for each in (*metadata.statistics, *metadata.partition_statistics)
        if each.snapshot_id in ids
    ]


@dataclass(slots=True)
class Memory:
    """What was read of lists and manifests, which never change once written; bounded.

    Of a manifest only hashes of its live paths are kept. Two paths of one hash would make a file
    seem to be needed that is not: orphan removal compares names, not these.

    Args:
        files_max: live files of all manifests together; the manifests used longest ago go first.
    """

    files_max: int = FILES_REMEMBERED
    #: Lists and manifests that were read from the store so far.
    reads: int = 0
    _lists: dict[str, tuple[Manifest, ...]] = field(default_factory=dict)
    _manifests: dict[str, Manifest] = field(default_factory=dict)
    _hashes: OrderedDict[str, NDArray[np.int64]] = field(default_factory=OrderedDict)
    _files: int = 0

    def manifests(self, files: FileIO, snapshot: Snapshot) -> tuple[Manifest, ...]:
        """`manifests_of`, from memory if it was read before."""
        path = snapshot.manifest_list
        if path not in self._lists:
            self.reads += 1
            found = manifests_of(files, snapshot)
            # Most of a list is in the next one too: one object for all of them.
            self._lists[path] = tuple(self._manifests.setdefault(one.path, one) for one in found)
        return self._lists[path]

    def live(self, files: FileIO, manifest: Manifest) -> tuple[File, ...]:
        """`live_files`; its hashes are remembered. Reads the manifest."""
        self.reads += 1
        found = live_files(files, manifest)
        self._remember(manifest.path, _hashes(each.path for each in found))
        return found

    def hashes(self, files: FileIO, manifest: Manifest) -> NDArray[np.int64]:
        """Hashes of the live paths of `manifest`, from memory if it was read before."""
        known = self._hashes.get(manifest.path)
        if known is not None:
            self._hashes.move_to_end(manifest.path)
            return known
        return _hashes(each.path for each in self.live(files, manifest))

    def knows(self, manifest: Manifest) -> bool:
        """Whether `hashes` of it cost no read."""
        return manifest.path in self._hashes

    def keep_only(self, snapshots: Iterable[Snapshot]) -> None:
        """Forgets what none of these snapshots reaches."""
        lists = {snapshot.manifest_list for snapshot in snapshots}
        self._lists = {path: found for path, found in self._lists.items() if path in lists}
        self._manifests = {one.path: one for found in self._lists.values() for one in found}
        for path in [path for path in self._hashes if path not in self._manifests]:
            self._files -= len(self._hashes.pop(path))

    def _remember(self, path: str, hashes: NDArray[np.int64]) -> None:
        self._files += len(hashes) - len(self._hashes.pop(path, ()))
        self._hashes[path] = hashes
        while self._files > self.files_max and self._hashes:
            _, oldest = self._hashes.popitem(last=False)
            self._files -= len(oldest)


def _hashes(paths: Iterable[str]) -> NDArray[np.int64]:
    return np.fromiter((hash(plain(path)) for path in paths), dtype=np.int64)


def only_reached_by(
    gone: Reached,
    kept: Reached,
    *,
    read: Reached | None = None,
    files: FileIO,
    memory: Memory,
    stopping: Callable[[], bool] = lambda: False,
) -> list[File]:
    """The files that `gone` reaches and `kept` does not, contents before what lists them.

    Reads each list and manifest once, and no manifest of `kept` that no file depends on. May block.

    Args:
        gone: expired. A list or manifest of theirs that is not there any more is passed over:
            another clean-up was here.
        kept: all that the table still has.
        read: expired too, but perhaps still read: what they reach stays, as far as it is there.
        files: file access of the table.
        memory: of earlier calls for the same table.
        stopping: asked between reads.

    Raises:
        Interrupted: `stopping` said so.
        TransientError: something that is kept could not be read whole, or the store is away.
        ServiceError: something that is kept is not there, or may not be read.
    """
    read = read or Reached(())
    needed: dict[str, Manifest] = {}
    for snapshot in reversed(kept.snapshots):
        go_on(stopping)
        for manifest in memory.manifests(files, snapshot):
            needed.setdefault(plain(manifest.path), manifest)
    spared: dict[str, Manifest] = {}
    for snapshot in read.snapshots:
        go_on(stopping)
        for manifest in _if_there(partial(memory.manifests, files, snapshot)):
            spared.setdefault(plain(manifest.path), manifest)
    free: dict[str, Manifest] = {}
    for snapshot in gone.snapshots:
        go_on(stopping)
        for manifest in _if_there(partial(memory.manifests, files, snapshot)):
            free.setdefault(plain(manifest.path), manifest)
    for path in [path for path in free if path in needed or path in spared]:
        del free[path]
    contents: dict[str, File] = {}
    for manifest in free.values():
        go_on(stopping)
        for file in _if_there(partial(memory.live, files, manifest)):
            contents.setdefault(plain(file.path), file)
    search = _Search(contents, files, memory, stopping)
    search.strike(needed.values(), strict=True)
    search.strike(spared.values(), strict=False)
    lists = [File(one.manifest_list, 0) for one in gone.snapshots]
    others = [File(one.manifest_list, 0) for one in (*kept.snapshots, *read.snapshots)]
    return [
        *search.left,
        *free.values(),
        *_minus(lists, others),
        *_minus(gone.statistics, (*kept.statistics, *read.statistics)),
    ]


def _minus(files: Iterable[File], others: Iterable[File]) -> list[File]:
    there = {plain(file.path) for file in others}
    return list({p: file for file in files if (p := plain(file.path)) not in there}.values())


class _Search:
    """Data and delete files, less those that are found live in some manifest.

    Args:
        contents: by plain path.
        files: file access.
        memory: of manifests.
        stopping: asked between reads.
    """

    def __init__(
        self,
        contents: Mapping[str, File],
        files: FileIO,
        memory: Memory,
        stopping: Callable[[], bool],
    ) -> None:
        self._left = dict(zip(_hashes(contents).tolist(), contents.values(), strict=True))
        self._files = files
        self._memory = memory
        self._stopping = stopping

    @property
    def left(self) -> list[File]:
        return list(self._left.values())

    def strike(self, manifests: Iterable[Manifest], *, strict: bool) -> None:
        """Takes out what is live in any of `manifests`; reads them only while files are left.

        Args:
            manifests: the most likely first.
            strict: whether one that is not there is an error.
        """
        memory = self._memory
        # What costs no read comes first.
        for manifest in sorted(manifests, key=lambda one: not memory.knows(one)):
            if not self._left:
                return
            go_on(self._stopping)
            read = partial(memory.hashes, self._files, manifest)
            there = read() if strict else _if_there(read)
            wanted = np.fromiter(self._left, dtype=np.int64)
            for found in np.intersect1d(there, wanted).tolist():
                del self._left[found]


def names_reached(
    metadata: TableMetadata, files: FileIO, stopping: Callable[[], bool]
) -> Iterator[str]:
    """The path of each file that any snapshot reaches, and of the metadata. May block; repeats.

    Raises:
        as `only_reached_by`.
    """
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (each.path for each in statistics_of(metadata, _every_id(metadata)))
    seen: set[str] = set()
    for snapshot in reversed(metadata.snapshots):
        go_on(stopping)
        yield snapshot.manifest_list
        for manifest in manifests_of(files, snapshot):
            if manifest.path in seen:
                continue
            go_on(stopping)
            seen.add(manifest.path)
            yield manifest.path
            yield from (each.path for each in live_files(files, manifest))


def _every_id(metadata: TableMetadata) -> set[int]:
    # Statistics may be listed for snapshots that are gone.
    return {one.snapshot_id for one in (*metadata.statistics, *metadata.partition_statistics)}


def _if_there(read: Callable[[], _Read]) -> _Read | tuple[()]:
    try:
        return read()
    except ServiceError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        log.warning("What an expired snapshot lists is gone already: %s", error)
        return ()
