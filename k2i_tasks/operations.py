"""What each action does to one table: idempotent, journalled, plain Python.

`flush` runs on one thread, `commit` on another; each has a catalog of its own, since PyIceberg's
are not to be shared. Either may be called again after any failure.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar, cast

import pyarrow as pa

from k2i_tasks.acknowledger import Acknowledger
from k2i_tasks.config import Config
from k2i_tasks.engine.recovery import Decision, LeftBatch, Progress, must_not_be_behind, plan
from k2i_tasks.errors import Component, IntegrityError, SchemaRacedError
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.committer import Committer, Head
from k2i_tasks.iceberg.data_files import STAGED_SECONDS_MAX, data_file, look_again
from k2i_tasks.iceberg.pending import PendingSchema
from k2i_tasks.iceberg.rollback import start_state
from k2i_tasks.iceberg.staged import Staged, StagedRows, write_anew
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.journal import Journal
from k2i_tasks.letterbox import Letterbox
from k2i_tasks.types import (
    Offsets,
    Origin,
    Ranges,
    SealedBatch,
    StagedFile,
    TableCommit,
    TopicPartition,
)

log = logging.getLogger(__name__)

Written = TypeVar("Written")

#: Longest that the end of a run waits for Kafka to take the last offsets, in seconds.
ACKNOWLEDGE_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Tables:
    """What works on table and dead letters, connected to the catalog.

    Args:
        staging: writes data files; used by the flush thread.
        committer: commits; used by the commit thread (and by the starting thread before it runs).
        dead_letters: where records go that could not be decoded.
        close: lets go of the connections.
    """

    staging: Staging
    committer: Committer
    dead_letters: Letterbox
    close: Callable[[], None]


class Operations:
    """The actions of one run on one table.

    Args:
        config: the whole configuration.
        connect: connects to the catalog; called by `open`, which may be tried again until it works.
        journal: the write-ahead log.
        commit_offsets: tells Kafka the offsets, advisory; raises when it cannot.
    """

    def __init__(
        self,
        config: Config,
        connect: Callable[[], Tables],
        journal: Journal,
        commit_offsets: Callable[[Offsets], None],
    ) -> None:
        self._config = config
        self._connect = connect
        self._journal = journal
        self._acknowledger = Acknowledger(commit_offsets, self._on_published)
        self._staged: dict[str, Staged] = {}
        #: Held while a commit is built and sent, so that upkeep in this process does not collide.
        self.lane = threading.Lock()
        #: What an attempt that failed later has written: of a batch, its rows and its letters.
        self._written: dict[tuple[str, str], object] = {}

    @cached_property
    def _tables(self) -> Tables:
        return self._connect()

    @property
    def _staging(self) -> Staging:
        return self._tables.staging

    @property
    def _committer(self) -> Committer:
        return self._tables.committer

    @property
    def epoch(self) -> int:
        return self._committer.epoch

    @property
    def wal_bytes(self) -> int:
        return self._journal.log.size_bytes

    @property
    def unfinished(self) -> bool:
        """Whether an earlier run left batches that `recover` has to decide on."""
        return bool(self._journal.state.batches)

    @property
    def wal_damage(self) -> tuple[str, ...]:
        """What was wrong with the log at the start, one sentence each."""
        return tuple(str(damage) for damage in self._journal.log.damage)

    # Start.

    def open(self) -> SinkState | None:
        """Opens the table if it exists, and returns the state that it records.

        Connects to the catalog first, if an earlier attempt has not.

        Returns:
            None when there is no table yet; an empty state when no commit of ours is in it.

        Raises:
            IntegrityError: it was rolled back, dropped, or is not the table of this log.
            TransientError: the catalog is away.
        """
        known = self._journal.state
        if known.table and known.table != self._committer.name:
            raise IntegrityError(
                f"The write-ahead log in {self._config.transaction_log.log_dir} belongs to table "
                f"{known.table}, not to {self._committer.name}.",
                component=Component.WAL,
                remedy="Give each table a log folder of its own (transaction_log.log_dir).",
            )
        if not self._staging.open():
            if known.table_uuid:
                raise IntegrityError(
                    f"Table {self._committer.name} (id {known.table_uuid}) no longer exists.",
                    component=Component.ICEBERG,
                    remedy="Restore it; or, to start a new table, move the write-ahead log folder "
                    f"{self._config.transaction_log.log_dir} away.",
                )
            return None
        head = self._committer.look()
        if known.table_uuid and known.table_uuid != head.uuid:
            self._committer.table_uuid = known.table_uuid
            self._committer.look()  # raises, naming both ids
        return self._start_state(head)

    def create(self, schema: pa.Schema) -> SinkState:
        """Creates the table for rows of `schema`; its recorded state (empty, unless raced)."""
        hit("table.create.before")
        self._staging.create(schema)
        hit("table.created")
        return self._start_state(self._committer.look())

    def payload_schema(self) -> pa.Schema:
        """Arrow schema of the open table's payload columns."""
        return self._staging.payload_schema()

    def reload(self) -> pa.Schema | None:
        """`payload_schema` of the table as it is now, if it is; while no flush is on its way."""
        return self._staging.payload_schema() if self._staging.open() else None

    def claim(
        self, state: SinkState, offsets: Offsets, mine: Set[TopicPartition], origin: Origin
    ) -> SinkState:
        """Makes this run the only writer of the table, or of its share; see `Committer.claim`.

        Idempotent.

        Args:
            state: the state that `open` or `create` gave.
            offsets: where each partition of the topic starts that the table does not record.
            mine: the partitions that this run is to read.
            origin: recorded with it.
        """
        wanted = replace(
            state,
            topic_ids={**state.topic_ids, origin.topic: origin.topic_id},
            cluster_id=origin.cluster_id,
        )
        self._tables.dead_letters.topic_id = origin.topic_id
        hit("claim.before")
        claimed = self._committer.claim(wanted, offsets, mine)
        hit("claim.landed")
        uuid = self._committer.table_uuid or ""
        self._journal.claimed(self._committer.name, uuid, claimed.epoch, self._committer.me.owner)
        hit("claim.recorded")
        return claimed

    def recover(self) -> Offsets:
        """Finishes or discards what an earlier run left; the offsets to go on from. Idempotent.

        Runs after the claim: no commit of an older run can land any more, so that files which the
        table does not refer to may be deleted. Each attempt reads the table afresh: an earlier one
        may have committed a part.
        """
        state = self._committer.own()
        if self._config.iceberg.on_rollback == "halt":
            must_not_be_behind(self._journal.state.offsets, state.offsets)
        self._staged.clear()
        self._written.clear()
        mine = self._committer.claimed if self._config.kafka.assignment == "group" else None
        landed = frozenset(state.batches)
        known = tuple(self._journal.state.batches.values())
        # One by one: what a batch needs of the schema may come with the commit of the one before.
        left = (batch if batch.batch_id in landed else self._committable(batch) for batch in known)
        offsets = dict(state.offsets)
        for step in plan(left, state.offsets, landed, mine):
            batch = step.batch
            log.info("recovery: batch %s (%s): %s", batch.batch_id, batch.progress, step.decision)
            match step.decision:
                case Decision.COMMIT:
                    self._commit_staged(batch.batch_id, batch.ranges, _left(batch), "recovery")
                    offsets.update({tp: span.end for tp, span in batch.ranges.items()})
                case Decision.RECORD_LANDED:
                    self._journal.commit_landed(batch.batch_id, -1)
                case Decision.DISCARD | Decision.ABANDON:
                    removed = self._staging.discard(batch.files)
                    why = f"{step.decision}; {removed} files removed"
                    self._journal.abandoned(batch.batch_id, why)
            hit("recovery.step")
        self._journal.checkpoint(forced=True, offsets=offsets)
        return offsets

    # Actions.

    def pass_gap(self, lost: Ranges) -> None:
        """Keeps in the log that Kafka no longer has `lost` and the run goes on. Synced."""
        self._journal.gap(lost)

    def encode(self, batch_id: str, tables: Sequence[pa.Table]) -> None:
        """Encodes the next rows of a batch that is still filled. May block; see `Staging.encode`.

        No entry of the log names the files before the batch is staged: after a crash they are
        orphans.
        """
        self._staging.encode(tables, batch_id=batch_id)

    def forget(self) -> None:
        """What was encoded of a batch that is still filled will not be flushed. May block."""
        self._staging.forget()

    def flush(self, batch: SealedBatch) -> Staged:
        """Writes the batch's rows and dead letters as durable files. May block.

        Idempotent by batch id: what an attempt has finished is not written again.
        """
        done = self._staged.get(batch.batch_id)
        if done is not None:
            return done
        hit("flush.before")
        self._journal.sealed(batch.batch_id, batch.ranges)
        name, refused = batch.batch_id, batch.dead_letters
        rows = self._once(name, "rows", lambda: self._staging.stage(batch.tables, batch_id=name))
        letters: Sequence[StagedFile] = ()
        if refused:
            letters = self._once(
                name, "letters", lambda: self._tables.dead_letters.stage(refused, name)
            )
        hit("flush.staged.before")
        staged = self._note(batch, rows, letters)
        hit("flush.staged")
        for part in ("rows", "letters"):
            self._written.pop((name, part), None)
        return staged

    def commit(self, batch: SealedBatch) -> TableCommit:
        """Commits the batch's staged files with its offsets, then tells Kafka. May block.

        One attempt; idempotent by batch id, whatever became of earlier attempts.
        """
        began = time.monotonic()
        staged = self._staged[batch.batch_id]
        if abs(time.time() - staged.at) > STAGED_SECONDS_MAX:
            look_again([*staged.files, *staged.dead_letter_files])
        snapshot_id, staged = self._commit_batch(batch, staged)
        if staged.schema is not None:
            self._staging.changes.landed(staged.schema)
        self._acknowledger.submit(batch.end)
        self._journal.checkpoint()
        self._staged.pop(batch.batch_id, None)
        return TableCommit(
            batch_id=batch.batch_id,
            snapshot_id=snapshot_id,
            rows=batch.rows,
            size_bytes=staged.size_bytes,
            files=len(staged.files),
            dead_letters=len(batch.dead_letters),
            ranges=batch.ranges,
            seconds=time.monotonic() - began,
            newest_timestamp_ms=batch.newest_timestamp_ms,
            spreads=batch.spreads,
        )

    def close(self) -> None:
        """Tells Kafka the last offsets and closes the log. Idempotent; bounded."""
        self._acknowledger.close(ACKNOWLEDGE_SECONDS)
        self._journal.close()
        if "_tables" in vars(self):  # was connected
            self._tables.close()

    # Inside.

    def _once(self, batch_id: str, part: str, write: Callable[[], Written]) -> Written:
        """What `write` gives, written once however often the flush is tried."""
        key = (batch_id, part)
        if key not in self._written:
            self._written[key] = write()
        return cast(Written, self._written[key])

    def _note(self, batch: SealedBatch, rows: StagedRows, letters: Sequence[StagedFile]) -> Staged:
        """All files of the batch are durable: kept in the log, and for its commit."""
        change = rows.schema.to_json() if rows.schema is not None else None
        self._journal.staged(batch.batch_id, rows.files, letters, batch.rows, change)
        staged = Staged(tuple(rows.files), tuple(letters), batch.rows, time.time(), rows.schema)
        self._staged[batch.batch_id] = staged
        return staged

    def _commit_batch(self, batch: SealedBatch, staged: Staged) -> tuple[int, Staged]:
        """Commits the batch, with files written anew if another writer has moved the schema.

        Once with the columns that are still missing in the commit of the rows; who loses that race
        too makes them first. The old files stay, as orphans: a commit of them that is still on its
        way may land yet, should the schema become again what it was.
        """
        name, ranges, why = batch.batch_id, batch.ranges, batch.reason.value
        catalog, table = self._committer.catalog, self._committer.identifier
        for evolved in (False, True):
            try:
                return self._commit_staged(name, ranges, staged, why), staged
            except SchemaRacedError as raced:
                log.warning("batch %s is written anew: %s", name, raced)
            self._staging.changes.lost(staged.schema)
            rows = write_anew(
                catalog, table, self._config, batch.tables, batch_id=name, evolved=evolved
            )
            staged = self._note(batch, rows, staged.dead_letter_files)
        return self._commit_staged(name, ranges, staged, why), staged

    def _start_state(self, head: Head) -> SinkState:
        choice = self._config.iceberg.on_rollback
        return start_state(self._committer.name, head.recorded, choice)

    def _committable(self, batch: LeftBatch) -> LeftBatch:
        """The batch; as merely sealed if its files can no longer be committed: it is read again."""
        if batch.progress not in (Progress.STAGED, Progress.STARTED):
            return batch
        why = self._staging.why_unusable(batch.files, _left(batch).schema)
        why = why or self._tables.dead_letters.why_unusable(batch.dead_letter_files)
        if not why:
            return batch
        log.warning("recovery: batch %s is read from Kafka again: %s", batch.batch_id, why)
        return replace(batch, progress=Progress.SEALED)

    def _commit_staged(self, batch_id: str, ranges: Ranges, staged: Staged, reason: str) -> int:
        if staged.dead_letter_files:
            hit("dead_letters.commit.before")
            with self.lane:
                self._tables.dead_letters.commit(batch_id, ranges, staged.dead_letter_files)
            hit("dead_letters.committed")
        hit("commit.before")
        summary: Mapping[str, str] = {"k2i.batch": batch_id, "k2i.reason": reason}
        with self.lane:
            snapshot_id = self._committer.commit(
                batch_id,
                ranges,
                lambda table: [data_file(table, file) for file in staged.files],
                summary=summary,
                intent=lambda snapshot, parent: self._journal.commit_started(
                    batch_id, snapshot, parent
                ),
                schema=staged.schema,
            )
        hit("commit.landed.before")
        self._journal.commit_landed(batch_id, snapshot_id)
        hit("commit.landed")
        return snapshot_id

    def _on_published(self, offsets: Offsets) -> None:
        hit("offsets.committed")
        self._journal.acknowledged(offsets)


def _left(batch: LeftBatch) -> Staged:
    change = PendingSchema.from_json(batch.schema) if batch.schema is not None else None
    return Staged(batch.files, batch.dead_letter_files, batch.rows, time.time(), change)
