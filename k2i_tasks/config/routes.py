"""Which topic goes to which table: one whole configuration for each. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
    *("monitoring.", "prefect.", "rpc.", "run.", "routing.", "transaction_log.log_dir"),
    *(
        "iceberg.table_name",
        "kafka.topic",
        "kafka.bootstrap_servers",
        "kafka.assignment",
        "buffer.max_size_mb",
    ),
)
_REFERENCES = ("env:", "file:")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]+")
#: Stands for a topic while settings are checked before there is one.
_ANY_TOPIC = "topic"

Changes = Mapping[tuple[str, ...], Any]


@dataclass(frozen=True, slots=True)
class Route:
    """One topic and its table.

    Args:
        topic: the topic.
        config: all that its run needs, without `routing`.
    """

    topic: str
    config: Config

    @property
    def table(self) -> str:
        """The table's dotted name."""
        return ".".join(self.config.iceberg.identifier)


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of the topics that are chosen.

    Args:
        routes: one for each topic that has a table, in the order of their names.
        refused: topic -> why it has none, one sentence.
    """

    routes: tuple[Route, ...]
    refused: Mapping[str, str]


def plan(config: Config, known: Iterable[str], tables_max: int) -> Plan:
    """The tables of the topics that `config.routing` chooses.

    Args:
        config: of the process, with `routing`.
        known: topics that Kafka has. Those chosen by name are planned for even if it has not.
        tables_max: most routes.
    """
    routes: list[Route] = []
    refused: dict[str, str] = {}
    taken: dict[tuple[Any, ...], str] = {}
    for topic in config.routing.chosen(known):
        if len(routes) >= tables_max:
            refused[topic] = f"routing.max_tables = {tables_max} topics are read already."
            continue
        try:
            route = Route(topic, _config_of(config, topic))
        except ConfigError as error:
            refused[topic] = str(error)
            continue
        iceberg = route.config.iceberg
        place = (iceberg.identifier, iceberg.branch, iceberg.sink)
        if place in taken:
            refused[topic] = (
                f"Topics {taken[place]} and {topic} both go to table {route.table}: give each a "
                'stream of its own in it, by settings = { iceberg.sink = "{topic}" } in an entry '
                "of routing.tables."
            )
            continue
        taken[place] = topic
        routes.append(route)
    return Plan(tuple(routes), refused)


def check_routing(config: Config) -> None:
    """Refuses what no topic could be read with, before there is one.

    Raises:
        ConfigError: names the key.
    """
    routing = config.routing
    _check_template(routing.table_name, routing.topic_pattern, "routing.table_name")
    for index, entry in enumerate(routing.tables):
        at = f"routing.tables.{index}"
        if entry.table_name is not None:
            _check_template(entry.table_name, entry.topic, f"{at}.table_name")
        for path, value in _settings(entry, at):
            dotted = ".".join(path)
            if dotted.startswith(_OF_ALL):
                what = f"{at}.settings: {dotted} is not a setting of one table."
                remedy = "Set it outside of routing; a table's name is table_name of the entry."
                raise ConfigError(what, field=f"{at}.settings", remedy=remedy)
            if by_path()[path].kind == "secret" and not str(value).startswith(_REFERENCES):
                what = f"{at}.settings: {dotted} is a secret, and this table is shown as it is."
                remedy = "Give a reference, env:NAME or file:/path."
                raise ConfigError(what, field=f"{at}.settings", remedy=remedy)
        try:
            _derived(config, _changes(config, entry, _ANY_TOPIC, "table", at))
        except ConfigError as error:
            raise ConfigError(
                f"{at}.settings: {error.what}", field=f"{at}.settings", remedy=error.remedy
            ) from None


def narrowed(config: Config) -> Config:
    """The configuration of `routing.topic` alone, if that is given; else `config`.

    Raises:
        ConfigError: it is none of the topics that are chosen, or its settings are wrong.
    """
    topic = config.routing.topic
    if topic is None:
        return config
    if topic not in config.routing.chosen([topic]):
        raise ConfigError(
            f"routing.topic: {topic} is none of the topics that routing chooses.",
            field="routing.topic",
            remedy="Name another one, or add it to routing.topics.",
        )
    return _config_of(config, topic)


def _config_of(config: Config, topic: str) -> Config:
    """The configuration of one topic's run.

    Raises:
        ConfigError: its table has no name, or its settings contradict each other.
    """
    for index, entry in enumerate(config.routing.tables):
        found = re.fullmatch(entry.topic, topic)
        if found is not None:
            if entry.table_name is not None:
                table = _filled(entry.table_name, topic, found)
            else:
                table = _filled(config.routing.table_name, topic, _found(config.routing, topic))
            changes = _changes(config, entry, topic, table, f"routing.tables.{index}")
            return _derived(config, changes)
    table = _filled(config.routing.table_name, topic, _found(config.routing, topic))
    return _derived(config, _changes(config, None, topic, table, "routing"))


def _found(routing: Routing, topic: str) -> re.Match[str] | None:
    return re.fullmatch(routing.topic_pattern, topic) if routing.topic_pattern else None


def _filled(template: str, topic: str, found: re.Match[str] | None) -> str:
    """`template` with its places filled, as a table's name.

    Raises:
        ConfigError: a group has found nothing, or nothing is left of the name.
    """

    def fill(place: re.Match[str]) -> str:
        name = place[1]
        if name == "topic":
            return topic
        try:
            text = found[int(name) if name.isdigit() else name] if found is not None else None
        except IndexError:
            text = None
        if not text:
            raise ConfigError(f"The table of topic {topic} has no name: {{{name}}} is empty.")
        return text

    name = _NOT_IN_A_NAME.sub("_", PLACE.sub(fill, template))[:128]
    if not re.match("[A-Za-z0-9_]", name):
        raise ConfigError(f"The table of topic {topic} has no name: {name!r} is none.")
    return name


def _check_template(template: str, pattern: str | None, field: str) -> None:
    """Refuses a place that `pattern` has no group for."""
    found = re.compile(pattern or "")
    places = {"topic", *found.groupindex, *map(str, range(found.groups + 1))}
    unknown = [name for name in PLACE.findall(template) if name not in places]
    if unknown:
        what = f"{field}: {{{unknown[0]}}} is no group of the regular expression."
        raise ConfigError(what, field=field, remedy="Use {topic}, or a group that it has.")


def _settings(entry: RoutedTables, at: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    try:
        yield from given(entry.settings)
    except ConfigError as error:
        what = f"{at}.settings: {error.what}"
        raise ConfigError(what, field=f"{at}.settings", remedy=error.remedy) from None


def _changes(
    config: Config, entry: RoutedTables | None, topic: str, table: str, at: str
) -> dict[tuple[str, ...], Any]:
    log = Path(config.transaction_log.log_dir)
    changes: dict[tuple[str, ...], Any] = {
        ("routing",): Routing(),
        ("kafka", "topic"): topic,
        ("iceberg", "table_name"): table,
        ("transaction_log", "log_dir"): log / "topics" / topic,
    }
    for path, value in _settings(entry, at) if entry is not None else ():
        changes[path] = value.replace("{topic}", topic) if isinstance(value, str) else value
    return changes


def _derived(config: Config, changes: Changes) -> Config:
    """`config` with some settings changed, checked as a whole.

    Raises:
        ConfigError: it is wrong; names the key.
    """
    tables = _laid_over(config, changes)
    return validated(tables, "the settings", {})


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
