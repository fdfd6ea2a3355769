"""One look at a topic from outside a run: what it is, and whether it is compacted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    ResourceType,
)

from k2i_tasks.errors import K2IError
from k2i_tasks.kafka.client import address, admin_settings, with_callbacks
from k2i_tasks.kafka.errors import ErrorLog, kafka_errors, settings_errors
from k2i_tasks.kafka.metadata import inspect_topic
from k2i_tasks.kafka.state import TopicState

log = logging.getLogger(__name__)


def may_be_compacted(admin: AdminClient, topic: str, timeout_seconds: float) -> bool:
    """Whether `cleanup.policy` has compaction in it, or cannot be read. May block."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        with kafka_errors(f"Asking for the configuration of {topic}"):
            asked = admin.describe_configs([resource], request_timeout=timeout_seconds)
            found = asked[resource].result(timeout_seconds + 1)
    except K2IError as error:
        # The right to describe configurations is one of its own.
        log.info("%s It is taken for compacted.", error)
        return True
    policy = found.get("cleanup.policy")
    return policy is None or "compact" in str(policy.value)


def look_at(
    settings: Mapping[str, Any], topic: str, timeout_seconds: float
) -> tuple[TopicState, bool]:
    """The topic as the broker describes it now, and whether it may be compacted. May block.

    Args:
        settings: of a consumer, as `consumer_settings` makes them.
        topic: the topic.
        timeout_seconds: longest wait for each of the two.

    Raises:
        ServiceError: nothing answers in time, the login is refused, or there is no such topic.
    """
    errors = ErrorLog()
    with settings_errors():
        admin = AdminClient(with_callbacks(admin_settings(settings), errors.add))
    state = inspect_topic(admin, topic, errors, address(settings), timeout_seconds)
    return state, may_be_compacted(admin, topic, timeout_seconds)
