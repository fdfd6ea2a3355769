"""Commits that apply only to the table state they were made for.

PyIceberg's own commit retry is not used: it re-parents a stale append without validation, and on
its last attempt deletes manifests that may have landed. The catalog given here must be guarded
(`catalog.guard_commits`), so that each failure leaves as an error of ours; whoever calls then looks
at the table again before anything else. One thread per table; a fresh `Table` per attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import update_table_metadata
from pyiceberg.utils.properties import property_as_bool

from k2i_tasks.errors import Component, FencedError, IntegrityError, SchemaConflictError
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.catalog import load_table
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.manifests import merged_by_and_by
from k2i_tasks.iceberg.ownership import Claim, admits, holder, must_own
from k2i_tasks.iceberg.pending import NO_UPDATES, PendingSchema, Updates
from k2i_tasks.iceberg.references import keep_all
from k2i_tasks.iceberg.rollback import rolled_back
from k2i_tasks.iceberg.starts import first_starts
from k2i_tasks.iceberg.state import Recorded, SinkState, recorded, sink_properties, state_key
from k2i_tasks.types import Offsets, Ranges, TopicPartition

#: Called with (snapshot id, parent snapshot id) before a commit is sent.
Intent = Callable[[int, int | None], None]


class MemoTransaction(Transaction):
    """A transaction that computes its metadata once per change instead of at each of ~18 reads.

    The stock property deep-copies the whole metadata each time, 84 % of a commit's CPU time.
    """

    _memo: tuple[tuple[Any, ...], TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        if not self._updates:
            return self._table.metadata
        if self._memo is None or self._memo[0] is not self._updates:
            self._memo = (self._updates, update_table_metadata(self._table.metadata, self._updates))
        return self._memo[1]

    def change(self, change: Updates) -> None:
        """Takes in updates, and what the catalog has to find for them."""
        self._apply(*change)


@dataclass(frozen=True, slots=True)
class Head:
    """The table as just loaded."""

    table: Table
    recorded: Recorded

    @property
    def uuid(self) -> str:
        return str(self.table.metadata.table_uuid)


class Committer:
    """Claims one table for one run, and commits batches to it, each once.

    Args:
        catalog: guarded catalog, used by this committer's thread only.
        identifier: namespace and table name.
        sink: names the state keys; two pipelines into one table have different ones.
        branch: branch that is written.
        owner: id of this process run.
        group: consumer group whose members share the table; None to own all of it.
    """

    def __init__(
        self,
        catalog: Catalog,
        identifier: tuple[str, ...],
        *,
        sink: str,
        branch: str,
        owner: str,
        group: str | None = None,
    ) -> None:
        self.catalog = catalog
        self.identifier = identifier
        self.sink = sink
        self.branch = branch
        self.me = Claim(owner, 0, group)
        #: In a group, the partitions that were claimed.
        self.claimed: frozenset[TopicPartition] = frozenset()
        self.table_uuid: str | None = None

    @property
    def name(self) -> str:
        return ".".join(self.identifier)

    @property
    def epoch(self) -> int:
        """Of the claim; 0 before it."""
        return self.me.epoch

    def look(self) -> Head:
        """Loads the table afresh. May block.

        Raises:
            ServiceError: there is no such table, or no right to read it.
            IntegrityError: it is another table than the one claimed.
        """
        table = load_table(self.catalog, self.identifier)
        head = Head(table, recorded(table.metadata, self.sink, self.branch))
        if self.table_uuid is not None and head.uuid != self.table_uuid:
            raise IntegrityError(
                f"Table {self.name} was dropped and created again: its id was {self.table_uuid}, "
                f"now it is {head.uuid}.",
                component=Component.ICEBERG,
                remedy="Restart to ingest into the new table from the configured start; move the "
                "write-ahead log folder away first.",
            )
        return head

    def claim(
        self, state: SinkState, offsets: Offsets, mine: Set[TopicPartition] | None = None
    ) -> SinkState:
        """Makes this run the only writer of the table, or of its share of a group's.

        An empty append with the next epoch: it moves the branch's head, so it is a compare-and-swap
        in every catalog, and after it no commit of an older claim can land. One attempt; idempotent
        by the owner id.

        Args:
            state: the state to go on from, with the topic and cluster ids to record.
            offsets: next offsets to record for partitions new to the table; the state's own are
                never changed. All partitions of the topic: the first claim settles where each
                starts, whoever reads it.
            mine: the partitions that this run reads; all of `offsets` when None.

        Returns:
            The state as recorded.
        """
        me, mine = self.me, offsets.keys() if mine is None else mine
        head = self.look()
        self.table_uuid = head.uuid
        current = head.recorded.newest
        if current is not None and _claimed(current, me, mine):
            self._own(current, mine)
            return current
        if current is not None and current.seq > state.seq:
            state = self._overtaken(state, current)
        # What the table records holds: `offsets` may be older, or from a later look at the topic.
        settled = replace(state, offsets={**offsets, **state.offsets})
        claimed = settled.claimed_by(me.owner, me.group, mine)
        self._ensure_branch(head.table)
        if self.branch != "main":
            head = self.look()
        starts = first_starts(head.table.metadata, self.sink, state, claimed.offsets)
        self._send(head.table, claimed, (), {}, lambda _snapshot, _parent: None, starts)
        self._own(claimed, mine)
        return claimed

    def own(self) -> SinkState:
        """The state as the table records it now, which must be of this run's claim. May block.

        Raises:
            FencedError: another run has claimed the table since.
            PartitionsLostError: another member of the group has claimed some of our partitions.
        """
        state = self.look().recorded.newest
        must_own(self.name, state, self.me, self.claimed)
        assert state is not None
        return state

    def commit(
        self,
        batch_id: str,
        ranges: Ranges,
        files: Callable[[Table], Sequence[DataFile]],
        *,
        summary: Mapping[str, str],
        intent: Intent,
        schema: PendingSchema | None = None,
    ) -> int:
        """Looks, and unless the batch is there already commits its files with its offsets.

        One attempt; idempotent by `batch_id`. May block.

        Args:
            batch_id: identity of the batch over all attempts and restarts.
            ranges: what the batch covers: the table must record the starts now, and records the
                ends with it.
            files: gives the data files to add, for the table as loaded.
            summary: further entries for the snapshot's summary.
            intent: called once the commit is built, before it is sent.
            schema: the change of the table's schema that the files were written for; it is part of
                the commit unless the table has it.

        Returns:
            Id of the snapshot that holds the batch (the head's, if an earlier attempt landed).

        Raises:
            FencedError: another run owns the table, or its offsets are not the batch's start.
            PartitionsLostError: another member of the group owns some of its partitions.
            SchemaRacedError: another writer has changed the schema, so that these files must not
                be committed.
            TransientError: catalog or store is away, or another writer moved the head.
            CommitStateUnknownError: sent, outcome unknown.
        """
        head = self.look()
        if head.recorded.rolled_back:
            raise rolled_back(self.name, head.recorded)
        state = head.recorded.newest
        if not admits(self.name, state, self.me, batch_id=batch_id, ranges=ranges):
            return head.recorded.summary_snapshot_id or -1
        assert state is not None
        end = {tp: span.end for tp, span in ranges.items()}
        change = schema.due(head.table) if schema is not None else NO_UPDATES
        added = files(head.table)
        _must_fit_spec(self.name, head.table, added)
        after = state.after(batch_id, end)
        return self._send(head.table, after, added, summary, intent, change=change)

    def record(
        self,
        batch_id: str,
        end: Offsets,
        files: Callable[[Head], Sequence[DataFile]],
        *,
        intent: Intent = lambda _snapshot, _parent: None,
    ) -> bool:
        """Commits without a claim: once per batch id, whoever asks.

        For tables whose rows `files` itself tells apart (dead letters): it is given the head that
        the commit is checked against, so no row can come in between.

        Returns:
            Whether anything had to be committed.
        """
        head = self.look()
        state = head.recorded.newest or SinkState(owner=self.me.owner)
        if batch_id in state.batches:
            return False
        later = {tp: max(offset, state.offsets.get(tp, 0)) for tp, offset in end.items()}
        added = files(head)
        _must_fit_spec(self.name, head.table, added)
        self._send(head.table, state.after(batch_id, later), added, {}, intent)
        return True

    # Inside.

    def _own(self, state: SinkState, mine: Set[TopicPartition]) -> None:
        """Takes a claim that the table records for ours."""
        epoch = state.epoch
        if self.me.group is not None:
            epoch = max((state.holders[tp][1] for tp in mine), default=epoch)
        self.me = replace(self.me, epoch=epoch)
        self.claimed = frozenset(mine)

    def _overtaken(self, state: SinkState, current: SinkState) -> SinkState:
        """The state to claim from, after others have committed since `state` was read."""
        shared = self.me.group is not None and current.group == self.me.group
        if shared:
            # Members come and go and commit all the time: theirs is the newest state.
            return replace(current, topic_ids=state.topic_ids, cluster_id=state.cluster_id)
        if current.epoch > state.epoch:
            raise FencedError(
                f"Table {self.name} was claimed by {holder(current)} while this run was starting.",
                remedy="Only one run may write for a sink; stop one of them.",
            )
        # The run that is taken over from has committed since we looked: go on from there.
        return replace(state, seq=current.seq, batches=current.batches, offsets=current.offsets)

    def _send(
        self,
        table: Table,
        state: SinkState,
        files: Sequence[DataFile],
        summary: Mapping[str, str],
        intent: Intent,
        properties: Mapping[str, str] | None = None,
        change: Updates = NO_UPDATES,
    ) -> int:
        """Builds and sends one commit: schema, files, offsets in summary and property, at once."""
        key, value = state_key(self.sink), state.to_json()
        carried = sink_properties(table.metadata, self.branch)
        entries = {**carried, **summary, key: value}
        transaction = MemoTransaction(table)
        if change is not NO_UPDATES:
            # First, so that the snapshot is of the new schema.
            transaction.change(change)
        update = transaction.update_snapshot(snapshot_properties=entries, branch=self.branch)
        merge = property_as_bool(
            table.metadata.properties,
            TableProperties.MANIFEST_MERGE_ENABLED,
            TableProperties.MANIFEST_MERGE_ENABLED_DEFAULT,
        )
        producer = update.merge_append() if merge else update.fast_append()
        for file in files:
            producer.append_data_file(file)
        parent = table.metadata.refs[self.branch].snapshot_id if self._has_branch(table) else None
        if producer._parent_snapshot_id != parent:
            raise IntegrityError(
                f"Commit to {self.name}: built on {producer._parent_snapshot_id}, head is {parent}."
            )
        keep_all(producer, table.metadata.snapshot_by_id(parent) if parent is not None else None)
        hit("commit.manifests.before")
        with translated(f"writing manifests of {self.name}"), merged_by_and_by(producer):
            producer.commit()
        transaction.set_properties({**(properties or {}), key: value})
        hit("commit.intent.before")
        intent(producer.snapshot_id, parent)
        hit("commit.send.before")
        if change is not NO_UPDATES:
            hit("schema.commit.before")
        transaction.commit_transaction()
        if change is not NO_UPDATES:
            hit("schema.committed")
        hit("commit.answered")
        return producer.snapshot_id

    def _has_branch(self, table: Table) -> bool:
        return self.branch in table.metadata.refs

    def _ensure_branch(self, table: Table) -> None:
        """A branch other than main starts at main's head; an empty table first gets a snapshot."""
        if self.branch == "main" or self._has_branch(table):
            return
        with translated(f"creating branch {self.branch} of {self.name}"):
            if table.metadata.current_snapshot_id is None:
                transaction = MemoTransaction(table)
                transaction.update_snapshot().fast_append().commit()
                transaction.commit_transaction()
                table = self.catalog.load_table(self.identifier)
            head = table.metadata.current_snapshot_id
            assert head is not None
            table.manage_snapshots().create_branch(head, self.branch).commit()


def _claimed(state: SinkState, me: Claim, mine: Set[TopicPartition]) -> bool:
    """Whether an earlier attempt at this very claim has landed."""
    if me.group is None:
        return state.group is None and state.owner == me.owner
    # A claim of the same partitions before this one does not count: the head has to move again,
    # so that no commit that is still on its way can land after it.
    held = {tp: epoch for tp, (owner, epoch) in state.holders.items() if owner == me.owner}
    return (
        state.group == me.group
        and held.keys() == mine
        and all(epoch > me.epoch for epoch in held.values())
    )


def _must_fit_spec(name: str, table: Table, files: Sequence[DataFile]) -> None:
    spec_id = table.metadata.default_spec_id
    stale = [file for file in files if file.spec_id != spec_id]
    if stale:
        raise SchemaConflictError(
            f"The partition spec of {name} changed from {stale[0].spec_id} to {spec_id} while a "
            "batch was being written.",
            remedy="Restart: the batch is read again from Kafka and written with the new spec.",
        )
