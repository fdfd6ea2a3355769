"""The records of one table as a source of its run, of a topic that several share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from k2i_tasks.kafka.state import TopicState
from k2i_tasks.status import ErrorNote
from k2i_tasks.types import OffsetRange, Offsets, Ranges, RawBatch, TopicPartition

if TYPE_CHECKING:
    from k2i_tasks.kafka.fan import Fan


class Branch:
    """Gives each record of its table once, in order, from where it was assigned.

    See `ports.Source` for what is not said here.

    Args:
        fan: reads the topic.
        key: of the table.
        inspect: asks the broker about the topic. May block.
    """

    #: There is no group: all partitions are ours.
    rebalanced = False

    def __init__(self, fan: Fan, key: str, inspect: Callable[[float], TopicState]) -> None:
        self._fan = fan
        self._key = key
        self._inspect = inspect
        self._partitions: frozenset[TopicPartition] = frozenset()
        self._topic_id: str | None = None
        self._gaps: dict[TopicPartition, OffsetRange] = {}
        self._paused = False
        #: Never set: to wait for.
        self._idle = threading.Event()

    def inspect(self, timeout_seconds: float) -> TopicState:
        state = self._inspect(timeout_seconds)
        self._topic_id = state.topic_id
        self._partitions = frozenset(TopicPartition(state.topic, n) for n in state.partitions)
        return state

    def given(self) -> frozenset[TopicPartition]:
        return self._partitions

    def assign(self, offsets: Offsets) -> None:
        self._paused, self._gaps = False, {}
        self._fan.attach(self._key, offsets)

    def poll(self, max_records: int, timeout_seconds: float) -> RawBatch | None:
        if self._paused:
            self._idle.wait(timeout_seconds)
            return None
        gaps, batch = self._fan.take(self._key, max_records, timeout_seconds)
        self._gaps.update(gaps)
        return batch

    def advance(self) -> Ranges:
        return self._fan.passed(self._key)

    def gaps(self) -> Ranges:
        gaps, self._gaps = self._gaps, {}
        return gaps

    def confirm(self) -> None:
        self._fan.confirm(self._topic_id)

    def new_partitions(self) -> Offsets:
        return self._fan.added(self._key)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def lag(self) -> Mapping[TopicPartition, int]:
        return self._fan.lag(self._key)

    def errors(self) -> tuple[ErrorNote, ...]:
        return self._fan.errors()

    def commit_offsets(self, offsets: Offsets) -> None:
        self._fan.publish(self._key, offsets)

    def close(self) -> None:
        self._fan.detach(self._key)
