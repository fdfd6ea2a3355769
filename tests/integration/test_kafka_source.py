"""The source against a real broker: what librdkafka's own mock cannot show."""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from k2i_tasks.config.model_kafka import Kafka
from k2i_tasks.errors import IntegrityError, ServiceError, TransientError
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.kafka.start import lost_ranges
from k2i_tasks.types import OffsetRange, RawBatch, TopicPartition
from tests.support import create_topic

pytestmark = pytest.mark.integration

#: Joined ranges per partition.
Joined = dict[TopicPartition, OffsetRange]


@pytest.fixture
def topic(kafka_bootstrap: str) -> str:
    name = f"source-{uuid.uuid4().hex[:12]}"
    create_topic(kafka_bootstrap, name, 2)
    return name


@pytest.fixture
def admin(kafka_bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka_bootstrap})


@pytest.fixture
def make(kafka_bootstrap: str) -> Iterator[Callable[..., KafkaSource]]:
    made: list[KafkaSource] = []

    def build(
        topic: str,
        section: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
        **options: Any,
    ) -> KafkaSource:
        given = {
            "bootstrap_servers": [kafka_bootstrap],
            "topic": topic,
            "consumer_group": f"group-{topic}",
            **(section or {}),
        }
        settings = consumer_settings(Kafka.model_validate(given), secrets or {})
        made.append(KafkaSource(settings, topic, **options))
        return made[-1]

    yield build
    for each in made:
        each.close()


def start(source: KafkaSource) -> None:
    state = source.inspect(15.0)
    source.assign({TopicPartition(state.topic, n): m.low for n, m in state.partitions.items()})


