"""A thread that fills a topic with order events, no faster than the consumer empties it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, Producer

from k2i_tasks.clock import Clock, SystemClock
from k2i_tasks.errors import Component, K2IError, TransientError
from k2i_tasks.kafka.client import with_callbacks
from k2i_tasks.kafka.errors import ErrorLog, kafka_errors, settings_errors, translated
from k2i_tasks.kafka.orders import OrderPool

#: Events of one step; the clock is read and the consumer looked at between two of them.
STEP_EVENTS = 500
#: Unread events per partition beyond which the generator waits: the embedded broker keeps about
#: 18,000 of these per partition, and partitions are not read evenly.
UNREAD_PER_PARTITION_MAX = 8_000
#: Wait when there is nothing to do, in seconds.
IDLE_SECONDS = 0.005
#: How far behind its rate the generator may be and still catch up, in seconds.
CATCH_UP_SECONDS = 1.0
FLUSH_SECONDS = 10.0

DEFAULT_RATE = 5_000.0


class OrderGenerator:
    """Produces order events until `limit`, `stop` or an error.

    Events go to the partitions in turn. The embedded broker drops what it has no room for, so at
    most about 8,000 events per partition are ahead of the consumer.

    Args:
        bootstrap: the broker, `host:port`.
        topic: an existing topic.
        partitions: how many it has.
        rate: events per second; None for as many as the consumer takes.
        limit: exact number of events; None for no end.
        consumed: events of this run that the consumer has taken so far; called on this thread.
        seed: decides the events.
        clock: gives the events' time.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        partitions: int = 4,
        rate: float | None = DEFAULT_RATE,
        limit: int | None = None,
        consumed: Callable[[], int],
        seed: int = 7,
        clock: Clock | None = None,
    ) -> None:
        if rate is not None and not rate > 0:
            raise ValueError(f"rate must be above 0, not {rate}")
        self._topic = topic
        self._partitions = partitions
        self._rate = rate
        self._limit = limit
        self._consumed = consumed
        self._clock = clock or SystemClock()
        self._pool = OrderPool(seed)
        self._log = ErrorLog()
        self._stop = threading.Event()
        self._produced = 0
        self._delivered = 0
        self._error: K2IError | None = None
        with settings_errors():
            self._producer = Producer(with_callbacks(_settings(bootstrap), self._log.add))
        self._thread = threading.Thread(target=self._run, name="k2i-orders", daemon=True)

    def start(self) -> None:
        """Begins, on a thread of its own."""
        self._thread.start()

    def stop(self, timeout_seconds: float = FLUSH_SECONDS + 5) -> None:
        """Ends it after the current step and waits for that. May block; idempotent."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)

    @property
    def running(self) -> bool:
        """Whether events are still coming."""
        return self._thread.is_alive()

    @property
    def produced(self) -> int:
        """Events handed to the client so far."""
        return self._produced

    @property
    def delivered(self) -> int:
        """Events that the broker has acknowledged so far."""
        return self._delivered

    @property
    def error(self) -> K2IError | None:
        """What ended it, if it was not `limit` or `stop`."""
        return self._error

    def _run(self) -> None:
        try:
            with kafka_errors(f"Producing order events to {self._topic}"):
                self._produce_all()
        except K2IError as error:
            self._error = self._error or error
        except Exception as error:
            self._error = K2IError(
                f"The order generator failed: {error!r}.", component=Component.KAFKA
            )

    def _produce_all(self) -> None:
        began = time.monotonic()
        while not self._stop.is_set() and self._error is None:
            if self._limit is not None and self._produced >= self._limit:
                break
            due, began = self._due(began)
            if due <= 0:
                self._producer.poll(0)
                self._stop.wait(IDLE_SECONDS)
                continue
            self._step(due)
        left = self._producer.flush(FLUSH_SECONDS)
        if left and self._error is None:
            self._error = TransientError(
                f"{left} order events were not taken by the broker within {FLUSH_SECONDS:g} s.",
                component=Component.KAFKA,
            )

    def _due(self, began: float) -> tuple[int, float]:
        """Events to produce now, and the moment from which the rate counts."""
        unread_max = UNREAD_PER_PARTITION_MAX * self._partitions
        due = min(STEP_EVENTS, unread_max - (self._produced - self._consumed()))
        if self._limit is not None:
            due = min(due, self._limit - self._produced)
        if self._rate is None:
            return due, began
        now = time.monotonic()
        # After a halt of the consumer the rate goes on from now: no burst to make up for it.
        began = max(began, now - CATCH_UP_SECONDS - self._produced / self._rate)
        return min(due, int((now - began) * self._rate) - self._produced), began

    def _step(self, count: int) -> None:
        events = self._pool.events(self._produced, count, self._clock.unix())
        produce, topic, partitions = self._producer.produce, self._topic, self._partitions
        for number, (key, value) in enumerate(events, self._produced):
            produce(topic, value, key, number % partitions, self._on_delivery)
        self._produced += count
        self._producer.poll(0)

    def _on_delivery(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self._delivered += 1
        elif self._error is None:
            self._error = translated(error, f"Producing order events to {self._topic}")


def _settings(bootstrap: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap,
        "linger.ms": 5,
        "batch.num.messages": 1_000,
        "queue.buffering.max.messages": 1_000_000,
        "enable.idempotence": True,
        "message.timeout.ms": 30_000,
    }
