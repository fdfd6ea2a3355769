"""Dead letters into a topic, each once: transactions that carry how far each partition was told.

A transaction holds letters of one partition of the ingested topic and, for a consumer group of its
own that nobody joins, the offset behind the last of them. Both are there, or neither is. Whoever
reads the records again finds that offset, and sends no letter below it.

Each partition has a transactional id, whichever run reads it: with the first letter a run takes the
id over, which ends what an older run had begun, and only then reads the offset.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from k2i_tasks.errors import Component, ServiceError, TransientError
from k2i_tasks.failpoints import hit
from k2i_tasks.kafka.client import FETCH_BYTES, admin_settings, with_callbacks
from k2i_tasks.kafka.errors import (
    RIGHTS,
    ErrorLog,
    kafka_errors,
    settings_errors,
    translated,
)
from k2i_tasks.types import DeadLetter, TopicPartition

log = logging.getLogger(__name__)

#: Of one transaction.
LETTERS_MAX = 10_000
BYTES_MAX = 16 << 20
#: Producers that are kept; each is some threads and connections.
PRODUCERS_MAX = 8
#: Longest wait for the broker, in seconds.
TIMEOUT_SECONDS = 30.0
#: The broker says what is too large, not the client.
_MESSAGE_BYTES = 1_000_000_000
#: What comes when another has taken a transactional id over, or the broker has ended a transaction.
_TAKEN_OVER = frozenset(
    {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
)
_NO_RIGHT = RIGHTS | {KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
#: What our headers' names begin with.
HEADER = "__k2i."


@dataclass(frozen=True, slots=True)
class LetterTopicSettings:
    """Where letters go.

    Args:
        topic: its name.
        table: the table that their records are missing in, as the letters tell it.
        name: of this stream of letters: group, and beginning of the transactional ids.
        partitions, replicas: of a topic that is created; None for the broker's default.
    """

    topic: str
    table: str
    name: str
    partitions: int | None = None
    replicas: int | None = None


@dataclass(slots=True)
class _Seat:
    """A producer that owns the transactional id of a partition, and how far its letters are."""

    producer: Producer
    position: int


class LetterTopic:
    """Sends dead letters to a topic. For one thread; calls may block.

    Args:
        settings: those of the run's consumer, for address and login.
        where: where letters go.
    """

    def __init__(self, settings: Mapping[str, Any], where: LetterTopicSettings) -> None:
        self._errors = ErrorLog()
        self._common = with_callbacks(admin_settings(settings), self._errors.add)
        self._where = where
        self._seats: OrderedDict[TopicPartition, _Seat] = OrderedDict()
        self._consumer: Consumer | None = None

    def publish(
        self,
        letters: Sequence[DeadLetter],
        topic_id: str | None,
        confirm: Callable[[], None] = lambda: None,
    ) -> int:
        """Sends those of `letters` that were not sent before. One attempt; idempotent.

        Args:
            letters: rising within a partition.
            topic_id: the broker's id of their topic, so that those of another one by the same name
                are not taken for them.
            confirm: raises if this run may not send; asked once nobody else can.

        Returns:
            How many were sent.

        Raises:
            ServiceError: the broker refuses them, or our login.
            TransientError: the broker is away, or another run sends for the same partition.
        """
        by_partition: dict[TopicPartition, list[DeadLetter]] = {}
        for letter in letters:
            tp = TopicPartition(letter.topic, letter.partition)
            by_partition.setdefault(tp, []).append(letter)
        sent = 0
        for tp, some in sorted(by_partition.items()):
            try:
                seat = self._seat(tp, topic_id)
                confirm()
                fresh = [letter for letter in some if letter.offset >= seat.position]
                for part in _parts(fresh):
                    self._send(seat, tp, part, topic_id)
                sent += len(fresh)
            except BaseException:
                # Whatever became of a transaction is asked of the broker, with the next attempt.
                self._give_up(tp)
                raise
        return sent

    # Inside.

    def _seat(self, tp: TopicPartition, topic_id: str | None) -> _Seat:
        seat = self._seats.get(tp)
        if seat is None:
            self._make_topic()
            seat = self._taken_over(tp, topic_id)
            self._seats[tp] = seat
            while len(self._seats) > PRODUCERS_MAX:
                self._give_up(next(iter(self._seats)))
        self._seats.move_to_end(tp)
        return seat

    def _taken_over(self, tp: TopicPartition, topic_id: str | None) -> _Seat:
        """A producer for the partition; no other one can send for it any more."""
        own = {
            "transactional.id": f"{self._where.name}-{tp.topic}-{tp.partition}",
            "message.max.bytes": _MESSAGE_BYTES,
            "compression.type": "lz4",
            "linger.ms": 5,
        }
        with settings_errors():
            producer = Producer({**self._common, **own})
        with _answers(f"Taking over the dead letters of {tp}"):
            producer.init_transactions(TIMEOUT_SECONDS)
        return _Seat(producer, self._position(tp, topic_id))

    def _position(self, tp: TopicPartition, topic_id: str | None) -> int:
        """The offset behind the last letter that was sent of a partition; 0 for none."""
        asked = [ClientPartition(tp.topic, tp.partition)]
        with _answers(f"Reading how far the dead letters of {tp} are"):
            (found,) = self._reader().committed(asked, TIMEOUT_SECONDS)
        if found.error is not None:
            raise translated(found.error, f"Reading how far the dead letters of {tp} are")
        if found.offset < 0:
            return 0
        if topic_id and found.metadata and found.metadata != topic_id:
            log.warning("%s is another topic than the one that letters were sent of before", tp)
            return 0
        return int(found.offset)

    def _send(
        self, seat: _Seat, tp: TopicPartition, letters: Sequence[DeadLetter], topic_id: str | None
    ) -> None:
        """One transaction."""
        end = letters[-1].offset + 1
        refused: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                refused.append(error)

        hit("letters.send.before")
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        producer = seat.producer
        with _answers(f"Sending dead letters to topic {self._where.topic}"):
            producer.begin_transaction()
            for letter in letters:
                headers = headers_of(letter, self._where.table, at)
                _produce(producer, self._where.topic, letter, headers, delivered)
            left = _called_back(lambda: producer.flush(TIMEOUT_SECONDS))
            if refused:
                raise _refused(refused[0], self._where.topic)
            if left:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            position = ClientPartition(tp.topic, tp.partition, end, topic_id)
            metadata = self._reader().consumer_group_metadata()
            producer.send_offsets_to_transaction([position], metadata, TIMEOUT_SECONDS)
            hit("letters.commit.before")
            producer.commit_transaction(TIMEOUT_SECONDS)
        hit("letters.sent")
        seat.position = end

    def _reader(self) -> Consumer:
        """A client of the group; it joins it never."""
        if self._consumer is None:
            own = {
                "group.id": self._where.name,
                "enable.auto.commit": False,
                # An offset of a transaction that has not ended is not told: it is asked again.
                "isolation.level": "read_committed",
                "fetch.max.bytes": FETCH_BYTES,
            }
            with settings_errors():
                self._consumer = Consumer({**self._common, **own})
        return self._consumer

    def _make_topic(self) -> None:
        """Creates the topic if it is not there."""
        where = self._where
        with settings_errors():
            admin = AdminClient(self._common)
        with kafka_errors(f"Looking for topic {where.topic}"):
            known = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
        if where.topic in known:
            return
        new = NewTopic(
            where.topic,
            num_partitions=where.partitions or -1,
            replication_factor=where.replicas or -1,
        )
        try:
            with kafka_errors(f"Creating topic {where.topic}"):
                made = admin.create_topics([new], request_timeout=TIMEOUT_SECONDS)
                made[where.topic].result(TIMEOUT_SECONDS + 1)
        except ServiceError as error:
            cause = error.__cause__
            there = isinstance(cause, KafkaException) and (
                cause.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
            )
            if there:
                return
            raise ServiceError(
                error.what,
                component=Component.KAFKA,
                remedy="Create the topic, give the user the right to, or set dead_letters.topic to "
                "one that is there.",
            ) from error
        log.info("topic %s was created for dead letters", where.topic)

    def _give_up(self, tp: TopicPartition) -> None:
        """Ends a producer without a word to the broker: the next one for its id does that."""
        seat = self._seats.pop(tp, None)
        if seat is not None:
            seat.producer.purge()


def _produce(
    producer: Producer,
    topic: str,
    letter: DeadLetter,
    headers: list[tuple[str, str | bytes | None]],
    delivered: Callable[[KafkaError | None, Message], None],
) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            producer.produce(
                topic, letter.value, letter.key, headers=headers, on_delivery=delivered
            )
            break
        except BufferError:  # its queue is full
            if time.monotonic() > deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None
            _called_back(lambda: producer.poll(0.1))
    _called_back(lambda: producer.poll(0))


def _called_back(serve: Callable[[], int]) -> int:
    """What a call gives that serves callbacks.

    The client raises a fatal error amid them, and the next callback then stumbles over it.
    """
    try:
        return serve()
    except SystemError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KafkaException):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise cause from error


def headers_of(
    letter: DeadLetter, table: str, failed_at: str
) -> list[tuple[str, str | bytes | None]]:
    """The record's own headers, and behind them what happened to it, as texts.

    Args:
        letter: the letter.
        table: dotted name of the table.
        failed_at: ISO 8601.
    """
    told = {
        "table": table,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": letter.timestamp_ms,
        "stage": letter.stage,
        "code": letter.code,
        "reason": letter.reason,
        "schema.id": letter.schema_id,
        "failed.at": failed_at,
    }
    ours = [(HEADER + k, str(value).encode()) for k, value in told.items() if value is not None]
    return [*(letter.headers or ()), *ours]


def _parts(letters: Sequence[DeadLetter]) -> Iterator[Sequence[DeadLetter]]:
    """What goes into one transaction each."""
    start = size = 0
    for number, letter in enumerate(letters):
        weight = len(letter.key or b"") + len(letter.value or b"")
        if number > start and (size + weight > BYTES_MAX or number - start >= LETTERS_MAX):
            yield letters[start:number]
            start, size = number, 0
        size += weight
    if start < len(letters):
        yield letters[start:]


@contextmanager
def _answers(doing: str) -> Iterator[None]:
    """Translates; what another run's taking over causes passes, or our claim is lost too."""
    try:
        with kafka_errors(doing):
            yield
    except ServiceError as error:
        cause = error.__cause__
        code = cause.args[0].code() if isinstance(cause, KafkaException) else None
        if code in _NO_RIGHT:
            raise ServiceError(
                error.what,
                component=Component.KAFKA,
                remedy="Give the user the rights Describe and Write on the topic of dead letters, "
                "and on transactional ids and Read on the group that begin with the name of "
                "kafka.consumer_group.",
            ) from error
        if code in _TAKEN_OVER:
            raise TransientError(
                f"{doing}: another run has taken over, or the broker has ended a transaction that "
                "took too long.",
                component=Component.KAFKA,
            ) from error
        raise


def _refused(error: KafkaError, topic: str) -> Exception:
    """Why a letter was not taken."""
    if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
        return ServiceError(
            f"Topic {topic} does not take a dead letter of this size ({error.name()}).",
            component=Component.KAFKA,
            remedy=f'Raise max.message.bytes of topic {topic}, or set dead_letters.to = "table".',
        )
    return KafkaException(error)
