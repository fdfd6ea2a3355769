"""A seeded world for the pure engine: a topic, a table, a log, processes that crash and wake.

One thread, no clock. Each step the seed chooses what happens next: records arrive, a flush ends, a
commit is applied, refused, applied late or without an answer, somebody else commits, a process is
killed or frozen, another starts. The decisions under test are the program's own: `Engine`,
`journal.fold`, `recovery.plan` and `state.admits`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from k2i_tasks.engine.engine import (
    Action,
    Arrival,
    Commit,
    Committed,
    Engine,
    Failed,
    Flushed,
    Release,
    Seal,
    Stop,
)
from k2i_tasks.engine.recovery import Decision, plan
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.errors import FencedError, K2IError
from k2i_tasks.iceberg.ownership import Claim, admits
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.journal import JournalState, fold, ranges_to_json
from k2i_tasks.types import OffsetRange, Ranges, TopicPartition
from k2i_tasks.wal.entries import WalKind

PARTITIONS = [TopicPartition("t", p) for p in range(3)]
RECORD_BYTES_MAX = 2000
LIMITS = Limits(
    flush_interval_seconds=5,
    flush_rows=40,
    flush_bytes=40_000,
    buffer_bytes_max=200_000,
    poll_records_max=30,
    idle_commit_seconds=20,
)


@dataclass
class Table:
    """The catalog's truth: a head that only a compare-and-swap moves, rows, the recorded state."""

    head: int = 0
    state: SinkState = field(default_factory=SinkState)
    rows: Counter[tuple[int, int]] = field(default_factory=Counter)
    history: list[dict[TopicPartition, int]] = field(default_factory=list)

    def swap(self, parent: int, state: SinkState, rows: list[tuple[int, int]]) -> bool:
        if parent != self.head:
            return False
        self.head += 1
        self.state = state
        self.rows.update(rows)
        self.history.append(dict(state.offsets))
        return True


@dataclass
class Request:
    """A commit on the wire; it may arrive late, even after its sender has died."""

    parent: int
    state: SinkState
    rows: list[tuple[int, int]]


class World:
    """Topic, table and the wire between."""

    def __init__(self, seed: int, *, records: int) -> None:
        self.random = random.Random(seed)
        self.table = Table()
        self.late: list[Request] = []
        self.files: set[str] = set()
        self.referenced: set[str] = set()
        self.topic: dict[TopicPartition, list[int]] = {}
        for tp in PARTITIONS:
            offset, kept = 0, []
            for _ in range(records):
                # Compaction, aborted transactions and control records leave holes.
                offset += 1 if self.random.random() < 0.9 else self.random.randrange(2, 5)
                kept.append(offset - 1)
            self.topic[tp] = kept
        self.ends = {tp: kept[-1] + 1 for tp, kept in self.topic.items()}

    def deliver_late(self) -> None:
        if self.late:
            request = self.late.pop(self.random.randrange(len(self.late)))
            self.table.swap(request.parent, request.state, request.rows)

    def foreign_commit(self) -> None:
        """Another engine appends or compacts: the head moves, our state stays."""
        self.table.head += 1

    def wanted(self) -> set[tuple[int, int]]:
        return {(tp.partition, o) for tp, kept in self.topic.items() for o in kept}


@dataclass
class Disk:
    """What a process leaves behind: its folded log."""

    journal: JournalState = field(default_factory=JournalState)

    def write(self, kind: WalKind, body: dict[str, object]) -> None:
        self.journal = fold(self.journal, kind, body)


