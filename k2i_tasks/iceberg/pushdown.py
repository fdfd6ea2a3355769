"""Conditions of a query for a scan: as much of them as Iceberg knows in the same sense.

The query filters again what the scan gives, so a condition here may let more through, never less.
Polars orders NaN above all numbers and Iceberg does not compare it, so `>` on reals is left out. A
column of doubles may have files of floats, from before it was widened: PyIceberg rounds the value
to theirs, to either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, datetime
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

from k2i_tasks.predicates import Comparison, Joined, Predicate, Value

# PyIceberg's types know the form with which its JSON is read, not the one that is for people.
_Compare = Callable[[str, Any], BooleanExpression]
_COMPARE: dict[str, _Compare] = {
    "=": cast(_Compare, EqualTo),
    "<": cast(_Compare, LessThan),
    "<=": cast(_Compare, LessThanOrEqual),
    ">": cast(_Compare, GreaterThan),
    ">=": cast(_Compare, GreaterThanOrEqual),
}
_Check = Callable[[str], BooleanExpression]
_CHECK = {"is null": cast(_Check, IsNull), "is not null": cast(_Check, NotNull)}
#: How reals are compared by Iceberg, so that a rounded value lets no less through.
_REAL = {"=": "=", "<": "<=", "<=": "<="}
#: Beyond the largest of them, comparing files of floats lets nothing through.
_REAL_MAX = FloatType.max
#: More are left to the query: planning a scan goes through them one inside the other.
COMPARISONS_MAX = 100


def pushed(predicate: Predicate, schema: Schema) -> BooleanExpression:
    """What of the predicate a scan can check; everything else lets all rows through.

    Args:
        predicate: of the query.
        schema: the table's, as its files are planned by.
    """
    if _count(predicate) > COMPARISONS_MAX:
        return AlwaysTrue()
    try:
        found = _walked(predicate, schema)
        bind(schema, found, case_sensitive=True)
    except (ValueError, TypeError, RecursionError):
        return AlwaysTrue()
    return found


def _count(predicate: Predicate) -> int:
    count, waiting = 0, [predicate]
    while waiting:
        one = waiting.pop()
        count += 1
        if isinstance(one, Joined):
            waiting += (one.left, one.right)
    return (count + 1) // 2


def _walked(predicate: Predicate, schema: Schema) -> BooleanExpression:
    if predicate is None:
        return AlwaysTrue()
    if isinstance(predicate, Comparison):
        return _compared(predicate, schema)
    joined = And if predicate.both else Or
    return joined(_walked(predicate.left, schema), _walked(predicate.right, schema))


def _compared(one: Comparison, schema: Schema) -> BooleanExpression:
    kind = _kind_of(one.column, schema)
    if kind is None:
        return AlwaysTrue()
    if one.operator in _CHECK:
        return _CHECK[one.operator](one.column)
    value = None if one.value is None else _value(one.value, kind)
    if value is None or one.operator not in _COMPARE:
        return AlwaysTrue()
    operator: str | None = one.operator
    if isinstance(kind, DoubleType):
        operator = _REAL.get(one.operator) if abs(value) <= _REAL_MAX else None
    return AlwaysTrue() if operator is None else _COMPARE[operator](one.column, value)


def _kind_of(name: str, schema: Schema) -> IcebergType | None:
    """Of a column of single values: of lists, maps and structs a scan can check nothing."""
    for field in schema.fields:
        # A dot would be read as a way into a struct.
        if field.name == name and "." not in name and isinstance(field.field_type, PrimitiveType):
            return field.field_type
    return None


def _value(value: Value, kind: IcebergType) -> Any:
    """The value as the column's type has it; None where it is of another."""
    if isinstance(kind, StringType):
        return value if isinstance(value, str) else None
    if isinstance(kind, BooleanType) or isinstance(value, bool):
        return value if isinstance(kind, BooleanType) and isinstance(value, bool) else None
    if isinstance(kind, IntegerType | LongType):
        return value if isinstance(value, int) else None
    if isinstance(kind, DoubleType):
        # Not float: its values are compared as doubles there, as floats here.
        plain = isinstance(value, int | float) and math.isfinite(value)
        return float(cast(float, value)) if plain else None
    if isinstance(value, datetime):
        right = TimestampType if value.tzinfo is None else TimestamptzType
        return value.isoformat() if isinstance(kind, right) else None
    if isinstance(kind, DateType) and isinstance(value, date):
        return value.isoformat()
    return None
