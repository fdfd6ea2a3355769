"""From the configuration to a decoder with a registry behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest

from k2i_tasks import secrets
from k2i_tasks.codecs import FORMATS
from k2i_tasks.codecs.base import decoded_whole
from k2i_tasks.codecs.registered import MAKERS
from k2i_tasks.config import Config, load_config, notes
from k2i_tasks.config.model_kafka import FORMATS_REGISTERED, FormatName
from k2i_tasks.errors import ConfigError, ServiceError
from k2i_tasks.wiring_decoders import Decoders, latest_subject, schemas_of
from tests.schema_registry import FakeRegistry, frame, status
from tests.unit.codec_batches import batch_of, codes, payload

SCHEMA = json.dumps({"type": "object", "properties": {"a": {"type": "string"}}})


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as served:
        yield served


def config_of(folder: Path, url: str | None, **form: Any) -> Config:
    overrides: dict[str, Any] = {
        "kafka.bootstrap_servers": ["127.0.0.1:9092"],
        "kafka.topic": "orders",
        "kafka.consumer_group": "g",
        "kafka.format": {"type": "jsonschema", "schema_registry_url": url, **form},
        "iceberg.catalog_type": "rest",
        "iceberg.rest_uri": "http://127.0.0.1:1",
        "iceberg.warehouse_path": "file:///w",
        "iceberg.database_name": "d",
        "iceberg.table_name": "t",
        "transaction_log.log_dir": str(folder / "wal"),
    }
    return load_config(None, environ={}, overrides=overrides)


def decoders_of(config: Config, environ: Mapping[str, str] | None = None) -> Decoders:
    return Decoders(config, secrets.resolve_all(config, environ=environ))


def test_each_format_that_is_accepted_has_a_decoder_and_no_other() -> None:
    assert set(get_args(get_args(FormatName)[0])) == {*FORMATS, *MAKERS}
    assert set(MAKERS) <= set(FORMATS_REGISTERED)


def test_the_latest_schema_gives_the_columns_before_the_first_record(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    known = registry.add("orders-value", SCHEMA, kind="JSON")
    decoders = decoders_of(config_of(tmp_path, registry.url))
    assert decoders.decoder(None).schema is None
    ahead = decoders.decoder(None, ahead=True)
    assert ahead.schema == pa.schema([("a", pa.string())])
    # A table that is there gets the columns, too.
    table = pa.schema([("b", pa.int64())])
    assert decoders.decoder(table, ahead=True).schema == pa.schema([*table, *ahead.schema])
    raw = batch_of([frame(known, b'{"a":"x"}')])
    assert payload(decoded_whole(ahead, raw, 0.0)) == [{"a": "x"}]
    # What was looked at once is not asked for again, by this process or the next.
    assert registry.requests == ["/subjects/orders-value/versions/latest"]
    with registry.away():
        again = decoders_of(config_of(tmp_path, registry.url)).decoder(None, ahead=True)
        assert again.schema is None
        assert payload(decoded_whole(again, raw, 0.0)) == [{"a": "x"}]


def test_a_subject_without_a_schema_or_with_one_of_another_kind_stops_nothing(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    decoders = decoders_of(config_of(tmp_path, registry.url))
    assert decoders.decoder(None, ahead=True).schema is None
    avro = registry.add("orders-value", "{}")
    decoder = decoders.decoder(None, ahead=True)
    assert decoder.schema is None
    found = decoded_whole(decoder, batch_of([frame(avro, b"{}")]), 0.0)
    assert codes(found) == ["schema.wrong_type"]


def test_a_login_that_is_refused_stops_the_start(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.always = status(401)
    with pytest.raises(ServiceError, match="refuses us"):
        decoders_of(config_of(tmp_path, registry.url)).decoder(None, ahead=True)


@pytest.mark.parametrize(
    ("form", "subject"),
    [
        ({}, "orders-value"),
        ({"subject_strategy": "record_name", "message_type": "a.B"}, "a.B"),
        ({"subject_strategy": "topic_record_name", "message_type": "a.B"}, "orders-a.B"),
        ({"subject_strategy": "record_name"}, None),
        ({"latest_on_startup": False}, None),
    ],
)
def test_the_subject_is_named_by_its_strategy(
    tmp_path: Path, form: dict[str, Any], subject: str | None
) -> None:
    config = config_of(tmp_path, "http://127.0.0.1:1", **form)
    assert latest_subject(config) == subject
    silent = subject is None and form.get("latest_on_startup", True)
    assert any("latest_on_startup" in note for note in notes(config)) == silent


def test_the_login_is_resolved_and_sent(registry: FakeRegistry, tmp_path: Path) -> None:
    login = {"username": "ann", "password": "env:WORD"}
    config = config_of(tmp_path, registry.url, schema_registry=login)
    schemas = schemas_of(config, secrets.resolve_all(config, environ={"WORD": "s3cret-word"}))
    assert schemas is not None
    schemas.check()
    assert registry.headers["Authorization"].startswith("Basic ")
    assert "s3cret" not in repr(config)
    token = {"token": "env:WORD", **login}
    both = config_of(tmp_path, registry.url, schema_registry=token)
    schemas = schemas_of(both, secrets.resolve_all(both, environ={"WORD": "s3cret-word"}))
    assert schemas is not None
    schemas.check()
    assert registry.headers["Authorization"] == "Bearer s3cret-word"
    assert any("there is a token" in note for note in notes(both))


@pytest.mark.parametrize(
    ("url", "form", "field"),
    [
        (None, {}, "kafka.format.schema_registry_url"),
        ("http://h", {"schema_registry": {"username": "a"}}, "schema_registry.password"),
        ("http://h", {"schema_registry": {"password": "a"}}, "schema_registry.username"),
        ("http://h", {"schema_registry": {"ssl_key_location": "k"}}, "ssl_cert_location"),
        ("http://h", {"schema_registry": {"ssl_cert_location": "k"}}, "ssl_key_location"),
    ],
)
def test_half_a_login_or_no_address_is_a_mistake_in_the_configuration(
    tmp_path: Path, url: str | None, form: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as wrong:
        config_of(tmp_path, url, **form)
    assert wrong.value.field.endswith(field)


def test_other_formats_reach_for_no_registry(tmp_path: Path) -> None:
    config = config_of(tmp_path, "http://127.0.0.1:1", type="json")
    assert schemas_of(config, {}) is None
    assert any("schema_registry_url is not used" in note for note in notes(config))
    raw = batch_of([b'{"a":1}'])
    decoder = decoders_of(config).decoder(None, ahead=True)
    assert payload(decoded_whole(decoder, raw, 0.0)) == [{"a": 1}]


def test_keys_have_a_format_and_a_subject_of_their_own(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    key = json.dumps({"type": "object", "properties": {"id": {"type": "integer"}}})
    known = registry.add("orders-key", key, kind="JSON")
    config = config_of(tmp_path, registry.url, type="json")
    keyed = config.kafka.model_copy(
        update={"key_format": config.kafka.key_format.model_copy(update={"type": "jsonschema"})}
    )
    decoder = decoders_of(config.model_copy(update={"kafka": keyed})).decoder(None, ahead=True)
    raw = replace(batch_of([b'{"a":1}'] * 2), keys=[frame(known, b'{"id":7}'), None])
    rows = decoded_whole(decoder, raw, 0.0).table.to_pylist()
    assert [row["_kafka_key_decoded"] for row in rows] == [{"id": 7}, None]
    assert [row["_kafka_key"] for row in rows] == list(raw.keys)
    assert registry.requests == ["/subjects/orders-key/versions/latest"]
