"""A topic, a run's buffer and a committed table as plain values, in any order of events.

The table is a list of states, each with its rows and offsets: a commit adds one, a rollback goes
back to one. What happens while a view loads the head is up to the test.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.schema import Schema

from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.buffer.upkeep import HotUpkeep
from k2i_tasks.hot_view import TableView
from k2i_tasks.iceberg.schema import iceberg_schema
from k2i_tasks.types import (
    DeadLetter,
    DecodedBatch,
    OffsetRange,
    Offsets,
    Ranges,
    SealedBatch,
    SealReason,
    TopicPartition,
)

PARTITIONS = [TopicPartition("t", number) for number in range(3)]
COLUMNS = pa.schema(
    [
        ("key", pa.string()),
        ("n", pa.int64()),
        ("_kafka_partition", pa.int32()),
        ("_kafka_offset", pa.int64()),
    ]
)
Place = tuple[int, int]


@dataclass(frozen=True)
class State:
    """What the table holds."""

    rows: tuple[pa.Table, ...]
    offsets: Offsets


class FakeHead:
    """As `iceberg.heads.Head`."""

    rolled_back = False
    name = "db.t"

    def __init__(self, state: State, snapshot_id: int, schema: Schema) -> None:
        self.offsets = state.offsets
        self.snapshot_id = snapshot_id
        self.schema = schema
        self._rows = state.rows

    def covering(self, _schemas: Sequence[pa.Schema]) -> Schema:
        return self.schema

    def read(self, _schema: Schema, columns: Any, _where: Any, _limit: Any) -> Iterator[pa.Table]:
        for table in self._rows:
            yield table if columns is None else table.select(columns)


@dataclass
class World:
    """One table, its run and its view; `random` decides everything.

    Args:
        random: decides.
    """

    random: random.Random
    now: float = 0.0
    meanwhile: Callable[[], None] = lambda: None
    states: list[State] = field(default_factory=list)
    sealed: list[SealedBatch] = field(default_factory=list)
    #: Offset -> whether it is a row, per partition; None is a gap.
    topic: dict[TopicPartition, dict[int, bool | None]] = field(default_factory=dict)
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    #: Where what is neither released nor sealed begins, but for the sealed batches.
    released: Offsets = field(default_factory=dict)
    snapshots: int = 0
    batches: int = 0

    def __post_init__(self) -> None:
        self.buffer = HotBuffer(ttl_seconds=10.0, bytes_max=60_000, clock=lambda: self.now)
        self.upkeep = HotUpkeep(self.buffer, "key")
        self.buffer.worker = None  # its steps are events of the test
        self.view = TableView("db.t", self.buffer, self, self.upkeep, catch_up_seconds=0.0)  # type: ignore[arg-type]
        self.schema = iceberg_schema(COLUMNS)
        self.topic = {tp: {} for tp in PARTITIONS}
        self.states = [State((), dict.fromkeys(PARTITIONS, 0))]
        self.begin()

    # What the view asks.

    def load(self) -> FakeHead:
        self.meanwhile()
        return FakeHead(self.states[-1], self.snapshots, self.schema)

    # Events.

    def begin(self) -> None:
        """A share begins where the table is."""
        self.positions = dict(self.states[-1].offsets)
        self.sealed, self.released = [], dict(self.positions)
        self.buffer.begin(self.positions)

    def append(self) -> None:
        ranges: Ranges = {
            tp: OffsetRange(at, at + self.random.randint(1, 8))
            for tp, at in self.positions.items()
            if self.random.random() < 0.6
        }
        if not ranges:
            return
        places: list[tuple[TopicPartition, int]] = []
        letters: list[tuple[TopicPartition, int]] = []
        for tp, span in ranges.items():
            for offset in range(span.start, span.end):
                known = self.topic[tp]
                # What was read once is the same when it is read again: a row, a letter, a gap.
                kind = known.setdefault(offset, self.random.choice([True, True, True, False, None]))
                if kind is not None:
                    (places if kind else letters).append((tp, offset))
        table = self.rows(places)
        refused = tuple(letter_at(tp, offset) for tp, offset in letters)
        batch = DecodedBatch(table, refused, ranges, table.nbytes, -1)
        self.buffer.append(batch)
        self.positions.update({tp: span.end for tp, span in ranges.items()})

    def rows(self, places: list[tuple[TopicPartition, int]]) -> pa.Table:
        """One row for each place; its key is one of few."""
        return pa.table(
            {
                "key": [key_of(tp.partition, offset) for tp, offset in places],
                "n": [offset for _tp, offset in places],
                "_kafka_partition": pa.array([tp.partition for tp, _ in places], pa.int32()),
                "_kafka_offset": pa.array([offset for _, offset in places], pa.int64()),
            },
            schema=COLUMNS,
        )

    def seal(self) -> None:
        ends = {tp: at for each in self.sealed for tp, at in each.end.items()}
        before = {**self.released, **ends}
        ranges = {
            tp: OffsetRange(before[tp], at) for tp, at in self.positions.items() if at > before[tp]
        }
        if ranges:
            self.batches += 1
            batch = self.buffer.seal(f"b{self.batches}", SealReason.ROWS, ranges)
            self.sealed.append(batch)

    def commit(self, *, known: bool) -> None:
        """The oldest batch lands, and the run hears of it, or not yet."""
        if not self.sealed:
            return
        batch = self.sealed[0]
        state = self.states[-1]
        if all(state.offsets[tp] == span.start for tp, span in batch.ranges.items()):
            new = State((*state.rows, *batch.tables), {**state.offsets, **batch.end})
            self.states.append(new)
            self.snapshots += 1
        if known and all(self.states[-1].offsets[tp] >= at for tp, at in batch.end.items()):
            self.sealed.pop(0)
            self.released = {**self.released, **batch.end}
            self.buffer.release(batch.batch_id)

    def compact(self) -> None:
        """Another writer moves the head, with the same rows."""
        state = self.states[-1]
        whole = (pa.concat_tables(state.rows),) if state.rows else ()
        self.states.append(State(whole, state.offsets))
        self.snapshots += 1

    def later(self) -> None:
        self.now += self.random.choice([0.1, 3.0, 11.0])
        self.buffer.expire()

    def let_go(self) -> None:
        """The group changes: what is not committed is given up, and read again."""
        self.buffer.clear()
        self.begin()

    def roll_back(self) -> None:
        """An operator goes back to an older state."""
        del self.states[self.random.randint(1, len(self.states)) :]
        self.snapshots += 1

    def event(self, *, may_let_go: bool = True) -> None:
        choices: list[Callable[[], None]] = [
            *[self.append] * 6,
            *[self.seal] * 3,
            *[partial(self.commit, known=True)] * 3,
            partial(self.commit, known=False),
            self.compact,
            self.later,
            self.upkeep.step,
            self.resize,
        ]
        if may_let_go:
            choices.append(self.let_go)
        self.random.choice(choices)()

    def resize(self) -> None:
        self.buffer.resize(self.random.choice([4_000, 20_000, 200_000]))

    # What must hold.

    def expected(self, positions: Offsets) -> Counter[Place]:
        """Each record below the positions that is a row, once."""
        return Counter(
            (tp.partition, offset)
            for tp, end in positions.items()
            for offset, is_row in self.topic[tp].items()
            if is_row and offset < end
        )


def key_of(partition: int, offset: int) -> str:
    return f"key-{(partition * 7 + offset) % 5}"


def letter_at(tp: TopicPartition, offset: int) -> DeadLetter:
    return DeadLetter(tp.topic, tp.partition, offset, 0, None, b"x", None, "decode", "json", "bad")


def places_of(frame: Any) -> Counter[Place]:
    """How often each record is there."""
    found = frame.select("_kafka_partition", "_kafka_offset").collect()
    return Counter(zip(*(column.to_list() for column in found.get_columns()), strict=True))


def in_order(table: pa.Table) -> list[Place]:
    if not table.num_rows:  # then the columns may not be known yet
        return []
    partitions = np.asarray(table.column("_kafka_partition")).tolist()
    return list(zip(partitions, np.asarray(table.column("_kafka_offset")).tolist(), strict=True))
