"""Commits that apply only to the table state they were made for.

PyIceberg's own commit retry is not used: it re-parents a stale append without validation, and on
its last attempt deletes manifests that may have landed. The catalog given here must be guarded
(`catalog.guard_commits`), so that each failure leaves as an error of ours; whoever calls then looks
at the table again before anything else. One thread per table.

A batch's commit need not ask for the table first where the answer to the commit before, of this
committer, has just told it: the catalog takes no commit that was built on another head. What such
an attempt comes to counts only if it lands: a conflict is looked into, by the table as it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial

from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from k2i_tasks.errors import (
    CommitConflictError,
    Component,
    FencedError,
    IntegrityError,
    SchemaConflictError,
)
from k2i_tasks.iceberg.appending import Intent, MemoTransaction, head_id, send_append
from k2i_tasks.iceberg.catalog import load_table
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.ownership import Claim, admits, holder, must_own
from k2i_tasks.iceberg.pending import NO_UPDATES, PendingSchema, Updates
from k2i_tasks.iceberg.rollback import rolled_back
from k2i_tasks.iceberg.starts import first_starts
from k2i_tasks.iceberg.state import Recorded, SinkState, recorded, sink_properties, state_key
from k2i_tasks.types import Offsets, Ranges, TopicPartition

log = logging.getLogger(__name__)

#: How long after a look commits go on from what they have left, in seconds. The head cannot be
#: another one unnoticed; what others change beside it (a property, the partition spec) is seen by
#: then, and the keys to the store that came with the look are as good as new.
LEFT_SECONDS_MAX = 10.0


#: What changes of another lead to; an outdated table may be the reason just as well.
_BY_ANOTHER = (CommitConflictError, FencedError, IntegrityError, SchemaConflictError)


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
        #: The table as our last commit has left it, as long as that may be built upon.
        self._left: Table | None = None
        self._looked_at = 0.0
        #: The head that our last commit has made.
        self._own_head: int | None = None

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
        head = self._head(load_table(self.catalog, self.identifier))
        if self.table_uuid is not None and head.uuid != self.table_uuid:
            raise IntegrityError(
                f"Table {self.name} was dropped and created again: its id was {self.table_uuid}, "
                f"now it is {head.uuid}.",
                component=Component.ICEBERG,
                remedy="Restart to ingest into the new table from the configured start; move the "
                "write-ahead log folder away first.",
            )
        return head

    def _head(self, table: Table) -> Head:
        return Head(table, recorded(table.metadata, self.sink, self.branch))

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
        self._left = None
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
        attempt = partial(
            self._commit_to,
            batch_id=batch_id,
            ranges=ranges,
            files=files,
            summary=summary,
            intent=intent,
            schema=schema,
        )
        left, self._left = self._left, None
        if left is not None and time.monotonic() < self._looked_at + LEFT_SECONDS_MAX:
            try:
                return attempt(self._head(left), alone=True)
            except _BY_ANOTHER as error:
                log.debug("%s is not as our last commit has left it: %s", self.name, error)
        self._looked_at = time.monotonic()
        head = self.look()
        alone = head_id(head.table, self.branch) == self._own_head
        return attempt(head, alone=alone)

    def _commit_to(
        self,
        head: Head,
        *,
        alone: bool,
        batch_id: str,
        ranges: Ranges,
        files: Callable[[Table], Sequence[DataFile]],
        summary: Mapping[str, str],
        intent: Intent,
        schema: PendingSchema | None,
    ) -> int:
        """`commit`, to this head.

        Args:
            alone: whether the head is our last commit's, so that the next one will find ours.
        """
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
        snapshot_id = self._send(head.table, after, added, summary, intent, change=change)
        # Between commits of others, one of two would be built in vain.
        self._left = head.table if alone else None
        return snapshot_id

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
        self._own_head = send_append(
            table,
            self.branch,
            files,
            summary={**carried, **summary, key: value},
            properties={**(properties or {}), key: value},
            change=change,
            intent=intent,
        )
        return self._own_head

    def _ensure_branch(self, table: Table) -> None:
        """A branch other than main starts at main's head; an empty table first gets a snapshot."""
        if self.branch == "main" or head_id(table, self.branch) is not None:
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
