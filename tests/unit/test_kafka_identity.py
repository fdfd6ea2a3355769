"""Whether the topic is still the one that the run began with."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from k2i_tasks.errors import IntegrityError
from k2i_tasks.kafka.identity import TopicIdentity
from k2i_tasks.kafka.metadata import NO_ID


class Describing:
    """An admin client that describes every topic by one answer."""

    def __init__(self, answer: str | Exception | None) -> None:
        self.answer = answer
        self.asked = 0

    def describe_topics(self, _names: object, request_timeout: float) -> dict[str, Future[Any]]:
        self.asked += 1
        future: Future[Any] = Future()
        if isinstance(self.answer, Exception):
            future.set_exception(self.answer)
        elif self.answer is not None:
            future.set_result(SimpleNamespace(topic_id=self.answer))
        return {"orders": future}


def identity(admin: Describing, topic_id: str | None = "id-1") -> TopicIdentity:
    found = TopicIdentity(cast("AdminClient", admin), "orders", 0.0)
    found.begin(topic_id)
    return found


def test_the_same_id_is_the_same_topic() -> None:
    admin = Describing("id-1")
    identity(admin).confirm()
    assert admin.asked == 1


def test_another_id_is_another_topic() -> None:
    with pytest.raises(IntegrityError, match="its id was id-1 and is id-2"):
        identity(Describing("id-2")).confirm()


@pytest.mark.parametrize(
    "answer",
    [
        KafkaException(KafkaError(KafkaError._TIMED_OUT, "timed out")),
        KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "unknown topic")),
        NO_ID,
    ],
)
def test_a_broker_that_cannot_tell_stops_nobody(answer: str | Exception) -> None:
    identity(Describing(answer)).confirm()


def test_a_broker_that_does_not_answer_is_waited_for_within_bounds_and_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        identity(Describing(None)).confirm()
    assert "orders is still the same topic: no answer in time" in caplog.text


def test_a_broker_without_ids_is_not_asked() -> None:
    admin = Describing("id-2")
    identity(admin, None).confirm()
    assert admin.asked == 0
