"""The source against a broker in this process."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.errors import ServiceError, TransientError
from k2i_tasks.kafka import source as source_module
from k2i_tasks.kafka.embedded import EmbeddedBroker
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.kafka.state import Watermarks
from k2i_tasks.types import OffsetRange, RawBatch, TopicPartition

TOPIC = "orders"
P0, P1 = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def topic(broker: EmbeddedBroker, request: pytest.FixtureRequest) -> str:
    name = f"orders-{abs(hash(request.node.name)) % 10**8}-{time.monotonic_ns()}"
    broker.create_topic(name, 2)
    return name


@pytest.fixture
def make(broker: EmbeddedBroker) -> Iterator[Callable[..., KafkaSource]]:
    made: list[KafkaSource] = []

    def build(topic: str, **options: Any) -> KafkaSource:
        settings = {
            "bootstrap.servers": options.pop("bootstrap", broker.bootstrap),
            "group.id": "unit",
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "reconnect.backoff.max.ms": 200,
            "fetch.wait.max.ms": 20,
        }
        made.append(KafkaSource(settings, topic, **options))
        return made[-1]

    yield build
    for each in made:
        each.close()


def produce(broker: EmbeddedBroker, topic: str, *records: dict[str, Any]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "linger.ms": 0})
    for record in records:
        producer.produce(topic, **record)
    assert producer.flush(10) == 0


def numbered(partition: int, first: int, end: int) -> list[dict[str, Any]]:
    return [
        {"partition": partition, "key": b"k%d" % n, "value": b"v%d" % n} for n in range(first, end)
    ]


def start(source: KafkaSource, at: int = 0) -> None:
    state = source.inspect(5.0)
    source.assign({TopicPartition(state.topic, n): at for n in state.partitions})


def read(source: KafkaSource, count: int, seconds: float = 10.0) -> list[RawBatch]:
    """Batches until `count` records are there."""
    batches: list[RawBatch] = []
    deadline = time.monotonic() + seconds
    while sum(map(len, batches)) < count:
        assert time.monotonic() < deadline, f"only {sum(map(len, batches))} of {count} records"
        batch = source.poll(count, 0.05)
        if batch is not None:
            batches.append(batch)
    return batches


def values(batches: list[RawBatch], partition: int) -> list[bytes | None]:
    return [
        value
        for batch in batches
        for value, at in zip(batch.values, batch.partitions.tolist(), strict=True)
        if at == partition
    ]


def test_inspect_tells_partitions_watermarks_and_cluster(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    produce(broker, topic, *numbered(1, 0, 7))
    state = make(topic).inspect(5.0)
    assert state.partitions == {0: Watermarks(0, 0), 1: Watermarks(0, 7)}
    assert state.cluster_id is not None
    assert state.topic_id is None  # the mock broker has none to give


def test_an_unknown_topic_names_the_nearest_ones(
    topic: str, make: Callable[..., KafkaSource]
) -> None:
    with pytest.raises(ServiceError) as caught:
        make(topic[:-1]).inspect(5.0)
    assert repr(topic[:-1]) in caught.value.what
    assert topic in caught.value.what
    assert caught.value.exit_code == 2


def test_asking_for_an_unknown_topic_does_not_create_it(
    broker: EmbeddedBroker, make: Callable[..., KafkaSource]
) -> None:
    for _ in range(2):
        with pytest.raises(ServiceError, match="shows no topic 'never-made'"):
            make("never-made").inspect(5.0)


def test_a_broker_that_is_not_there_is_named(make: Callable[..., KafkaSource]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ServiceError, match=f"{address}.*no usable answer within 0.6 s") as caught:
        make(TOPIC, bootstrap=address).inspect(0.6)
    assert "kafka.bootstrap_servers" in caught.value.remedy


def test_a_batch_holds_every_column_in_record_order(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    before_ms = int(time.time() * 1000) - 1
    records: list[dict[str, Any]] = [
        {"partition": 0, "key": b"k", "value": b"v", "headers": [("a", b"1"), ("a", None)]},
        {"partition": 0, "key": None, "value": b"", "timestamp": 1_700_000_000_123},
        {"partition": 0, "key": b"gone", "value": None},
    ]
    produce(broker, topic, *records)
    source = make(topic)
    start(source)
    [batch] = read(source, 3)
    assert batch.topic == topic
    assert list(batch.keys) == [b"k", None, b"gone"]
    assert list(batch.values) == [b"v", b"", None]
    assert batch.headers is not None
    assert list(batch.headers) == [[("a", b"1"), ("a", None)], None, None]
    assert batch.partitions.dtype == np.int32
    assert batch.offsets.tolist() == [0, 1, 2]
    assert batch.timestamps_ms[1] == 1_700_000_000_123
    assert before_ms <= batch.timestamps_ms[0] <= int(time.time() * 1000) + 1
    assert batch.payload_bytes == len(b"kvgone")


def test_headers_are_none_when_no_record_has_any(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    produce(broker, topic, *numbered(0, 0, 2))
    source = make(topic)
    start(source)
    assert [batch.headers for batch in read(source, 2)] == [None]


def test_ranges_join_without_a_hole_and_cover_every_record(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    produce(broker, topic, *numbered(0, 0, 300), *numbered(1, 0, 200))
    source = make(topic, poll_records_max=37)
    start(source)
    batches = read(source, 500)
    assert max(map(len, batches)) <= 37
    joined: dict[TopicPartition, OffsetRange] = {}
    for batch in batches:
        for tp, span in batch.ranges.items():
            joined[tp] = joined[tp].then(span) if tp in joined else span
    assert joined == {
        TopicPartition(topic, 0): OffsetRange(0, 300),
        TopicPartition(topic, 1): OffsetRange(0, 200),
    }
    assert values(batches, 0) == [b"v%d" % n for n in range(300)]
    assert source.positions() == {tp: span.end for tp, span in joined.items()}
    assert source.advance() == {}


def test_nothing_to_read_is_none(topic: str, make: Callable[..., KafkaSource]) -> None:
    source = make(topic)
    start(source)
    assert source.poll(10, 0.01) is None


#: Short pauses leave the client alone; long ones pause it. Each test of a pause takes both ways.
both_pauses = pytest.mark.parametrize("hold_after_seconds", [60.0, 0.0])


@both_pauses
def test_pause_and_resume_keep_every_record_and_repeat_none(
    broker: EmbeddedBroker,
    topic: str,
    make: Callable[..., KafkaSource],
    monkeypatch: pytest.MonkeyPatch,
    hold_after_seconds: float,
) -> None:
    monkeypatch.setattr("k2i_tasks.kafka.flow.HOLD_AFTER_SECONDS", hold_after_seconds)
    produce(broker, topic, *numbered(0, 0, 2_000), *numbered(1, 0, 2_000))
    source = make(topic, poll_records_max=400)
    start(source)
    batches: list[RawBatch] = []
    deadline = time.monotonic() + 20
    while sum(map(len, batches)) < 4_000:
        assert time.monotonic() < deadline
        batches += filter(None, [source.poll(400, 0.05)])
        source.pause()
        source.pause()
        assert source.poll(400, 0.01) is None
        source.resume()
        source.resume()
    for partition in (0, 1):
        assert values(batches, partition) == [b"v%d" % n for n in range(2_000)]
    assert source.advance() == {}


@both_pauses
def test_a_paused_source_stays_silent_while_it_is_polled(
    broker: EmbeddedBroker,
    topic: str,
    make: Callable[..., KafkaSource],
    monkeypatch: pytest.MonkeyPatch,
    hold_after_seconds: float,
) -> None:
    monkeypatch.setattr("k2i_tasks.kafka.flow.HOLD_AFTER_SECONDS", hold_after_seconds)
    source = make(topic)
    start(source)
    source.pause()
    produce(broker, topic, *numbered(0, 0, 5))
    assert [source.poll(10, 0.05) for _ in range(10)] == [None] * 10
    source.resume()
    assert values(read(source, 5), 0) == [b"v%d" % n for n in range(5)]


def test_assigning_ends_a_pause(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    produce(broker, topic, *numbered(0, 0, 5))
    source = make(topic)
    start(source)
    source.pause()
    start(source, at=0)
    assert values(read(source, 5), 0) == [b"v%d" % n for n in range(5)]


def test_a_rewind_of_the_client_is_dropped_and_counted(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    produce(broker, topic, *numbered(0, 0, 50))
    source = make(topic)
    start(source)
    read(source, 50)
    back = {TopicPartition(topic, 0): 20}
    source._consumer.assign([source_module._client(tp, at) for tp, at in back.items()])
    produce(broker, topic, *numbered(0, 50, 55))
    batches = read(source, 5)
    assert values(batches, 0) == [b"v%d" % n for n in range(50, 55)]
    assert batches[0].ranges[TopicPartition(topic, 0)].start == 50
    assert source.dropped == {"rewound": 30}


def test_records_of_a_partition_that_is_not_ours_are_dropped_and_counted(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    produce(broker, topic, *numbered(0, 0, 3), *numbered(1, 0, 4))
    source = make(topic)
    source.assign({TopicPartition(topic, 0): 0})
    both = [source_module._client(TopicPartition(topic, n), 0) for n in (0, 1)]
    source._consumer.assign(both)
    batches = read(source, 3)
    deadline = time.monotonic() + 10
    while source.dropped["foreign"] < 4:
        assert time.monotonic() < deadline
        source.poll(10, 0.05)
    assert values(batches, 0) == [b"v0", b"v1", b"v2"]
    assert values(batches, 1) == []


def test_a_poll_that_failed_after_the_client_moved_on_is_read_again(
    broker: EmbeddedBroker,
    topic: str,
    make: Callable[..., KafkaSource],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    produce(broker, topic, *numbered(0, 0, 20))
    source = make(topic)
    start(source)

    def interrupted(*_: Any) -> RawBatch:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("k2i_tasks.kafka.columns.Columns.batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read(source, 20)
    assert source.advance() == {}
    assert values(read(source, 20), 0) == [b"v%d" % n for n in range(20)]


def test_lag_counts_what_is_left_and_ends_at_zero(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    produce(broker, topic, *numbered(0, 0, 10))
    source = make(topic, poll_records_max=4)
    start(source)
    tp = TopicPartition(topic, 0)
    assert source.lag()[tp] == 10
    read(source, 4)
    assert source.lag()[tp] == 6
    read(source, 6)
    assert source.lag() == {tp: 0, TopicPartition(topic, 1): 0}


def test_lag_grows_while_the_source_is_paused(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    source = make(topic, watch_seconds=0.05)
    start(source)
    source.pause()
    produce(broker, topic, *numbered(1, 0, 12))
    deadline = time.monotonic() + 10
    while source.lag()[TopicPartition(topic, 1)] != 12:
        assert time.monotonic() < deadline
        source.poll(1, 0.02)


def test_offsets_are_published_for_lag_tools(
    broker: EmbeddedBroker, topic: str, make: Callable[..., KafkaSource]
) -> None:
    source = make(topic)
    tp = TopicPartition(topic, 0)
    source.commit_offsets({tp: 41})
    source.commit_offsets({tp: 42, TopicPartition("another", 0): 7})
    [held] = source._consumer.committed([ClientPartition(tp.topic, tp.partition)], timeout=5)
    assert held.offset == 42


def test_a_broker_away_costs_complaints_and_a_bounded_wait_but_no_record(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., KafkaSource]
) -> None:
    monkeypatch.setattr(source_module, "COMMIT_SECONDS", 0.3)
    with EmbeddedBroker({TOPIC: 2}) as broker:
        source = make(TOPIC, bootstrap=broker.bootstrap)
        start(source)
        produce(broker, TOPIC, *numbered(0, 0, 5))
        first = read(source, 5)
        broker.set_down()
        deadline = time.monotonic() + 10
        while not source.errors():
            assert time.monotonic() < deadline
            assert source.poll(10, 0.05) is None
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(TransientError, match="Publishing offsets"):
                source.commit_offsets({P0: 5})
        assert time.monotonic() - began < 2.0
        # What still waits for the group's coordinator holds nobody up.
        assert source.poll(10, 0.05) is None
        assert source.lag()
        assert time.monotonic() - began < 3.0
        broker.set_up()
        produce(broker, TOPIC, *numbered(0, 5, 9))
        assert values(first + read(source, 4), 0) == [b"v%d" % n for n in range(9)]
        assert source.error_counts()["_TRANSPORT"] > 0
        source.close()


def test_close_is_idempotent_and_ends_publishing(
    topic: str, make: Callable[..., KafkaSource], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    source = make(topic)
    start(source)
    source.close()
    source.close()
    source.commit_offsets({TopicPartition(topic, 0): 1})
    assert caplog.records == []
