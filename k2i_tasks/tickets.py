"""What a client can ask of a running flow, as values and as the JSON that crosses the wire.

A ticket of Arrow Flight is one JSON object in UTF-8. What it asks is told by the keys it has:

    {"sql": "SELECT ..."}                                   a query; "part", "limit"
    {"table": "demo.orders", "columns": ["id"],             rows of one table; "part", "limit";
     "where": [["price", ">", 5]]}                          conditions are all to hold
    {"table": "demo.orders", "key": 17}                     rows in memory with this key
    {"table": "demo.orders", "at": ["orders", 3, 81234]}    the row of one record, in memory
    {"table": "demo.orders", "after": {"orders": {"3": 81234}},   what came from these positions
     "limit": 1000, "wait_seconds": 5}                      on; null: only the positions of now
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from k2i_tasks.errors import ConfigError
from k2i_tasks.types import Offsets, TopicPartition
from k2i_tasks.views import Part

TICKET_BYTES_MAX = 262_144
#: `kind` in the details of an error of Flight, where what was asked can be asked again at once, or
#: once a service is back. Both are UNAVAILABLE to gRPC.
BUSY, AWAY = "busy", "away"
CONDITIONS_MAX = 64
COLUMNS_MAX = 10_000
WAIT_SECONDS_MAX = 60.0
ROWS_MAX = 1_000_000_000_000

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "is null", "is not null"]
OPERATORS: frozenset[str] = frozenset(get_args(Operator))
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Condition:
    """A column compared with one value. Times and dates are text in ISO form."""

    column: str
    operator: str
    value: Scalar | None = None


@dataclass(frozen=True, slots=True)
class Sql:
    """A query. `limit`: rows at most, None for as many as the flow gives."""

    sql: str
    part: Part = "all"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table for which all conditions hold. No `columns`: all."""

    table: str
    columns: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()
    part: Part = "all"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """Rows in memory with one key; an empty table is the only one there is."""

    table: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class At:
    """The row in memory of one record."""

    table: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class After:
    """Rows that came from these positions on; None for the positions of now alone."""

    table: str
    positions: Offsets | None = None
    limit: int = 100_000
    wait_seconds: float = 0.0


Ask = Sql | Rows | Key | At | After


def ticket(ask: Ask) -> bytes:
    """`ask` as it crosses the wire."""
    found: dict[str, Any]
    if isinstance(ask, Sql):
        found = {"sql": ask.sql, "part": ask.part, "limit": ask.limit}
    elif isinstance(ask, Rows):
        where = [[one.column, one.operator, one.value] for one in ask.where]
        found = {"table": ask.table, "columns": list(ask.columns), "where": where}
        found |= {"part": ask.part, "limit": ask.limit}
    elif isinstance(ask, Key):
        found = {"table": ask.table, "key": ask.value}
    elif isinstance(ask, At):
        found = {"table": ask.table, "at": [ask.topic, ask.partition, ask.offset]}
    else:
        after = None if ask.positions is None else positions_json(ask.positions)
        found = {"table": ask.table, "after": after, "limit": ask.limit}
        found["wait_seconds"] = ask.wait_seconds
    return json.dumps(found).encode()


