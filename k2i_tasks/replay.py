"""Dead letters into the table: decoded again with the configuration as it is now, each once.

A piece of letters is replayed in three commits:

1. *choose*: its letters are marked with the id of this step, in the dead-letter table;
2. *commit*: their rows go into the table, and with them, in one atomic commit, the id: into what
   the table records of a sink of replays, in summary and property as for every sink;
3. *finish*: the letters are marked as done.

A replay begins with a claim of the sink of replays, after which no commit of an older replay can
land, and then settles what that one left: letters whose id the table records are done, the others
are open again. So a kill anywhere costs the work alone, and of two replays at once one is fenced.
The state of the sink that ingests rides on: its run goes on meanwhile.

Letters at or above the offsets that the ingesting sink has recorded are left alone: their batch is
not committed, and may be read again. Letters whose record is a row already (it was read again, with
another configuration) are marked as done.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import pyarrow as pa

from k2i_tasks.calls import Call, RetryPolicy, racing
from k2i_tasks.codecs.base import Decoder, decoded_whole
from k2i_tasks.errors import (
    Component,
    FencedError,
    IntegrityError,
    SchemaRacedError,
    ServiceError,
)
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.data_files import data_file
from k2i_tasks.iceberg.letters import (
    Key,
    Letters,
    around,
    keys_of,
    of_replay,
    of_topic,
    raw_batch,
)
from k2i_tasks.iceberg.marks import Marks
from k2i_tasks.iceberg.positions import PositionColumns
from k2i_tasks.iceberg.present import rows_at
from k2i_tasks.iceberg.rollback import rolled_back
from k2i_tasks.iceberg.staged import StagedRows
from k2i_tasks.iceberg.staging import Staging
from k2i_tasks.iceberg.state import Recorded, SinkState, recorded
from k2i_tasks.types import Offsets, TopicPartition

log = logging.getLogger(__name__)

#: Longest that a schema registry may be away, in seconds.
PATIENCE_SECONDS = 60.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ReplayTables:
    """What a replay works with, connected to the catalog; for one thread.

    Args:
        letters: loads the letters as they are now.
        marks: sets their marks.
        staging: writes rows of the table.
        committer: commits to the table, for the sink of replays.
    """

    letters: Callable[[], Letters]
    marks: Marks
    staging: Staging
    committer: Committer


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What is replayed, and into what.

    Args:
        topic: letters of others are left alone.
        sink: the sink that ingests the topic.
        positions: the table's columns with Kafka's coordinates.
        on_rollback: as `iceberg.on_rollback`.
        retry: when a step is tried again.
    """

    topic: str
    sink: str
    positions: PositionColumns
    on_rollback: Literal["halt", "replay", "keep"]
    retry: RetryPolicy


@dataclass(slots=True)
class Replayed:
    """What a replay came to, in letters.

    Args:
        read: open letters that it was about.
        rows: put into the table.
        present: marked as done, since their record was a row already.
        waiting: left alone, since their batch is not committed yet.
        failed: still refused, by stage and code as of now.
        reasons: of each of those one place and the reason.
        finished: of an earlier replay that was interrupted, marked as done.
        reopened: of such a one, open again.
    """

    read: int = 0
    rows: int = 0
    present: int = 0
    waiting: int = 0
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    finished: int = 0
    reopened: int = 0


