"""The topic that all engines read: order events, and what their table must hold in the end."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import KafkaError, Message, Producer

from k2i_tasks.kafka.orders import OrderPool
from tests.support import create_topic, outsider

PARTITIONS = 4
POOL = 20_000
#: Events of a pool are alike in columns and types, so the types of a table made beforehand.
SCHEMA = pa.schema(
    [
        ("event_id", pa.int64()),
        ("event_type", pa.string()),
        ("user_id", pa.int64()),
        ("session_id", pa.string()),
        (
            "product",
            pa.struct([("sku", pa.string()), ("category", pa.string()), ("price", pa.float64())]),
        ),
        ("quantity", pa.int64()),
        ("amount", pa.float64()),
        ("currency", pa.string()),
        ("is_mobile", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("country", pa.string()),
        ("event_time", pa.timestamp("us", "UTC")),
    ]
)
#: What is summed up over the table, and of one event: equal sums, equal values.
SUMS = {
    "user_id": "sum(user_id)",
    "session_id": "sum(length(session_id))",
    "sku": "sum(CAST(product.sku[5:] AS BIGINT))",
    "price": "sum(CAST(round(product.price * 100) AS BIGINT))",
    "quantity": "sum(quantity)",
    "amount": "sum(CAST(round(amount * 100) AS BIGINT))",
    "euros": "count(*) FILTER (currency = 'EUR')",
    "mobile": "count(*) FILTER (is_mobile)",
    "tags": "sum(len(tags))",
    "country": "count(*) FILTER (country = 'NO')",
    "event_time": "count(event_time)",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that was filled.

    Args:
        bootstrap: of the broker.
        name: of the topic.
        messages: how many there are.
        message_bytes: mean size of a value.
        sums: by the names of `SUMS`.
    """

    bootstrap: str
    name: str
    messages: int
    message_bytes: float
    sums: dict[str, int]


def fill(bootstrap: str, messages: int, seed: int = 7, partitions: int = PARTITIONS) -> Topic:
    """Makes a topic of so many partitions and fills it. May block for minutes."""
    name, pool = named("events"), OrderPool(seed, POOL)
    size = send(bootstrap, name, pool.events(0, messages, time.time()), partitions)
    return Topic(bootstrap, name, messages, size / messages, sums_of(pool, messages))


def named(kind: str) -> str:
    """A topic's name that is not used yet."""
    return f"{kind}-{uuid.uuid4().hex[:8]}"


def send(bootstrap: str, name: str, events: Iterable[tuple[bytes, bytes]], partitions: int) -> int:
    """Makes a topic and writes keys and values to its partitions in turn; bytes of the values.

    Raises:
        RuntimeError: the broker did not take all of them.
    """
    create_topic(bootstrap, name, partitions)
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            failures.append(error)

    settings = {
        "bootstrap.servers": bootstrap,
        "linger.ms": 50,
        "batch.size": 1_000_000,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 256 << 10,
        "delivery.report.only.error": True,
        "on_delivery": delivered,
    }
    producer = Producer(settings)
    size = 0
    for number, (key, value) in enumerate(events):
        size += len(value)
        while True:
            try:
                producer.produce(name, value, key, partition=number % partitions)
                break
            except BufferError:
                producer.poll(0.1)
    left = producer.flush(120)
    if left or failures:
        raise RuntimeError(f"{left + len(failures)} events were not delivered to {name}")
    return size


def sums_of(pool: OrderPool, messages: int) -> dict[str, int]:
    """What `SUMS` must come to over the first `messages` events of a pool of `POOL`."""
    total = dict.fromkeys(SUMS, 0)
    for number, (_key, value) in enumerate(pool.events(0, min(POOL, messages), 0.0)):
        often = (messages - number - 1) // POOL + 1
        for name, part in _parts(json.loads(value)).items():
            total[name] += often * part
    return total


def _parts(event: dict[str, Any]) -> dict[str, int]:
    return {
        "user_id": event["user_id"],
        "session_id": len(event["session_id"]),
        "sku": int(event["product"]["sku"][4:]),
        "price": round(event["product"]["price"] * 100),
        "quantity": event["quantity"],
        "amount": round(event["amount"] * 100),
        "euros": int(event["currency"] == "EUR"),
        "mobile": int(event["is_mobile"]),
        "tags": len(event["tags"]),
        "country": int(event["country"] == "NO"),
        "event_time": 1,
    }


def compared(
    topic: Topic,
    metadata_location: str,
    *,
    typed: bool,
    coordinates: tuple[str, str] = ("_kafka_partition", "_kafka_offset"),
) -> dict[str, Any]:
    """What DuckDB finds in the table: rows, distinct ones, and whether all values are right.

    Args:
        topic: what was to be ingested.
        metadata_location: of the table.
        typed: whether the values are columns; otherwise rows are told apart by their coordinates.
        coordinates: the columns of Kafka's partition and offset.
    """
    partition, offset = coordinates
    unique = "event_id" if typed else f'("{partition}", "{offset}")'
    sums = topic.sums if typed else {}
    source = f"iceberg_scan('{metadata_location}')"
    return summed(source, unique, {name: SUMS[name] for name in sums}, sums, topic.messages)


def compared_files(topic: Topic, folder: Path) -> dict[str, Any]:
    """As `compared`, of all Parquet files in a folder."""
    source = f"read_parquet('{folder}/*.parquet')"
    return summed(source, "event_id", SUMS, topic.sums, topic.messages)


def compared_names(topic: Topic, folder: str, coordinates: tuple[str, str]) -> dict[str, Any]:
    """As `compared`, of untyped rows in all Parquet files below a folder, columns by name."""
    unique = '("{}", "{}")'.format(*coordinates)
    return summed(f"read_parquet('{folder}/**/*.parquet')", unique, {}, {}, topic.messages)


def summed(
    source: str,
    unique: str,
    queries: Mapping[str, str],
    sums: Mapping[str, int],
    messages: int,
) -> dict[str, Any]:
    """What DuckDB finds in `source`, beside what has to be there.

    Args:
        source: what a query reads from.
        unique: expression that differs from row to row.
        queries: what is summed up, by name.
        sums: what that must come to, by the same names.
        messages: number of rows.
    """
    columns = ["count(*)", f"count(DISTINCT {unique})", *queries.values()]
    with outsider() as connection:
        connection.execute("SET memory_limit = '4GB'")
        row = connection.execute(f"SELECT {', '.join(columns)} FROM {source}").fetchone()
    assert row is not None
    rows, distinct, *found = row
    # A sum over no row is null.
    wrong = [
        name for name, value in zip(queries, found, strict=True) if int(value or 0) != sums[name]
    ]
    return {
        "rows": rows,
        "distinct": distinct,
        "wrong_columns": wrong,
        "equals_topic": rows == distinct == messages and not wrong,
    }
