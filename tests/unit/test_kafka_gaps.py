"""The source where the broker has deleted what comes next: which range, and what goes before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.errors import IntegrityError
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.types import OffsetRange, TopicPartition

P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)
#: Kafka holds nothing below it in any partition.
LOW = 8


class Consumer:
    """A client of the broker that gives what it is told, poll by poll."""

    def __init__(self, polls: Iterable[list[Message]]) -> None:
        self.polls = list(polls)
        self.assigned: list[dict[int, int]] = []

    def assign(self, partitions: list[ClientPartition]) -> None:
        self.assigned.append({each.partition: each.offset for each in partitions})

    def consume(self, _count: int, _timeout: float) -> list[Message]:
        return self.polls.pop(0) if self.polls else []

    def get_watermark_offsets(self, _partition: ClientPartition, timeout: float) -> tuple[int, int]:
        return LOW, 100

    def position(self, partitions: list[ClientPartition]) -> list[ClientPartition]:
        return partitions

    def close(self) -> None:
        """Nothing is open."""


def record(partition: int, offset: int) -> Message:
    return Message(topic="orders", partition=partition, offset=offset, value=b"v", timestamp=(1, 7))


def out_of_range(partition: int) -> Message:
    gone = KafkaError(KafkaError._AUTO_OFFSET_RESET, "gone")
    return Message(topic="orders", partition=partition, error=gone)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[KafkaSource, Consumer]]:
    def build(*polls: list[Message], accept_gaps: bool) -> tuple[KafkaSource, Consumer]:
        consumer = Consumer(polls)
        monkeypatch.setattr("k2i_tasks.kafka.source.Consumer", lambda _settings: consumer)
        settings = {"bootstrap.servers": "127.0.0.1:9"}
        source = KafkaSource(settings, "orders", accept_gaps=accept_gaps)
        source.assign({P0: 0, P1: 0})
        return source, consumer

    return build


Make = Callable[..., tuple[KafkaSource, Consumer]]
#: Three records of one partition and one of the other; then the first has no more.
FIRST = [record(0, 0), record(1, 0), record(0, 1), record(0, 2), out_of_range(0)]


def ranges_of(source: KafkaSource) -> Any:
    batch = source.poll(100, 0.0)
    return None if batch is None else dict(batch.ranges)


def test_records_before_an_error_are_handed_over_and_the_lost_range_starts_behind_them(
    make: Make,
) -> None:
    source, _consumer = make(FIRST, accept_gaps=False)
    assert ranges_of(source) == {P0: OffsetRange(0, 3), P1: OffsetRange(0, 1)}
    assert source.gaps() == {}
    with pytest.raises(IntegrityError, match=r"0:\[3,8\)"):
        source.poll(100, 0.0)


def test_an_accepted_gap_is_passed_and_told_once_before_what_is_behind_it(make: Make) -> None:
    source, consumer = make(FIRST, [record(1, 1), record(0, 9)], accept_gaps=True)
    source.poll(100, 0.0)
    assert ranges_of(source) == {P0: OffsetRange(8, 10), P1: OffsetRange(1, 2)}
    assert source.gaps() == {P0: OffsetRange(3, 8)}
    assert source.gaps() == {}
    # The client stops at such an error until it is assigned anew; the others go on where they are.
    assert consumer.assigned == [{0: 0, 1: 0}, {0: 8, 1: 1}]


def test_an_error_alone_is_taken_at_once(make: Make) -> None:
    source, consumer = make([out_of_range(1)], [record(1, 8)], accept_gaps=True)
    assert ranges_of(source) is None
    assert source.gaps() == {P1: OffsetRange(0, 8)}
    assert source.positions() == {P0: 0, P1: 8}
    assert ranges_of(source) == {P1: OffsetRange(8, 9)}
    assert consumer.assigned[-1] == {0: 0, 1: 8}


def test_after_an_error_that_was_raised_the_client_starts_anew_where_it_stood(make: Make) -> None:
    source, consumer = make([out_of_range(0)], [record(0, 0)], accept_gaps=False)
    with pytest.raises(IntegrityError, match=r"0:\[0,8\)"):
        source.poll(100, 0.0)
    source.poll(100, 0.0)
    assert consumer.assigned == [{0: 0, 1: 0}, {0: 0, 1: 0}]
