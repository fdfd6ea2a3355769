"""Pausing and resuming all partitions without losing, repeating or waiting for records."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.kafka.errors import kafka_errors
from k2i_tasks.types import TopicPartition

log = logging.getLogger(__name__)

#: A pause shorter than this only leaves the records where they are, fetched and waiting. A longer
#: one pauses the client, which throws them away and fetches them again afterwards.
HOLD_AFTER_SECONDS = 2.0
#: Longest wait for one broker to be woken up.
WAKE_SECONDS = 0.05
#: Most brokers that are woken up.
WAKE_MAX = 16


def client_partitions(partitions: Iterable[TopicPartition]) -> list[ClientPartition]:
    """The client's words for `partitions`."""
    return [ClientPartition(tp.topic, tp.partition) for tp in partitions]


class Flow:
    """Whether records flow. Used by the thread that polls.

    Args:
        consumer: whose partitions are paused.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._paused_at: float | None = None
        #: Whether the client itself is paused.
        self._held = False
        #: One partition of each broker.
        self._wake: Sequence[TopicPartition] = ()

    @property
    def stopped(self) -> bool:
        """Whether records must stay where they are, in the client."""
        return self._paused_at is not None and not self._held

    def wake_by(self, partitions: Sequence[TopicPartition]) -> None:
        """Sets the partitions, one per broker, by which brokers' threads are woken up."""
        self._wake = partitions[:WAKE_MAX]

    def open(self) -> None:
        """Forgets a pause: the partitions were assigned anew."""
        self._paused_at, self._held = None, False

    def pause(self) -> None:
        """Stops the flow. Idempotent; does not block."""
        if self._paused_at is None:
            self._paused_at = time.monotonic()

    def settle(self, partitions: Iterable[TopicPartition]) -> None:
        """Pauses the client itself once the pause has lasted; to be called before each poll."""
        if not self.stopped or self._paused_at is None:
            return
        if time.monotonic() - self._paused_at >= HOLD_AFTER_SECONDS:
            self._held = True
            self.hold(partitions)

    def hold(self, partitions: Iterable[TopicPartition]) -> None:
        """Pauses `partitions` in the client, if the others are."""
        if self._held:
            with kafka_errors("Pausing partitions"):
                self._consumer.pause(client_partitions(partitions))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Lets records flow from where they stopped. Idempotent; may block for a moment."""
        self._paused_at = None
        if self._held:
            with kafka_errors("Resuming partitions"):
                self._consumer.resume(client_partitions(partitions))
            self._held = False
            self.wake()

    def wake(self) -> None:
        """Wakes up the client's threads, one per broker. May block for a moment.

        They look for partitions to fetch once a second, unless there is something to send. Any
        question will do; the answer is not used.
        """
        for partition in client_partitions(self._wake):
            try:
                self._consumer.get_watermark_offsets(partition, timeout=WAKE_SECONDS)
            except KafkaException as error:
                log.debug("no answer from the leader of %s: %s", partition, error)
