"""Settings for librdkafka, and what its errors become."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from k2i_tasks.config.model_kafka import Kafka
from k2i_tasks.errors import (
    Component,
    ConfigError,
    IntegrityError,
    ServiceError,
    TransientError,
)
from k2i_tasks.kafka.client import OWNED, admin_settings, client_log, consumer_settings
from k2i_tasks.kafka.errors import NOTES_MAX, ErrorLog, kafka_errors, translated
from k2i_tasks.kafka.source import KafkaSource


def section(**more: Any) -> Kafka:
    given = {"bootstrap_servers": ["a:9092", "b:9092"], "topic": "t", "consumer_group": "g"}
    return Kafka.model_validate(given | more)


def test_the_settings_that_exactly_once_depends_on_are_fixed() -> None:
    settings = consumer_settings(section(properties={"client.id": "mine"}), {})
    assert {key: settings[key] for key in OWNED} == dict(OWNED)
    assert settings["auto.offset.reset"] == "error"
    assert settings["isolation.level"] == "read_committed"
    assert settings["client.id"] == "mine"
    assert settings["bootstrap.servers"] == "a:9092,b:9092"


def test_login_comes_from_the_section_and_the_resolved_secrets() -> None:
    security = {
        "protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": "alice",
        "sasl_password": "word",
        "ssl_ca_location": "/ca.crt",
    }
    secrets = {"kafka.security.sasl_username": "alice", "kafka.security.sasl_password": "word"}
    settings = consumer_settings(section(security=security), secrets)
    assert settings["security.protocol"] == "SASL_SSL"
    assert settings["sasl.mechanism"] == "SCRAM-SHA-512"
    assert settings["sasl.username"] == "alice"
    assert settings["sasl.password"] == "word"
    assert settings["ssl.ca.location"] == "/ca.crt"
    assert "ssl.key.location" not in settings


@pytest.mark.parametrize("max_message_bytes", [1_024, 10 << 20, 64 << 20, 1_000_000_000])
def test_librdkafka_takes_every_allowed_message_size(max_message_bytes: int) -> None:
    settings = consumer_settings(section(max_message_bytes=max_message_bytes), {})
    assert settings["receive.message.max.bytes"] > max_message_bytes
    KafkaSource(settings, "t").close()


@pytest.mark.parametrize(
    ("buffer_mb", "clients", "queue_kib", "fetch_kib"),
    [
        (512, 1, 16_384, 4_096),
        (100, 1, 6_400, 1_600),
        (512, 4, 4_096, 1_024),
        (1, 50, 1_024, 1_024),
    ],
)
def test_what_the_client_holds_is_small_beside_the_buffer(
    buffer_mb: int, clients: int, queue_kib: int, fetch_kib: int
) -> None:
    settings = consumer_settings(section(), {}, buffer_bytes=buffer_mb << 20, clients=clients)
    assert settings["queued.max.messages.kbytes"] == queue_kib
    assert settings["fetch.max.bytes"] == fetch_kib << 10
    KafkaSource(settings, "t").close()


def test_the_admin_client_gets_no_setting_of_a_consumer() -> None:
    kept = admin_settings(consumer_settings(section(), {}))
    assert kept["bootstrap.servers"] == "a:9092,b:9092"
    assert not [key for key in kept if key.startswith(("group", "fetch", "auto", "enable.auto"))]


def test_a_setting_that_librdkafka_refuses_is_named() -> None:
    settings = consumer_settings(section(properties={"no.such.setting": "1"}), {})
    with pytest.raises(ConfigError, match=r"no\.such\.setting") as caught:
        KafkaSource(settings, "t")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._TRANSPORT, TransientError),
        (KafkaError._TIMED_OUT, TransientError),
        (KafkaError.NOT_LEADER_FOR_PARTITION, TransientError),
        (KafkaError._BAD_COMPRESSION, TransientError),
        (KafkaError._AUTHENTICATION, ServiceError),
        (KafkaError._SSL, ServiceError),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, ServiceError),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, ServiceError),
        (KafkaError._INVALID_ARG, ServiceError),
        (KafkaError._AUTO_OFFSET_RESET, IntegrityError),
        (KafkaError.OFFSET_OUT_OF_RANGE, IntegrityError),
    ],
)
def test_whether_to_try_again_is_the_type_of_the_error(code: int, kind: type[Exception]) -> None:
    error = translated(KafkaError(code, "why"), "Reading t")
    assert type(error) is kind
    assert error.component is Component.KAFKA
    assert error.exit_code == 2
    assert error.what.startswith("Reading t: why (")


def test_a_fatal_error_is_not_tried_again() -> None:
    fatal = KafkaError(KafkaError._TRANSPORT, "why", fatal=True, retriable=True)
    assert type(translated(fatal, "Reading")) is ServiceError


def test_the_context_manager_translates_and_keeps_the_cause() -> None:
    cause = KafkaException(KafkaError(KafkaError._TRANSPORT, "down"))
    with pytest.raises(TransientError, match="Asking: down") as caught, kafka_errors("Asking"):
        raise cause
    assert caught.value.__cause__ is cause


def test_the_log_of_errors_is_bounded_and_counts_all() -> None:
    log = ErrorLog()
    for number in range(3 * NOTES_MAX):
        log.add(KafkaError(KafkaError._TRANSPORT, f"broker {number} is down"))
    assert len(log.recent()) == NOTES_MAX
    assert log.recent()[-1].message == f"broker {3 * NOTES_MAX - 1} is down"
    assert log.counts == {"_TRANSPORT": 3 * NOTES_MAX}


def test_one_trouble_told_many_times_is_one_note_and_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = ErrorLog()
    for number in range(5):
        text = f"a:9092/1: Connect failed: refused (after {number}ms in state CONNECT)"
        log.add(KafkaError(KafkaError._TRANSPORT, text))
    assert [note.message for note in log.recent()] == ["a:9092/1: Connect failed: refused"]
    assert len(caplog.records) == 1


def test_the_clients_own_line_for_each_failed_try_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    client_log.error("FAIL [rdkafka#consumer-1] [thrd:a]: refused")
    client_log.error("MAXPOLL [rdkafka#consumer-1] [thrd:main]: exceeded")
    assert [record.getMessage()[:7] for record in caplog.records] == ["MAXPOLL"]
