"""Whatever the records' sizes: what is buffered and in flight never goes over the bound."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from k2i_tasks.clock import SystemClock
from k2i_tasks.codecs import MetadataColumns, make_decoder
from k2i_tasks.engine.engine import Action, Arrival, Commit, Committed, Engine, Flushed, Seal
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.intake import Intake
from k2i_tasks.metrics import Metrics
from k2i_tasks.progress import Progress
from k2i_tasks.types import OffsetRange, RawBatch, TopicPartition
from tests.support import open_gate

BOUND = 20_000
PARTITIONS = [TopicPartition("t", 0), TopicPartition("t", 1)]


class Topic:
    """A source with records of given sizes, dealt out to two partitions; stands still on demand."""

    def __init__(self, sizes: list[int], polls: list[int]) -> None:
        self.records = [(n % 2, n // 2, size) for n, size in enumerate(sizes)]
        self.polls = polls
        self.paused = False
        self.at = {tp.partition: 0 for tp in PARTITIONS}

    def poll(self, max_records: int, _timeout: float) -> RawBatch | None:
        if self.paused or not self.records:
            return None
        self.polls.append(self.polls.pop(0))
        taken = self.records[: min(max_records, self.polls[0])]
        self.records = self.records[len(taken) :]
        ranges: dict[TopicPartition, OffsetRange] = {}
        for partition, offset, _size in taken:
            start = self.at[partition]
            ranges[PARTITIONS[partition]] = OffsetRange(start, offset + 1)
        self.at |= {tp.partition: span.end for tp, span in ranges.items()}
        return RawBatch(
            topic="t",
            partitions=np.array([p for p, _o, _s in taken], np.int32),
            offsets=np.array([o for _p, o, _s in taken], np.int64),
            timestamps_ms=np.zeros(len(taken), np.int64),
            keys=[None] * len(taken),
            values=[b"x" * size for _p, _o, size in taken],
            headers=None,
            ranges=ranges,
            payload_bytes=sum(size for _p, _o, size in taken),
        )

    def gaps(self) -> dict[TopicPartition, OffsetRange]:
        return {}


class Run:
    """The runner's part between source and engine; flushes and commits end when they are told."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        limits = Limits(buffer_bytes_max=BOUND, flush_rows=50, flush_bytes=8_000)
        self.engine = Engine(limits, dict.fromkeys(PARTITIONS, 0), batch_prefix="b")
        progress = Progress("t", "db.t", BOUND, SystemClock())
        nothing: Any = SimpleNamespace()
        source: Any = topic
        self.intake = Intake(source, nothing, open_gate(), nothing, Metrics(), progress)
        self.intake.decoder = make_decoder(
            "raw",
            columns=MetadataColumns(),
            table_schema=None,
            max_message_bytes=1 << 20,
            mode="auto-additive",
        )
        self.pending: list[Seal | Commit] = []
        self.largest = 0

    def perform(self, actions: list[Action]) -> None:
        self.pending += [action for action in actions if isinstance(action, Seal | Commit)]
        self.topic.paused = self.engine.paused

    def turn(self) -> None:
        engine = self.engine
        self.perform(engine.tick(0.0))
        if engine.paused:
            self.intake.keep_alive(0.0)
            return
        empty = engine.used_bytes == 0
        room = engine.room_bytes
        found = self.intake.poll(engine.poll_budget(), 0.0, room_bytes=room, empty=empty)
        for decoded in found:
            alone = engine.used_bytes == 0 and decoded.records == 1
            arrival = Arrival(decoded.records, decoded.nbytes, decoded.ranges)
            self.perform(engine.arrived(arrival, 0.0))
            assert engine.used_bytes <= BOUND or alone
        if self.intake.lacking:
            self.perform(engine.lacks_room(self.intake.lacking, 0.0))

    def end_one(self) -> None:
        match self.pending.pop(0):
            case Seal(batch_id, _reason, _ranges):
                self.perform(self.engine.outcome(Flushed(batch_id), 0.0))
            case Commit(batch_id):
                self.perform(self.engine.outcome(Committed(batch_id), 0.0))


sizes = st.lists(
    st.one_of(
        st.integers(0, 50), st.integers(0, 3_000), st.integers(0, 19_000), st.just(3 * BOUND)
    ),
    max_size=120,
)


@settings(deadline=None)
@given(sizes, st.lists(st.integers(1, 60), min_size=1), st.lists(st.booleans(), min_size=1))
def test_the_buffer_never_holds_more_than_its_bound_and_every_record_comes_through(
    sizes: list[int], polls: list[int], slow: list[bool]
) -> None:
    run = Run(Topic(sizes, polls))
    ends = {tp: len(sizes[tp.partition :: 2]) for tp in PARTITIONS}
    for turn in range(4_000):
        run.turn()
        if run.pending and not slow[turn % len(slow)]:
            run.end_one()
        if run.engine.ledger.buffered == ends:
            break
        if all(slow) and run.pending and run.engine.paused:
            run.end_one()
    assert run.engine.ledger.buffered == ends, "it stands still for ever"
