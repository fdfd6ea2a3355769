"""Conditions of a query that may be held before its rows leave the flow's process.

Only comparisons of a column with a value, which cost what they look like: whatever else a WHERE
holds (functions may make a gigabyte of one letter) is for the process that may be killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl

from k2i_tasks.errors import ConfigError
from k2i_tasks.tickets import Condition, Scalar

_OPERATORS = {"Gt": ">", "GtEq": ">=", "Lt": "<", "LtEq": "<=", "Eq": "=", "NotEq": "!="}
_TURNED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "=": "=", "!=": "!="}
_EPOCH = datetime(1970, 1, 1)


def expression(conditions: Iterable[Condition], schema: Mapping[str, Any]) -> pl.Expr | None:
    """All `conditions` at once; None for none.

    Args:
        conditions: comparisons.
        schema: Polars type by column.

    Raises:
        ConfigError: no such column, or a value is not of its type.
    """
    parts = [_one(condition, schema) for condition in conditions]
    return pl.all_horizontal(parts) if len(parts) > 1 else parts[0] if parts else None


def _one(condition: Condition, schema: Mapping[str, Any]) -> pl.Expr:
    kind = schema.get(condition.column)
    if kind is None:
        raise ConfigError(f"There is no column {condition.column}.", field="where")
    column = pl.col(condition.column)
    if condition.operator == "is null":
        return column.is_null()
    if condition.operator == "is not null":
        return column.is_not_null()
    value = typed(condition.value, kind)
    if value is None:
        raise ConfigError(
            f"The value for column {condition.column} is not of its type, {kind}.", field="where"
        )
    comparisons = {
        "=": column.eq,
        "!=": column.ne,
        "<": column.lt,
        "<=": column.le,
        ">": column.gt,
        ">=": column.ge,
    }
    return comparisons[condition.operator](value)


def fit(conditions: Iterable[Condition], schema: Mapping[str, Any]) -> bool:
    """Whether all columns are there, and all values of their types."""
    return all(
        condition.column in schema
        and (
            condition.operator.startswith("is ")
            or typed(condition.value, schema[condition.column]) is not None
        )
        for condition in conditions
    )


def typed(value: Scalar | None, kind: Any) -> Any:
    """`value` as a column of this type is compared with it; None if it cannot be."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == pl.Boolean:
        return value if isinstance(value, bool) else None
    if kind.is_integer() or kind.is_float() or kind.is_decimal():
        return value if is_number else None
    if kind == pl.String:
        return value if isinstance(value, str) else None
    if kind in (pl.Datetime, pl.Date) and isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return None
        if kind == pl.Date:
            return date(found.year, found.month, found.day)
        return _in_zone(found, getattr(kind, "time_zone", None))
    return None


def _in_zone(moment: datetime, zone: str | None) -> datetime | None:
    """In UTC, as all that is stored with a zone; None for what is beyond the calendar there."""
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        return None
    return moment.replace(tzinfo=None) if zone is None else moment


def pushed(predicate: pl.Expr, schema: Mapping[str, Any]) -> list[Condition]:
    """Those parts of `predicate`, all of which must hold, that are plain comparisons.

    The form of a Polars expression may change with its version: what is not known is left out, and
    the predicate is evaluated as a whole where it came from, too.
    """
    try:
        tree = json.loads(predicate.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError, TypeError):
        return []
    found = []
    for part in _parts(tree):
        condition = _condition(part)
        if condition is not None and _fits(condition, schema):
            found.append(condition)
    return found


def _parts(tree: Any) -> Iterator[Any]:
    stack = [tree]
    while stack:
        node = stack.pop()
        pair = node.get("BinaryExpr") if isinstance(node, dict) else None
        if isinstance(pair, dict) and pair.get("op") in ("And", "LogicalAnd"):
            stack += [pair["left"], pair["right"]]
        else:
            yield node


def _condition(node: Any) -> Condition | None:
    if not isinstance(node, dict) or len(node) != 1:
        return None
    if "Function" in node:
        return _null_check(node["Function"])
    pair = node.get("BinaryExpr")
    if not isinstance(pair, dict) or pair.get("op") not in _OPERATORS:
        return None
    operator = _OPERATORS[pair["op"]]
    left, right = pair.get("left"), pair.get("right")
    if isinstance(left, dict) and "Literal" in left:
        left, right, operator = right, left, _TURNED[operator]
    column, value = _column(left), _value(right)
    return None if column is None or value is None else Condition(column, operator, value)


def _null_check(call: Any) -> Condition | None:
    words = {"IsNull": "is null", "IsNotNull": "is not null"}
    function = call.get("function")
    kind = function.get("Boolean") if isinstance(function, dict) else None
    arguments = call.get("input")
    if not isinstance(kind, str) or kind not in words or not isinstance(arguments, list):
        return None
    column = _column(arguments[0]) if len(arguments) == 1 else None
    return None if column is None else Condition(column, words[kind])


def _column(node: Any) -> str | None:
    name = node.get("Column") if isinstance(node, dict) and len(node) == 1 else None
    return name if isinstance(name, str) else None


def _value(node: Any) -> Scalar | None:
    literal = node.get("Literal") if isinstance(node, dict) and len(node) == 1 else None
    held = literal.get("Scalar", literal.get("Dyn")) if isinstance(literal, dict) else None
    if not isinstance(held, dict) or len(held) != 1:
        return None
    (kind, value), *_ = held.items()
    if kind in ("String", "Boolean") or kind.startswith(("Int", "UInt", "Float")):
        return value if isinstance(value, (str, int, float, bool)) else None
    if kind == "Datetime" and isinstance(value, list) and len(value) == 3:
        return _moment(*value)
    if kind == "Date" and isinstance(value, int) and abs(value) < 700_000:
        return (_EPOCH + timedelta(days=value)).date().isoformat()
    return None


def _moment(count: Any, unit: Any, zone: Any) -> str | None:
    """A point in time as text; only what microseconds can say, and in UTC or no zone at all."""
    steps = {"Microseconds": 1, "Milliseconds": 1_000}
    if unit not in steps or zone not in (None, "UTC") or not isinstance(count, int):
        return None
    try:
        moment = _EPOCH + timedelta(microseconds=count * steps[unit])
    except OverflowError:
        return None
    return (moment if zone is None else moment.replace(tzinfo=UTC)).isoformat()


def _fits(condition: Condition, schema: Mapping[str, Any]) -> bool:
    kind = schema.get(condition.column)
    if kind is None:
        return False
    if condition.operator.startswith("is "):
        return True
    if kind == pl.Datetime and isinstance(condition.value, str):
        # A zone that only one of the two has is for the query itself to settle, or to refuse.
        aware = datetime.fromisoformat(condition.value).tzinfo is not None
        if aware != (getattr(kind, "time_zone", None) is not None):
            return False
    return typed(condition.value, kind) is not None
