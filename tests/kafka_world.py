"""A topic, its program and its table: what was written, and what the table must hold."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicCollection
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from k2i_tasks.iceberg.state import SinkState, recorded
from tests.program import Program
from tests.running import PATIENCE_SECONDS, Offsets
from tests.support import (
    CatalogAt,
    Position,
    assert_exactly_once,
    await_leaders,
    create_topic,
    produce,
    read_by_metadata,
)

#: So that a client is back soon after its broker is.
IMPATIENT = {"reconnect.backoff.max.ms": 500}
#: However long a loaded machine takes for a broker or a program to start.
PATIENT = {"message.timeout.ms": 240_000}
#: What a record's value becomes in the table: its columns.
Row = dict[str, Any]


class World:
    """One topic of numbered records, and the program that ingests it.

    Args:
        folder: of the program.
        bootstrap: the broker.
        partitions: of the topic.
        config: of the topic.
        rest: a REST catalog; None for SQLite in the folder.
    """

    def __init__(
        self,
        folder: Path,
        bootstrap: str,
        *,
        partitions: int = 2,
        config: dict[str, str] | None = None,
        rest: CatalogAt | None = None,
    ) -> None:
        self.bootstrap = bootstrap
        self.topic = f"kafka-{uuid.uuid4().hex[:8]}"
        self.partitions = partitions
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        impatient = "".join(f'"{key}" = "{value}"\n' for key, value in IMPATIENT.items())
        self.program = Program(
            folder, bootstrap, self.topic, rest, extra=f"[kafka.properties]\n{impatient}"
        )
        self.program.environ = {"K2I_KAFKA_METADATA_REFRESH_SECONDS": "1"}
        #: What the table must hold, and nothing else.
        self.written: dict[Position, Row] = {}
        self._count = 0
        create_topic(bootstrap, self.topic, partitions, config)

    @property
    def group(self) -> str:
        """The program's consumer group."""
        return f"test-{self.topic}"

    def another_program(self, wal: Path, *, group: str) -> Program:
        """A second program for the same table, with a log and a group of its own."""
        own = {"K2I_TRANSACTION_LOG_LOG_DIR": str(wal), "K2I_KAFKA_CONSUMER_GROUP": group}
        return replace(self.program, environ=self.program.environ | own)

    def number(self) -> bytes:
        """The next record's value."""
        self._count += 1
        return b'{"n": %d}' % self._count

    def more(self, count: int, *, partition: int | None = None) -> dict[Position, Row]:
        """Writes so many records, over all partitions or to one; what stands where."""
        values = [self.number() for _ in range(count)]
        return self.write(values, lambda n: n % self.partitions if partition is None else partition)

    def write(
        self, values: Iterable[bytes | None], partition_of: Callable[[int], int]
    ) -> dict[Position, Row]:
        """Writes these values; what stands where."""
        found = produce(
            self.bootstrap,
            self.topic,
            values,
            partition_of=partition_of,
            config={**IMPATIENT, **PATIENT},
        )
        rows = {place: row_of(value) for place, value in found.items()}
        self.written |= rows
        return rows

    # What others do to the topic.

    def add_partitions(self, total: int) -> None:
        """Makes the topic grow to `total` partitions, and waits until they can be written to."""
        grown = self.admin.create_partitions([NewPartitions(self.topic, total)])
        grown[self.topic].result(30)
        await_leaders(self.admin, self.topic, total)
        self.partitions = total

    def delete_before(self, offsets: Offsets) -> None:
        """Deletes records as retention does: all below these offsets."""
        wanted = [ClientPartition(self.topic, number, at) for number, at in offsets.items()]
        for deleted in self.admin.delete_records(wanted).values():
            deleted.result(30)

    def delete_topic(self) -> None:
        """Deletes the topic, and waits until its name is free."""
        self.admin.delete_topics([self.topic])[self.topic].result(30)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.topic in self.admin.list_topics(timeout=30).topics:
            assert time.monotonic() < deadline, f"{self.topic} is still there"

    def create_again(self) -> None:
        """Creates the topic under its old name."""
        create_topic(self.bootstrap, self.topic, self.partitions)

    def commit_for_the_group(self, offsets: Offsets) -> None:
        """Commits offsets in the program's consumer group, as somebody else."""
        client = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.group})
        wanted = [ClientPartition(self.topic, number, at) for number, at in offsets.items()]
        try:
            client.commit(offsets=wanted, asynchronous=False)
        finally:
            client.close()

    # What is there.

    def topic_id(self) -> str:
        """Kafka's id of the topic as it is now."""
        asked = self.admin.describe_topics(TopicCollection([self.topic]))
        return str(asked[self.topic].result(30).topic_id)

    def ends(self) -> Offsets:
        """End of each partition: where the next record goes."""
        client = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "looking"})
        found = {}
        for number in range(self.partitions):
            marks = client.get_watermark_offsets(ClientPartition(self.topic, number), timeout=30)
            assert marks is not None
            found[number] = marks[1]
        client.close()
        return found

    def state(self) -> SinkState:
        """What the table records of us."""
        table = self.program.load_table()
        assert table is not None, "there is no table"
        found = recorded(table.metadata, "main", "main").newest
        assert found is not None
        return found

    def is_committed(self) -> bool:
        """Whether the table records all that the topic holds.

        Ask this of runs that may still be starting: they create the table before they claim it.
        """
        table = self.program.load_table()
        if table is None or recorded(table.metadata, "main", "main").newest is None:
            return False
        return self.next_offsets() == self.ends()

    def next_offsets(self) -> Offsets:
        """Next offset of each partition, as the table records it."""
        return {tp.partition: offset for tp, offset in self.state().offsets.items()}

    def all_in(self) -> None:
        """The table holds what was written: each record once, every value equal."""
        assert_exactly_once(self._rows(), self.written)

    def recorded_in(self) -> None:
        """The table holds what was written below the offsets that it records, and nothing else."""
        ends = self.next_offsets()
        below = {place: row for place, row in self.written.items() if place[1] < ends[place[0]]}
        assert_exactly_once(self._rows(), below)

    def _rows(self) -> list[Row]:
        columns = ("_kafka_partition", "_kafka_offset", "n")
        return read_by_metadata(self.program.metadata_location(), columns)


