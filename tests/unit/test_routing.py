"""Which topic goes to which table, and what is refused before there is a topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k2i_tasks.config import Config, load_config
from k2i_tasks.config.plans import Plan, plan
from k2i_tasks.config.routes import dealing_config, rules_of, target
from k2i_tasks.errors import ConfigError
from k2i_tasks.kafka.places import Places
from k2i_tasks.wiring_shared import places_file

BASE: dict[str, Any] = {
    "kafka.bootstrap_servers": ["127.0.0.1:9092"],
    "kafka.consumer_group": "g",
    "kafka.format.type": "json",
    "iceberg.catalog_type": "rest",
    "iceberg.rest_uri": "http://user:word@127.0.0.1:1/x",
    "iceberg.rest.credential_type": "bearer",
    "iceberg.rest.credential": "env:TOKEN",
    "iceberg.warehouse_path": "file:///w",
    "iceberg.database_name": "d",
    "transaction_log.log_dir": "wal",
}


def config_of(**routing: Any) -> Config:
    changes = {f"routing.{key}": value for key, value in routing.items()}
    return load_config(None, environ={}, overrides={**BASE, **changes})


def planned(*topics: str, **routing: Any) -> Plan:
    config = config_of(**routing)
    return plan(config, config.routing.chosen(topics), 100)


def tables(found: Plan) -> dict[str, str]:
    return {route.topic: route.config.iceberg.table_name for route in found.routes}


def error_of(**routing: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config_of(**routing)
    return caught.value


def test_topics_are_chosen_by_name_and_by_expression() -> None:
    found = planned(
        *("shop.a", "shop.b", "shop.old", "else", "_schemas", "__consumer_offsets"),
        topics=["else", "not-there", "_schemas"],
        topic_pattern=r".*shop\..*|_.*",
        exclude_pattern=r".*\.old",
    )
    assert tables(found) == {
        "_schemas": "_schemas",
        "else": "else",
        "not-there": "not-there",
        "shop.a": "shop_a",
        "shop.b": "shop_b",
    }
    assert not found.refused


def test_a_table_is_named_by_the_groups_of_what_found_its_topic() -> None:
    found = planned(
        *("eu.orders.v1", "us.orders.v2", "eu.items", "special"),
        topics=["special"],
        topic_pattern=r"(?P<region>eu|us)\.(.*?)(\.v[0-9])?",
        table_name="{region}_{2}",
        tables=[
            {"topic": r"(spec)(.*)", "table_name": "{2}-{1}"},
            {"topic": r"us\..*", "settings": {"kafka": {"format": {"type": "raw"}}}},
        ],
    )
    assert tables(found) == {
        "eu.orders.v1": "eu_orders",
        "us.orders.v2": "us_orders",
        "eu.items": "eu_items",
        "special": "ial-spec",
    }
    formats = {route.topic: route.config.kafka.format.type for route in found.routes}
    assert formats == dict.fromkeys(formats, "json") | {"us.orders.v2": "raw"}


def test_each_table_has_a_whole_configuration_and_a_log_of_its_own() -> None:
    entry = {
        "topic": "b",
        "settings": {
            "iceberg.partition_spec": [{"source_field": "at", "transform": "day"}],
            "iceberg": {"sink": "{topic}", "rest": {"credential": "env:OTHER"}},
            "buffer.flush_interval_seconds": "2.5",
        },
    }
    found = planned(topics=["a", "b"], tables=[entry])
    first, second = (route.config for route in found.routes)
    assert not first.routing.enabled
    assert not second.routing.enabled
    assert first.kafka.topic == "a"
    assert Path(second.transaction_log.log_dir) == Path("wal/topics/b/d.b")
    assert second.iceberg.partition_spec[0].transform == "day"
    assert (first.iceberg.sink, second.iceberg.sink) == ("main", "b")
    assert second.buffer.flush_interval_seconds == 2.5
    # What is not changed is what it was, secrets in it too.
    assert second.iceberg.rest_uri == BASE["iceberg.rest_uri"]
    assert first.iceberg.rest.credential == config_of(topics=["a"]).iceberg.rest.credential
    assert first.iceberg.rest.credential != second.iceberg.rest.credential


def test_two_topics_in_one_table_need_streams_of_their_own() -> None:
    found = planned("a.x", "a_x", topic_pattern="a.*")
    assert list(tables(found)) == ["a.x"]
    assert "iceberg.sink" in found.refused["a_x"]
    entry = {"topic": ".*", "table_name": "all", "settings": {"iceberg.sink": "s-{topic}"}}
    found = planned("a.x", "a_x", topic_pattern="a.*", tables=[entry])
    assert tables(found) == {"a.x": "all", "a_x": "all"}


def test_a_topic_without_a_table_is_refused_alone() -> None:
    found = planned("ab", "a", topic_pattern="a(b)?", table_name="{1}")
    assert tables(found) == {"ab": "b"}
    assert "{1} is empty" in found.refused["a"]
    found = plan(config_of(topic_pattern=".*"), ["a", "b", "c"], 2)
    assert list(tables(found)) == ["a", "b"]
    assert "max_tables" in found.refused["c"]
    assert not planned("--", topic_pattern="--").routes


def test_one_of_the_topics_alone() -> None:
    one = config_of(topic_pattern="shop.*", topic="shop.a")
    assert (one.kafka.topic, one.iceberg.table_name) == ("shop.a", "shop_a")
    assert not one.routing.enabled
    assert one.load_notes == ()
    assert error_of(topic_pattern="shop.*", topic="other").field == "routing.topic"


@pytest.mark.parametrize(
    ("routing", "field", "told"),
    [
        ({"topic_pattern": "("}, "routing.topic_pattern", "no regular expression"),
        ({"topics": ["a b"]}, "routing.topics.0", ""),
        ({"topics": ["a"], "table_name": "{1}"}, "routing.table_name", "{1} is no group"),
        ({"topics": ["a"], "table_name": "a.b"}, "routing.table_name", "letters"),
        ({"topics": ["a"], "table_name": "{topic.x}"}, "routing.table_name", "letters"),
        ({"topic": "a"}, "kafka.topic", "is required"),
        ({}, "kafka.topic", "is required"),
    ],
)
def test_bad_routing_is_named(routing: dict[str, Any], field: str, told: str) -> None:
    error = error_of(**routing)
    assert error.field == field
    assert told in error.what


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kafka.topic": "x"}, "kafka.topic is not a setting of one table"),
        ({"monitoring": {"health_port": 1}}, "monitoring.health_port is not a setting of one"),
        ({"kafka.fromat": "x"}, "kafka.fromat is not a known key"),
        ({"buffer.flush_batch_size": 0}, "buffer.flush_batch_size"),
        ({"kafka.format.type": "avro"}, "schema_registry_url"),
        ({"iceberg.rest.credential": "word"}, "iceberg.rest.credential is a secret"),
    ],
)
def test_bad_settings_of_some_tables_are_named_before_there_is_a_topic(
    settings: dict[str, Any], told: str
) -> None:
    error = error_of(topics=["a"], tables=[{"topic": "never", "settings": settings}])
    assert error.field == "routing.tables.0.settings"
    assert told in error.what
    assert "word" not in error.what.replace("user:word", "")


def test_routing_and_a_topic_of_its_own_exclude_each_other() -> None:
    for key, value in {"kafka.topic": "t", "iceberg.table_name": "t"}.items():
        overrides = {**BASE, "routing.topics": ["a"], key: value}
        with pytest.raises(ConfigError, match="must not be given beside") as caught:
            load_config(None, environ={}, overrides=overrides)
        assert caught.value.field == key
    overrides = {**BASE, "routing.topics": ["a"], "kafka.assignment": "group"}
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ={}, overrides=overrides)
    assert caught.value.field == "kafka.assignment"


def test_topics_of_dead_letters_are_not_found_by_an_expression() -> None:
    names = ["orders", "orders__dead_letters", "refused"]
    changes = {**BASE, "routing.topic_pattern": ".*"}

    def chosen(**letters: Any) -> list[str]:
        more = {f"dead_letters.{key}": value for key, value in letters.items()}
        found = load_config(None, environ={}, overrides={**changes, **more})
        return found.chosen_topics(names)

    assert chosen() == names
    assert chosen(to="both") == ["orders", "refused"]
    assert chosen(to="topic", topic="refused") == ["orders"]


def test_no_table_is_another_ones_for_dead_letters() -> None:
    for topics in (["a", "a__dead_letters"], ["a__dead_letters", "a"]):
        for first in topics:
            found = plan(config_of(topic_pattern=".*"), topics, 9, first={first})
            assert list(tables(found)) == [first]
            (refused,) = set(topics) - {first}
            assert "d.a__dead_letters would hold records and dead letters" in found.refused[refused]
    letters = {**BASE, "dead_letters.to": "topic", "routing.topics": topics}
    found = plan(load_config(None, environ={}, overrides=letters), topics, 9)
    assert list(tables(found)) == sorted(topics)


def test_names_that_a_catalog_takes_for_one_are_one() -> None:
    for kind, count in (("rest", 2), ("hive", 1), ("glue", 1)):
        changes = {
            **BASE,
            "iceberg.catalog_type": kind,
            "iceberg.hive_metastore_uri": "thrift://127.0.0.1:1",
            "routing.topics": ["Orders", "orders"],
        }
        config = load_config(None, environ={}, overrides=changes)
        assert len(plan(config, ["Orders", "orders"], 9).routes) == count


def test_what_runs_already_gives_way_to_nothing_new() -> None:
    config = config_of(topic_pattern=".*")
    found = plan(config, ["a", "b", "c"], 2, first={"b", "c"})
    assert list(tables(found)) == ["b", "c"]
    assert "max_tables" in found.refused["a"]
    found = plan(config, ["a.x", "a_x"], 9, first={"a_x"})
    assert list(tables(found)) == ["a_x"]


def framed(kind: str) -> dict[str, str]:
    return {"type": kind, "schema_registry_url": "http://127.0.0.1:1"}


def by_field(**changes: Any) -> Config:
    routing: dict[str, Any] = {"topics": ["t"], "by_field": "kind", "table_name": "{value}"}
    overrides = {f"routing.{key}": value for key, value in routing.items()}
    return load_config(None, environ={}, overrides={**BASE, **overrides, **changes})


def test_a_table_found_by_other_rules_stays_the_table_that_it_was() -> None:
    config = by_field(**{"iceberg.database_name": "new", "routing.table_name": "n_{value}"})
    found = plan(config, ["t"], 9, {"t": {"d.x": "x", "new.n_x": "x"}})
    assert not found.refused
    assert [route.table for route in found.routes] == ["d.x", "new.n_x"]
    logs = [Path(route.config.transaction_log.log_dir) for route in found.routes]
    assert logs == [Path("wal/topics/t/d.x"), Path("wal/topics/t/new.n_x")]


@pytest.mark.parametrize(
    "changes",
    [
        {"iceberg.database_name": "new"},
        {"routing.table_name": "n_{value}"},
        {"routing.value_missing": "none"},
        {"routing.by_field": "another"},
        {"kafka.max_message_bytes": 2_000_000},
        {
            "kafka.format.type": "jsonschema",
            "kafka.format.schema_registry_url": "http://127.0.0.1:1",
        },
        {"kafka.format.type": "avro", "kafka.format.schema_registry_url": "http://127.0.0.1:1"},
        {
            "routing.tables": [
                {"topic": "t", "settings": {"kafka.format": framed("protobuf")}},
            ]
        },
    ],
)
def test_whatever_decides_on_a_records_table_is_a_rule(changes: dict[str, Any]) -> None:
    assert rules_of(by_field(**changes), "t") != rules_of(by_field(), "t")
    assert rules_of(by_field(**{"buffer.max_size_mb": 99}), "t") == rules_of(by_field(), "t")


def test_fields_are_read_by_the_format_of_all_records_of_a_topic() -> None:
    url = {"kafka.format.schema_registry_url": "http://127.0.0.1:1"}
    entries = [
        # The value is not known before the record was read.
        {"topic": "t", "value": "x", "settings": {"kafka.format.type": "raw"}},
        {"topic": "t|u", "settings": {"kafka.format.type": "avro", "buffer.encode_rows": 5_000}},
        {"topic": "u", "settings": {"kafka.format.type": "protobuf"}},
    ]
    config = by_field(**{"routing.tables": entries}, **url)
    kinds = [dealing_config(config, topic).kafka.format.type for topic in "tuv"]
    assert kinds == ["avro", "avro", "json"]
    assert dealing_config(config, "t").buffer == config.buffer
    assert dealing_config(config, "v") is config


@pytest.mark.parametrize(
    ("topic", "database", "table"),
    [
        ("t" * 249, "d" * 128, "t" * 128),
        ("t" * 249, ".".join(["d" * 128] * 8), "t" * 128),
        ("t", "tables", "json"),
        ("t", "routing", "tables"),
    ],
)
def test_whatever_topic_and_table_are_called_there_is_a_folder_of_its_own(
    tmp_path: Path, topic: str, database: str, table: str
) -> None:
    config = by_field(
        **{
            "routing.topics": [topic],
            "transaction_log.log_dir": str(tmp_path),
            "iceberg.database_name": database,
        }
    )
    keys = {f"{database}.{table}": table, f"{database}.{table[:-1]}x": "x"}
    routes = plan(config, [topic], 9, {topic: keys}).routes
    folders = [Path(route.config.transaction_log.log_dir) for route in routes]
    assert len(set(folders)) == 2
    places = Places.taken(places_file(config, topic), topic, "rules")
    places.add(keys, {})
    for folder in folders:
        folder.mkdir(parents=True)
    places.add({"more": "more"}, {})
    places.release()


def test_records_whose_value_gives_no_name_go_to_the_table_of_those_without_one() -> None:
    entry = {"topic": ".*", "value": "x(?P<rest>.*)", "table_name": "{rest}"}
    config = by_field(**{"routing.tables": [entry]})
    assert target(config, "t", "xy").key == "d.y"
    assert target(config, "t", "x").key == target(config, "t", None).key == "d.other"
    found = plan(config, ["t"], 9, {"t": {"d.other": "x"}})
    assert [route.table for route in found.routes] == ["d.other"]
