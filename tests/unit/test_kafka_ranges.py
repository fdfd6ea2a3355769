"""What the reader of ranges makes of what the client hands over."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from k2i_tasks.errors import TransientError
from k2i_tasks.kafka import ranges
from k2i_tasks.kafka.ranges import RangeReader
from k2i_tasks.types import OffsetRange


class Client:
    """Hands over what it was told to, poll by poll."""

    polls: tuple[list[Message], ...] = ()

    def __init__(self, _settings: Any) -> None:
        self._left = list(self.polls)

    def consume(self, _count: int, _seconds: float) -> list[Message]:
        return self._left.pop(0) if self._left else []

    def position(self, partitions: list[Any]) -> list[Any]:
        return partitions

    def assign(self, _partitions: Any) -> None: ...
    def incremental_unassign(self, _partitions: Any) -> None: ...
    def get_watermark_offsets(self, _partition: Any, **_options: Any) -> tuple[int, int]:
        return 0, 10


def record(offset: int) -> Message:
    return Message(topic="t", partition=0, offset=offset, value=b"v", timestamp=(1, 7))


def end_at(offset: int) -> Message:
    error = KafkaError(KafkaError._PARTITION_EOF)
    return Message(topic="t", partition=0, offset=offset, error=error)


def reader_of(
    monkeypatch: pytest.MonkeyPatch, *polls: list[Message], **options: Any
) -> RangeReader:
    monkeypatch.setattr(ranges, "Consumer", type("Told", (Client,), {"polls": polls}))
    return RangeReader({"bootstrap.servers": "nowhere"}, "t", **options)


def test_records_that_come_together_with_the_partitions_end_are_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = reader_of(monkeypatch, [record(0), record(1), end_at(5)])
    reader.begin({0: OffsetRange(0, 5)})
    batch = reader.poll()
    assert batch is not None
    assert batch.offsets.tolist() == [0, 1]
    assert not reader.busy


def test_records_beside_the_range_end_it_and_are_not_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = reader_of(monkeypatch, [record(3), record(4), record(9)])
    reader.begin({0: OffsetRange(4, 6)})
    batch = reader.poll()
    assert batch is not None
    assert batch.offsets.tolist() == [4]
    assert reader.reached == {0: 6}
    assert not reader.busy


def test_a_topic_that_ends_before_the_range_does_is_no_proof_that_nothing_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = reader_of(monkeypatch, [end_at(3)], patience_seconds=0.0)
    reader.begin({0: OffsetRange(0, 5)})
    reader.poll()
    assert reader.busy
    with pytest.raises(TransientError, match="nothing came"):
        reader.poll()
