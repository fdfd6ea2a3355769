"""Two sources in one consumer group, against a real broker.

librdkafka's own broker would do, but lets a group that changes wait for most of a session.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.config.model_kafka import Kafka
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.types import TopicPartition
from tests.support import create_topic, produce

pytestmark = pytest.mark.integration

TOPIC = f"shared-{uuid.uuid4().hex[:8]}"
P = [TopicPartition(TOPIC, number) for number in range(4)]
Join = Callable[[], KafkaSource]


@pytest.fixture(scope="module")
def topic(kafka_bootstrap: str) -> None:
    create_topic(kafka_bootstrap, TOPIC, len(P))
    produce(kafka_bootstrap, TOPIC, (b"%d" % number for number in range(400)))


@pytest.fixture
def group() -> str:
    return f"members-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def join(kafka_bootstrap: str, topic: None, group: str) -> Iterator[Join]:
    section = {
        "bootstrap_servers": [kafka_bootstrap],
        "topic": TOPIC,
        "consumer_group": group,
        "heartbeat_interval_ms": 100,
    }
    settings = consumer_settings(Kafka.model_validate(section), {})
    made: list[KafkaSource] = []

    def build() -> KafkaSource:
        made.append(KafkaSource(settings, TOPIC, shared=True))
        made[-1].inspect(30)
        made[-1].given()
        return made[-1]

    yield build
    for each in made:
        each.close()


def settle(*members: KafkaSource) -> list[frozenset[TopicPartition]]:
    """Polls until the group has dealt all partitions out to these members."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for each in members:
            each.poll(10, 0.02)
        shares = [each.given() for each in members]
        if all(shares) and sum(len(share or ()) for share in shares) == len(P):
            return [share or frozenset() for share in shares]
    raise AssertionError(f"never settled: {[each.given() for each in members]}")


def read(source: KafkaSource, records: int) -> dict[TopicPartition, int]:
    """Reads so many records; how far it then is."""
    seen, deadline = 0, time.monotonic() + 60
    while seen < records:
        assert time.monotonic() < deadline, f"{seen} of {records} records"
        batch = source.poll(records - seen, 0.1)
        seen += 0 if batch is None else len(batch)
    return {tp: at for tp, at in source.positions().items() if at}


def test_a_member_alone_is_given_everything_and_reads_from_where_it_is_told(join: Join) -> None:
    alone = join()
    assert settle(alone) == [frozenset(P)]
    assert not alone.rebalanced
    alone.assign(dict.fromkeys(P, 90))
    assert read(alone, 40) == dict.fromkeys(P, 100)


def test_nothing_is_read_before_it_is_assigned_and_nothing_after_it_is_taken_away(
    join: Join,
) -> None:
    first = join()
    settle(first)
    assert first.poll(10, 0.2) is None
    first.assign(dict.fromkeys(P, 0))
    read(first, 4)
    second = join()
    deadline = time.monotonic() + 60
    while not first.rebalanced:
        assert time.monotonic() < deadline
        second.poll(1, 0.02)
        first.poll(1, 0.02)
    assert first.positions() == {}
    assert first.poll(10, 0.1) is None
    shares = settle(first, second)
    assert shares[0] | shares[1] == frozenset(P)
    for source, share in zip((first, second), shares, strict=True):
        source.assign(dict.fromkeys(share, 50))
        assert read(source, 100) == dict.fromkeys(share, 100)


def test_what_a_member_leaves_goes_to_the_one_that_stays(join: Join) -> None:
    first, second = join(), join()
    settle(first, second)
    second.close()
    deadline = time.monotonic() + 60
    while not first.rebalanced:
        assert time.monotonic() < deadline
        first.poll(1, 0.02)
    assert settle(first) == [frozenset(P)]


def test_a_member_publishes_offsets_of_its_own_partitions_alone(
    join: Join, kafka_bootstrap: str, group: str
) -> None:
    first, second = join(), join()
    mine, _theirs = settle(first, second)
    first.assign(dict.fromkeys(mine, 0))
    first.commit_offsets(dict.fromkeys(P, 7))
    looking = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": group})
    asked = [ClientPartition(tp.topic, tp.partition) for tp in P]
    found = {TopicPartition(p.topic, p.partition): p.offset for p in looking.committed(asked, 30)}
    looking.close()
    assert {tp for tp, at in found.items() if at == 7} == mine
