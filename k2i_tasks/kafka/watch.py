"""The topic as it changes while a run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from k2i_tasks.errors import ServiceError, TransientError
from k2i_tasks.kafka.errors import ErrorLog, kafka_errors
from k2i_tasks.kafka.metadata import LATEST, ask_offsets, known_id
from k2i_tasks.kafka.start import recreated
from k2i_tasks.kafka.state import TopicState


class TopicWatch:
    """Looks at the topic now and then without blocking: new partitions, its id, end offsets.

    Args:
        admin: a client of its own.
        state: the topic as the run began with it.
        errors: takes what goes wrong.
        every_seconds: time between two looks.
    """

    def __init__(
        self, admin: AdminClient, state: TopicState, errors: ErrorLog, every_seconds: float
    ) -> None:
        self._admin = admin
        self._state = state
        self._errors = errors
        self._every_seconds = every_seconds
        self._next_look = 0.0
        self._answers: dict[int | None, Future[Any]] = {}
        #: All partition numbers seen so far.
        self.partitions: frozenset[int] = frozenset(state.partitions)
        #: Last stable offset per partition, as of the last look.
        self.ends: Mapping[int, int] = {n: m.high for n, m in state.partitions.items()}

    def turn(self) -> None:
        """Takes in the answers that are there and asks again when it is time. Does not block.

        Raises:
            IntegrityError: the topic was deleted and created again.
        """
        self._admin.poll(0)
        if self._answers and all(answer.done() for answer in self._answers.values()):
            answers, self._answers = self._answers, {}
            self._take_in(answers)
        now = time.monotonic()
        if not self._answers and now >= self._next_look:
            self._next_look = now + self._every_seconds
            self._ask()

    def _ask(self) -> None:
        topic, seconds = self._state.topic, max(1.0, self._every_seconds)
        partitions = sorted(self.partitions)
        answers: dict[int | None, Future[Any]] = {}
        for number, answer in ask_offsets(self._admin, topic, partitions, LATEST, seconds).items():
            answers[number] = answer
        if self._state.topic_id is not None:
            names = TopicCollection([topic])
            answers[None] = self._admin.describe_topics(names, request_timeout=seconds)[topic]
        self._answers = answers

    def _take_in(self, answers: Mapping[int | None, Future[Any]]) -> None:
        ends = dict(self.ends)
        for number, answer in answers.items():
            try:
                with kafka_errors(f"Looking at topic {self._state.topic}"):
                    found = answer.result(0)
            except (TransientError, ServiceError) as error:
                # The next look may do; until then the run goes on with what it knows.
                self._errors.note("watch", error.what)
                continue
            if number is not None:
                ends[number] = found.offset
                continue
            topic_id = known_id(found)
            if topic_id is not None and topic_id != self._state.topic_id:
                raise recreated(self._state.topic, self._state.topic_id, topic_id)
            self.partitions |= {partition.id for partition in found.partitions}
        self.ends = ends
