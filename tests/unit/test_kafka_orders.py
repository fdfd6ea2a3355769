"""The demo's events: what they are, and that the embedded broker loses none of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from k2i_tasks.errors import ServiceError
from k2i_tasks.kafka.embedded import EmbeddedBroker
from k2i_tasks.kafka.generator import UNREAD_PER_PARTITION_MAX, OrderGenerator
from k2i_tasks.kafka.orders import OrderPool
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.types import TopicPartition


def wait_for(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def source(broker: EmbeddedBroker, topic: str = "orders") -> KafkaSource:
    settings = {
        "bootstrap.servers": broker.bootstrap,
        "group.id": "unit",
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
    }
    made = KafkaSource(settings, topic)
    state = made.inspect(5.0)
    made.assign({TopicPartition(topic, n): marks.low for n, marks in state.partitions.items()})
    return made


def test_an_order_has_every_kind_of_field() -> None:
    [(key, value)] = OrderPool(seed=1).events(17, 1, 1_700_000_000.25)
    order = json.loads(value)
    assert order["event_id"] == 17
    assert order["event_time"] == "2023-11-14T22:13:20.250Z"
    assert key.decode() == f"u{order['user_id']:08d}"
    assert {name: type(field) for name, field in order.items()} == {
        "event_id": int,
        "event_type": str,
        "user_id": int,
        "session_id": str,
        "product": dict,
        "quantity": int,
        "amount": float,
        "currency": str,
        "is_mobile": bool,
        "tags": list,
        "country": str,
        "event_time": str,
    }
    assert {name: type(field) for name, field in order["product"].items()} == {
        "sku": str,
        "category": str,
        "price": float,
    }


def test_orders_are_about_270_bytes_and_their_numbers_are_never_whole_or_long() -> None:
    events = [json.loads(value) for _, value in OrderPool().events(0, 2_000, 0.0)]
    sizes = [len(value) for _, value in OrderPool().events(0, 2_000, 0.0)]
    assert 250 < sum(sizes) / len(sizes) < 300
    assert {type(event["amount"]) for event in events} == {float}
    assert [event["event_id"] for event in events] == list(range(2_000))


def test_the_seed_decides_the_orders() -> None:
    def made(seed: int) -> list[tuple[bytes, bytes]]:
        return list(OrderPool(seed, size=50).events(3, 100, 5.0))

    assert made(1) == made(1)
    assert made(1) != made(2)


@pytest.mark.parametrize("partitions", [1, 4, 7])
def test_the_broker_has_the_partitions_that_were_asked_for(partitions: int) -> None:
    with EmbeddedBroker({"orders": partitions}) as broker:
        reader = source(broker)
        assert len(reader.positions()) == partitions
        reader.close()


def test_a_topic_cannot_be_created_twice() -> None:
    with EmbeddedBroker({"orders": 1}) as broker, pytest.raises(ServiceError, match="orders"):
        broker.create_topic("orders", 2)


def test_a_closed_broker_refuses_work_and_closes_again() -> None:
    broker = EmbeddedBroker()
    broker.close()
    broker.close()
    with pytest.raises(ServiceError, match="closed"):
        broker.create_topic("orders")


def test_the_limit_is_exact_and_every_event_comes_once() -> None:
    with EmbeddedBroker({"orders": 4}) as broker:
        reader, seen = source(broker), list[int]()
        generator = OrderGenerator(
            broker.bootstrap, "orders", rate=None, limit=12_345, consumed=lambda: len(seen)
        )
        generator.start()
        deadline = time.monotonic() + 20
        while len(seen) < 12_345:
            assert time.monotonic() < deadline
            assert generator.error is None
            batch = reader.poll(20_000, 0.05)
            if batch is not None:
                seen += [json.loads(value)["event_id"] for value in batch.values if value]
        wait_for(lambda: not generator.running)
        assert sorted(seen) == list(range(12_345))
        assert (generator.produced, generator.delivered) == (12_345, 12_345)
        assert set(reader.lag().values()) == {0}
        reader.close()


def test_the_generator_waits_for_a_consumer_that_stands_still_and_nothing_is_dropped() -> None:
    with EmbeddedBroker({"orders": 2}) as broker:
        generator = OrderGenerator(
            broker.bootstrap, "orders", partitions=2, rate=None, consumed=lambda: 0
        )
        generator.start()
        wait_for(lambda: generator.delivered == 2 * UNREAD_PER_PARTITION_MAX)
        assert generator.running
        reader = source(broker)
        state = reader.inspect(5.0)
        assert {marks.low for marks in state.partitions.values()} == {0}
        assert {m.high for m in state.partitions.values()} == {UNREAD_PER_PARTITION_MAX}
        reader.close()
        generator.stop()
        assert generator.error is None
        assert generator.produced == 2 * UNREAD_PER_PARTITION_MAX


def test_the_rate_is_kept() -> None:
    with EmbeddedBroker({"orders": 4}) as broker:
        generator = OrderGenerator(
            broker.bootstrap, "orders", rate=1_000.0, limit=500, consumed=lambda: 500
        )
        began = time.monotonic()
        generator.start()
        wait_for(lambda: not generator.running)
        assert time.monotonic() - began >= 0.49
        assert generator.delivered == 500


def test_a_topic_that_is_not_there_surfaces_as_an_error() -> None:
    with EmbeddedBroker({"orders": 1}) as broker:
        generator = OrderGenerator(
            broker.bootstrap, "orders", partitions=4, rate=None, limit=10, consumed=lambda: 0
        )
        generator.start()
        wait_for(lambda: generator.error is not None)
        generator.stop()
        assert not generator.running
        assert "Producing order events to orders" in str(generator.error)
