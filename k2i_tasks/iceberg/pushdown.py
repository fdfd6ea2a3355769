"""Conditions of a query for a scan: as much of them as Iceberg knows in the same sense.

The query filters again what the scan gives, so a condition here may let more through, never less.
Polars orders NaN above all numbers and Iceberg does not compare it, so `>` on reals is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    IsNull,
    LessThan,
    LessThanOrEqual,
    NotNull,
    Or,
)
from pyiceberg.expressions.visitors import bind
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BooleanType,
    DateType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    PrimitiveType,
    StringType,
    TimestampType,
    TimestamptzType,
)

# PyIceberg's types know the form with which its JSON is read, not the one that is for people.
_Compare = Callable[[str, Any], BooleanExpression]
_COMPARE: dict[str, _Compare] = {
    "Eq": cast(_Compare, EqualTo),
    "Lt": cast(_Compare, LessThan),
    "LtEq": cast(_Compare, LessThanOrEqual),
    "Gt": cast(_Compare, GreaterThan),
    "GtEq": cast(_Compare, GreaterThanOrEqual),
}
_Check = Callable[[str], BooleanExpression]
_MIRRORED = {"Eq": "Eq", "Lt": "Gt", "LtEq": "GtEq", "Gt": "Lt", "GtEq": "LtEq"}
_REAL = ("Eq", "Lt", "LtEq")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"Milliseconds": 1000, "Microseconds": 1}


def pushed(condition: str | None, schema: Schema) -> BooleanExpression:
    """What of the condition a scan can check; everything else lets all rows through.

    Args:
        condition: polars' JSON form of an expression. Forms that are not known are left out.
        schema: the table's, as its files are planned by.
    """
    if condition is None:
        return AlwaysTrue()
    try:
        found = _walked(json.loads(condition), schema)
        bind(schema, found, case_sensitive=True)
    except (ValueError, TypeError, KeyError, OverflowError):
        return AlwaysTrue()
    return found


def _walked(node: Any, schema: Schema) -> BooleanExpression:
    if not isinstance(node, dict):
        return AlwaysTrue()
    if "Function" in node:
        return _null_check(node["Function"], schema)
    if "BinaryExpr" not in node:
        return AlwaysTrue()
    one, op, other = (node["BinaryExpr"][part] for part in ("left", "op", "right"))
    if op in ("And", "LogicalAnd"):
        return And(_walked(one, schema), _walked(other, schema))
    if op in ("Or", "LogicalOr"):
        return Or(_walked(one, schema), _walked(other, schema))
    if op not in _COMPARE:
        return AlwaysTrue()
    if "Column" in other:
        one, op, other = other, _MIRRORED[op], one
    return _compared(one, op, other, schema)


def _null_check(function: Any, schema: Schema) -> BooleanExpression:
    kind = function["function"]
    kind = kind.get("Boolean") if isinstance(kind, dict) else None
    name = _column(function["input"][0], schema)
    if name is None or kind not in ("IsNull", "IsNotNull"):
        return AlwaysTrue()
    return cast(_Check, IsNull if kind == "IsNull" else NotNull)(name)


def _compared(one: Any, op: str, other: Any, schema: Schema) -> BooleanExpression:
    name = _column(one, schema)
    if name is None or "Literal" not in other:
        return AlwaysTrue()
    kind = schema.find_type(name)
    value = _value(other["Literal"], kind)
    if value is None or (isinstance(kind, FloatType | DoubleType) and op not in _REAL):
        return AlwaysTrue()
    return _COMPARE[op](name, value)


def _column(node: Any, schema: Schema) -> str | None:
    """A column of single values: of lists, maps and structs a scan can check nothing."""
    name = node.get("Column") if isinstance(node, dict) else None
    if not isinstance(name, str) or "." in name:
        return None
    plain = (field.name for field in schema.fields if isinstance(field.field_type, PrimitiveType))
    return name if name in plain else None


def _value(literal: Any, kind: IcebergType) -> Any:
    """The literal as the column's type has it; None where it is of another."""
    [(how, held)] = literal.items()
    if how not in ("Dyn", "Scalar") or not isinstance(held, dict):
        return None
    [(name, value)] = held.items()
    if isinstance(kind, StringType):
        return value if name == "String" else None
    if isinstance(kind, BooleanType):
        return value if name == "Boolean" else None
    if isinstance(kind, IntegerType | LongType):
        return value if name.startswith(("Int", "UInt")) else None
    if isinstance(kind, FloatType | DoubleType):
        # A float column's values are compared as doubles there, as floats here.
        plain = isinstance(kind, DoubleType) and name in ("Float", "Float64", "Int")
        return float(value) if plain and math.isfinite(value) else None
    if isinstance(kind, DateType):
        return str(date(1970, 1, 1) + timedelta(days=value)) if name == "Date" else None
    if isinstance(kind, TimestampType | TimestamptzType) and name == "Datetime":
        return _moment(value, kind)
    return None


def _moment(value: Any, kind: IcebergType) -> str | None:
    count, unit, zone = value
    if unit not in _UNITS or (zone is None) != isinstance(kind, TimestampType):
        return None
    at = _EPOCH + timedelta(microseconds=count * _UNITS[unit])
    return at.replace(tzinfo=None).isoformat() if zone is None else at.isoformat()
