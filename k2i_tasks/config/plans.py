"""All tables of a process: which topics have one, and why the others have none. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from k2i_tasks.config.model import Config
from k2i_tasks.config.routes import Route, config_of, name_of
from k2i_tasks.errors import ConfigError

#: Key of a table -> a value that leads there, None for records without one.
TableValues = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of the topics that are chosen.

    Args:
        routes: one for each table, in the order of their names.
        refused: topic, or topic/key -> why it has none, one sentence.
    """

    routes: tuple[Route, ...]
    refused: Mapping[str, str]


def plan(
    config: Config,
    topics: Iterable[str],
    tables_max: int,
    values: Mapping[str, TableValues] | None = None,
    first: Set[str] = frozenset(),
) -> Plan:
    """The tables of `topics`.

    Args:
        config: of the process, with `routing`.
        topics: those that are chosen.
        tables_max: most routes.
        values: where records are dealt out by value: topic -> its tables.
        first: names of routes that others give way to: those that run already.
    """
    wanted: list[tuple[str, str, str | None]] = []
    for topic in sorted(topics):
        if not config.routing.by_value:
            wanted.append((topic, "", None))
        else:
            wanted += [(topic, key, value) for key, value in (values or {}).get(topic, {}).items()]
    wanted.sort(key=lambda one: name_of(one[0], one[1]) not in first)
    routes: list[Route] = []
    refused: dict[str, str] = {}
    claims = _Claims()
    for topic, key, value in wanted:
        name = name_of(topic, key)
        if len(routes) >= tables_max:
            refused[name] = f"routing.max_tables = {tables_max} tables are written already."
            continue
        try:
            route = Route(topic, config_of(config, topic, value, key), key)
            claims.add(route)
        except ConfigError as error:
            refused[name] = str(error)
            continue
        routes.append(route)
    return Plan(tuple(sorted(routes, key=lambda one: one.name)), refused)


class _Claims:
    """The tables that routes write: no two may write the same, but for what is said below."""

    def __init__(self) -> None:
        #: By table, branch and stream.
        self._streams: dict[tuple[Any, ...], Route] = {}
        #: By table.
        self._tables: dict[tuple[str, ...], Route] = {}
        self._letters: dict[tuple[str, ...], Route] = {}

    def add(self, route: Route) -> None:
        """Raises ConfigError where the route would write what another one does."""
        iceberg = route.config.iceberg
        table, letters = _as_one(route.config, iceberg.identifier), None
        if route.config.dead_letters.to != "topic":
            letters = _as_one(route.config, iceberg.dead_letter_identifier)
        stream = (table, iceberg.branch, iceberg.sink)
        if stream in self._streams:
            raise ConfigError(
                f"{self._streams[stream].name} and {route.name} both go to table {route.table}: "
                'give each a stream of its own in it, by settings = { iceberg.sink = "{topic}" } '
                "in an entry of routing.tables."
            )
        for which, name in ((self._letters, table), (self._tables, letters)):
            if name in which:
                raise ConfigError(
                    f"Table {'.'.join(name)} would hold records and dead letters: of "
                    f"{which[name].name} and of {route.name}. Give one of them another table_name, "
                    "or iceberg.dead_letter_table, in an entry of routing.tables."
                )
        self._streams[stream] = self._tables[table] = route
        if letters is not None:
            self._letters[letters] = route


def _as_one(config: Config, identifier: tuple[str, ...]) -> tuple[str, ...]:
    """The same for all names that the catalog takes for one."""
    if config.iceberg.catalog_type in ("glue", "hive"):
        return tuple(part.lower() for part in identifier)
    return identifier
