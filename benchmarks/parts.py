"""`-m benchmarks.parts NAME BOOTSTRAP TOPIC MESSAGES FOLDER`: one part of an ingestion alone.

What the part works on is in memory beforehand, and what comes out is written to Parquet files in
the folder, to be compared with the topic. Prints seconds of CPU and time as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import Message

from benchmarks.peers import chain
from benchmarks.topic import SCHEMA
from k2i_tasks.codecs import MetadataColumns, make_decoder
from k2i_tasks.codecs.json_habit import Habit
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.json_parts import Part, read_part
from k2i_tasks.codecs.wire import RefusedError, wire_schema
from k2i_tasks.types import OffsetRange, RawBatch, TopicPartition

#: Part, and what it is.
PARTS = {
    "reader": "Arrow's JSON reader, fixed schema",
    "walk": "K2I's walk by layout, fixed schema",
    "decoder": "K2I's decoder, all columns",
    "parquet": "Parquet files, zstd",
}

MESSAGE_BYTES_MAX = 10 << 20
WIRE = wire_schema(SCHEMA, exact=False)


def _read(bootstrap: str, topic: str, messages: int) -> list[list[Message]]:
    """All of the topic, in polls."""
    consumer = chain.consumer_of(bootstrap, topic)
    polls, taken = [], 0
    while taken < messages:
        polled = consumer.consume(min(chain.POLL, messages - taken), 1)
        taken += len(polled)
        polls += [polled] if polled else []
    return polls


def _raw(messages: Sequence[Message], topic: str) -> RawBatch:
    """A poll as the program's source hands it to the decoder."""
    values = [message.value() for message in messages]
    partitions = np.array([message.partition() for message in messages], np.int32)
    offsets = np.array([message.offset() for message in messages], np.int64)
    ranges = {
        TopicPartition(topic, number): OffsetRange(
            int(offsets[partitions == number].min()), int(offsets[partitions == number].max()) + 1
        )
        for number in np.unique(partitions).tolist()
    }
    return RawBatch(
        topic=topic,
        partitions=partitions,
        offsets=offsets,
        timestamps_ms=np.array([message.timestamp()[1] for message in messages], np.int64),
        keys=[message.key() for message in messages],
        values=values,
        headers=None,
        ranges=ranges,
        payload_bytes=sum(len(value or b"") for value in values),
    )


def _walked(habit: Habit, values: Sequence[bytes]) -> pa.Table:
    """The walk as the decoder does it, and nothing around it."""
    page = Page(values, MESSAGE_BYTES_MAX)
    layout = habit.layout(WIRE, len(page), page.size_bytes(0, len(page)), page.sample)
    tables = []
    for read in read_part(page, Part(0, len(page), layout), WIRE):
        if isinstance(read.found, RefusedError):
            raise read.found
        table, unlike = read.found
        if unlike is not None and len(unlike):
            raise RuntimeError(f"{len(unlike)} of {len(table)} documents are unlike the others")
        tables.append(table)
    return pa.concat_tables(tables)


def _timed(step: Callable[[Any], pa.Table | None], work: Sequence[Any]) -> list[pa.Table]:
    """Does each piece, prints what that took, and gives what came out."""
    cpu, wall = time.process_time(), time.monotonic()
    found = [step(piece) for piece in work]
    spent = {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.monotonic() - wall,
    }
    print(json.dumps(spent))
    return [table for table in found if table is not None]


def main(name: str, bootstrap: str, topic: str, messages: int, folder: Path) -> None:
    gc.disable()
    polls = _read(bootstrap, topic, messages)
    if name == "parquet":
        rows = pa.concat_tables(map(chain.decoded, polls)).combine_chunks()
        del polls
        pieces = [rows.slice(at, chain.ROWS) for at in range(0, len(rows), chain.ROWS)]
        numbered = list(enumerate(pieces))
        _timed(lambda piece: chain.write([piece[1]], folder, piece[0]), numbered)
        return
    if name in ("reader", "walk"):
        values = [[message.value() or b"" for message in poll] for poll in polls]
        step = chain.typed if name == "reader" else partial(_walked, Habit())
        tables = _timed(step, values)
    else:
        decoder = make_decoder(
            "json",
            columns=MetadataColumns(),
            table_schema=None,
            max_message_bytes=MESSAGE_BYTES_MAX,
            mode="auto-additive",
        )
        batches = [_raw(poll, topic) for poll in polls]
        del polls
        tables = _timed(lambda raw: decoder.decode(raw).table, batches)
    for number, table in enumerate(tables):
        chain.write([table], folder, number)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
