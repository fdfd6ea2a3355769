"""The commit that replaces data files by others with the same rows: Iceberg's `replace`.

PyIceberg knows the operation and has no producer for it. This one does what Iceberg's Java library
does in a rewrite: manifests of which nothing is replaced are carried on as they are; the others are
written anew, with the replaced files marked as deleted; and the new files keep the age of the rows
that they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import closing
from itertools import chain
from typing import Any

from pyiceberg.manifest import (
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
)
from pyiceberg.table import Table, TableProperties
from pyiceberg.table.snapshots import (
    Operation,
    SnapshotSummaryCollector,
    Summary,
    update_snapshot_summaries,
)
from pyiceberg.table.update.snapshot import _SnapshotProducer
from pyiceberg.utils.properties import property_as_int

from k2i_tasks.errors import IntegrityError
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.committer import MemoTransaction
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.maintenance.rewriting import Joined
from k2i_tasks.iceberg.manifests import Fetched, fetched, live_count
from k2i_tasks.iceberg.state import sink_properties

#: Summary entry that says which job of ours made a snapshot.
JOB_KEY = "k2i.maintenance"

#: Called with (snapshot id, parent snapshot id) before a commit is sent.
Intent = Callable[[int, int], None]


def replace_files(
    table: Table,
    branch: str,
    manifests: Sequence[ManifestFile],
    touched: Set[str],
    joined: Sequence[Joined],
    intent: Intent,
    *,
    known: Mapping[str, Fetched] | None = None,
    operation: Operation = Operation.REPLACE,
    job: str = "compaction",
) -> int:
    """Builds and sends one commit on the head of `branch`. One attempt. May block.

    The states of the sinks ride on in its summary; properties are left alone.

    Args:
        table: as just loaded.
        branch: the branch; it has a head.
        manifests: all of its head.
        touched: locations of those that hold the files to be replaced.
        joined: the new files, each with those that it replaces.
        intent: called once the commit is built, before it is sent.
        known: some of `touched` that were read before, by location.
        operation: `REPLACE` where the rows stay what they are, else `OVERWRITE`.
        job: what this is, in the summary and in errors.

    Returns:
        Id of the snapshot.

    Raises:
        IntegrityError: what was built would not hold the same files and rows; nothing was sent.
        TransientError: catalog or store is away, or another writer moved the head.
        CommitStateUnknownError: sent, outcome unknown.
    """
    entries = {**sink_properties(table.metadata, branch), JOB_KEY: job}
    transaction = MemoTransaction(table)
    producer = ReplaceFiles(
        transaction, table, branch, entries, manifests, touched, known, joined, operation
    )
    parent = table.metadata.refs[branch].snapshot_id
    if producer._parent_snapshot_id != parent:
        raise IntegrityError(
            f"{job.capitalize()} of {'.'.join(table.name())}: built on "
            f"{producer._parent_snapshot_id}, head is {parent}."
        )
    with translated("writing manifests of " + ".".join(table.name())):
        producer.commit()
    hit("compact.send.before")
    intent(producer.snapshot_id, parent)
    transaction.commit_transaction()
    hit("compact.answered")
    return producer.snapshot_id


class ReplaceFiles(_SnapshotProducer["ReplaceFiles"]):
    """Builds the snapshot; see `replace_files`."""

    def __init__(
        self,
        transaction: MemoTransaction,
        table: Table,
        branch: str,
        properties: dict[str, str],
        manifests: Sequence[ManifestFile],
        touched: Set[str],
        known: Mapping[str, Fetched] | None,
        joined: Sequence[Joined],
        operation: Operation = Operation.REPLACE,
    ) -> None:
        # PyIceberg sums up totals for the operations that it writes itself; `_summary` renames it.
        super().__init__(Operation.OVERWRITE, transaction, table.io, None, properties, branch)
        self._table = table
        self._wanted = operation
        self._job = properties.get(JOB_KEY, "compaction").capitalize()
        self._head = manifests
        self._touched = touched
        self._known = known
        self._joined = joined
        self._replaced = {source.path for each in joined for source in each.sources}
        self._removed: list[str] = []
        self._changes = self._collector()

    def _validate_concurrency(self) -> None:
        """Who calls has looked at the head that the catalog will compare."""

    def _deleted_entries(self) -> list[ManifestEntry]:
        """None: our `_manifests` writes them as it finds them."""
        return []

    def _existing_manifests(self) -> list[ManifestFile]:
        return [
            each
            for each in self._head
            if each.manifest_path not in self._touched
            # Files that an earlier commit removed are told of by that commit alone.
            and (each.has_added_files() or each.has_existing_files())
        ]

    def _manifests(self) -> list[ManifestFile]:
        left = self._rewritten()  # first: what cannot be read is told before anything is written
        written = [*self._added(), *left]
        if set(self._removed) != self._replaced or len(self._removed) != len(self._replaced):
            raise IntegrityError(
                f"{self._job} of {'.'.join(self._table.name())}: of {len(self._replaced)} files to "
                f"be replaced {len(self._removed)} were found; nothing is committed."
            )
        found = [*written, *self._existing_manifests()]
        self._must_hold_the_same(found)
        return found

    def _added(self) -> list[ManifestFile]:
        by_spec: dict[int, list[Joined]] = {}
        for each in self._joined:
            by_spec.setdefault(each.staged.spec_id, []).append(each)
        found = []
        for spec_id, some in by_spec.items():
            with self.new_manifest_writer(self.spec(spec_id)) as writer:
                for each in some:
                    entry = ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED,
                        snapshot_id=self._snapshot_id,
                        sequence_number=self._age(each),
                        file_sequence_number=None,
                        data_file=each.entry,
                    )
                    writer.add(entry)
            found.append(writer.to_manifest_file())
        return found

    def _age(self, joined: Joined) -> int | None:
        """Format version 1 has no sequence numbers."""
        version = self._transaction.table_metadata.format_version
        return joined.sequence_number if version > 1 else None

    def _rewritten(self) -> list[ManifestFile]:
        """What is left of the touched manifests, and what is removed, in as few as fit."""
        by_spec: dict[int, list[ManifestFile]] = {}
        for manifest in self._head:
            if manifest.manifest_path in self._touched:
                by_spec.setdefault(manifest.partition_spec_id, []).append(manifest)
        size = self._setting(
            TableProperties.MANIFEST_TARGET_SIZE_BYTES,
            TableProperties.MANIFEST_TARGET_SIZE_BYTES_DEFAULT,
        )
        found = []
        for spec_id, manifests in by_spec.items():
            with closing(fetched(self._table.io, manifests, self._known)) as read:
                live = chain.from_iterable(each.live() for each in read)
                for first in live:
                    with self.new_manifest_writer(self.spec(spec_id)) as writer:
                        self._carry(first, writer)
                        while writer.tell() < size and (entry := next(live, None)) is not None:
                            self._carry(entry, writer)
                    found.append(writer.to_manifest_file())
        return found

    def _carry(self, entry: ManifestEntry, writer: ManifestWriter) -> None:
        file = entry.data_file
        if file.file_path not in self._replaced:
            writer.existing(entry)
            return
        writer.delete(entry)
        metadata = self._transaction.table_metadata
        self._changes.remove_file(file, metadata.schema(), metadata.specs()[file.spec_id])
        self._removed.append(file.file_path)

    def _must_hold_the_same(self, found: Sequence[ManifestFile]) -> None:
        """Whatever went wrong in reading or building, no file and no row may get lost by it."""
        before, after = _totals(self._head), _totals(found)
        if before is None or after is None:
            return
        files = before[0] - len(self._replaced) + len(self._joined)
        if after != (files, before[1]):
            raise IntegrityError(
                f"{self._job} of {'.'.join(self._table.name())} would turn {before[0]} files with "
                f"{before[1]} rows into {after[0]} with {after[1]}, and not into {files} with as "
                "many rows; nothing is committed."
            )

    def _collector(self) -> SnapshotSummaryCollector:
        limit = self._setting(
            TableProperties.WRITE_PARTITION_SUMMARY_LIMIT,
            TableProperties.WRITE_PARTITION_SUMMARY_LIMIT_DEFAULT,
        )
        return SnapshotSummaryCollector(partition_summary_limit=limit)

    def _setting(self, name: str, default: int) -> int:
        found = property_as_int(self._transaction.table_metadata.properties, name, default)
        assert found is not None
        return found

    def _summary(self, snapshot_properties: dict[str, str] | None = None) -> Summary:
        metadata = self._transaction.table_metadata
        schema, specs = metadata.schema(), metadata.specs()
        for each in self._joined:
            self._changes.add_file(each.entry, schema, specs[each.entry.spec_id])
        parent = metadata.snapshot_by_id(self._parent_snapshot_id or -1)
        entries: dict[str, Any] = {**self._changes.build(), **(snapshot_properties or {})}
        summed = update_snapshot_summaries(
            Summary(self._operation, **entries), parent.summary if parent is not None else None
        )
        return Summary(self._wanted, **summed.additional_properties)


def _totals(manifests: Sequence[ManifestFile]) -> tuple[int, int] | None:
    """Live data files and their rows; None where one does not say (format version 1)."""
    files = rows = 0
    for each in manifests:
        if each.content != ManifestContent.DATA:
            continue
        added, existing, count = each.added_rows_count, each.existing_rows_count, live_count(each)
        if added is None or existing is None or count is None:
            return None
        files, rows = files + count, rows + added + existing
    return files, rows
