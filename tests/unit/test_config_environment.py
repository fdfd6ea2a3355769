"""Settings from `K2I_*` variables."""

from __future__ import annotations

import pytest

from k2i_tasks.config.environment import from_environment
from k2i_tasks.config.keys import all_keys, by_path
from k2i_tasks.errors import ConfigError


def read(name: str, text: str) -> object:
    ((value, origin),) = from_environment({name: text}).values()
    assert origin == name
    return value


def test_no_two_keys_share_a_variable() -> None:
    names = [key.variable for key in all_keys()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("K2I_KAFKA_TOPIC", "kafka.topic"),
        ("K2I_KAFKA_SECURITY_SASL_PASSWORD", "kafka.security.sasl_password"),
        ("K2I_ICEBERG_WAREHOUSE_PATH", "iceberg.warehouse_path"),
        ("K2I_ICEBERG_REST_URI", "iceberg.rest_uri"),
        ("K2I_ICEBERG_REST_CREDENTIAL", "iceberg.rest.credential"),
        ("K2I_ICEBERG_REST_OAUTH2_CLIENT_ID", "iceberg.rest.oauth2_client_id"),
        ("K2I_BUFFER_MAX_SIZE_MB", "buffer.max_size_mb"),
        ("K2I_TRANSACTION_LOG_LOG_DIR", "transaction_log.log_dir"),
        ("K2I_SCHEMA_EVOLUTION_MODE", "schema_evolution.mode"),
        ("K2I_MONITORING_LOG_FORMAT", "monitoring.log_format"),
    ],
)
def test_k2i_variables_reach_their_keys(name: str, path: str) -> None:
    assert by_path()[tuple(path.split("."))].variable == name


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("K2I_KAFKA_BOOTSTRAP_SERVERS", "a:1, b:2,", ["a:1", "b:2"]),
        ("K2I_KAFKA_BOOTSTRAP_SERVERS", "[::1]:1,[::2]:2", ["[::1]:1", "[::2]:2"]),
        ("K2I_ICEBERG_CATALOG_MANAGER_RECONNECT_BACKOFF_MS", "1,2", [1, 2]),
        ("K2I_ICEBERG_CATALOG_MANAGER_RECONNECT_BACKOFF_MS", "[1, 2]", [1, 2]),
        ("K2I_KAFKA_BATCH_SIZE", " 10_000 ", 10_000),
        ("K2I_BUFFER_FLUSH_INTERVAL_SECONDS", "0.5", 0.5),
        ("K2I_RPC_ENABLED", "YES", True),
        ("K2I_RPC_ENABLED", "off", False),
        ("K2I_KAFKA_PROPERTIES", '{"fetch.min.bytes": "1"}', {"fetch.min.bytes": "1"}),
        ("K2I_ICEBERG_PARTITION_SPEC", '[{"source_field": "a"}]', [{"source_field": "a"}]),
        ("K2I_ICEBERG_REST_URI", "", None),
        ("K2I_KAFKA_TOPIC", "", ""),
        ("K2I_ICEBERG_AWS_ACCESS_KEY_ID", '{"file": "/x"}', {"file": "/x"}),
        ("K2I_ICEBERG_AWS_ACCESS_KEY_ID", "{pass}", "{pass}"),
        ("K2I_ICEBERG_AWS_ACCESS_KEY_ID", '{"type": "json key"}', '{"type": "json key"}'),
    ],
)
def test_texts_become_values(name: str, text: str, value: object) -> None:
    assert read(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("K2I_KAFKA_BATCH_SIZE", "ten", "whole number"),
        ("K2I_KAFKA_BATCH_SIZE", "1.5", "whole number"),
        ("K2I_KAFKA_BATCH_SIZE", "9" * 5000, "whole number"),
        ("K2I_BUFFER_FLUSH_INTERVAL_SECONDS", "soon", "number"),
        ("K2I_RPC_ENABLED", "maybe", "true or false"),
        ("K2I_KAFKA_PROPERTIES", "a=b", "JSON"),
        ("K2I_ICEBERG_PARTITION_SPEC", "day", "JSON"),
    ],
)
def test_a_text_that_is_no_value_names_the_variable_and_the_key(
    name: str, text: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        from_environment({name: text})
    assert caught.value.what.startswith(name)
    assert caught.value.field in caught.value.what


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("K2I_KAFKA_TOPIK", "K2I_KAFKA_TOPIC"),
        ("K2I_KAFKA_SASL_PASSWORD", "K2I_KAFKA_SECURITY_SASL_PASSWORD"),
        ("K2I_MONITORING_HEALT_PORT", "K2I_MONITORING_HEALTH_PORT"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_environment({name: "8080"})
    assert nearest in caught.value.what


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("K2I_CONFIG", "/etc/k2i.toml"),
        ("K2I_TEST_KAFKA", "127.0.0.1:9092"),
        ("K2I_E2E_X", "1"),
        ("K2I_SERVICE_HOST", "10.0.0.1"),
        ("K2I_SERVICE_PORT_METRICS", "9090"),
        ("K2I_PORT", "tcp://10.0.0.1:9090"),
        ("K2I_PORT_9090_TCP_ADDR", "10.0.0.1"),
        ("K2I_METRICS_PORT", "tcp://10.0.0.1:9090"),
        ("PATH", "/bin"),
        ("k2i_kafka_topik", "x"),
    ],
)
def test_variables_of_others_are_left_alone(name: str, text: str) -> None:
    assert from_environment({name: text}) == {}


def test_beside_one_of_k2is_own_files_an_unknown_variable_is_remarked_and_ignored() -> None:
    remarks: list[str] = []
    found = from_environment({"K2I_KAFKA_TOPICS": "x", "K2I_KAFKA_TOPIC": "t"}, remarks)
    assert list(found) == [("kafka", "topic")]
    assert remarks == [
        "K2I_KAFKA_TOPICS is not a setting; the nearest is K2I_KAFKA_TOPIC. It is ignored, as K2I "
        "does."
    ]