def parsed(body: bytes) -> Ask:
    """What a ticket asks.

    Raises:
        ConfigError: it is none; says what is wrong, without repeating it.
    """
    if len(body) > TICKET_BYTES_MAX:
        raise _wrong(f"is longer than {TICKET_BYTES_MAX} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise _wrong("is not JSON") from None
    if not isinstance(found, dict):
        raise _wrong("is not a JSON object")
    for key, kind in (("sql", _sql), ("key", _key), ("at", _at), ("after", _after)):
        if key in found:
            return kind(found)
    if "table" in found:
        return _rows(found)
    raise _wrong("has neither sql nor table")


def of_json(found: Mapping[str, Any]) -> Sql:
    """A query that is given as a JSON object with `sql`, `part` and `limit`.

    Raises:
        ConfigError: it is no such object.
    """
    return _sql(found)


def positions_json(positions: Offsets) -> dict[str, dict[str, int]]:
    """Topic to partition, as text, to the next offset."""
    found: dict[str, dict[str, int]] = {}
    for at, offset in sorted(positions.items()):
        found.setdefault(at.topic, {})[str(at.partition)] = offset
    return found


def positions_of(found: Any) -> Offsets:
    """The reverse of `positions_json`.

    Raises:
        ConfigError: it is not of that form.
    """
    if not isinstance(found, dict):
        raise _wrong("positions must be an object of topics")
    positions: dict[TopicPartition, int] = {}
    for topic, parts in found.items():
        if not isinstance(parts, dict):
            raise _wrong("a topic's positions must be an object of partitions")
        for partition, offset in parts.items():
            if not partition.isdecimal() or len(partition) > 10 or not _whole(offset):
                raise _wrong("a position must be a partition and an offset")
            positions[TopicPartition(topic, int(partition))] = offset
    return positions


def _sql(found: Mapping[str, Any]) -> Sql:
    _only(found, "sql", "part", "limit")
    if not isinstance(found.get("sql"), str):
        raise _wrong("sql must be a text")
    return Sql(found["sql"], _part(found), _limit(found))


def _rows(found: Mapping[str, Any]) -> Rows:
    _only(found, "table", "columns", "where", "part", "limit")
    columns = found.get("columns") or []
    if not isinstance(columns, list) or not all(isinstance(one, str) for one in columns):
        raise _wrong("columns must be a list of names")
    if len(columns) > COLUMNS_MAX:
        raise _wrong(f"names more than {COLUMNS_MAX} columns")
    if len(set(columns)) < len(columns):
        raise _wrong("names a column twice")
    where = found.get("where") or []
    if not isinstance(where, list) or len(where) > CONDITIONS_MAX:
        raise _wrong(f"where must be a list of at most {CONDITIONS_MAX} conditions")
    conditions = tuple(map(_condition, where))
    return Rows(_table(found), tuple(columns), conditions, _part(found), _limit(found))


def _condition(found: Any) -> Condition:
    if not isinstance(found, list) or not 2 <= len(found) <= 3:
        raise _wrong("a condition must be [column, operator, value]")
    column, operator, *rest = found
    known = isinstance(operator, str) and operator in OPERATORS
    if not isinstance(column, str) or not known:
        raise _wrong(f"a condition's operator must be one of: {', '.join(sorted(OPERATORS))}")
    value = rest[0] if rest else None
    if operator.startswith("is "):
        return Condition(column, operator)
    if not isinstance(value, (str, int, float, bool)):
        raise _wrong("a condition's value must be a text, a number, or true or false")
    return Condition(column, operator, value)


def _key(found: Mapping[str, Any]) -> Key:
    _only(found, "table", "key")
    if not isinstance(found["key"], (str, int, float, bool)):
        raise _wrong("key must be a text, a number, or true or false")
    return Key(_table(found), found["key"])


def _at(found: Mapping[str, Any]) -> At:
    _only(found, "table", "at")
    at = found["at"]
    good = isinstance(at, list) and len(at) == 3 and isinstance(at[0], str)
    if not good or not _whole(at[1]) or not _whole(at[2]):
        raise _wrong("at must be [topic, partition, offset]")
    return At(_table(found), at[0], at[1], at[2])


def _after(found: Mapping[str, Any]) -> After:
    _only(found, "table", "after", "limit", "wait_seconds")
    after = found["after"]
    wait = found.get("wait_seconds", 0.0)
    if isinstance(wait, bool) or not isinstance(wait, (int, float)):
        raise _wrong("wait_seconds must be a number")
    if not 0 <= wait <= WAIT_SECONDS_MAX:
        raise _wrong(f"wait_seconds must be at most {WAIT_SECONDS_MAX:g}")
    positions = None if after is None else positions_of(after)
    return After(_table(found), positions, _limit(found) or 100_000, float(wait))


def _only(found: Mapping[str, Any], *keys: str) -> None:
    more = sorted(found.keys() - set(keys))
    if more:
        raise _wrong(f"has a key too many beside {', '.join(keys)}")


def _table(found: Mapping[str, Any]) -> str:
    table = found.get("table", "")
    if not isinstance(table, str):
        raise _wrong("table must be a name")
    return table


def _part(found: Mapping[str, Any]) -> Part:
    return _one_of(found.get("part"), "part must be all, hot or cold")


def _one_of(word: Any, what: str) -> Part:
    parts: tuple[Part, ...] = ("all", "hot", "cold")
    if word is None:
        return "all"
    for part in parts:
        if part == word:
            return part
    raise _wrong(what)


def _limit(found: Mapping[str, Any]) -> int | None:
    limit = found.get("limit")
    if limit is None:
        return None
    if not _whole(limit) or limit < 1:
        raise _wrong("limit must be a number of rows, 1 or more")
    return int(limit)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= ROWS_MAX * 1_000_000


def _wrong(what: str) -> ConfigError:
    return ConfigError(
        f"The request {what}.", field="sql", remedy="docs/queries.md has the forms there are."
    )


#: Whether whoever asked still waits for the answer. Does not block.
Waits = Callable[[], bool]
