"""The names of the topics that there are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka.admin import AdminClient

from k2i_tasks.kafka.client import address, admin_settings, with_callbacks
from k2i_tasks.kafka.errors import ErrorLog, kafka_errors, settings_errors
from k2i_tasks.kafka.metadata import ask_patiently


class TopicNames:
    """Asks a broker for its topics, as often as wanted. For one thread.

    Args:
        settings: of a consumer, as `consumer_settings` makes them.

    Raises:
        ConfigError: librdkafka refuses a setting.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._where = address(settings)
        self._errors = ErrorLog()
        with settings_errors():
            self._admin = AdminClient(with_callbacks(admin_settings(settings), self._errors.add))

    def ask(self, timeout_seconds: float) -> frozenset[str]:
        """All topics that we may see. Blocks for the time-out at most.

        Raises:
            ServiceError: nothing answers in time, or the login is refused.
        """
        doing = f"Asking Kafka at {self._where} for its topics"

        def question(seconds: float) -> frozenset[str]:
            with kafka_errors(doing):
                return frozenset(self._admin.list_topics(timeout=seconds).topics)

        deadline = time.monotonic() + timeout_seconds
        found = ask_patiently(question, self._admin, self._errors, doing, deadline, timeout_seconds)
        return frozenset(found)
