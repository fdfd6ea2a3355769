"""librdkafka's settings from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError

if TYPE_CHECKING:
    from k2i_tasks.config.model_kafka import Kafka, KafkaSecurity

#: librdkafka's own log lines go here, warnings and up.
client_log = logging.getLogger("k2i_tasks.kafka.client")
# A failed connection is logged for each try, many times a second; the error callback tells it too.
client_log.addFilter(lambda record: not record.getMessage().startswith("FAIL "))

#: Records that librdkafka holds ready over all partitions: this, and at most one part in so many of
#: the buffer. With small records each takes about as much again for itself, and a fetch comes on
#: top, unpacked to several times its size.
QUEUE_BYTES, QUEUE_SHARE = 16 << 20, 16
#: Most bytes of one fetch answer, as they are sent, unless a single batch is larger.
FETCH_BYTES = QUEUE_BYTES // 4
#: Most bytes asked for per partition and fetch.
FETCH_PARTITION_BYTES = 1 << 20
#: Room in an answer for what surrounds the records.
ANSWER_OVERHEAD_BYTES = 1 << 20

#: What the protocol of offsets depends on; nobody may set these otherwise.
OWNED: Mapping[str, str | int | bool] = {
    # A range that the broker lost must be an error, never a jump.
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    # The table holds the offsets; the group only shows them to lag tools.
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "allow.auto.create.topics": False,
    # All at once: a member whose partitions change begins anew with what it has then.
    "partition.assignment.strategy": "range,roundrobin",
}


def consumer_settings(
    kafka: Kafka,
    secrets: Mapping[str, str],
    *,
    buffer_bytes: int = QUEUE_BYTES * QUEUE_SHARE,
    clients: int = 1,
) -> dict[str, Any]:
    """Settings of the consumer for `KafkaSource`. Holds the password: never log them.

    Args:
        kafka: the `[kafka]` section.
        secrets: plain secrets by the dotted name of their key, such as
            `kafka.security.sasl_password`.
        buffer_bytes: bound of the rows in memory, beside which the client's queue is small.
        clients: number of clients that share what one may hold.
    """
    queue_bytes = max(1 << 20, min(QUEUE_BYTES, buffer_bytes // QUEUE_SHARE) // clients)
    fetch_bytes = max(1 << 20, queue_bytes // 4)
    return {
        "fetch.queue.backoff.ms": 50,
        "queued.min.messages": 100_000,
        "queued.max.messages.kbytes": queue_bytes >> 10,
        "fetch.max.bytes": fetch_bytes,
        "check.crcs": True,
        "socket.keepalive.enable": True,
        # A topic that was deleted and made again is looked for this often; by a group's members,
        # new partitions are.
        "topic.metadata.refresh.interval.ms": kafka.metadata_refresh_seconds * 1000
        if kafka.assignment == "group"
        else 60_000,
        **kafka.properties,
        **_size_settings(kafka.max_message_bytes, fetch_bytes),
        **_login_settings(kafka.security, secrets),
        "bootstrap.servers": ",".join(kafka.bootstrap_servers),
        "group.id": kafka.consumer_group,
        "session.timeout.ms": kafka.session_timeout_ms,
        "heartbeat.interval.ms": kafka.heartbeat_interval_ms,
        "max.poll.interval.ms": max(kafka.max_poll_interval_ms, kafka.session_timeout_ms),
        **OWNED,
    }


def _size_settings(max_message_bytes: int, fetch_bytes: int) -> dict[str, Any]:
    """A broker sends one whole batch even when it is over the fetch limit: there must be room."""
    return {
        # The client lifts `fetch.max.bytes` to this.
        "message.max.bytes": min(max_message_bytes, fetch_bytes),
        "fetch.message.max.bytes": FETCH_PARTITION_BYTES,
        "receive.message.max.bytes": max(FETCH_BYTES, max_message_bytes) + ANSWER_OVERHEAD_BYTES,
    }


def _login_settings(security: KafkaSecurity, secrets: Mapping[str, str]) -> dict[str, Any]:
    given = {
        "security.protocol": security.protocol,
        "sasl.mechanism": security.sasl_mechanism,
        "sasl.username": secrets.get("kafka.security.sasl_username"),
        "sasl.password": secrets.get("kafka.security.sasl_password"),
        "ssl.ca.location": security.ssl_ca_location,
        "ssl.certificate.location": security.ssl_cert_location,
        "ssl.key.location": security.ssl_key_location,
    }
    return {key: str(value) for key, value in given.items() if value is not None}


def with_callbacks(
    settings: Mapping[str, Any], on_error: Callable[[KafkaError], None]
) -> dict[str, Any]:
    """`settings` with errors and log lines brought to us rather than to the terminal."""
    return {"log_level": 4, **settings, "error_cb": on_error, "logger": client_log}


#: Settings of a consumer that mean nothing to the others.
_CONSUMER_ONLY = (
    *("group.id", "heartbeat.", "session.", "max.poll.", "auto.", "isolation.", "queued."),
    *("fetch.", "check.", "enable.auto.", "enable.partition.", "allow.auto.create.topics"),
    "partition.assignment.",
)


def admin_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a consumer's settings that says where the broker is and who we are."""
    return {key: value for key, value in settings.items() if not key.startswith(_CONSUMER_ONLY)}


def address(settings: Mapping[str, Any]) -> str:
    """Where the broker is, for people."""
    return str(settings.get("bootstrap.servers", "(no bootstrap.servers)"))
