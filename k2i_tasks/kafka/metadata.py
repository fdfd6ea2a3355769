"""Asking the broker about the topic: once and patiently at the start, then in passing."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import IsolationLevel, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from k2i_tasks.errors import Component, ServiceError, TransientError
from k2i_tasks.kafka.errors import (
    ErrorLog,
    is_transient_code,
    kafka_errors,
    lasting_text,
    translated,
)
from k2i_tasks.kafka.state import TopicState, Watermarks

#: Longest wait of one question; a refused login shows only after it.
QUESTION_SECONDS_MAX = 4.0
#: Wait between two tries when the answer is "not yet".
AGAIN_SECONDS = 0.05
EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]

#: What a broker answers that knows no topic ids: 16 zero bytes in base64.
NO_ID = "A" * 22
#: Existing topics named in the error for an unknown one.
NEAREST_MAX = 5


def inspect_topic(
    admin: AdminClient, topic: str, errors: ErrorLog, where: str, timeout_seconds: float
) -> TopicState:
    """The topic as the broker describes it now. May block up to `timeout_seconds`; idempotent.

    Args:
        admin: a client whose errors go to `errors`.
        topic: the topic's name.
        errors: what the client complained about.
        where: the broker's address, for people.
        timeout_seconds: longest wait in all.

    Raises:
        ServiceError: nothing answers in time, the login is refused, or there is no such topic.
    """
    deadline = time.monotonic() + timeout_seconds
    doing = f"Asking Kafka at {where} about topic {topic}"

    def patiently(question: Callable[[float], Any]) -> Any:
        return ask_patiently(question, admin, errors, doing, deadline, timeout_seconds)

    metadata = patiently(lambda seconds: _described(admin, topic, seconds, where, doing))
    described = metadata.topics[topic].partitions
    numbers = sorted(described)
    # Where there is no controller (librdkafka's mock cluster), there is nobody to ask for ids.
    has_ids = metadata.controller_id in metadata.brokers
    topic_id = patiently(lambda s: _topic_id(admin, topic, s, doing)) if has_ids else None
    low = patiently(lambda s: _offsets(admin, topic, numbers, EARLIEST, s, doing))
    high = patiently(lambda s: _offsets(admin, topic, numbers, LATEST, s, doing))
    marks = {n: Watermarks(low[n], max(low[n], high[n])) for n in numbers}
    leaders = {n: described[n].leader for n in numbers}
    return TopicState(topic, topic_id, metadata.cluster_id or None, marks, leaders)


def ask_patiently(
    question: Callable[[float], Any],
    admin: AdminClient,
    errors: ErrorLog,
    doing: str,
    deadline: float,
    timeout_seconds: float,
) -> Any:
    """The answer to `question`, asked again until `deadline` while the broker has none.

    Raises:
        ServiceError: nothing answers in time, or the login is refused.
    """
    wait = 0.5
    while True:
        left = deadline - time.monotonic()
        try:
            return question(max(0.1, min(left, wait)))
        except TransientError as error:
            admin.poll(0)  # the reason comes by callback
            if errors.refusal is not None:
                raise translated(errors.refusal, doing) from error
            if time.monotonic() + AGAIN_SECONDS >= deadline:
                said = (
                    f" Last error: {lasting_text(errors.latest)}." if errors.latest else f" {error}"
                )
                raise ServiceError(
                    f"{doing}: no usable answer within {timeout_seconds:g} s.{said}",
                    component=Component.KAFKA,
                    remedy="Check kafka.bootstrap_servers, that the broker runs and that its "
                    "advertised listeners can be reached from here.",
                ) from error
            time.sleep(AGAIN_SECONDS)
            wait = min(2 * wait, QUESTION_SECONDS_MAX)


def _described(admin: AdminClient, topic: str, seconds: float, where: str, doing: str) -> Any:
    """Asks for all topics: asking for one by name would create it on many a broker."""
    with kafka_errors(doing):
        metadata = admin.list_topics(timeout=seconds)
    described = metadata.topics.get(topic)
    if described is None:
        raise _unknown_topic(topic, metadata.topics, where)
    troubles = [described.error, *(p.error for p in described.partitions.values())]
    for trouble in troubles:
        if trouble is not None and not is_transient_code(trouble):
            raise translated(trouble, doing)
    leaderless = [n for n, p in described.partitions.items() if p.leader < 0]
    if described.error is not None or leaderless:
        raise TransientError(f"{doing}: no leader yet.", component=Component.KAFKA)
    return metadata


def _unknown_topic(topic: str, names: Iterable[str], where: str) -> ServiceError:
    visible = [name for name in names if not name.startswith("__")]
    nearest = difflib.get_close_matches(topic, visible, NEAREST_MAX, cutoff=0.5)
    if nearest:
        there = f"Nearest names there: {', '.join(nearest)}."
    elif visible:
        there = f"There are {len(visible)} others, none of a similar name."
    else:
        there = "No topic is visible there."
    return ServiceError(
        f"Kafka at {where} shows no topic {topic!r}. {there}",
        component=Component.KAFKA,
        remedy="Correct kafka.topic, create the topic, or give the user the right Describe on it.",
    )


def _topic_id(admin: AdminClient, topic: str, seconds: float, doing: str) -> str | None:
    with kafka_errors(doing):
        asked = admin.describe_topics(TopicCollection([topic]), request_timeout=seconds)
        return known_id(asked[topic].result(seconds + 1))


def known_id(description: Any) -> str | None:
    """The id in a topic's description, None if the broker has none to give."""
    topic_id = str(description.topic_id)
    return None if description.topic_id is None or topic_id == NO_ID else topic_id


def _offsets(
    admin: AdminClient,
    topic: str,
    partitions: Iterable[int],
    spec: OffsetSpec,
    seconds: float,
    doing: str,
) -> dict[int, int]:
    with kafka_errors(doing):
        answers = ask_offsets(admin, topic, partitions, spec, seconds)
        return {n: answer.result(seconds + 1).offset for n, answer in answers.items()}


def ask_offsets(
    admin: AdminClient, topic: str, partitions: Iterable[int], spec: OffsetSpec, seconds: float
) -> dict[int, Future[Any]]:
    """Asks for one offset of each partition; partition to its answer. Does not block."""
    answers = admin.list_offsets(
        {TopicPartition(topic, n): spec for n in partitions},
        isolation_level=IsolationLevel.READ_COMMITTED,
        request_timeout=seconds,
    )
    return {tp.partition: answer for tp, answer in answers.items()}
