"""Expires snapshots, and then deletes the files that only they reached.

The commit comes first; what is deleted is decided from the metadata as it is afterwards. Whoever is
killed in between leaves files that nobody refers to, which orphan removal takes away. No row, no
offset, no branch and no tag is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pydantic import PrivateAttr
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    RemovePartitionStatisticsUpdate,
    RemoveSnapshotsUpdate,
    TableRequirement,
    TableUpdate,
)

from k2i_tasks.clock import Clock
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.avro import File
from k2i_tasks.iceberg.catalog import load_table
from k2i_tasks.iceberg.files import local_path, remove
from k2i_tasks.iceberg.maintenance.deleting import THREADS, Deleted, delete_all
from k2i_tasks.iceberg.maintenance.interruption import Interrupted
from k2i_tasks.iceberg.maintenance.reachable import (
    Memory,
    Reached,
    only_reached_by,
    statistics_of,
)
from k2i_tasks.iceberg.maintenance.retention import Rules, which_to_expire

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Expired:
    """What one run did, or would do.

    Args:
        snapshots: expired.
        files_removed: deleted, or gone already.
        bytes: of those, without the manifest lists, whose size is not recorded.
        left: files that could not be deleted; orphan removal takes them.
        waiting: expired snapshots whose files a reader may still need: a later run's.
    """

    snapshots: int = 0
    files_removed: int = 0
    bytes: int = 0
    left: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class _Gone:
    """A snapshot that was sent to be removed.

    Args:
        snapshot: as it was.
        statistics: files that the metadata listed for it.
        due_ms: Unix time in milliseconds from when on no reader needs its files.
    """

    snapshot: Snapshot
    statistics: tuple[File, ...]
    due_ms: int


class Expiry:
    """Expires the snapshots of one table. One thread at a time; calls may block.

    Args:
        catalog: guarded (`guard_commits`), used by this object's thread only.
        identifier: namespace and table name.
        rules: what is kept, where the table's own properties do not say.
        lane: held while the commit is built and sent.
        stopping: asked between reads and deletions; when true the run ends early.
        clock: time.
        grace_seconds: the files of a snapshot are kept so long after another took its place, for
            those who read it.
    """

    def __init__(
        self,
        catalog: Catalog,
        identifier: tuple[str, ...],
        *,
        rules: Rules,
        lane: AbstractContextManager[Any],
        stopping: Callable[[], bool],
        clock: Clock,
        grace_seconds: float = 900,
    ) -> None:
        self._catalog = catalog
        self._identifier = identifier
        self._rules = rules
        self._lane = lane
        self._stopping = stopping
        self._clock = clock
        self._grace_ms = int(grace_seconds * 1000)
        self._uuid: str | None = None
        #: Sent, and not seen to be gone.
        self._sent: dict[int, _Gone] = {}
        #: Gone, their files not deleted.
        self._gone: dict[int, _Gone] = {}
        self._memory = Memory()

    def plan(self) -> Expired:
        """What `run` would come to, and once all readers have left; changes nothing.

        Raises:
            as `run`.
        """
        table = self._load()
        ids = self._chosen(table.metadata)
        gone, kept = _split(table.metadata, ids)
        try:
            files = only_reached_by(
                gone, kept, files=table.io, memory=self._memory, stopping=self._stopping
            )
        except Interrupted:
            files = []
        return Expired(
            snapshots=len(ids), files_removed=len(files), bytes=sum(file.bytes for file in files)
        )

    def run(self) -> Expired:
        """One attempt: one commit at most, then the deletions that are due.

        After a failure the next call looks first whether the commit landed, and goes on from
        there. Where anything that is kept cannot be read, nothing is deleted.

        Raises:
            ConfigError: a property of the table that says what to keep is no number.
            CommitConflictError: another writer was first.
            CommitStateUnknownError: sent, outcome unknown.
            ServiceError: no such table, or no right.
            TransientError: catalog or store is away, or a file was not read whole.
        """
        landed = 0
        with self._lane:
            table = self._load()
            landed += self._settle(table.metadata)
            sent = self._send(table)
        if sent:
            hit("expire.answered")
            table = self._load()
            landed += self._settle(table.metadata)
        return self._clean(table, landed)

    def _load(self) -> Table:
        table = load_table(self._catalog, self._identifier)
        uuid = str(table.metadata.table_uuid)
        if uuid != self._uuid:
            # Another table of that name: what was known is of the one before.
            self._uuid, self._sent, self._gone, self._memory = uuid, {}, {}, Memory()
        return table

    def _chosen(self, metadata: TableMetadata) -> set[int]:
        rules = self._rules.of_table(metadata.properties)
        return which_to_expire(metadata.snapshots, metadata.refs, self._now_ms(), rules)

    def _now_ms(self) -> int:
        return int(self._clock.unix() * 1000)

    def _send(self, table: Table) -> bool:
        """Sends the commit, if there is anything to remove and nobody asks to stop."""
        metadata = table.metadata
        ids = self._chosen(metadata)
        if not ids or self._stopping():
            return False
        until = _until(metadata)
        for snapshot in metadata.snapshots:
            if (number := snapshot.snapshot_id) in ids:
                due = until[number] + self._grace_ms
                self._sent[number] = _Gone(snapshot, tuple(statistics_of(metadata, {number})), due)
        hit("expire.send.before")
        requirements, updates = _removal(metadata, ids)
        table._do_commit(updates=updates, requirements=requirements)
        return True

    def _settle(self, metadata: TableMetadata) -> int:
        """Takes note of what was sent and is gone; how many those are.

        What is still there may go yet, if the answer was lost and the commit is on its way.
        """
        there = {snapshot.snapshot_id for snapshot in metadata.snapshots}
        landed = [number for number in self._sent if number not in there]
        for number in landed:
            self._gone[number] = self._sent.pop(number)
        return len(landed)

    def _clean(self, table: Table, landed: int) -> Expired:
        """Deletes what only snapshots that are due reached."""
        now = self._now_ms()
        due = [one for one in self._gone.values() if one.due_ms <= now]
        waiting = [one for one in self._gone.values() if one.due_ms > now]
        done = Deleted()
        if due and not self._stopping():
            try:
                done = self._delete(table, due, waiting)
                self._gone = {one.snapshot.snapshot_id: one for one in waiting}
            except Interrupted:
                log.info("Asked to stop before any file was deleted.")
        later = [one.snapshot for one in (*self._gone.values(), *self._sent.values())]
        self._memory.keep_only([*table.metadata.snapshots, *later])
        return Expired(landed, done.files, done.bytes, done.left, len(self._gone))

    def _delete(self, table: Table, due: list[_Gone], waiting: list[_Gone]) -> Deleted:
        files = only_reached_by(
            Reached(
                [one.snapshot for one in due], [file for one in due for file in one.statistics]
            ),
            _whole(table.metadata),
            read=Reached(
                [one.snapshot for one in waiting],
                [file for one in waiting for file in one.statistics],
            ),
            files=table.io,
            memory=self._memory,
            stopping=self._stopping,
        )
        done = delete_all(
            files,
            lambda path: remove(table.io, path),
            threads=1 if local_path(table.location()) is not None else THREADS,
            stopping=self._stopping,
            after_each=lambda: hit("expire.file.removed"),
        )
        log.info(
            "Table %s: %d files of %d expired snapshots deleted.",
            ".".join(self._identifier),
            done.files,
            len(due),
        )
        return done


class _SameTable(AssertTableUUID):
    """The table, and no branch or tag at what is removed; to a REST catalog, the table alone.

    There it is not in the protocol: a ref that is made between look and commit goes with its
    snapshot, as with every client.
    """

    _removed: set[int] = PrivateAttr(default_factory=set)

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]
        super().validate(base_metadata)
        refs = base_metadata.refs if base_metadata is not None else {}
        made = [name for name, ref in refs.items() if ref.snapshot_id in self._removed]
        if made:
            raise CommitFailedException(f"{', '.join(made)} was set to a snapshot that expires")


def _removal(
    metadata: TableMetadata, ids: set[int]
) -> tuple[tuple[TableRequirement, ...], tuple[TableUpdate, ...]]:
    """What the commit requires and does.

    PyIceberg's own `ExpireSnapshots` requires no branch to be where it was: one that is set back
    meanwhile would lose its head.
    """
    refs = [
        AssertRefSnapshotId.model_validate({"ref": name, "snapshot-id": ref.snapshot_id})
        for name, ref in sorted(metadata.refs.items())
    ]
    # PyIceberg removes the other statistics of a snapshot with it, but not these.
    listed = {one.snapshot_id for one in metadata.partition_statistics} & ids
    statistics = [
        RemovePartitionStatisticsUpdate.model_validate({"snapshot-id": number})
        for number in sorted(listed)
    ]
    removed = RemoveSnapshotsUpdate.model_validate({"snapshot-ids": sorted(ids)})
    same = _SameTable(uuid=metadata.table_uuid)
    same._removed = ids
    return (same, *refs), (*statistics, removed)


def _split(metadata: TableMetadata, ids: set[int]) -> tuple[Reached, Reached]:
    """What goes and what stays."""
    others = {snapshot.snapshot_id for snapshot in metadata.snapshots} - ids
    return (
        Reached(
            [one for one in metadata.snapshots if one.snapshot_id in ids],
            statistics_of(metadata, ids),
        ),
        Reached(
            [one for one in metadata.snapshots if one.snapshot_id in others],
            statistics_of(metadata, others),
        ),
    )


def _whole(metadata: TableMetadata) -> Reached:
    listed = (*metadata.statistics, *metadata.partition_statistics)
    return Reached(metadata.snapshots, statistics_of(metadata, {one.snapshot_id for one in listed}))


def _until(metadata: TableMetadata) -> dict[int, int]:
    """Until when each snapshot was the newest of a branch, as far as it is known; Unix ms."""
    found = {snapshot.snapshot_id: snapshot.timestamp_ms for snapshot in metadata.snapshots}
    next_of: dict[int, int] = {}
    for snapshot in metadata.snapshots:
        parent = snapshot.parent_snapshot_id
        if parent in found:
            next_of[parent] = min(snapshot.timestamp_ms, next_of.get(parent, snapshot.timestamp_ms))
    for entry, after in zip(metadata.snapshot_log, metadata.snapshot_log[1:], strict=False):
        number = entry.snapshot_id
        next_of[number] = max(after.timestamp_ms, next_of.get(number, after.timestamp_ms))
    return {number: max(at, next_of.get(number, at)) for number, at in found.items()}
