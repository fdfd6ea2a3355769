"""Offsets in Kafka's consumer group: a courtesy to lag tools, never read back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as ClientPartition

from k2i_tasks.errors import Component, K2IError, TransientError
from k2i_tasks.kafka.errors import kafka_errors
from k2i_tasks.types import Offsets

DOING = "Publishing offsets in the consumer group"


class GroupClient(Protocol):
    """What speaks to the group."""

    def commit(self, positions: list[ClientPartition]) -> list[ClientPartition] | None:
        """Commits `positions`; waits for the coordinator's answer, without an end."""
        ...

    def close(self) -> None: ...


class OwnClient:
    """A client in the group's name that reads nothing: used where nobody is a member.

    Calls of one client are made one after the other, so that with the reading client's, reading
    would wait for the group's coordinator.

    Args:
        connect: makes the client, with the first commit.
    """

    def __init__(self, connect: Callable[[], Consumer]) -> None:
        self._connect = connect
        self._consumer: Consumer | None = None

    def commit(self, positions: list[ClientPartition]) -> list[ClientPartition] | None:
        if self._consumer is None:
            self._consumer = self._connect()
        # It has nothing to read: this passes on what it complains about.
        self._consumer.poll(0)
        found: list[ClientPartition] | None
        found = self._consumer.commit(offsets=positions, asynchronous=False)
        return found

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()


class MemberClient:
    """The member itself: a group with members takes offsets from nobody else.

    Args:
        consumer: the member, which others poll and close.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def commit(self, positions: list[ClientPartition]) -> list[ClientPartition] | None:
        found: list[ClientPartition] | None
        found = self._consumer.commit(offsets=positions, asynchronous=False)
        return found

    def close(self) -> None:
        """Nothing: it is closed by whom it belongs to."""


class OffsetPublisher:
    """Commits offsets synchronously, but not for longer than a set time.

    librdkafka's own synchronous commit waits for the group's coordinator without an end, and its
    admin client, which has a time-out, aborts the process when a coordinator answers late. So a
    thread waits, and the caller leaves it waiting when time is up.

    Args:
        client: speaks to the group.
        timeout_seconds: longest wait of one `publish`.
    """

    def __init__(self, client: GroupClient, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def publish(self, offsets: Offsets) -> None:
        """Commits `offsets`. Thread-safe; may block up to the time-out; idempotent.

        Raises:
            TransientError: not committed as far as is known.
        """
        positions = [ClientPartition(tp.topic, tp.partition, at) for tp, at in offsets.items()]
        outcome: list[K2IError] = []
        with self._lock:
            if self._closed or not positions:
                return
            if self._thread is not None and self._thread.is_alive():
                raise _unpublished("the one before still waits for the group's coordinator")
            self._thread = thread = threading.Thread(
                target=self._commit, args=(positions, outcome), name="k2i-offsets", daemon=True
            )
            thread.start()
        thread.join(self._timeout_seconds)
        if thread.is_alive():
            raise _unpublished(f"no answer within {self._timeout_seconds:g} s")
        if outcome:
            raise TransientError(outcome[0].what, component=Component.KAFKA) from outcome[0]

    def _commit(self, positions: list[ClientPartition], outcome: list[K2IError]) -> None:
        try:
            with kafka_errors(DOING):
                results = self._client.commit(positions)
        except K2IError as error:
            outcome.append(error)
            return
        refused = [f"partition {p.partition}: {p.error.str()}" for p in results or () if p.error]
        if refused:
            outcome.append(_unpublished("; ".join(refused[:4])))

    def close(self, timeout_seconds: float) -> bool:
        """Refuses further work and closes the client; whether that could be done in time.

        A client is not closed under a thread that uses it.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)
            if thread.is_alive():
                return False
        with kafka_errors("Closing the client of the consumer group"):
            self._client.close()
        return True


def _unpublished(why: str) -> TransientError:
    return TransientError(f"{DOING}: {why}.", component=Component.KAFKA)
