"""A secret is shown by nothing, and found where it is said to be."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from k2i_tasks.config import Config, load_config, notes
from k2i_tasks.config.fields import SECRET_BYTES_MAX, SecretReference
from k2i_tasks.config.keys import all_keys
from k2i_tasks.errors import ConfigError
from k2i_tasks.secrets import resolve, resolve_all

CANARY = "cAnArY-7f3a"
SECRETS = [key for key in all_keys() if key.kind == "secret"]
BASE: dict[str, Any] = {
    "kafka": {"bootstrap_servers": ["a:1"], "topic": "t", "consumer_group": "g"},
    "iceberg": {
        "catalog_type": "rest",
        "rest_uri": "http://127.0.0.1:8181",
        "warehouse_path": "/w",
        "database_name": "d",
        "table_name": "t",
    },
}


def with_value(path: tuple[str, ...], value: Any, tables: dict[str, Any] | None = None) -> Any:
    tables = copy.deepcopy(BASE) if tables is None else tables
    place = tables
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    return tables


def full_of_canaries() -> Config:
    tables = copy.deepcopy(BASE)
    for key in SECRETS:
        with_value(key.path, CANARY, tables)
    with_value(("iceberg", "rest", "custom_headers"), {"Authorization": CANARY}, tables)
    with_value(("iceberg", "rest_uri"), f"http://user:{CANARY}@127.0.0.1/x?token={CANARY}", tables)
    url = f"postgresql://user:p@ss{CANARY}@127.0.0.1/db?password={CANARY}"
    with_value(("iceberg", "sql_catalog"), {"type": "postgres", "url": url}, tables)
    return load_config(None, environ={}, overrides=tables)


def test_no_view_of_a_configuration_shows_a_secret() -> None:
    config = full_of_canaries()
    views = [
        repr(config),
        str(config),
        config.model_dump_json(),
        repr(config.model_dump()),
        repr(config.model_dump(mode="json")),
        repr(config.kafka.security),
        f"{config.iceberg.rest}",
        repr(config.iceberg.sql_catalog.url),
        " ".join(notes(config)),
        repr(resolve_all(config)),
    ]
    for view in views:
        assert CANARY not in view
    assert CANARY in str(config.iceberg.sql_catalog.url)


def test_all_secrets_are_resolved_under_the_name_of_their_key() -> None:
    found = resolve_all(full_of_canaries())
    names = {key.dotted for key in SECRETS} | {"iceberg.rest.custom_headers.Authorization"}
    assert set(found) == names
    assert set(found.values()) == {CANARY}


@pytest.mark.parametrize("key", SECRETS, ids=lambda key: key.dotted)
@pytest.mark.parametrize(
    "wrong",
    [
        [CANARY],
        {"fil": CANARY},
        {"file": CANARY, "value": CANARY},
        f"env:{CANARY} {CANARY}",
        f"vault:{CANARY}",
        f"aws-sm:{CANARY}",
        f"prefect-block:{CANARY}",
        70707070,
    ],
)
def test_an_error_about_a_secret_names_its_key_and_not_its_value(key: Any, wrong: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ={}, overrides=with_value(key.path, wrong))
    assert caught.value.field.startswith(key.dotted)
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert CANARY not in shown
    assert "70707070" not in shown


def test_other_errors_do_not_show_the_secrets_beside_them() -> None:
    tables = with_value(("kafka", "security", "sasl_password"), CANARY)
    tables["kafka"]["batch_size"] = 0
    tables["kafka"]["nonsense"] = CANARY
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ={}, overrides={"kafka": tables["kafka"]})
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValidationError) as raw:
        Config.model_validate(tables)
    assert CANARY not in str(raw.value)


def test_the_environment_keeps_its_secrets() -> None:
    environ = {"K2I_KAFKA_SECURITY_SASL_PASSWORD": CANARY, "K2I_KAFKA_BATCH_SIZE": CANARY}
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ=environ, overrides={})
    assert "K2I_KAFKA_BATCH_SIZE" in str(caught.value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("form", ["file:{}", {"file": "{}"}])
def test_a_file_is_read_and_trimmed(tmp_path: Path, form: Any) -> None:
    path = tmp_path / "password"
    path.write_text(f"\n {CANARY} \r\n")
    given = form.format(path) if isinstance(form, str) else {"file": str(path)}
    tables = with_value(("kafka", "security", "sasl_password"), given)
    config = load_config(None, environ={}, overrides=tables)
    assert resolve_all(config)["kafka.security.sasl_password"] == CANARY


def test_a_variable_is_read_when_it_is_needed() -> None:
    tables = with_value(("kafka", "security", "sasl_password"), "env:PASSWORD")
    config = load_config(None, environ={}, overrides=tables)
    found = resolve_all(config, environ={"PASSWORD": CANARY})
    assert dict(found) == {"kafka.security.sasl_password": CANARY}


def test_a_text_that_looks_like_a_reference_can_be_given_as_a_value() -> None:
    tables = with_value(("kafka", "security", "sasl_password"), {"value": "env:x"})
    config = load_config(None, environ={}, overrides=tables)
    assert resolve_all(config)["kafka.security.sasl_password"] == "env:x"


def test_in_k2i_files_a_secret_is_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        """
[kafka]
bootstrap_servers = ["a:1"]
topic = "t"
consumer_group = "g"
[kafka.security]
sasl_username = "${USER}"
sasl_password = "vault:x"
[iceberg]
catalog_type = "rest"
rest_uri = "http://127.0.0.1:8181"
warehouse_path = "/w"
database_name = "d"
table_name = "t"
aws_access_key_id = { file = "/nowhere" }
aws_secret_access_key = "s"
"""
    )
    config = load_config(path, environ={}, overrides={})
    security = config.kafka.security
    assert security.sasl_password == SecretStr("vault:x")
    assert config.iceberg.aws_access_key_id == SecretReference("file:/nowhere")
    assert any("kafka.security.sasl_username is taken as it is" in note for note in notes(config))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (None, "No such file"),
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * (SECRET_BYTES_MAX + 1), "larger than"),
    ],
)
def test_a_file_that_holds_no_secret_names_key_and_file(
    tmp_path: Path, body: bytes | None, why: str
) -> None:
    path = tmp_path / "password"
    if body is not None:
        path.write_bytes(body)
    tables = with_value(("kafka", "security", "sasl_password"), f"file:{path}")
    config = load_config(None, environ={}, overrides=tables)
    with pytest.raises(ConfigError, match=why) as caught:
        resolve_all(config)
    assert caught.value.field == "kafka.security.sasl_password"
    assert str(path) in caught.value.what


@pytest.mark.parametrize("environ", [{}, {"PASSWORD": ""}])
def test_a_variable_that_is_not_set_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="PASSWORD is not set or empty") as caught:
        resolve(SecretReference("env:PASSWORD"), environ=environ, field="kafka.x")
    assert caught.value.field == "kafka.x"


def test_a_reference_has_no_value_to_read_by_mistake() -> None:
    reference = SecretReference("env:PASSWORD")
    with pytest.raises(ConfigError):
        reference.get_secret_value()
    assert reference == SecretReference("env:PASSWORD") != SecretReference("env:OTHER")
    assert pickle.loads(pickle.dumps(reference)) == reference
    assert len({reference, SecretReference("env:PASSWORD")}) == 1
