"""From messages to columns, without a Python statement per message."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message

from k2i_tasks.types import Headers, Ranges, RawBatch

#: Stands for the headers of a record when one of their names is not UTF-8.
UNREADABLE_HEADERS: Headers = (("k2i-unreadable-headers", None),)

log = logging.getLogger(__name__)

_milliseconds = itemgetter(1)


def partition_column(messages: Sequence[Message]) -> npt.NDArray[np.int32]:
    """Partition of each message, int32 [n]."""
    return np.fromiter(map(Message.partition, messages), np.int32, len(messages))


def offset_column(messages: Sequence[Message]) -> npt.NDArray[np.int64]:
    """Offset of each message, int64 [n]."""
    return np.fromiter(map(Message.offset, messages), np.int64, len(messages))


def raw_batch(
    topic: str,
    messages: Sequence[Message],
    partitions: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    ranges: Ranges,
) -> RawBatch:
    """The batch of `messages`, all of them records, with their positions read before.

    Args:
        topic: the topic.
        messages: n records.
        partitions: int32 [n].
        offsets: int64 [n].
        ranges: positions that the batch covers.
    """
    keys: list[bytes | None] = list(map(Message.key, messages))
    values: list[bytes | None] = list(map(Message.value, messages))
    timestamps = map(_milliseconds, map(Message.timestamp, messages))
    return RawBatch(
        topic=topic,
        partitions=partitions,
        offsets=offsets,
        timestamps_ms=np.fromiter(timestamps, np.int64, len(messages)),
        keys=keys,
        values=values,
        headers=_headers(messages),
        ranges=ranges,
        payload_bytes=_size_bytes(keys) + _size_bytes(values),
    )


def _headers(messages: Sequence[Message]) -> list[Headers | None] | None:
    column: list[Any] = []
    left = iter(messages)
    while True:
        try:
            # What was read before an error stays in the column; `left` is past the bad one.
            column.extend(map(Message.headers, left))
        except (SystemError, UnicodeDecodeError):
            # The client cannot make text of a header's name. What it then holds for this message
            # must not be touched again: it has a hole in it.
            column.append(UNREADABLE_HEADERS)
            log.warning("the headers of a record are lost: one of their names is not UTF-8")
        else:
            return column if any(column) else None


def _size_bytes(column: Sequence[bytes | None]) -> int:
    return sum(map(len, filter(None, column)))
