"""Which topic, or which of its records, goes to which table: a configuration for each. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2i_tasks.config.fields import Section
from k2i_tasks.config.keys import by_path
from k2i_tasks.config.model import Config
from k2i_tasks.config.model_routing import PLACE, RoutedTables, Routing
from k2i_tasks.config.tables import given, validated
from k2i_tasks.errors import ConfigError

#: Settings of the process or of all tables together, and those that the entry itself has.
_OF_ALL = (
    *("monitoring.", "prefect.", "query.", "rpc.", "run.", "routing.", "transaction_log.log_dir"),
    *("iceberg.table_name", "kafka.topic", "kafka.bootstrap_servers", "kafka.assignment"),
    "buffer.max_size_mb",
)
_REFERENCES = ("env:", "file:")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_DATABASE = ("iceberg", "database_name")
_FORMAT = ("kafka", "format")
#: Of 255 that file systems take.
_FOLDER_CHARS_MAX = 240
#: Stand for a topic and table while settings are checked before there is one.
_ANY_TOPIC = "topic"
_ANY_TABLE = "table"

Changes = Mapping[tuple[str, ...], Any]


@dataclass(frozen=True, slots=True)
class Route:
    """One table, and the topic whose records, or some of them, go there.

    Args:
        topic: the topic.
        config: all that its run needs.
        key: of the table among those of the topic; empty where it has all records.
    """

    topic: str
    config: Config
    key: str = ""

    @property
    def name(self) -> str:
        """Tells it from all others."""
        return name_of(self.topic, self.key)

    @property
    def table(self) -> str:
        """The table's dotted name."""
        return ".".join(self.config.iceberg.identifier)


@dataclass(frozen=True, slots=True)
class Target:
    """Where records of a topic go.

    Args:
        key: the table's dotted name.
        entry: index of the entry of `routing.tables` that decided; None for none.
    """

    key: str
    entry: int | None


def name_of(topic: str, key: str) -> str:
    """The name of a route."""
    return f"{topic}/{key}" if key else topic


def target(config: Config, topic: str, value: str | None) -> Target:
    """Where the records of `topic` with this value go; None for those without one.

    Those whose value gives their table no name go where those without one do.

    Raises:
        ConfigError: the table has no name.
    """
    try:
        return _target(config, topic, config.routing.text_of(value))
    except ConfigError:
        if value is None:
            raise
        return _target(config, topic, config.routing.text_of(None))


def _target(config: Config, topic: str, text: str) -> Target:
    routing = config.routing
    for index, entry in enumerate(routing.tables):
        found = re.fullmatch(entry.topic, topic)
        fits = re.fullmatch(entry.value or "(?s:.*)", text)
        if found is not None and fits is not None:
            if entry.table_name is None:
                found = _found(routing, topic)
            template = entry.table_name or routing.table_name
            name = _filled(template, topic, text, found, fits)
            return Target(f"{_database(config, entry)}.{name}", index)
    name = _filled(routing.table_name, topic, text, _found(routing, topic), None)
    return Target(f"{config.iceberg.database_name}.{name}", None)


def config_of(config: Config, topic: str, value: str | None = None, key: str = "") -> Config:
    """The configuration of the run of one table.

    Args:
        config: of the process, with `routing`.
        topic: the topic.
        value: where records are dealt out by value, one that leads to the table.
        key: of the table, if it is known: the value may have led there by other rules.

    Raises:
        ConfigError: its table has no name, or its settings contradict each other.
    """
    found = target(config, topic, value)
    database, _, table = (key or found.key).rpartition(".")
    # A log belongs to one table: under another name the topic begins another one.
    folder = topic_folder(config, topic) / _folder_name(f"{database}.{table}")
    changes = _changes(config, topic, table, folder)
    if found.entry is not None:
        entry, at = config.routing.tables[found.entry], f"routing.tables.{found.entry}"
        text = config.routing.text_of(value)
        changes |= _own_changes(entry, at, {"topic": topic, "value": text})
    return _derived(config, {**changes, _DATABASE: database})


