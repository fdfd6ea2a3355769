"""Columns of a poll: filled step by step, and parts of them."""

from __future__ import annotations

import numpy as np
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from k2i_tasks.kafka.columns import Columns
from k2i_tasks.types import Headers, OffsetRange, TopicPartition

RANGES = {TopicPartition("t", 0): OffsetRange(0, 9)}


def message(
    offset: int, value: bytes | None, key: bytes | None = None, headers: Headers | None = None
) -> Message:
    """A record of partition `offset % 2`, at `offset` ms."""
    return Message(
        topic="t",
        partition=offset % 2,
        offset=offset,
        key=key,
        value=value,
        headers=None if headers is None else list(headers),
        timestamp=(TIMESTAMP_CREATE_TIME, offset),
    )


def filled(*steps: list[Message]) -> Columns:
    columns = Columns()
    for messages in steps:
        columns.take(messages)
    return columns


def test_steps_follow_one_another_in_every_column() -> None:
    batch = filled([message(0, b"a", b"k"), message(1, None)], [], [message(2, b"", b"")]).batch(
        "t", RANGES
    )
    assert (batch.topic, batch.ranges) == ("t", RANGES)
    assert batch.partitions.tolist() == [0, 1, 0]
    assert batch.offsets.tolist() == [0, 1, 2]
    assert batch.timestamps_ms.tolist() == [0, 1, 2]
    assert list(batch.keys) == [b"k", None, b""]
    assert list(batch.values) == [b"a", None, b""]
    assert (batch.headers, batch.payload_bytes) == (None, 2)


def test_headers_stay_with_their_records_whichever_step_brings_the_first() -> None:
    some: Headers = [("h", b"1")]
    one, two = message(0, b"a"), message(1, b"b", headers=some)
    for order in ([[one], [two], [one, one]], [[one, two], [one], [one]]):
        headers = filled(*order).batch("t", RANGES).headers
        assert headers is not None
        assert list(headers) == [None, some, None, None]


def test_a_part_has_the_columns_of_its_records_alone() -> None:
    some: Headers = [("h", b"1")]
    columns = filled(
        [message(0, b"abc", headers=some)], [message(1, b"de", b"k"), message(2, None)]
    )
    part = columns.only(np.array([False, True, True]))
    batch = part.batch("t", RANGES)
    assert len(part) == 2
    assert batch.offsets.tolist() == [1, 2]
    assert batch.partitions.tolist() == [1, 0]
    assert batch.timestamps_ms.tolist() == [1, 2]
    assert (list(batch.keys), list(batch.values)) == ([b"k", None], [b"de", None])
    assert (batch.headers, batch.payload_bytes) == (None, 3)
    headers = columns.only(np.array([True, False, True])).batch("t", RANGES).headers
    assert headers is not None
    assert list(headers) == [some, None]
    assert len(columns.only(np.zeros(3, np.bool_))) == 0
