"""Settings of the records that cannot be decoded."""

from __future__ import annotations

from typing import Annotated, Literal

from k2i_tasks.config.fields import AnyCaseLower, Flag, Integer, Section, setting
from k2i_tasks.config.model_kafka import Topic


class DeadLetters(Section):
    """Where records go that cannot be decoded; `iceberg.dead_letter_table` names the table."""

    to: Annotated[Literal["table", "topic", "both"], AnyCaseLower] = setting(
        "A table beside the table, a Kafka topic of the same cluster, or both.", "table"
    )
    topic: Topic | None = setting(
        "Name of that topic (`errors.deadletterqueue.topic.name` of Kafka Connect); "
        "`<kafka.topic>__dead_letters` when not given. It is created if it is not there.",
        None,
    )
    topic_partitions: Integer | None = setting(
        "Partitions of a topic that is created; the broker's default when not given.",
        None,
        ge=1,
        le=10_000,
    )
    topic_replication_factor: Integer | None = setting(
        "Replicas of a topic that is created; the broker's default when not given.",
        None,
        ge=1,
        le=32,
    )
    log_payloads: Flag = setting(
        "Whether the lines that the log has of some of them show the start of their values.", False
    )