class Process:
    """One run: an engine, its log, its pending work. Killed by being dropped.

    As a member of a group it shares the table, and may start anew with other partitions.
    """

    def __init__(self, world: World, disk: Disk, number: int, group: str | None = None) -> None:
        self.world = world
        self.disk = disk
        self.me = Claim(f"run{number}", 0, group)
        self.shares = 0
        self.now = 0.0
        self.frozen = False
        self.over: K2IError | None = None
        self.finished = False
        self.batches: dict[str, tuple[Ranges, list[tuple[int, int]]]] = {}
        self.pending: list[tuple[str, str]] = []
        self.engine: Engine | None = None
        self.rows: list[tuple[int, int]] = []
        self.mine: list[TopicPartition] = []

    # Start: claim, then recover, each a single step that may be preceded by anything.

    def start(self, mine: Set[TopicPartition] = frozenset(PARTITIONS)) -> None:
        world, journal, group = self.world, self.disk.journal, self.me.group
        claimed = world.table.state.claimed_by(self.me.owner, group, mine)
        offsets = {tp: claimed.offsets.get(tp, 0) for tp in PARTITIONS}
        claimed = replace(claimed, offsets=offsets)
        if not world.table.swap(world.table.head, claimed, []):
            raise AssertionError("a claim on the head it has just read cannot fail here")
        self.me = replace(self.me, epoch=claimed.epoch)
        left, landed = list(journal.batches.values()), frozenset(claimed.batches)
        for step in plan(left, offsets, landed, None if group is None else mine):
            batch = step.batch
            if step.decision is Decision.COMMIT:
                rows = rows_of(world, batch.ranges)
                self.attempt_commit(batch.batch_id, batch.ranges, rows, faults=False)
                offsets.update({tp: span.end for tp, span in batch.ranges.items()})
            elif step.decision is Decision.RECORD_LANDED:
                self.disk.write(WalKind.COMMIT_LANDED, {"batch": batch.batch_id})
            elif step.decision in (Decision.DISCARD, Decision.ABANDON):
                self.disk.write(WalKind.ABANDONED, {"batch": batch.batch_id})
        self.shares += 1
        self.mine = sorted(mine)
        prefix = f"{self.me.owner}.{self.shares}"
        start = {tp: offsets[tp] for tp in mine}
        self.engine = Engine(LIMITS, start, batch_prefix=prefix)

    def let_go(self) -> None:
        """Gives up what is not committed; the log settles it at the next start."""
        self.batches, self.pending, self.rows = {}, [], []
        self.engine, self.over, self.finished = None, None, False

    # Steps.

    def poll(self) -> None:
        engine = self.engine
        assert engine is not None
        if engine.paused or engine.poll_budget() == 0:
            return
        random = self.world.random
        if not self.mine:
            return
        tp = random.choice(self.mine)
        position = engine.ledger.buffered[tp]
        rest = [o for o in self.world.topic[tp] if o >= position]
        taken = rest[: random.randrange(1, engine.poll_budget() + 1)]
        if not taken:
            self.perform(engine.idle(self.now))
            return
        sizes = [random.randrange(100, RECORD_BYTES_MAX) for _ in taken]
        while sum(sizes) > engine.room_bytes and len(sizes) > 1:
            sizes.pop()
        if sum(sizes) > engine.room_bytes and engine.used_bytes:
            self.perform(engine.lacks_room(sizes[0], self.now))
            return
        taken, nbytes = taken[: len(sizes)], sum(sizes)
        self.rows += [(tp.partition, offset) for offset in taken]
        arrival = Arrival(len(taken), nbytes, {tp: OffsetRange(position, taken[-1] + 1)})
        self.perform(engine.arrived(arrival, self.now))

    def tick(self) -> None:
        assert self.engine is not None
        self.now += self.world.random.choice([0.1, 1.0, 6.0])
        self.perform(self.engine.tick(self.now))

    def drain(self) -> None:
        assert self.engine is not None
        self.perform(self.engine.drain(self.now))

    def work(self) -> None:
        """One pending flush or commit makes one attempt."""
        assert self.engine is not None
        if not self.pending:
            return
        kind, batch_id = self.pending[0]
        if kind == "flush" and self.world.random.random() < 0.2:
            return  # slow store
        try:
            done = self.flush(batch_id) if kind == "flush" else self.commit(batch_id)
        except FencedError as error:
            self.pending.pop(0)
            self.perform(self.engine.outcome(Failed(batch_id, error), self.now))
            return
        if done:
            self.pending.remove((kind, batch_id))
            outcome = Flushed(batch_id) if kind == "flush" else Committed(batch_id)
            self.perform(self.engine.outcome(outcome, self.now))

    def flush(self, batch_id: str) -> bool:
        ranges, _rows = self.batches[batch_id]
        self.disk.write(WalKind.SEALED, {"batch": batch_id, "ranges": ranges_to_json(ranges)})
        body = {"batch": batch_id, "files": [], "dead_letter_files": [], "rows": 0}
        if self.world.random.random() < 0.9:
            self.disk.write(WalKind.STAGED, body)
            return True
        return False  # the store failed; the same rows are written again

    def commit(self, batch_id: str) -> bool:
        ranges, rows = self.batches[batch_id]
        return self.attempt_commit(batch_id, ranges, rows, faults=True)

    def attempt_commit(
        self, batch_id: str, ranges: Ranges, rows: list[tuple[int, int]], *, faults: bool
    ) -> bool:
        world = self.world
        table = world.table
        end = {tp: span.end for tp, span in ranges.items()}
        if admits("t", table.state, self.me, batch_id=batch_id, ranges=ranges):
            self.disk.write(WalKind.COMMIT_STARTED, {"batch": batch_id})
            request = Request(table.head, table.state.after(batch_id, end), rows)
            fault = world.random.random() if faults else 1.0
            if fault < 0.1:
                return False  # refused before it was applied
            if fault < 0.2:
                world.late.append(request)  # answer lost, request still on its way
                return False
            if fault < 0.25:
                world.foreign_commit()  # somebody was quicker
            applied = table.swap(request.parent, request.state, rows)
            if not applied or (faults and world.random.random() < 0.15):
                return False  # conflict; or applied, and the answer lost
        self.disk.write(WalKind.COMMIT_LANDED, {"batch": batch_id})
        return True

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Seal(batch_id, _reason, ranges):
                    self.batches[batch_id] = (ranges, self.rows)
                    self.rows = []
                    self.pending.append(("flush", batch_id))
                case Commit(batch_id):
                    self.pending.append(("commit", batch_id))
                case Release(batch_id):
                    del self.batches[batch_id]
                case Stop(error):
                    self.over, self.finished = error, True


def rows_of(world: World, ranges: Ranges) -> list[tuple[int, int]]:
    return [
        (tp.partition, offset)
        for tp, span in ranges.items()
        for offset in world.topic[tp]
        if span.start <= offset < span.end
    ]


def lands_exactly_once(run: Callable[[int], tuple[World, int]], seed: int, kept: Path) -> None:
    """Lives through the schedule of one seed; afterwards the table holds each offset once.

    Args:
        run: gives the world at its end, and how many processes it took.
        seed: of the schedule.
        kept: the file of seeds that are always run.
    """
    try:
        world, runs = run(seed)
        missing = world.wanted() - set(world.table.rows)
        assert not missing, f"{len(missing)} rows missing after {runs} runs"
        extra = set(world.table.rows) - world.wanted()
        assert not extra, f"{len(extra)} rows that nobody produced"
    except Exception as error:
        raise AssertionError(f"seed {seed} (add it to {kept.name}): {error}") from error
