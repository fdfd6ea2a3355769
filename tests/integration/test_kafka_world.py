"""What Kafka does to a topic while we read it, or while we are away: nothing lost or doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from k2i_tasks.failpoints import VARIABLE
from tests.conftest import Stack
from tests.kafka_world import Stream, Transactions, World, row_of
from tests.running import PATIENCE_SECONDS, running
from tests.support import Position

pytestmark = pytest.mark.integration

MakeWorld = Callable[..., World]


@pytest.fixture
def make(kafka_bootstrap: str, tmp_path: Path) -> MakeWorld:
    return lambda **options: World(tmp_path, kafka_bootstrap, **options)


def test_committed_records_land_and_the_offsets_pass_aborted_ones_and_control_records(
    make: MakeWorld,
) -> None:
    world = make()
    first, second = Transactions(world, "first"), Transactions(world, "second")
    first.send(0, 5)
    second.send(0, 7)
    second.commit()
    first.send(0, 6)
    first.abort()
    code, output = world.program.run("--max-messages", "7")
    assert code == 0, output
    world.all_in()
    assert 12 <= world.next_offsets()[0] < 19, "not between two records of the aborted transaction"
    world.more(20)
    first.send(0, 5)
    first.send(1, 5)
    with running(world.program) as run:
        run.until_at({0: 30, 1: 10})  # up to the open transaction
        run.until_committed(20)
        world.all_in()
        first.commit()
        run.until_committed(30)
        second.send(0, 8)
        second.send(1, 1)
        second.abort()
        ends = world.ends()
        run.until_at(ends)
        assert world.next_offsets() != ends, "this is to be the drain's work"
        run.drain()
    assert world.next_offsets() == ends
    world.all_in()
    world.more(6)
    code, output = world.program.run("--max-messages", "6")
    assert code == 0, output
    assert world.next_offsets() == world.ends()
    world.all_in()


def alter(world: World, kind: ResourceType, name: str, key: str, value: str) -> None:
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(kind, name, incremental_configs=[entry])
    world.admin.incremental_alter_configs([resource])[resource].result(30)


def log_of(world: World, partition: int) -> dict[int, bytes | None]:
    """Offset to value of what a partition holds now."""
    client = Consumer({"bootstrap.servers": world.bootstrap, "group.id": "looking"})
    client.assign([ClientPartition(world.topic, partition, 0)])
    found: dict[int, bytes | None] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while max(found, default=-1) + 1 < world.ends()[partition]:
        assert time.monotonic() < deadline
        for message in client.consume(10_000, 0.2):
            assert message.error() is None
            offset, value = message.offset(), message.value()
            assert offset is not None
            assert not isinstance(value, str)
            found[offset] = value
    client.close()
    return found


def test_a_compacted_log_is_ingested_over_its_holes_with_its_tombstones(make: MakeWorld) -> None:
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "1000",
        "min.cleanable.dirty.ratio": "0.001",
    }
    world = make(partitions=1, config=config)
    alter(world, ResourceType.BROKER, "1", "log.cleaner.backoff.ms", "100")
    producer = Producer({"bootstrap.servers": world.bootstrap})
    newest: dict[int, int] = {}
    offset, kept = 0, set()
    for turn in range(12):
        # A new segment by the records' time; all but the last one are compacted.
        at_ms = 1_700_000_000_000 + turn * 10_000
        for key in range(100):
            if (key + turn) % 3:
                continue
            value = None if key % 10 == turn % 10 else world.number()
            producer.produce(world.topic, value, b"%d" % key, partition=0, timestamp=at_ms)
            newest[key] = offset
            offset += 1
        assert producer.flush(PATIENCE_SECONDS) == 0
        if turn == 10:
            kept = set(newest.values())
    kept |= set(range(max(kept) + 1, offset))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := log_of(world, 0)).keys() != kept:
        assert time.monotonic() < deadline, f"not compacted: {len(found)} of {offset} records left"
    assert len(kept) < offset
    assert None in found.values()
    world.written = {(0, at): row_of(value) for at, value in found.items()}
    world.program.environ |= {"K2I_BUFFER_FLUSH_BATCH_SIZE": "20", "K2I_KAFKA_BATCH_SIZE": "20"}
    code, output = world.program.run(environ={VARIABLE: "commit.answered:3"})
    assert code == -9, output
    assert 0 < world.next_offsets()[0] < offset
    with running(world.program) as run:
        run.until_at({0: offset})
        run.drain()
    world.all_in()


def test_partitions_that_are_added_are_read_from_their_first_record(make: MakeWorld) -> None:
    world = make()
    world.more(40)
    with running(world.program) as run:
        run.until_committed(40)
        world.add_partitions(4)
        world.more(400)  # long before the program looks at the topic again
        run.until_committed(440)
        assert set(world.next_offsets()) == {0, 1, 2, 3}
        world.more(80)
        run.until_committed(520)
        run.drain()
    world.add_partitions(5)
    world.more(100)
    code, output = world.program.run("--max-messages", "100")
    assert code == 0, output
    assert world.next_offsets() == world.ends()
    world.all_in()


def complains_of_kafka(report: dict[str, Any]) -> bool:
    return bool(report["components"]["kafka"]["status"] == "degraded")


def all_committed(report: dict[str, Any]) -> bool:
    records = report["records"]
    return bool(records["committed_rows"] == records["consumed"])


def test_a_broker_that_dies_and_one_that_freezes_are_waited_for(
    make: MakeWorld, stack: Stack
) -> None:
    world = make()
    with running(world.program) as run:
        with Stream(world):
            run.until_committed(300)
            stack.kill("kafka")
            try:
                run.until(complains_of_kafka, "told of the broker that is away")
                away = run.until(all_committed, "committed what it had, with the broker away")
            finally:
                stack.restart("kafka")
            back = run.until_committed(away["records"]["committed_rows"] + 300)
            stack.pause("kafka")
            try:
                threading.Event().wait(3)
            finally:
                stack.resume("kafka")
            run.until_committed(back["records"]["committed_rows"] + 900)
        run.until_committed(len(world.written))
        run.drain()
    world.all_in()


def test_the_table_wins_over_whatever_the_consumer_group_says(make: MakeWorld) -> None:
    world = make()
    first: dict[Position, object] = dict(world.more(60))
    world.commit_for_the_group(world.ends())
    with running(world.program) as run:
        run.until_committed(len(first))  # from the beginning, since the table knows nothing
        world.commit_for_the_group({0: 3, 1: 25})
        world.more(60)
        run.until_committed(120)
        run.drain()
    world.admin.delete_consumer_groups([world.group])[world.group].result(30)
    world.more(60)
    world.commit_for_the_group({0: 7, 1: world.ends()[1]})
    code, output = world.program.run("--max-messages", "60")
    assert code == 0, output
    world.all_in()
