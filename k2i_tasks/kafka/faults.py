"""What to make of the errors that arrive in place of records."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaError
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.errors import Component, IntegrityError, K2IError
from k2i_tasks.kafka.errors import (
    OUT_OF_RANGE,
    UNREADABLE,
    ErrorLog,
    is_transient_code,
    kafka_errors,
    translated,
)
from k2i_tasks.kafka.start import lost_records
from k2i_tasks.types import OffsetRange, TopicPartition

log = logging.getLogger(__name__)

#: Longest wait for watermarks; they only make an error clearer.
WATERMARKS_SECONDS = 2.0
#: The client fetches unreadable bytes again twice a second; after this many tries they stay so.
UNREADABLE_TRIES_MAX = 20


class PartitionFaults:
    """Raises what cannot pass by itself; counts what may.

    Args:
        consumer: asked for watermarks when a position is out of range.
        topic: the topic.
        where: the broker's address, for people.
        max_message_bytes: the configured limit of a record, for people.
        errors: takes what is only counted.
        confirm: raises if the topic is another one by now; asked when a position is out of range.
        accept_gaps: whether to go on after records that the broker deleted before they were read.
    """

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        where: str,
        max_message_bytes: int,
        errors: ErrorLog,
        *,
        confirm: Callable[[], None],
        accept_gaps: bool = False,
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self._where = where
        self._max_message_bytes = max_message_bytes
        self._errors = errors
        self._confirm = confirm
        self._accept_gaps = accept_gaps
        self._tries: dict[int, int] = {}

    def cleared(self, partitions: Iterable[int]) -> None:
        """Notes that `partitions` gave records again."""
        if self._tries:
            for partition in partitions:
                self._tries.pop(partition, None)

    def report(self, partition: int, offset: int, error: KafkaError) -> OffsetRange | None:
        """Takes one error of one partition. Blocks only when a position is out of range.

        Args:
            partition: its number; -1 when the error is not about one.
            offset: the next offset that we expect there.
            error: what librdkafka says.

        Returns:
            What the broker deleted from `offset` on, when that is accepted; else None.

        Raises:
            K2IError: it will not pass by itself.
        """
        tp = TopicPartition(self._topic, partition)
        doing = f"Reading {tp} at {self._where} from offset {offset}"
        if error.code() in OUT_OF_RANGE:
            return self._out_of_range(tp, offset, error)
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise IntegrityError(
                f"{doing}: the next batch of records is larger than kafka.max_message_bytes = "
                f"{self._max_message_bytes} allows.",
                component=Component.KAFKA,
                remedy="Raise kafka.max_message_bytes above the topic's max.message.bytes.",
            )
        if not is_transient_code(error):
            raise translated(error, doing)
        self._errors.add(error)
        if error.code() in UNREADABLE:
            self._tries[partition] = self._tries.get(partition, 0) + 1
            if self._tries[partition] >= UNREADABLE_TRIES_MAX:
                raise IntegrityError(
                    f"{doing}: the same bytes could not be read {UNREADABLE_TRIES_MAX} times: "
                    f"{error.str()} ({error.name()}).",
                    component=Component.KAFKA,
                    remedy="Check the broker's log segment and kafka.max_message_bytes; repair or "
                    "delete the records on the broker to go on.",
                )
        return None

    def _out_of_range(self, tp: TopicPartition, offset: int, error: KafkaError) -> OffsetRange:
        self._confirm()
        marks = self._watermarks(tp)
        if marks is not None and 0 <= offset < marks[0]:
            lost = OffsetRange(offset, marks[0])
            if self._accept_gaps:
                return lost
            raise lost_records(self._topic, {tp: lost})
        holds = "an unknown range" if marks is None else f"[{marks[0]},{marks[1]})"
        raise IntegrityError(
            f"Kafka at {self._where} does not have offset {offset} of {tp}; it holds {holds}: "
            f"{error.str()} ({error.name()}).",
            component=Component.KAFKA,
            remedy="The log was truncated or the topic created again. Start again to see how they "
            "differ; ingest a new topic into another table or under another iceberg.sink name.",
        )

    def _watermarks(self, tp: TopicPartition) -> tuple[int, int] | None:
        asked = ClientPartition(tp.topic, tp.partition)
        try:
            with kafka_errors(f"Asking for the watermarks of {tp}"):
                marks = self._consumer.get_watermark_offsets(asked, timeout=WATERMARKS_SECONDS)
        except K2IError as error:
            log.warning("%s", error)
            return None
        return None if marks is None else (marks[0], marks[1])
