"""A topic in memory, a fan over it, and runs that are played by a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from k2i_tasks.codecs.values import coded
from k2i_tasks.errors import K2IError
from k2i_tasks.kafka.branch import Branch
from k2i_tasks.kafka.dealing import Dealing
from k2i_tasks.kafka.fan import Fan
from k2i_tasks.kafka.places import Places
from k2i_tasks.kafka.state import TopicState, Watermarks
from k2i_tasks.types import OffsetRange, Offsets, Ranges, RawBatch, TopicPartition

PATIENCE_SECONDS = 20.0
P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


class FakeTopic:
    """A topic in memory: the value of each record is its table. Stands for a broker.

    At a `.` there is no record, as at the marker that ends a transaction.
    """

    def __init__(self, *partitions: str) -> None:
        self.records = [list(one) for one in partitions]
        self.low = [0] * len(partitions)
        self.failure: K2IError | None = None
        self.readers = 0
        #: How far it can be read for now; None for all.
        self.end: int | None = None

    def state(self, _timeout: float = 0.0) -> TopicState:
        marks = {n: Watermarks(self.low[n], len(records)) for n, records in enumerate(self.records)}
        return TopicState("t", "id", "cluster", marks, dict.fromkeys(marks, 0))

    def reader(self) -> FakeReader:
        self.readers += 1
        return FakeReader(self)


class FakeReader:
    """Reads five records at a time."""

    def __init__(self, topic: FakeTopic) -> None:
        self.topic = topic
        self.at: dict[TopicPartition, int] = {}
        self.assigned: list[Offsets] = []
        self.published: list[Offsets] = []
        self.paused = self.closed = False
        #: How often it was asked for its lag.
        self.looks = 0
        self._gaps: dict[TopicPartition, OffsetRange] = {}

    def inspect(self, timeout: float) -> TopicState:
        return self.topic.state(timeout)

    def assign(self, offsets: Offsets) -> None:
        self.at = dict(offsets)
        self.assigned.append(dict(offsets))

    def poll(self, max_records: int, timeout: float) -> RawBatch | None:
        if self.topic.failure is not None:
            raise self.topic.failure
        if self.paused:
            return None
        for tp, at in self.at.items():
            low = self.topic.low[tp.partition]
            if at < low:
                self._gaps[tp] = OffsetRange(at, low)
                self.at[tp] = low
                return None
            values = self.topic.records[tp.partition][: self.topic.end][
                at : at + min(5, max_records)
            ]
            if "." in values:
                values = values[: values.index(".")]
            if values:
                self.at[tp] = at + len(values)
                offsets = np.arange(at, at + len(values), dtype=np.int64)
                return RawBatch(
                    topic="t",
                    partitions=np.full(len(values), tp.partition, np.int32),
                    offsets=offsets,
                    timestamps_ms=offsets,
                    keys=[None] * len(values),
                    values=[value.encode() for value in values],
                    headers=None,
                    ranges={tp: OffsetRange(at, at + len(values))},
                    payload_bytes=len(values),
                )
        time.sleep(min(timeout, 0.001))
        return None

    def advance(self) -> Ranges:
        passed: dict[TopicPartition, OffsetRange] = {}
        for tp, at in self.at.items():
            end = at
            while self.topic.records[tp.partition][end : end + 1] == ["."]:
                end += 1
            if end > at:
                self.at[tp], passed[tp] = end, OffsetRange(at, end)
        return passed

    def gaps(self) -> Ranges:
        gaps, self._gaps = self._gaps, {}
        return gaps

    def confirm(self) -> None:
        assert not self.closed

    def new_partitions(self) -> Offsets:
        names = [TopicPartition("t", n) for n in range(len(self.topic.records))]
        added = {tp: 0 for tp in names if tp not in self.at}
        self.at.update(added)
        return added

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def lag(self) -> dict[TopicPartition, int]:
        self.looks += 1
        return {tp: len(self.topic.records[tp.partition]) - at for tp, at in self.at.items()}

    def errors(self) -> tuple[Any, ...]:
        return ()

    def commit_offsets(self, offsets: Offsets) -> None:
        self.published.append(dict(offsets))

    def close(self) -> None:
        self.closed = True


class Rig:
    """A fan over a topic, whose runs are played by the test."""

    def __init__(self, folder: Path, topic: FakeTopic, rules: str = "rules") -> None:
        self.topic = topic
        self.found = threading.Event()
        self.path = folder / "tables.json"
        #: Tables that were on disk whenever new ones were told of.
        self.kept: list[set[str]] = []
        self.places = Places(folder / "tables.json", "t", rules)
        self.limit = 1_000_000
        #: Values whose tables cannot be told yet, and what is said of it.
        self.unknown: set[str] = set()
        self.away: K2IError | None = None
        #: Value -> its table, where that has another name.
        self.renamed: dict[str, str] = {}
        dealing = Dealing(
            lambda raw: coded([(v or b"").decode() for v in raw.values], self.key_of),
            self.key_of,
            lambda state: {TopicPartition("t", n): m.low for n, m in state.partitions.items()},
            lambda: self.limit,
            self._prepare,
        )
        self.readers: list[FakeReader] = []
        self.fan = Fan(self._open, self.places, dealing, on_found=self._on_found)

    def key_of(self, value: str | None) -> str:
        return self.renamed.get(value or "", value or "")

    def _prepare(self, raw: RawBatch, timeout: float) -> int:
        values = [(value or b"").decode() for value in raw.values]
        count = next((n for n, value in enumerate(values) if value in self.unknown), len(raw))
        if count == 0 and self.away is not None and len(raw):
            time.sleep(min(timeout, 0.001))
            raise self.away
        return count

    def _on_found(self) -> None:
        self.kept.append(set(Places(self.path, "t", "rules").all))
        self.found.set()

    def _open(self) -> FakeReader:
        self.readers.append(self.topic.reader())
        return self.readers[-1]

    def __enter__(self) -> Rig:
        self.fan.ensure()
        return self

    def __exit__(self, *_: object) -> None:
        self.fan.close()

    def run(self, key: str, offsets: Offsets | None = None) -> Run:
        return Run(self, key, offsets or self.places.start(key))


class Run:
    """What one run does with its branch."""

    def __init__(self, rig: Rig, key: str, offsets: Offsets) -> None:
        self.branch: Branch = rig.fan.branch(key, rig.topic.state)
        self.branch.inspect(1.0)
        self.branch.assign(offsets)
        self.at = dict(offsets)
        self.got: list[tuple[int, int]] = []
        self.lost: list[OffsetRange] = []
        self.key = key
        self._key_of = rig.key_of

    def turn(self) -> None:
        batch = self.branch.poll(3, 0.01)
        for tp, span in self.branch.gaps().items():
            self._pass(tp, span)
            self.lost.append(span)
        if batch is not None:
            assert {self._key_of((v or b"").decode()) for v in batch.values} <= {self.key}
            for tp, span in batch.ranges.items():
                self._pass(tp, span)
            self.got += zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True)
        for tp, span in self.branch.advance().items():
            self._pass(tp, span)
        self.at.update(self.branch.new_partitions())

    def _pass(self, tp: TopicPartition, span: OffsetRange) -> None:
        assert span.start == self.at[tp]
        self.at[tp] = span.end

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, (self.at, self.got)
            self.turn()

    def until_at(self, *ends: int) -> None:
        self.until(
            lambda: [self.at.get(TopicPartition("t", n)) for n in range(len(ends))] == [*ends]
        )


def places_of(topic: FakeTopic, key: str) -> list[tuple[int, int]]:
    return [
        (p, o) for p, one in enumerate(topic.records) for o, value in enumerate(one) if value == key
    ]


def awaited(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