class Replay:
    """One replay. For one thread; `run` may block for as long as it takes.

    Args:
        tables: connected.
        decoder_for: makes the decoder of an ingest run, for the table's payload columns.
        options: what is replayed.
        told: called with what is done so far after each piece.
    """

    def __init__(
        self,
        tables: ReplayTables,
        decoder_for: Callable[[pa.Schema], Decoder],
        options: ReplayOptions,
        told: Callable[[Replayed], None] = lambda _done: None,
    ) -> None:
        self._tables = tables
        self._decoder_for = decoder_for
        self._options = options
        self._told = told
        self._name = uuid.uuid4().hex[:12]
        self._pieces = 0
        self._stop = threading.Event()
        self._done = Replayed()
        self._decoder: Decoder
        self._offsets: Offsets = {}

    def run(self, where: str, *, dry_run: bool) -> Replayed:
        """Replays the open letters of a condition.

        Args:
            where: as PyIceberg parses it; empty for all.
            dry_run: only decodes them; changes nothing.

        Raises:
            FencedError: another replay was started meanwhile.
            IntegrityError: the table was rolled back, or records nothing of the sink.
            K2IError: what else went wrong; what is done by then is done, once.
        """
        tables = self._tables
        # Before anything is changed: the condition may be wrong.
        self._retried("read the dead letters", lambda: tables.letters().chosen(where, done=False))
        try:
            if not dry_run:
                self._retried("prepare the dead letters", tables.marks.prepare)
                self._retried("claim the table for a replay", self._claim)
                hit("replay.claimed")
                self._settle()
                hit("replay.settled")
            self._replay(where, dry_run=dry_run)
        except FencedError as error:
            raise FencedError(
                f"Another replay into table {tables.committer.name} was started: this one stops.",
                remedy="What it has put into the table is marked as done, or will be by the other.",
            ) from error
        return self._done

    def _replay(self, where: str, *, dry_run: bool) -> None:
        tables = self._tables
        if not self._retried("open the table", tables.staging.open):
            raise ServiceError(
                f"Table {tables.staging.name} does not exist.",
                component=Component.ICEBERG,
                remedy="Let an ingest run create it first.",
            )
        self._decoder = self._decoder_for(tables.staging.payload_schema())
        landed = self._retried("read the table", self._look)
        letters = self._retried("read the dead letters", tables.letters)
        chosen = of_topic(self._options.topic, letters.chosen(where, done=False))
        for piece in letters.pieces(letters.still_open(chosen, landed)):
            self._done.read += piece.num_rows
            self._piece(piece, dry_run=dry_run)
            self._told(self._done)

    # The claim, and what an earlier replay left.

    def _claim(self) -> None:
        committer = self._tables.committer
        found = committer.look().recorded
        committer.claim(self._start_state(found), {}, frozenset())

    def _start_state(self, found: Recorded) -> SinkState:
        """The state to go on from; for a table that was rolled back as the operator chose."""
        if not found.rolled_back:
            return found.newest or SinkState()
        choice = self._options.on_rollback
        if choice == "halt":
            raise rolled_back(self._tables.committer.name, found)
        assert found.summary is not None
        assert found.in_property is not None
        if choice == "replay":
            if found.in_property.seq - found.summary.seq > len(found.in_property.batches):
                raise IntegrityError(
                    f"Table {self._tables.committer.name} was rolled back by more replays than it "
                    "keeps the ids of: which letters have no row any more is not known.",
                    component=Component.ICEBERG,
                    remedy="Find them with `k2i dead-letters list --all`; iceberg.on_rollback = "
                    '"keep" goes on with those that are open.',
                )
            # Before the claim, which makes the table one that was not rolled back.
            lost = set(found.in_property.batches) - set(found.summary.batches)
            if lost:
                self._tables.marks.reopen(lost)
        newest = found.in_property
        base = found.summary if choice == "replay" else newest
        return replace(base, epoch=newest.epoch, owner=newest.owner, seq=newest.seq)

    def _settle(self) -> None:
        """Marks as done what an earlier replay has committed, and opens what it has not."""
        tables = self._tables
        letters = self._retried("read the dead letters", tables.letters)
        undone = self._retried("read the dead letters", letters.undone)
        landed = undone & set(self._retried("read the table", tables.committer.own).batches)
        if landed:
            self._done.finished = sum(len(letters.keys(of_replay(one))) for one in landed)
            self._retried("finish a replay", lambda: tables.marks.finish(landed))
        if undone - landed:
            lost = undone - landed
            self._done.reopened = sum(len(letters.keys(of_replay(one))) for one in lost)
            self._retried("undo a replay", lambda: tables.marks.reopen(lost))

    def _look(self) -> Sequence[str]:
        """Reads up to where the topic is ingested; the ids of the replays in the table."""
        head = self._tables.committer.look()
        branch, options = self._tables.committer.branch, self._options
        state = recorded(head.table.metadata, options.sink, branch).newest
        if state is None:
            raise IntegrityError(
                f"Table {self._tables.committer.name} records nothing of sink {options.sink!r}.",
                component=Component.ICEBERG,
                remedy="Check iceberg.sink and iceberg.branch; let an ingest run claim it first.",
            )
        self._offsets = state.offsets
        return head.recorded.newest.batches if head.recorded.newest else ()

    # One piece.

    def _piece(self, piece: pa.Table, *, dry_run: bool) -> None:
        piece = piece.sort_by([("partition", "ascending"), ("offset", "ascending")])
        ours = [
            offset < self._offsets.get(TopicPartition(topic, partition), 0)
            for topic, partition, offset in keys_of(piece)
        ]
        self._done.waiting += len(ours) - sum(ours)
        piece = piece.filter(pa.array(ours, pa.bool_()))
        if not piece.num_rows:
            return
        present = self._retried("look for rows in the table", lambda: self._present(piece))
        fresh = piece.filter(pa.array([key not in present for key in keys_of(piece)], pa.bool_()))
        rows, good = self._decoded(fresh)
        if dry_run:
            self._count(good, present)
        elif good or present:
            self._put(piece, rows, good, present)

    def _decoded(self, letters: pa.Table) -> tuple[pa.Table, list[Key]]:
        """Rows of the letters that can be decoded now, and whose they are; notes the others."""
        if not letters.num_rows:
            return pa.table({}), []
        raw = raw_batch(letters)
        found = decoded_whole(self._decoder, raw, PATIENCE_SECONDS)
        if found.records != len(raw):
            raise IntegrityError(f"{len(raw)} letters were decoded to {found.records} records.")
        bad = set()
        for one in found.dead_letters:
            bad.add((one.topic, one.partition, one.offset))
            kind = (one.stage, one.code)
            self._done.failed[kind] += 1
            self._done.reasons.setdefault(kind, (one.place, one.reason))
        return found.table, [key for key in keys_of(letters) if key not in bad]

    def _put(self, piece: pa.Table, rows: pa.Table, good: Sequence[Key], present: Set[Key]) -> None:
        """The three commits of one piece."""
        tables = self._tables
        self._pieces += 1
        name = f"{self._name}-{self._pieces}"
        wanted = {*good, *present}
        hit("replay.choose.before")
        self._retried(
            "choose dead letters",
            lambda: tables.marks.choose(around(keys_of(piece)), wanted, name),
        )
        hit("replay.chosen")
        chosen = self._retried(
            "read the dead letters", lambda: tables.letters().keys(of_replay(name))
        )
        if len(chosen) < len(wanted):
            # Another replay took some: a newer one, or an older one that does not know of us yet.
            self._retried("read the table", tables.committer.own)
            rows = rows.filter(pa.array([key in chosen for key in good], pa.bool_()))
            good = [key for key in good if key in chosen]
        if good:
            self._commit(name, rows)
        self._retried("finish a replay", lambda: tables.marks.finish([name]))
        hit("replay.finished")
        self._count(good, present & chosen)

    def _commit(self, name: str, rows: pa.Table) -> None:
        tables = self._tables

        def stage() -> StagedRows:
            return tables.staging.stage([rows], batch_id=name)

        staged = self._retried("write replayed rows", stage)
        hit("replay.staged")

        def commit() -> None:
            nonlocal staged
            try:
                tables.committer.commit(
                    name,
                    {},
                    lambda table: [data_file(table, file) for file in staged.files],
                    summary={"k2i.batch": name, "k2i.reason": "replay"},
                    intent=lambda _snapshot, _parent: None,
                    schema=staged.schema,
                )
            except SchemaRacedError:
                tables.staging.changes.lost(staged.schema)
                staged = stage()
                raise

        self._retried("commit replayed rows", commit)
        if staged.schema is not None:
            tables.staging.changes.landed(staged.schema)
        hit("replay.committed")

    def _count(self, good: Sequence[Key], present: Iterable[Key]) -> None:
        self._done.rows += len(good)
        self._done.present += len(set(present))

    def _present(self, piece: pa.Table) -> set[Key]:
        """The letters whose record is a row of the table."""
        committer = self._tables.committer
        table = committer.look().table
        return rows_at(table, committer.branch, self._options.positions, keys_of(piece))

    def _retried(self, doing: str, work: Callable[[], Result]) -> Result:
        """A step of the replay, tried again by the policy."""
        result: list[Result] = []
        step = racing(doing, lambda: result.append(work()), self._stop.wait)
        call = Call("replay", doing, step, self._options.retry)
        call.run_with_retries()
        if call.error is not None:
            raise call.error
        return result[-1]
