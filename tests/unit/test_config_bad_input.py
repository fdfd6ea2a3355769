"""Each bad input is one error that names its key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from k2i_tasks.config import load_config
from k2i_tasks.config.keys import all_keys
from k2i_tasks.config.load import FILE_BYTES_MAX
from k2i_tasks.errors import ConfigError

GOOD: dict[str, Any] = {
    "kafka": {"bootstrap_servers": ["a:1"], "topic": "t", "consumer_group": "g"},
    "iceberg": {
        "catalog_type": "rest",
        "rest_uri": "http://127.0.0.1:8181",
        "warehouse_path": "/w",
        "database_name": "d",
        "table_name": "t",
    },
}


def error_with(**overrides: Any) -> ConfigError:
    """The error that `GOOD` with `a__b=value` gives."""
    tables = copy.deepcopy(GOOD)
    for name, value in overrides.items():
        place, *path = tables, *name.split("__")
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ={}, overrides=tables)
    assert caught.value.exit_code == 1
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kafka__bootstrap_servers", []),
        ("kafka__bootstrap_servers", 5),
        ("kafka__topic", "a b"),
        ("kafka__topic", ""),
        ("kafka__topic", ".."),
        ("kafka__topic", "t" * 250),
        ("kafka__consumer_group", "a\nb"),
        ("kafka__batch_size", 0),
        ("kafka__batch_size", True),
        ("kafka__batch_size", 1.5),
        ("kafka__auto_offset_reset", "error"),
        ("kafka__on_gap", "skip"),
        ("kafka__max_message_bytes", 1),
        ("iceberg__table_name", "a.b"),
        ("iceberg__dead_letter_table", "a.b"),
        ("iceberg__metadata_columns__headers", "_KAFKA_key"),
        ("kafka__format__type", "xml"),
        ("kafka__security__protocol", "TLS"),
        ("kafka__security__sasl_mechanism", "GSSAPI"),
        ("kafka__properties", {"auto.offset.reset": "latest"}),
        ("kafka__properties", {"group.id": "x"}),
        ("kafka__properties", {"ssl.key.password": "x"}),
        ("iceberg__catalog_type", "jdbc"),
        ("iceberg__table_name", "../up"),
        ("iceberg__table_name", "a..b"),
        ("iceberg__database_name", "a/b"),
        ("iceberg__sink", ""),
        ("iceberg__branch", "-x"),
        ("iceberg__warehouse_path", ""),
        ("iceberg__rest_uri", "catalog:8181"),
        ("iceberg__compression", "brotli"),
        ("iceberg__properties", {"k2i.main.state": "x"}),
        ("iceberg__properties", {"commit.retry.num-retries": "9"}),
        ("iceberg__catalog_properties", {"s3.secret-access-key": "x"}),
        ("iceberg__partition_spec", "day"),
        ("iceberg__metadata_columns__offset", ""),
        ("iceberg__metadata_columns__topic", "a-b"),
        ("buffer__max_size_mb", 0),
        ("buffer__flush_interval_seconds", float("nan")),
        ("buffer__flush_interval_seconds", float("inf")),
        ("buffer__low_water_ratio", 1.0),
        ("monitoring__health_port", 65_536),
        ("monitoring__health_host", "a b"),
        ("monitoring__log_level", "loud"),
        ("prefect__claim_timeout_seconds", 0),
        ("transaction_log__log_dir", ""),
        ("run__data_dir", "a\0b"),
    ],
)
def test_a_bad_value_names_its_key(key: str, value: Any) -> None:
    error = error_with(**{key: value})
    assert error.field == key.replace("__", ".")
    assert error.field in error.what


@pytest.mark.parametrize(
    ("transform"),
    [
        "weekly",
        "bucket[0]",
        "bucket",
        "bucket[2147483648]",
        "truncate[-1]",
        {"bucket": {"n": 1}},
        {"bucket": {"num_buckets": True}},
        5,
    ],
)
def test_a_bad_transform_names_its_place(transform: Any) -> None:
    spec = [
        {"source_field": "a", "transform": "day"},
        {"source_field": "a", "transform": transform},
    ]
    assert error_with(iceberg__partition_spec=spec).field == "iceberg.partition_spec.1.transform"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"iceberg__rest_uri": "", "iceberg__catalog_type": "rest"}, "iceberg.rest_uri"),
        ({"iceberg__catalog_type": "hive"}, "iceberg.hive_metastore_uri"),
        ({"iceberg__catalog_type": "sql"}, "iceberg.sql_catalog.url"),
        (
            {"iceberg__catalog_type": "sql", "iceberg__sql_catalog__url": "postgresql://h/d"},
            "iceberg.sql_catalog.url",
        ),
        ({"iceberg__identifier_fields": ["_kafka_key"]}, "iceberg.identifier_fields.0"),
        ({"iceberg__identifier_fields": ["a", "a"]}, "iceberg.identifier_fields.1"),
        (
            {"iceberg__identifier_fields": ["a"], "schema_evolution__mode": "permissive"},
            "schema_evolution.mode",
        ),
        ({"kafka__security__protocol": "SASL_SSL"}, "kafka.security.sasl_mechanism"),
        ({"kafka__heartbeat_interval_ms": 30_000}, "kafka.heartbeat_interval_ms"),
        ({"kafka__max_poll_interval_ms": 29_999}, "kafka.max_poll_interval_ms"),
        ({"kafka__security__ssl_cert_location": "/c"}, "kafka.security.ssl_key_location"),
        ({"kafka__security__ssl_key_location": "/k"}, "kafka.security.ssl_cert_location"),
        ({"buffer__max_size_mb": 10, "buffer__flush_size_mb": 11}, "buffer.flush_size_mb"),
        ({"monitoring__health_port": 9090}, "monitoring.metrics_port"),
        ({"iceberg__dead_letter_table": "t"}, "iceberg.dead_letter_table"),
        ({"iceberg__aws_access_key_id": "a"}, "iceberg.aws_secret_access_key"),
        ({"iceberg__aws_secret_access_key": "a"}, "iceberg.aws_access_key_id"),
        ({"iceberg__warehouse_path": "s3:///x"}, "iceberg.warehouse_path"),
        ({"iceberg__warehouse_path": "gs://"}, "iceberg.warehouse_path"),
        ({"iceberg__warehouse_path": "az://c/x"}, "iceberg.azure_storage_account_name"),
        ({"iceberg__rest__credential_type": "bearer"}, "iceberg.rest.credential"),
        ({"iceberg__rest__credential_type": "oauth2"}, "iceberg.rest.oauth2_client_id"),
        ({"iceberg__metadata_columns__key": "_kafka_topic"}, "iceberg.metadata_columns.key"),
        (
            {"iceberg__partition_spec": [{"source_field": "a", "transform": "day"}] * 2},
            "iceberg.partition_spec.1",
        ),
    ],
)
def test_settings_that_do_not_fit_each_other_name_the_one_to_change(
    changes: dict[str, Any], field: str
) -> None:
    assert error_with(**changes).field == field


@pytest.mark.parametrize(
    "key", [key for key in all_keys() if key.default is PydanticUndefined], ids=lambda k: k.dotted
)
def test_a_required_key_that_is_missing_is_named(key: Any) -> None:
    tables = copy.deepcopy(GOOD)
    del tables[key.path[0]][key.path[1]]
    with pytest.raises(ConfigError, match="is required") as caught:
        load_config(None, environ={}, overrides=tables)
    assert caught.value.field == key.dotted


@pytest.mark.parametrize("key", all_keys(), ids=lambda key: key.dotted)
def test_every_key_refuses_a_value_of_another_kind_by_name(key: Any) -> None:
    wrong: Any = [[]] if key.kind in ("list", "table") else {"x": {"y": []}}
    error = error_with(**{"__".join(key.path): wrong})
    assert error.field.startswith(key.dotted)


@pytest.mark.parametrize(
    "key", [k for k in all_keys() if k.kind in ("integer", "number")], ids=lambda key: key.dotted
)
def test_every_number_is_bounded_on_both_sides(key: Any) -> None:
    for wrong in (-1, 10**30):
        assert error_with(**{"__".join(key.path): wrong}).field == key.dotted


def test_several_problems_are_told_at_once() -> None:
    error = error_with(kafka__batch_size=0, buffer__max_size_mb=0)
    assert "kafka.batch_size" in error.what
    assert "buffer.max_size_mb must be greater than or equal to 1 (it is 0)" in error.what


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[kafka]\ntopic = ", "line 2, column 9"),
        ("[kafka\n", "line 1, column 7"),
        ("a = 1\na = 2\n", "line 2, column 6"),
        ("a = '''x\n\n", "line 3, column 1"),
        ("a = " + "9" * 5000, "line 1"),
    ],
)
def test_malformed_toml_tells_file_line_and_column(tmp_path: Path, text: str, place: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={}, overrides={})
    assert place in caught.value.what
    assert str(path) in caught.value.what


def test_bytes_that_are_no_text_tell_their_place(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(b"[kafka]\ntopic = '\xff'\n")
    with pytest.raises(ConfigError, match="line 2, column 10: not UTF-8"):
        load_config(path, environ={}, overrides={})


def test_a_file_that_is_not_there_a_folder_or_too_large_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.toml"
    large.write_text("#" * (FILE_BYTES_MAX + 1))
    for path, why in [
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "folder"),
        (large, "larger than"),
    ]:
        with pytest.raises(ConfigError, match=why) as caught:
            load_config(path, environ={}, overrides={})
        assert str(path) in caught.value.what


@pytest.mark.parametrize("version", ["2", "0", "true", "'1'"])
def test_another_format_version_is_refused(tmp_path: Path, version: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"format_version = {version}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={}, overrides={})
    assert caught.value.field == "format_version"


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ={}, overrides={"kafka.topik": "x"})
    assert caught.value.field == "kafka.topik"


def test_a_role_that_nobody_can_assume_is_refused_before_a_run() -> None:
    error = error_with(
        iceberg__catalog_type="glue", iceberg__glue__role_arn="arn:aws:iam::1:role/r"
    )
    assert error.field == "iceberg.glue.role_arn"
    assert "AWS_PROFILE" in str(error)


@pytest.mark.parametrize("text", ["[kafka", "[kafka]\ntopic = 5\n", "[kafka]\n"])
def test_what_is_wrong_with_a_file_comes_with_what_to_do(text: str, tmp_path: Path) -> None:
    path = tmp_path / "k2i.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ={}, overrides={})
    assert str(path) in caught.value.what
    assert "docs/configuration.md" in caught.value.remedy


def test_a_variable_that_is_no_value_comes_with_what_to_do() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ={"K2I_BUFFER_MAX_SIZE_MB": "abc"}, overrides=GOOD)
    assert "K2I_BUFFER_MAX_SIZE_MB" in caught.value.what
    assert caught.value.remedy