def dealing_config(config: Config, topic: str) -> Config:
    """What the records of `topic` are read by before their tables are known.

    The first entry of `routing.tables` for all records of the topic may have changed their format.

    Raises:
        ConfigError: its settings are wrong.
    """
    for index, entry in enumerate(config.routing.tables):
        if entry.value is None and re.fullmatch(entry.topic, topic):
            at, places = f"routing.tables.{index}", {"topic": topic}
            own = _own_changes(entry, at, places).items()
            found = {path: value for path, value in own if path[:2] == _FORMAT}
            if not found:
                return config
            plain = _changes(config, topic, _ANY_TABLE, Path(config.transaction_log.log_dir))
            return _derived(config, {**plain, **found})
    return config


def topic_folder(config: Config, topic: str) -> Path:
    """The part of the log folder that is about one topic.

    A folder in it whose name has a dot is that of a table.
    """
    return Path(config.transaction_log.log_dir) / "topics" / topic


def _folder_name(table: str) -> str:
    """A name that a file system takes: a table's dotted name may be longer."""
    if len(table) <= _FOLDER_CHARS_MAX:
        return table
    return f"{table[: _FOLDER_CHARS_MAX - 33]}.{hashlib.sha256(table.encode()).hexdigest()[:32]}"


def rules_of(config: Config, topic: str) -> str:
    """What decides on the table of a record, as text that differs if anything of it does."""
    routing, kafka = config.routing, dealing_config(config, topic).kafka
    entries = [
        [entry.topic, entry.value, entry.table_name, _database(config, entry)]
        for entry in routing.tables
    ]
    by = [routing.by_field, routing.by_header, routing.value_missing]
    # What is a value, too.
    kind = kafka.format.type
    how = kind if kind in ("avro", "protobuf") else kind == "jsonschema"
    payload = [how, kafka.max_message_bytes] * bool(routing.by_field)
    names = [config.iceberg.database_name, routing.table_name, routing.topic_pattern]
    return json.dumps([by, payload, names, entries])


def narrowed(config: Config) -> Config:
    """The configuration of `routing.topic` alone, if that is given; else `config`.

    Raises:
        ConfigError: it is none of the topics that are chosen, or its settings are wrong.
    """
    routing = config.routing
    if routing.topic is None:
        return config
    if routing.topic not in routing.chosen([routing.topic]):
        raise ConfigError(
            f"routing.topic: {routing.topic} is none of the topics that routing chooses.",
            field="routing.topic",
            remedy="Name another one, or add it to routing.topics.",
        )
    if routing.by_value and routing.value is None:
        raise ConfigError(
            f"routing.value is needed: the records of topic {routing.topic} go to several tables.",
            field="routing.value",
            remedy=f"Name a value, or {routing.value_missing} for the records without one.",
        )
    value = None if routing.value == routing.value_missing else routing.value
    return config_of(config, routing.topic, value)


def check_routing(config: Config) -> None:
    """Refuses what no topic could be read with, before there is one.

    Raises:
        ConfigError: names the key.
    """
    routing = config.routing
    _check_template(routing.table_name, "routing.table_name", routing, routing.topic_pattern)
    for index, entry in enumerate(routing.tables):
        at = f"routing.tables.{index}"
        if entry.table_name is not None:
            patterns = (entry.topic, entry.value)
            _check_template(entry.table_name, f"{at}.table_name", routing, *patterns)
        _check_settings(config, entry, at)


def _check_settings(config: Config, entry: RoutedTables, at: str) -> None:
    field = f"{at}.settings"
    for path, value in _settings(entry, at):
        dotted = ".".join(path)
        if dotted.startswith(_OF_ALL):
            what = f"{field}: {dotted} is not a setting of one table."
            remedy = "Set it outside of routing; a table's name is table_name of the entry."
            raise ConfigError(what, field=field, remedy=remedy)
        if by_path()[path].kind == "secret" and not str(value).startswith(_REFERENCES):
            what = f"{field}: {dotted} is a secret, and this table is shown as it is."
            remedy = "Give a reference, env:NAME or file:/path."
            raise ConfigError(what, field=field, remedy=remedy)
    own = _own_changes(entry, at, {"topic": _ANY_TOPIC, "value": "value"})
    try:
        _derived(config, {**_changes(config, _ANY_TOPIC, _ANY_TABLE, Path("log")), **own})
    except ConfigError as error:
        raise ConfigError(f"{field}: {error.what}", field=field, remedy=error.remedy) from None