def row_of(value: bytes | None) -> Row:
    """The columns that a value becomes; a tombstone's are null."""
    row: Row = json.loads(value) if value is not None else {"n": None}
    return row


class Stream:
    """Writes records from a thread, slowly, until it is stopped; for a `with` statement."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._done = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Stream:
        partitions = self._world.partitions
        self._writing = self._pool.submit(
            self._world.write, self._values(), lambda n: n % partitions
        )
        return self

    def _values(self) -> Iterator[bytes]:
        while not self._done.wait(0.002):
            yield self._world.number()

    def stop(self) -> None:
        """Stops, and waits until all is written. Idempotent."""
        self._done.set()
        self._writing.result(PATIENCE_SECONDS)

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._pool.shutdown()
        self._writing.result()


class Transactions:
    """A transactional producer. What it commits is expected in the table; nothing else is.

    Args:
        world: whose topic it writes to.
        name: of the producer.
    """

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._sent: dict[Position, Row] = {}
        self._producer = Producer(
            {
                "bootstrap.servers": world.bootstrap,
                "transactional.id": f"{name}-{world.topic}",
                "transaction.timeout.ms": 240_000,
            }
        )
        self._producer.init_transactions(PATIENCE_SECONDS)

    def send(self, partition: int, count: int) -> None:
        """Writes so many records in the open transaction, or in a new one; they are in the log."""
        if not self._sent:
            self._producer.begin_transaction()
        for _ in range(count):
            value = self._world.number()
            self._producer.produce(
                self._world.topic, value, partition=partition, on_delivery=self._delivered
            )
        assert self._producer.flush(PATIENCE_SECONDS) == 0

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        value = message.value()
        assert isinstance(value, bytes)
        self._sent[partition, offset] = row_of(value)

    def commit(self) -> None:
        self._producer.commit_transaction(PATIENCE_SECONDS)
        self._world.written |= self._sent
        self._sent = {}

    def abort(self) -> None:
        self._producer.abort_transaction(PATIENCE_SECONDS)
        self._sent = {}
