"""Reads given ranges of a topic beside whoever else reads it: no group, no commits, no jumps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.errors import Component, IntegrityError, TransientError
from k2i_tasks.kafka.client import address, with_callbacks
from k2i_tasks.kafka.columns import Columns
from k2i_tasks.kafka.errors import (
    OUT_OF_RANGE,
    ErrorLog,
    is_transient_code,
    kafka_errors,
    settings_errors,
    translated,
)
from k2i_tasks.kafka.flow import WAKE_MAX, WAKE_SECONDS
from k2i_tasks.types import OffsetRange, RawBatch

#: Most records of one poll.
POLL_RECORDS_MAX = 20_000
#: Longest wait of one poll.
POLL_SECONDS = 0.2
#: Longest wait for the watermarks of one partition.
WATERMARKS_SECONDS = 5.0


def reading_settings(settings: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """A consumer's settings for reading on the side.

    The name of its group is another one, which it never joins: partitions are assigned.

    Args:
        settings: of the consumer, as `consumer_settings` makes them.
        suffix: goes to the group's name.
    """
    group = f"{settings['group.id']}-{suffix}"
    return {**settings, "group.id": group, "enable.partition.eof": True}


class RangeReader:
    """Reads ranges of one topic. For one thread.

    Args:
        settings: from `reading_settings`.
        topic: the topic.
        patience_seconds: longest time without any progress.

    Attributes:
        reached: per partition of `begin`, the position up to which all records were handed over.
        lows: low watermark of the partitions that had no records where they were to be read.
    """

    def __init__(
        self, settings: Mapping[str, Any], topic: str, *, patience_seconds: float = 60.0
    ) -> None:
        self._topic = topic
        self._where = address(settings)
        self._patience_seconds = patience_seconds
        self._log = ErrorLog()
        with settings_errors():
            self._consumer = Consumer(with_callbacks(settings, self._log.add))
        self._spans: dict[int, OffsetRange] = {}
        self._open: set[int] = set()
        self._passed: dict[int, int] = {}
        self._moved_at = time.monotonic()
        self.reached: dict[int, int] = {}
        self.lows: dict[int, int] = {}

    def begin(self, spans: Mapping[int, OffsetRange]) -> None:
        """Reads these ranges next, all at the same time, and nothing else.

        Within a partition ranges must rise from call to call: the client may remember the position
        of the last one, which must not be taken for one in a range further down.
        """
        self._spans = {number: span for number, span in spans.items() if span.end > span.start}
        falling = [n for n, span in self._spans.items() if span.start < self._passed.get(n, 0)]
        if falling:
            raise ValueError(f"ranges of partitions {falling} are below what was read before")
        self._passed |= {number: span.end for number, span in self._spans.items()}
        self.reached = {number: span.start for number, span in self._spans.items()}
        self._open = set(self._spans)
        self._moved_at = time.monotonic()
        with kafka_errors(f"Assigning partitions of {self._topic}"):
            self._consumer.assign([self._client(number) for number in sorted(self._open)])
        for number in sorted(self._open)[:WAKE_MAX]:
            self._wake(number)

    @property
    def busy(self) -> bool:
        """Whether some of the ranges are not read to their end."""
        return bool(self._open)

    def poll(self) -> RawBatch | None:
        """The next records of the ranges; None when there are none. May block for a moment.

        Raises:
            TransientError: nothing has moved for `patience_seconds`.
            IntegrityError: the topic does not have what was to be read.
            ServiceError: the topic is gone, or our right to read it.
        """
        with kafka_errors(f"Reading {self._topic} at {self._where}"):
            messages = self._consumer.consume(POLL_RECORDS_MAX, POLL_SECONDS)
        before = dict(self.reached)
        errors = list(map(Message.error, messages))
        batch = self._batch([m for m, e in zip(messages, errors, strict=True) if e is None])
        # After the records: the end of a partition comes behind the last of them, in one poll.
        for message, error in zip(messages, errors, strict=True):
            if error is not None:
                self._fault(message, error)
        if not messages:
            self._pass_control_records()
        self._close_finished()
        if self.reached != before or batch is not None:
            self._moved_at = time.monotonic()
        elif time.monotonic() - self._moved_at > self._patience_seconds:
            last = self._log.latest
            raise TransientError(
                f"Reading {self._topic} at {self._where}: nothing came for "
                f"{self._patience_seconds:g} s." + (f" Last error: {last.str()}." if last else ""),
                component=Component.KAFKA,
            )
        return batch

    def close(self) -> None:
        """Leaves the broker. May block for a moment."""
        with kafka_errors("Closing the consumer"):
            self._consumer.close()

    # Inside.

    def _fault(self, message: Message, error: KafkaError) -> None:
        number, offset = message.partition(), message.offset()
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            # All that can be read was handed over before, and the range ends within it.
            if number in self._open and offset is not None:
                self.reached[number] = max(self.reached[number], offset)
        elif code in OUT_OF_RANGE and number in self._open:
            self._out_of_range(number)
        elif not is_transient_code(error):
            raise translated(error, f"Reading {self._topic}:{number} at {self._where}")
        else:
            self._log.add(error)

    def _out_of_range(self, number: int) -> None:
        """Goes on at the low watermark, if records were deleted below it; tells so in `lows`."""
        doing = f"Asking for the watermarks of {self._topic}:{number}"
        with kafka_errors(doing):
            asked = ClientPartition(self._topic, number)
            marks = self._consumer.get_watermark_offsets(asked, timeout=WATERMARKS_SECONDS)
        if marks is None or marks[0] <= self.reached[number]:
            raise IntegrityError(
                f"Kafka at {self._where} does not have offset {self.reached[number]} of "
                f"{self._topic}:{number}; it holds {marks}.",
                component=Component.KAFKA,
                remedy="The log was truncated or the topic created again: start again to see how "
                "the two differ.",
            )
        self.lows[number] = marks[0]
        self.reached[number] = min(marks[0], self._spans[number].end)
        with kafka_errors(f"Assigning {self._topic}:{number}"):
            self._consumer.incremental_unassign([self._client(number)])
            if self.reached[number] < self._spans[number].end:
                self._consumer.incremental_assign([self._client(number)])
            else:
                self._open.discard(number)

    def _batch(self, messages: Sequence[Message]) -> RawBatch | None:
        if not messages:
            return None
        columns = Columns()
        columns.take(messages)
        partitions, offsets = columns.positions()
        kept = np.zeros(len(messages), np.bool_)
        for number in np.unique(partitions).tolist():
            if number not in self._open:
                continue
            mine = partitions == number
            span = self._spans[number]
            kept |= mine & (offsets >= self.reached[number]) & (offsets < span.end)
            self.reached[number] = max(self.reached[number], int(offsets[mine].max()) + 1)
        if not kept.any():
            return None
        if not kept.all():
            columns = columns.only(kept)
        return columns.batch(self._topic, {})

    def _pass_control_records(self) -> None:
        """The client's positions are past all that it handed over, and what nobody is handed."""
        asked = [self._client(number) for number in sorted(self._open)]
        with kafka_errors(f"Asking for the positions in {self._topic}"):
            for held in self._consumer.position(asked):
                # Before its first record a partition has no position of its own.
                self.reached[held.partition] = max(self.reached[held.partition], held.offset)

    def _close_finished(self) -> None:
        done = [n for n in sorted(self._open) if self.reached[n] >= self._spans[n].end]
        if not done:
            return
        for number in done:
            self._open.discard(number)
            self.reached[number] = self._spans[number].end
        if self._open:  # what is left is not to wait behind what nobody asked for
            with kafka_errors(f"Assigning partitions of {self._topic}"):
                self._consumer.incremental_unassign([self._client(number) for number in done])

    def _client(self, number: int) -> ClientPartition:
        return ClientPartition(self._topic, number, self.reached[number])

    def _wake(self, number: int) -> None:
        """The client's threads look for work once a second, unless there is something to send."""
        asked = ClientPartition(self._topic, number)
        try:
            with kafka_errors("Asking for watermarks"):
                self._consumer.get_watermark_offsets(asked, timeout=WAKE_SECONDS)
        except TransientError:
            return
