"""Is it still the topic that the run began with?

A topic that is deleted and made again under its name keeps nothing but the name. The client notices
neither: it reads on at its old position, in the middle of other records. Only the broker's id of
the topic tells, so it is asked for between reading records and writing them to the table's files.
"""

from __future__ import annotations

import logging

from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from k2i_tasks.errors import ServiceError, TransientError
from k2i_tasks.kafka.errors import kafka_errors
from k2i_tasks.kafka.metadata import known_id
from k2i_tasks.kafka.start import recreated

log = logging.getLogger(__name__)


class TopicIdentity:
    """Compares the topic's id with the one at the start. Thread-safe.

    Args:
        admin: a client.
        topic: the topic's name.
        timeout_seconds: longest wait for the broker.
    """

    def __init__(self, admin: AdminClient, topic: str, timeout_seconds: float) -> None:
        self._admin = admin
        self._topic = topic
        self._timeout_seconds = timeout_seconds
        self._topic_id: str | None = None

    def begin(self, topic_id: str | None) -> None:
        """From now on the topic is the one with this id; None where the broker has none to give."""
        self._topic_id = topic_id

    def confirm(self) -> None:
        """Returns if all that was read so far is of that topic. May block for the time-out.

        A broker that is away, or shows no topic of the name any more, cannot tell: that is logged.
        What was read from it came before, and may be all that is left of it.

        Raises:
            IntegrityError: the name belongs to another topic by now.
        """
        if self._topic_id is None:
            return
        seconds = self._timeout_seconds
        try:
            with kafka_errors(f"Asking whether {self._topic} is still the same topic"):
                asked = self._admin.describe_topics(
                    TopicCollection([self._topic]), request_timeout=seconds
                )
                found = known_id(asked[self._topic].result(seconds + 1))
        except (TransientError, ServiceError) as error:
            log.warning("%s Going on without an answer.", error)
            return
        if found is not None and found != self._topic_id:
            raise recreated(self._topic, self._topic_id, found)