def _check_template(template: str, field: str, routing: Routing, *patterns: str | None) -> None:
    """Refuses a place that nothing fills."""
    places = {"topic", *(("value",) if routing.by_value else ())}
    for number, pattern in enumerate(patterns):
        found = re.compile(pattern or "")
        places.update(found.groupindex)
        if number == 0:
            places.update(map(str, range(found.groups + 1)))
    unknown = [name for name in PLACE.findall(template) if name not in places]
    if unknown:
        what = f"{field}: {{{unknown[0]}}} is no group of the regular expression."
        if unknown[0] == "value":
            what = f"{field}: {{value}} needs routing.by_field or routing.by_header."
        raise ConfigError(what, field=field, remedy="Use {topic}, or a group that it has.")


def _found(routing: Routing, topic: str) -> re.Match[str] | None:
    return re.fullmatch(routing.topic_pattern, topic) if routing.topic_pattern else None


def _database(config: Config, entry: RoutedTables) -> str:
    found = {path: value for path, value in given(entry.settings) if path == _DATABASE}
    return str(found.get(_DATABASE, config.iceberg.database_name))


def _filled(template: str, topic: str, value: str, *found: re.Match[str] | None) -> str:
    """`template` with its places filled, as a table's name.

    Args:
        template: with places.
        topic, value: fill `{topic}` and `{value}`.
        found: matches whose groups fill the others; numbers are of the first.

    Raises:
        ConfigError: a group has found nothing, or nothing is left of the name.
    """
    texts: dict[str, str | None] = {}
    for match in reversed(found):
        texts.update(match.groupdict() if match is not None else {})
    if found and found[0] is not None:
        texts.update({str(n): found[0][n] for n in range(found[0].re.groups + 1)})
    texts |= {"topic": topic, "value": value}

    def fill(place: re.Match[str]) -> str:
        text = texts.get(place[1])
        if not text:
            raise ConfigError(f"The table of topic {topic} has no name: {{{place[1]}}} is empty.")
        return text

    name = _NOT_IN_A_NAME.sub("_", PLACE.sub(fill, template))[:128]
    if not re.match("[A-Za-z0-9_]", name):
        raise ConfigError(f"The table of topic {topic} has no name: {name!r} is none.")
    return name


def _settings(entry: RoutedTables, at: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    try:
        yield from given(entry.settings)
    except ConfigError as error:
        what = f"{at}.settings: {error.what}"
        raise ConfigError(what, field=f"{at}.settings", remedy=error.remedy) from None


def _own_changes(
    entry: RoutedTables, at: str, places: Mapping[str, str]
) -> dict[tuple[str, ...], Any]:
    changes: dict[tuple[str, ...], Any] = {}
    for path, value in _settings(entry, at):
        if isinstance(value, str):
            for name, text in places.items():
                value = value.replace(f"{{{name}}}", text)
        changes[path] = value
    return changes


def _changes(config: Config, topic: str, table: str, folder: Path) -> dict[tuple[str, ...], Any]:
    routing = config.routing
    return {
        # What is left of it says that only some of the topic's records are this table's.
        ("routing",): Routing(by_field=routing.by_field, by_header=routing.by_header),
        ("kafka", "topic"): topic,
        ("iceberg", "table_name"): table,
        ("transaction_log", "log_dir"): folder,
    }


def _derived(config: Config, changes: Changes) -> Config:
    """`config` with some settings changed, checked as a whole.

    Raises:
        ConfigError: it is wrong; names the key.
    """
    return validated(_laid_over(config, changes), "the settings", {})


def _laid_over(section: Section, changes: Changes) -> dict[str, Any]:
    here: dict[str, Any] = {}
    below: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, value in changes.items():
        if len(path) == 1:
            here[path[0]] = value
        else:
            below.setdefault(path[0], {})[path[1:]] = value
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if name in here:
            value = here[name]
        elif name in below and isinstance(value, Section):
            value = _laid_over(value, below[name])
        found[name] = value
    return found
