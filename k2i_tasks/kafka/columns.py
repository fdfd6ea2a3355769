"""From messages to columns, without a Python statement per message."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import compress, repeat
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


class Columns:
    """Columns of the records of one poll, filled step by step.

    A step's messages are to be let go before the next is read: their memory is then still in the
    processor's cache, and is used again.

    Attributes:
        payload_bytes: bytes of all keys and values so far.
    """

    def __init__(self) -> None:
        self.payload_bytes = 0
        self._partitions: list[npt.NDArray[np.int32]] = []
        self._offsets: list[npt.NDArray[np.int64]] = []
        self._timestamps_ms: list[npt.NDArray[np.int64]] = []
        self._keys: list[bytes | None] = []
        self._values: list[bytes | None] = []
        #: None as long as no record has any.
        self._headers: list[Headers | None] | None = None

    def __len__(self) -> int:
        return len(self._values)

    def take(self, messages: Sequence[Message]) -> None:
        """Adds `messages`, all of them records."""
        before, count = len(self), len(messages)
        if not count:
            return
        keys: list[bytes | None] = list(map(Message.key, messages))
        values: list[bytes | None] = list(map(Message.value, messages))
        milliseconds = map(_milliseconds, map(Message.timestamp, messages))
        self._partitions.append(np.fromiter(map(Message.partition, messages), np.int32, count))
        self._offsets.append(np.fromiter(map(Message.offset, messages), np.int64, count))
        self._timestamps_ms.append(np.fromiter(milliseconds, np.int64, count))
        self._add_headers(_headers(messages), before, count)
        self._keys += keys
        self._values += values
        self.payload_bytes += _keys_bytes(keys) + _size_bytes(values)

    def _add_headers(self, headers: list[Headers | None] | None, before: int, count: int) -> None:
        if headers is not None and self._headers is None:
            self._headers = [None] * before
        if self._headers is not None:
            self._headers += repeat(None, count) if headers is None else headers

    def positions(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Partition, int32 [n], and offset, int64 [n], of each record; n > 0."""
        return np.concatenate(self._partitions), np.concatenate(self._offsets)

    def only(self, mask: npt.NDArray[np.bool_]) -> Columns:
        """The records that `mask` [n], n > 0, marks."""
        chosen, chosen_few = Columns(), mask.tolist()
        partitions, offsets = self.positions()
        chosen._partitions = [partitions[mask]]
        chosen._offsets = [offsets[mask]]
        chosen._timestamps_ms = [np.concatenate(self._timestamps_ms)[mask]]
        chosen._keys = list(compress(self._keys, chosen_few))
        chosen._values = list(compress(self._values, chosen_few))
        if self._headers is not None:
            headers = list(compress(self._headers, chosen_few))
            chosen._headers = headers if any(headers) else None
        chosen.payload_bytes = _size_bytes(chosen._keys) + _size_bytes(chosen._values)
        return chosen

    def batch(self, topic: str, ranges: Ranges) -> RawBatch:
        """The batch of these n > 0 records.

        Args:
            topic: the topic.
            ranges: positions that the batch covers.
        """
        partitions, offsets = self.positions()
        return RawBatch(
            topic=topic,
            partitions=partitions,
            offsets=offsets,
            timestamps_ms=np.concatenate(self._timestamps_ms),
            keys=self._keys,
            values=self._values,
            headers=self._headers,
            ranges=ranges,
            payload_bytes=self.payload_bytes,
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


def _keys_bytes(keys: Sequence[bytes | None]) -> int:
    try:
        # They are small: to copy them takes less than to ask each for its length.
        return len(b"".join(keys))  # type: ignore[arg-type]
    except TypeError:
        return _size_bytes(keys)
