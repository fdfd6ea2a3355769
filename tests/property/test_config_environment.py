"""A setting means the same wherever it is given."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.config import load_config
from k2i_tasks.config.keys import Key, all_keys, literal_words
from k2i_tasks.errors import ConfigError

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
WORDS = st.text("abcxyz019_-./: ${}[]'=,\"\\#éß", min_size=1, max_size=20)
URLS = st.sampled_from(["http://127.0.0.1:1/a", "sqlite:////x y.db", "thrift://h:1"])
LISTS: dict[str, st.SearchStrategy[Any]] = {
    "kafka.bootstrap_servers": st.lists(st.sampled_from(["a:1", "b", "[::1]:2"]), min_size=1),
    "iceberg.catalog_manager.reconnect_backoff_ms": st.lists(st.integers(0, 9_000), min_size=1),
    "iceberg.partition_spec": st.lists(
        st.fixed_dictionaries(
            {
                "source_field": st.sampled_from(["a", "b.c"]),
                "transform": st.sampled_from(["day", "bucket[3]", {"truncate": {"width": 2}}]),
            }
        ),
        max_size=2,
    ),
    "iceberg.identifier_fields": st.lists(st.sampled_from(["a", "b c"]), max_size=2, unique=True),
    "routing.topics": st.lists(st.sampled_from(["a", "b.c"]), max_size=2),
    "routing.tables": st.lists(
        st.just({"topic": "a.*", "settings": {"kafka": {"format": {"type": "raw"}}}}), max_size=1
    ),
    "iceberg.sort_order": st.lists(st.just({"source_field": "a", "direction": "desc"}), max_size=1),
}
TABLES = st.dictionaries(st.sampled_from(["a.b", "x-y"]), st.text("ab1", max_size=3), max_size=2)


def values(key: Key) -> st.SearchStrategy[Any]:
    """Values of the kind of `key`, some of them out of bounds."""
    if key.kind == "flag":
        return st.booleans()
    if key.kind == "integer":
        return st.integers(-2, 200) | st.integers(1, 2**40)
    if key.kind == "number":
        return st.integers(0, 100) | st.floats(0.001, 100)
    if key.kind == "choice":
        return st.sampled_from(literal_words(key.field.annotation))
    if key.kind == "list":
        return LISTS[key.dotted]
    return TABLES if key.kind == "table" else WORDS | URLS


def as_text(value: Any, key: Key) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if key.kind == "list" and key.item is None:
        return ",".join(str(item) for item in value)
    return json.dumps(value) if key.kind in ("list", "table") else str(value)


def as_toml(value: Any) -> str:
    """`value` in TOML; JSON's texts, numbers and booleans are TOML's too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(as_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def outcome(path: Path, environ: dict[str, str]) -> Any:
    """The configuration as plain values, or the key that was refused."""
    try:
        return load_config(path, environ=environ, overrides={}).model_dump()
    except ConfigError as error:
        return error.field


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_key_given_in_the_environment_equals_that_key_given_in_the_file(
    folder: Path, data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(all_keys()))
    value = data.draw(values(key))
    tables = copy.deepcopy(BASE)
    place: dict[str, Any] = tables
    for name in key.path[:-1]:
        place = place.setdefault(name, {})
    place[key.path[-1]] = value
    base, changed = folder / "base.toml", folder / "changed.toml"
    for path, body in ((base, BASE), (changed, tables)):
        lines = [f"{name} = {as_toml(part)}" for name, part in body.items()]
        path.write_text("\n".join(["format_version = 1", *lines]), encoding="utf-8")
    assert outcome(base, {key.variable: as_text(value, key)}) == outcome(changed, {})