def fill(bootstrap: str, topic: str, partition: int, first: int, end: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    for n in range(first, end):
        producer.produce(topic, b"v%d" % n, b"k%d" % n, partition)
    assert producer.flush(30) == 0


def join(joined: Joined, ranges: Mapping[TopicPartition, OffsetRange]) -> None:
    for tp, span in ranges.items():
        joined[tp] = joined[tp].then(span) if tp in joined else span


def read_to(
    source: KafkaSource, ends: Mapping[TopicPartition, int]
) -> tuple[list[RawBatch], Joined]:
    """Polls, and takes what passed without a record, until every partition is at its end."""
    batches: list[RawBatch] = []
    joined: Joined = {}
    deadline = time.monotonic() + 30
    while {tp: joined[tp].end for tp in ends if tp in joined} != dict(ends):
        assert time.monotonic() < deadline, f"{joined} did not reach {ends}"
        batch = source.poll(1_000, 0.05)
        if batch is not None:
            batches.append(batch)
            join(joined, batch.ranges)
        join(joined, source.advance())
    return batches, joined


def poll_in_vain(source: KafkaSource) -> None:
    """Polls as a run does until something is raised; there is no record to come."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert source.poll(100, 0.05) is None
        source.new_partitions()


def offsets(batches: list[RawBatch], partition: int) -> list[int]:
    return [
        offset
        for batch in batches
        for offset, at in zip(batch.offsets.tolist(), batch.partitions.tolist(), strict=True)
        if at == partition
    ]


def test_aborted_transactions_and_control_records_leave_no_hole_in_the_ranges(
    kafka_bootstrap: str, topic: str, make: Callable[..., KafkaSource]
) -> None:
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": f"tx-{topic}"})
    producer.init_transactions(30)
    for records, commit in ((3, True), (5, False), (2, True), (4, False)):
        producer.begin_transaction()
        for n in range(records):
            producer.produce(topic, b"%d" % n, partition=0)
        producer.flush(10)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    source = make(topic)
    start(source)
    tp = TopicPartition(topic, 0)
    # 3 + marker, 5 aborted + marker, 2 + marker, 4 aborted + marker
    batches, joined = read_to(source, {tp: 18})
    assert joined[tp] == OffsetRange(0, 18)
    assert offsets(batches, 0) == [0, 1, 2, 10, 11]
    assert source.positions()[tp] == 18
    assert source.lag()[tp] == 0
    assert source.advance() == {}


def test_a_topic_of_aborted_transactions_alone_moves_without_a_record(
    kafka_bootstrap: str, topic: str, make: Callable[..., KafkaSource]
) -> None:
    source = make(topic)
    start(source)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": f"tx-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for _ in range(9):
        producer.produce(topic, b"never", partition=1)
    producer.flush(10)
    producer.abort_transaction(30)
    tp = TopicPartition(topic, 1)
    batches, joined = read_to(source, {tp: 10})
    assert batches == []
    assert joined == {tp: OffsetRange(0, 10)}


def test_records_of_an_open_transaction_are_not_read(
    kafka_bootstrap: str, topic: str, make: Callable[..., KafkaSource]
) -> None:
    fill(kafka_bootstrap, topic, 0, 0, 4)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": f"tx-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    producer.flush(10)
    source = make(topic)
    state = source.inspect(15.0)
    assert state.partitions[0].high == 4  # what may be read, not what is there
    start(source)
    tp = TopicPartition(topic, 0)
    read_to(source, {tp: 4})
    assert [source.poll(10, 0.05) for _ in range(10)] == [None] * 10
    assert source.advance() == {}
    producer.commit_transaction(30)
    batches, joined = read_to(source, {tp: 6})
    assert joined[tp] == OffsetRange(4, 6)
    assert offsets(batches, 0) == [4]


def test_records_deleted_before_they_were_read_stop_the_run_and_are_named(
    kafka_bootstrap: str, topic: str, admin: AdminClient, make: Callable[..., KafkaSource]
) -> None:
    fill(kafka_bootstrap, topic, 0, 0, 20)
    [deleted] = admin.delete_records([ClientPartition(topic, 0, 8)]).values()
    assert deleted.result(15).low_watermark == 8
    source = make(topic)
    state = source.inspect(15.0)
    tp = TopicPartition(topic, 0)
    recorded = {tp: 5, TopicPartition(topic, 1): 0}
    with pytest.raises(IntegrityError, match=r"0:\[5,8\)"):
        lost_ranges(state, recorded, "halt")
    source.assign(recorded)
    with pytest.raises(IntegrityError, match=r"0:\[5,8\)") as caught:
        poll_in_vain(source)
    assert "kafka.on_gap" in caught.value.remedy
    assert caught.value.exit_code == 2


def test_a_position_beyond_the_end_stops_the_run_and_names_what_is_there(
    kafka_bootstrap: str, topic: str, make: Callable[..., KafkaSource]
) -> None:
    fill(kafka_bootstrap, topic, 0, 0, 20)
    source = make(topic)
    source.inspect(15.0)
    source.assign({TopicPartition(topic, 0): 500})
    with pytest.raises(IntegrityError, match=r"offset 500 of .*:0; it holds \[0,20\)"):
        poll_in_vain(source)


def test_pauses_at_any_moment_lose_and_repeat_nothing(
    kafka_bootstrap: str,
    topic: str,
    make: Callable[..., KafkaSource],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("k2i_tasks.kafka.flow.HOLD_AFTER_SECONDS", 0.02)
    for partition in (0, 1):
        fill(kafka_bootstrap, topic, partition, 0, 20_000)
    numbers = random.Random(11)
    source = make(topic, poll_records_max=1_500)
    start(source)
    batches: list[RawBatch] = []
    deadline = time.monotonic() + 60
    while sum(map(len, batches)) < 40_000:
        assert time.monotonic() < deadline
        batches += filter(None, [source.poll(numbers.randrange(1, 1_500), 0.02)])
        if numbers.random() < 0.4:
            source.pause()
            for _ in range(numbers.randrange(3)):
                batches += filter(None, [source.poll(1_500, numbers.choice([0.0, 0.03]))])
            source.resume()
    for partition in (0, 1):
        assert offsets(batches, partition) == list(range(20_000))
    joined: Joined = {}
    for batch in batches:
        join(joined, batch.ranges)
    assert set(joined.values()) == {OffsetRange(0, 20_000)}


def test_an_unknown_topic_is_refused_and_not_created(
    topic: str, admin: AdminClient, make: Callable[..., KafkaSource]
) -> None:
    with pytest.raises(ServiceError, match=f"Nearest names there: .*{topic}"):
        make(f"{topic}x").inspect(15.0)
    assert f"{topic}x" not in admin.list_topics(timeout=15).topics


def login(kafka: Mapping[str, str], password: str) -> tuple[dict[str, Any], dict[str, str]]:
    section = {
        "bootstrap_servers": [kafka["KAFKA_BOOTSTRAP_SASL_SSL"]],
        "security": {
            "protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": kafka["KAFKA_USER"],
            "sasl_password": password,
            "ssl_ca_location": kafka["KAFKA_CA"],
        },
    }
    secrets = {
        "kafka.security.sasl_username": kafka["KAFKA_USER"],
        "kafka.security.sasl_password": password,
    }
    return section, secrets


def test_the_right_login_reads(
    kafka: dict[str, str], topic: str, make: Callable[..., KafkaSource]
) -> None:
    fill(kafka["KAFKA_BOOTSTRAP"], topic, 0, 0, 3)
    source = make(topic, *login(kafka, kafka["KAFKA_PASSWORD"]))
    start(source)
    batches, _ = read_to(source, {TopicPartition(topic, 0): 3})
    assert offsets(batches, 0) == [0, 1, 2]


def test_a_wrong_login_is_told_at_once_and_without_the_password(
    kafka: dict[str, str], topic: str, make: Callable[..., KafkaSource]
) -> None:
    source = make(topic, *login(kafka, "not-the-password"))
    began = time.monotonic()
    with pytest.raises(ServiceError, match="authentication") as caught:
        source.inspect(30.0)
    assert time.monotonic() - began < 10
    assert "[kafka.security]" in caught.value.remedy
    told = [str(caught.value), repr(source), *(note.message for note in source.errors())]
    assert not [text for text in told if "not-the-password" in text]


def test_a_certificate_that_is_not_trusted_is_told_at_once(
    kafka: dict[str, str], topic: str, make: Callable[..., KafkaSource]
) -> None:
    section, secrets = login(kafka, kafka["KAFKA_PASSWORD"])
    del section["security"]["ssl_ca_location"]
    began = time.monotonic()
    with pytest.raises(ServiceError, match="certificate"):
        make(topic, section, secrets).inspect(30.0)
    assert time.monotonic() - began < 10


def until_true(condition: Callable[[], bool], source: KafkaSource) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        source.poll(10, 0.05)


def test_a_new_partition_is_found_and_read_from_its_first_record(
    kafka_bootstrap: str, topic: str, admin: AdminClient, make: Callable[..., KafkaSource]
) -> None:
    source = make(topic, watch_seconds=0.1)
    start(source)
    assert source.new_partitions() == {}
    admin.create_partitions([NewPartitions(topic, 3)])[topic].result(15)
    found: dict[TopicPartition, int] = {}
    until_true(lambda: bool(found.update(source.new_partitions()) or found), source)
    tp = TopicPartition(topic, 2)
    assert found == {tp: 0}
    assert source.new_partitions() == {}
    fill(kafka_bootstrap, topic, 2, 0, 5)
    batches, _ = read_to(source, {tp: 5})
    assert offsets(batches, 2) == [0, 1, 2, 3, 4]


def test_a_topic_created_again_stops_a_running_source(
    kafka_bootstrap: str, topic: str, admin: AdminClient, make: Callable[..., KafkaSource]
) -> None:
    source = make(topic, watch_seconds=0.1)
    start(source)
    before = source.inspect(15.0).topic_id
    assert before is not None
    admin.delete_topics([topic])[topic].result(15)
    create_topic(kafka_bootstrap, topic, 2)
    with pytest.raises(IntegrityError, match=re.escape(f"its id was {before}")):
        poll_in_vain(source)


def test_offsets_show_up_in_the_group_unless_others_are_active_in_it(
    kafka_bootstrap: str, topic: str, make: Callable[..., KafkaSource]
) -> None:
    source = make(topic)
    start(source)
    tp = TopicPartition(topic, 0)
    source.commit_offsets({tp: 7})
    member = Consumer({"bootstrap.servers": kafka_bootstrap, "group.id": f"group-{topic}"})
    asked = [ClientPartition(topic, 0)]
    assert [held.offset for held in member.committed(asked, timeout=10)] == [7]
    member.subscribe([topic])
    until_true(lambda: member.poll(0.05) is None and bool(member.assignment()), source)
    with pytest.raises(TransientError, match="Publishing offsets in the consumer group"):
        source.commit_offsets({tp: 9})
    assert [held.offset for held in member.committed(asked, timeout=10)] == [7]
    member.close()
