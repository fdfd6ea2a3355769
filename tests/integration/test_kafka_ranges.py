"""Ranges of a real topic: all their records, no others, an end where there are none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.config.model_kafka import Kafka
from k2i_tasks.errors import ServiceError
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.ranges import RangeReader, reading_settings
from k2i_tasks.types import OffsetRange
from tests.kafka_world import Transactions, World

pytestmark = pytest.mark.integration

Records = dict[tuple[int, int], bytes | None]


@pytest.fixture
def world(kafka_bootstrap: str, tmp_path: Path) -> World:
    return World(tmp_path, kafka_bootstrap)


@pytest.fixture
def make(kafka_bootstrap: str) -> Iterator[Callable[[str], RangeReader]]:
    made: list[RangeReader] = []

    def build(topic: str) -> RangeReader:
        section = {
            "bootstrap_servers": [kafka_bootstrap],
            "topic": topic,
            "consumer_group": f"test-{topic}",
        }
        settings = consumer_settings(Kafka.model_validate(section), {})
        made.append(RangeReader(reading_settings(settings, "verify"), topic))
        return made[-1]

    yield build
    for each in made:
        each.close()


def read(reader: RangeReader, spans: dict[int, OffsetRange]) -> Records:
    reader.begin(spans)
    found: Records = {}
    while reader.busy:
        batch = reader.poll()
        if batch is None:
            continue
        places = zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True)
        for place, value in zip(places, batch.values, strict=True):
            assert place not in found
            found[place] = value
    return found


def test_a_range_gives_its_records_and_no_others_again_and_again(
    world: World, make: Callable[[str], RangeReader]
) -> None:
    written = world.more(2000)
    reader = make(world.topic)
    for low in (0, 100, 110, 400, 999):
        span = OffsetRange(low, min(1000, low + 10))
        found = read(reader, {0: span, 1: span})
        assert found.keys() == {p for p in written if span.start <= p[1] < span.end}
    with pytest.raises(ValueError, match="below"):
        reader.begin({0: OffsetRange(5, 6)})


def test_aborted_transactions_and_control_records_end_a_range_without_records(
    world: World, make: Callable[[str], RangeReader]
) -> None:
    first = Transactions(world, "first")
    first.send(0, 5)
    first.abort()
    world.more(2)
    first.send(0, 3)
    first.commit()
    end = world.ends()[0]
    reader = make(world.topic)
    assert not read(reader, {0: OffsetRange(0, 6)})
    assert read(reader, {0: OffsetRange(6, end - 1)}).keys() == {(0, o) for o in range(6, 10)}
    assert not read(reader, {0: OffsetRange(end - 1, end)})


def test_what_was_deleted_is_told_by_the_low_watermark(
    world: World, make: Callable[[str], RangeReader]
) -> None:
    world.more(100)
    world.delete_before({0: 30})
    reader = make(world.topic)
    spans = {0: OffsetRange(0, 10), 1: OffsetRange(0, 3)}
    assert read(reader, spans).keys() == {(1, 0), (1, 1), (1, 2)}
    assert read(reader, {0: OffsetRange(20, 32)}).keys() == {(0, 30), (0, 31)}
    assert reader.lows == {0: 30}


def test_the_group_and_its_offsets_are_left_alone(
    world: World, make: Callable[[str], RangeReader]
) -> None:
    world.more(10)
    world.commit_for_the_group({0: 3})
    read(make(world.topic), {0: OffsetRange(0, 5)})
    for group, offset in ((world.group, 3), (f"{world.group}-verify", -1001)):
        client = Consumer({"bootstrap.servers": world.bootstrap, "group.id": group})
        (held,) = client.committed([ClientPartition(world.topic, 0)], timeout=30)
        client.close()
        assert held.offset == offset


def test_a_topic_that_is_not_there_is_an_error_that_says_so(
    make: Callable[[str], RangeReader],
) -> None:
    reader = make(f"none-{uuid.uuid4().hex}")
    with pytest.raises(ServiceError):
        read(reader, {0: OffsetRange(0, 5)})
