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

import pyarrow as pa

from k2i_tasks.acknowledger import Acknowledger
from k2i_tasks.config import Config
from k2i_tasks.engine.recovery import Decision, LeftBatch, Progress, halt, plan
from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.committer import Committer, Head, rolled_back
from k2i_tasks.iceberg.data_files import STAGED_SECONDS_MAX, data_file, look_again
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.journal import Journal
from k2i_tasks.letterbox import Letterbox
from k2i_tasks.types import (
    OffsetRange,
    Offsets,
    Origin,
    Ranges,
    SealedBatch,
    StagedFile,
    TableCommit,
    TopicPartition,
)

log = logging.getLogger(__name__)

#: Longest that the end of a run waits for Kafka to take the last offsets, in seconds.
ACKNOWLEDGE_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Staged:
    """Durable files of one batch, not yet committed; `at` is when they were, unix seconds."""

    files: tuple[StagedFile, ...]
    dead_letter_files: tuple[StagedFile, ...]
    rows: int
    at: float

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


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
        self._written: dict[tuple[str, str], Sequence[StagedFile]] = {}

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
        self._must_not_be_behind(state.offsets)
        self._staged.clear()
        self._written.clear()
        mine = self._committer.claimed if self._config.kafka.assignment == "group" else None
        landed = frozenset(state.batches)
        left = [
            batch if batch.batch_id in landed else self._committable(batch)
            for batch in self._journal.state.batches.values()
        ]
        offsets = dict(state.offsets)
        for step in plan(left, state.offsets, landed, mine):
            batch = step.batch
            log.info("recovery: batch %s (%s): %s", batch.batch_id, batch.progress, step.decision)
            match step.decision:
                case Decision.COMMIT:
                    staged = Staged(batch.files, batch.dead_letter_files, batch.rows, time.time())
                    self._commit_staged(batch.batch_id, batch.ranges, staged, "recovery")
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
        files = self._once(name, "rows", lambda: self._staging.stage(batch.tables, batch_id=name))
        letters: Sequence[StagedFile] = ()
        if refused:
            letters = self._once(
                name, "letters", lambda: self._tables.dead_letters.stage(refused, name)
            )
        hit("flush.staged.before")
        self._journal.staged(batch.batch_id, files, letters, batch.rows)
        hit("flush.staged")
        staged = Staged(tuple(files), tuple(letters), batch.rows, time.time())
        self._staged[batch.batch_id] = staged
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
        snapshot_id = self._commit_staged(batch.batch_id, batch.ranges, staged, batch.reason.value)
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

    def _once(
        self, batch_id: str, part: str, write: Callable[[], Sequence[StagedFile]]
    ) -> Sequence[StagedFile]:
        """What `write` gives, written once however often the flush is tried."""
        key = (batch_id, part)
        if key not in self._written:
            self._written[key] = write()
        return self._written[key]

    def _start_state(self, head: Head) -> SinkState:
        found = head.recorded
        if found.rolled_back:
            choice = self._config.iceberg.on_rollback
            if choice == "halt":
                raise rolled_back(self._committer.name, found)
            assert found.summary is not None
            assert found.in_property is not None
            base = found.summary if choice == "replay" else found.in_property
            log.warning("table %s was rolled back; on_rollback = %s", self._committer.name, choice)
            # The epoch and sequence of the property, so that the claim becomes the newest record.
            newest = found.in_property
            return replace(base, epoch=newest.epoch, owner=newest.owner, seq=newest.seq)
        return found.newest or SinkState()

    def _committable(self, batch: LeftBatch) -> LeftBatch:
        """The batch; as merely sealed if its files can no longer be committed: it is read again."""
        if batch.progress not in (Progress.STAGED, Progress.STARTED):
            return batch
        why = self._staging.why_unusable(batch.files)
        why = why or self._tables.dead_letters.why_unusable(batch.dead_letter_files)
        if not why:
            return batch
        log.warning("recovery: batch %s is read from Kafka again: %s", batch.batch_id, why)
        return replace(batch, progress=Progress.SEALED)

    def _must_not_be_behind(self, offsets: Offsets) -> None:
        """The table must hold at least what the log saw landing."""
        if self._config.iceberg.on_rollback != "halt":
            return
        known = self._journal.state.offsets
        behind = {tp: o for tp, o in known.items() if offsets.get(tp, 0) < o}
        if behind:
            ranges = {tp: OffsetRange(max(0, o - 1), o) for tp, o in behind.items()}
            batch = LeftBatch("(last landed)", Progress.LANDED, ranges)
            raise halt(batch, offsets, Decision.HALT_ROLLED_BACK)

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
            )
        hit("commit.landed.before")
        self._journal.commit_landed(batch_id, snapshot_id)
        hit("commit.landed")
        return snapshot_id

    def _on_published(self, offsets: Offsets) -> None:
        hit("offsets.committed")
        self._journal.acknowledged(offsets)
