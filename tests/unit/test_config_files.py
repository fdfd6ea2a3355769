"""Whose a file is, and what is made of it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from k2i_tasks.config import Config, demo_config, load_config, notes
from k2i_tasks.config.k2i_toml import Form, form_of
from k2i_tasks.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples"
MINIMAL = """
[kafka]
bootstrap_servers = ["127.0.0.1:9092"]
topic = "events"
consumer_group = "k2i"

[iceberg]
catalog_type = "rest"
rest_uri = "http://127.0.0.1:8181"
warehouse_path = "s3://bucket/warehouse"
database_name = "raw"
table_name = "events"
"""


def load(tmp_path: Path, text: str, **overrides: object) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ={}, overrides=overrides)


def test_k2i_0_3_file_loads_unchanged() -> None:
    config = load_config(EXAMPLES / "k2i-0.3.toml", environ={}, overrides={})
    assert config.kafka.bootstrap_servers == ("127.0.0.1:9092",)
    assert config.kafka.batch_size == 1000
    assert config.iceberg.s3_endpoint == "http://127.0.0.1:9000"
    spec = [(part.source_field, part.transform) for part in config.iceberg.partition_spec]
    assert spec == [("_kafka_timestamp", "day"), ("_kafka_offset", "bucket[16]")]
    assert config.transaction_log.log_dir == Path("transaction_logs")


def test_first_readme_file_loads_unchanged() -> None:
    config = load_config(EXAMPLES / "k2i-first.toml", environ={}, overrides={})
    assert config.kafka.bootstrap_servers == ("127.0.0.1:9092",)
    assert config.kafka.consumer_group == "k2i-ingestion"
    assert config.iceberg.warehouse_path == "s3://my-bucket/warehouse"
    assert config.iceberg.database_name == "analytics"
    assert config.iceberg.table_name == "events"
    assert config.iceberg.aws_region == "us-east-1"
    assert (config.monitoring.health_port, config.monitoring.metrics_port) == (8080, 9090)
    assert config.buffer.flush_interval_seconds == 30
    (note,) = notes(config)
    assert "127.0.0.1 only" in note


def test_first_form_puts_the_bucket_before_a_warehouse_without_scheme(tmp_path: Path) -> None:
    text = (EXAMPLES / "k2i-first.toml").read_text().replace("s3://my-bucket/warehouse", "./lake")
    assert load(tmp_path, text).iceberg.warehouse_path == "s3://my-bucket/lake"


def test_first_form_with_a_key_under_both_names_is_refused(tmp_path: Path) -> None:
    text = (EXAMPLES / "k2i-first.toml").read_text()
    text = text.replace('group_id = "k2i-ingestion"', 'group_id = "a"\nconsumer_group = "b"')
    with pytest.raises(ConfigError, match="older name") as caught:
        load(tmp_path, text)
    assert caught.value.field == "kafka.consumer_group"


def test_local_example_is_ours_and_raises_no_remark() -> None:
    config = load_config(EXAMPLES / "local.toml", environ={}, overrides={})
    assert notes(config) == []
    assert config.kafka.batch_size == 20_000


def test_k2i_file_keeps_k2i_batch_size_and_ours_does_not(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).kafka.batch_size == 1_000
    assert load(tmp_path, "format_version = 1\n" + MINIMAL).kafka.batch_size == 20_000


def test_k2i_file_with_unknown_keys_runs_and_each_is_reported(tmp_path: Path) -> None:
    text = MINIMAL + "[buffer]\nflush_intervall_seconds = 3\n[plugins]\nx = 1\n"
    config = load(tmp_path, text)
    assert config.buffer.flush_interval_seconds == 30
    remarks = " ".join(notes(config))
    assert "buffer.flush_intervall_seconds is not known and is ignored" in remarks
    assert "nearest key is buffer.flush_interval_seconds" in remarks
    assert "plugins is not known" in remarks


@pytest.mark.parametrize(
    ("added", "field", "nearest"),
    [
        ("[buffer]\nflush_intervall_seconds = 3", "buffer.flush_intervall_seconds", "_interval_"),
        ("[bufer]\nmax_size_mb = 3", "bufer", "buffer"),
        ("[kafka.security]\nsasl_pasword = 'x'", "kafka.security.sasl_pasword", "sasl_password"),
        ("[iceberg.rest]\ntopic = 'x'", "iceberg.rest.topic", "kafka.topic"),
        (
            "[[iceberg.partition_spec]]\nsource_fild = 'x'",
            "iceberg.partition_spec.0.source_fild",
            "source_field",
        ),
    ],
)
def test_a_typo_in_a_strict_file_is_an_error_that_names_the_nearest_key(
    tmp_path: Path, added: str, field: str, nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"format_version = 1\n{MINIMAL}\n{added}\n")
    assert caught.value.field == field
    assert nearest in caught.value.what
    assert "config.toml" in caught.value.what


@pytest.mark.parametrize(
    "added",
    [
        "[prefect]\nenabled = false",
        "[run]\ndrain_timeout_seconds = 3",
        "[prefekt]\nenabled = false",
        "[monitoring]\nhealth_host = '127.0.0.1'",
        "[monitoring]\nhealth_hots = '127.0.0.1'",
        "[transaction_log]\nsegment_size_bm = 1",
        "[kafka.propertys]\n'fetch.min.bytes' = '1'",
        "[kafka.security]\nsasl_password = 'env:PASSWORD'",
        "[[iceberg.partition_spec]]\nsource_field = 'a'\ntransform = 'day'\nname = 'b'",
        "[[iceberg.sort_order]]\nsource_field = 'a'",
        "[iceberg.metadata_columns]",
    ],
)
def test_a_key_of_ours_or_a_near_miss_of_one_makes_a_file_strict(added: str) -> None:
    assert form_of(tomllib.loads(MINIMAL)) is Form.K2I
    assert form_of(tomllib.loads(f"{MINIMAL}\n{added}\n")) is Form.NATIVE


def test_a_file_that_k2i_would_not_start_with_is_strict() -> None:
    assert form_of({"kafka": {"topic": "x"}, "nonsense": 1}) is Form.NATIVE
    assert form_of({}) is Form.NATIVE


def test_old_names_in_a_strict_file_are_told_their_new_ones(tmp_path: Path) -> None:
    text = "format_version = 1\n" + MINIMAL.replace("consumer_group", "group_id")
    with pytest.raises(ConfigError, match=r"the nearest is kafka\.consumer_group") as caught:
        load(tmp_path, text)
    assert caught.value.field == "kafka.group_id"


def test_k2i_sqlite_url_becomes_sqlalchemys(tmp_path: Path) -> None:
    text = MINIMAL.replace('"rest"', '"sql"')
    sql = "\n[iceberg.sql_catalog]\nurl = 'sqlite:///srv/k2i/catalog.db'\n"
    url = load(tmp_path, text + sql).iceberg.sql_catalog.url
    assert url == "sqlite:////srv/k2i/catalog.db"
    ours = load(tmp_path, "format_version = 1\n" + text + sql).iceberg.sql_catalog.url
    assert ours == "sqlite:///srv/k2i/catalog.db"


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("'identity'", "identity"),
        ("'Day'", "day"),
        ("'bucket[16]'", "bucket[16]"),
        ("'truncate[ 2 ]'", "truncate[2]"),
        ("{ bucket = { num_buckets = 16 } }", "bucket[16]"),
        ("{ truncate = { width = 2 } }", "truncate[2]"),
    ],
)
@pytest.mark.parametrize("version", ["", "format_version = 1\n"])
def test_each_way_to_write_a_transform_is_read(
    tmp_path: Path, version: str, given: str, canonical: str
) -> None:
    spec = f"[[iceberg.partition_spec]]\nsource_field = 'a'\ntransform = {given}\n"
    config = load(tmp_path, version + MINIMAL + spec)
    assert config.iceberg.partition_spec[0].transform == canonical


def test_servers_in_one_text_within_the_list_are_split(tmp_path: Path) -> None:
    text = MINIMAL.replace("127.0.0.1:9092", "a:9092, b:9092")
    assert load(tmp_path, text).kafka.bootstrap_servers == ("a:9092", "b:9092")


def test_what_is_read_and_not_honoured_is_said(tmp_path: Path) -> None:
    text = MINIMAL + (
        "[rpc]\nenabled = true\n[maintenance]\nstatistics_enabled = true\n"
        "[buffer]\nmemory_alignment_bytes = 5\n[iceberg.rest]\ncredential = 'x'\n"
        "[iceberg.catalog_manager]\nreconnect_backoff_ms = [1]\n"
    )
    said = " ".join(notes(load(tmp_path, text)))
    for key in (
        "rpc.enabled",
        "maintenance.statistics_enabled",
        "buffer.memory_alignment_bytes",
        "iceberg.rest.credential is not sent",
        "iceberg.catalog_manager.reconnect_backoff_ms",
    ):
        assert key in said


def test_an_open_address_is_remarked(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, **{"monitoring.health_host": "0.0.0.0"})
    assert any("monitoring.health_host: 0.0.0.0" in note for note in notes(config))
    assert config.monitoring.metrics_host == "127.0.0.1"


def test_demo_needs_nothing_and_stays_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    config = demo_config(folder)
    assert config.iceberg.sql_catalog.url == f"sqlite:///{folder}/catalog.db"
    assert config.iceberg.warehouse_path == f"file://{folder}/warehouse"
    assert config.transaction_log.log_dir == folder / "wal"
    assert notes(config) == []
    assert not folder.exists()


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(MINIMAL)
    environ = {"K2I_KAFKA_TOPIC": "second", "K2I_KAFKA_CONSUMER_GROUP": "second"}
    overrides = {"kafka.topic": "third", "kafka": {"batch_size": None}}
    config = load_config(path, environ=environ, overrides=overrides)
    assert (config.kafka.topic, config.kafka.consumer_group) == ("third", "second")


def test_environment_alone_is_a_configuration() -> None:
    environ = {
        "K2I_KAFKA_BOOTSTRAP_SERVERS": "a:1,b:2",
        "K2I_KAFKA_TOPIC": "t",
        "K2I_KAFKA_CONSUMER_GROUP": "g",
        "K2I_ICEBERG_CATALOG_TYPE": "REST",
        "K2I_ICEBERG_REST_URI": "http://127.0.0.1:1",
        "K2I_ICEBERG_WAREHOUSE_PATH": "/w",
        "K2I_ICEBERG_DATABASE_NAME": "d",
        "K2I_ICEBERG_TABLE_NAME": "t",
    }
    config = load_config(None, environ=environ, overrides={})
    assert config.kafka.bootstrap_servers == ("a:1", "b:2")
    assert config.buffer.flush_size_bytes == config.buffer.size_bytes_max // 4
    assert config.iceberg.dead_letter_table_name == "t__dead_letters"


def test_k2is_spec_on_a_column_that_is_not_there_is_left_out_and_ours_is_not(
    tmp_path: Path,
) -> None:
    entry = '[[iceberg.partition_spec]]\nsource_field = "event_timestamp"\ntransform = "day"\n'
    theirs = load(tmp_path, (EXAMPLES / "k2i-0.3.toml").read_text() + entry)
    assert {part.if_missing for part in theirs.iceberg.partition_spec} == {"skip"}
    ours = load(tmp_path, (EXAMPLES / "local.toml").read_text() + entry)
    assert ours.iceberg.partition_spec[-1].if_missing == "fail"
