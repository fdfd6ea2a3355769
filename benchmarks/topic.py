"""The topic that all engines read: order events, and what their table must hold in the end."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from confluent_kafka import Producer

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


def fill(bootstrap: str, messages: int, seed: int = 7) -> Topic:
    """Makes a topic of `PARTITIONS` partitions and fills it. May block for minutes."""
    name = f"events-{uuid.uuid4().hex[:8]}"
    create_topic(bootstrap, name, PARTITIONS)
    settings = {
        "bootstrap.servers": bootstrap,
        "linger.ms": 50,
        "batch.size": 1_000_000,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 1_000_000,
    }
    pool, producer = OrderPool(seed, POOL), Producer(settings)
    size = 0
    for number, (key, value) in enumerate(pool.events(0, messages, time.time())):
        size += len(value)
        while True:
            try:
                producer.produce(name, value, key, partition=number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(120):
        raise RuntimeError(f"not all of {messages} events were delivered to {name}")
    return Topic(bootstrap, name, messages, size / messages, sums_of(pool, messages))


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


def compared(topic: Topic, metadata_location: str, *, typed: bool) -> dict[str, Any]:
    """What DuckDB finds in the table: rows, distinct ones, and whether all values are right.

    Args:
        topic: what was to be ingested.
        metadata_location: of the table.
        typed: whether the values are columns; otherwise rows are told apart by their coordinates.
    """
    unique = "event_id" if typed else "(_kafka_partition, _kafka_offset)"
    columns = ["count(*)", f"count(DISTINCT {unique})", *(SUMS.values() if typed else ())]
    with outsider() as connection:
        connection.execute("SET memory_limit = '4GB'")
        query = f"SELECT {', '.join(columns)} FROM iceberg_scan('{metadata_location}')"
        row = connection.execute(query).fetchone()
    assert row is not None
    rows, distinct, *sums = row
    wrong = [
        name for name, found in zip(SUMS, sums, strict=False) if int(found) != topic.sums[name]
    ]
    return {
        "rows": rows,
        "distinct": distinct,
        "wrong_columns": wrong,
        "equals_topic": rows == distinct == topic.messages and not wrong,
    }
