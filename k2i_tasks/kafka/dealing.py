"""What the reading of a topic for several tables works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from k2i_tasks.kafka.state import TopicState
from k2i_tasks.status import ErrorNote
from k2i_tasks.types import Offsets, Ranges, RawBatch, TopicPartition


class Reader(Protocol):
    """What reads the topic: a `KafkaSource`."""

    def inspect(self, timeout_seconds: float) -> TopicState: ...
    def assign(self, offsets: Offsets) -> None: ...
    def poll(self, max_records: int, timeout_seconds: float) -> RawBatch | None: ...
    def advance(self) -> Ranges: ...
    def gaps(self) -> Ranges: ...
    def confirm(self) -> None: ...
    def new_partitions(self) -> Offsets: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def lag(self) -> Mapping[TopicPartition, int]: ...
    def errors(self) -> tuple[ErrorNote, ...]: ...
    def commit_offsets(self, offsets: Offsets) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Dealing:
    """Decides on the table of each record of one topic.

    Args:
        keys_of: a batch of n records -> index of each record's key, int64 [n], and for each key a
            value that leads to it.
        key_of: the key of one value.
        begin: where a topic is begun that no table knows anything of.
        queue_bytes: payload bytes that may wait for one table; at least one batch may.
    """

    keys_of: Callable[[RawBatch], tuple[npt.NDArray[np.int64], dict[str, str | None]]]
    key_of: Callable[[str | None], str]
    begin: Callable[[TopicState], Offsets]
    queue_bytes: Callable[[], int]
