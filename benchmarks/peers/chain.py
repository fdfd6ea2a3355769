"""`-m benchmarks.peers.chain BOOTSTRAP TOPIC MESSAGES FOLDER`: the least of a typed ingestion.

One thread: consume, Arrow's JSON reader with a fixed schema, Parquet. No table, no commit, no log;
a bad message ends it. Prints seconds of CPU and time from the first message on, as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Message, TopicPartition

from benchmarks.topic import SCHEMA

#: Messages of a poll, and rows of a file.
POLL, ROWS = 20_000, 100_000


def typed(values: Sequence[bytes]) -> pa.Table:
    """JSON documents as columns."""
    body = b"\n".join(values)
    reading = pyarrow.json.ReadOptions(use_threads=False, block_size=len(body) + 1)
    parsing = pyarrow.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="error")
    return pyarrow.json.read_json(pa.BufferReader(body), reading, parsing)


def decoded(messages: Sequence[Message]) -> pa.Table:
    table = typed([message.value() or b"" for message in messages])
    keys = pa.array([message.key() for message in messages], pa.binary())
    offsets = pa.array([message.offset() for message in messages], pa.int64())
    stamps = pa.array([message.timestamp()[1] for message in messages], pa.timestamp("ms", "UTC"))
    for name, column in (("key", keys), ("offset", offsets), ("timestamp", stamps)):
        table = table.append_column(name, column)
    return table


def write(tables: Sequence[pa.Table], folder: Path, number: int) -> None:
    pq.write_table(pa.concat_tables(tables), folder / f"{number}.parquet", compression="zstd")


def consumer_of(bootstrap: str, topic: str) -> Consumer:
    """A consumer of the whole topic, from its start."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "chain", "enable.auto.commit": False}
    # By default a full queue is looked at again after a second.
    queue = {"queued.max.messages.kbytes": 32_768, "fetch.queue.backoff.ms": 50}
    consumer = Consumer({**settings, **queue})
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    return consumer


def main(bootstrap: str, topic: str, messages: int, folder: Path) -> None:
    gc.disable()  # messages die by reference count
    consumer, began, taken, number = consumer_of(bootstrap, topic), None, 0, 0
    tables: list[pa.Table] = []
    while taken < messages:
        before = time.process_time(), time.monotonic()
        polled = consumer.consume(min(POLL, messages - taken), 1)
        if polled:
            began = began or before
            taken += len(polled)
            tables.append(decoded(polled))
        if sum(map(len, tables)) >= ROWS or (tables and taken == messages):
            write(tables, folder, number)
            tables, number = [], number + 1
    assert began is not None
    cpu, wall = time.process_time() - began[0], time.monotonic() - began[1]
    print(json.dumps({"cpu_seconds": cpu, "wall_seconds": wall}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
