"""Conditions of a query that may be held before its rows leave the flow's process.

Only comparisons of a column with a value, which cost what they look like: whatever else a WHERE
holds (functions may make a gigabyte of one letter) is for the process that may be killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from k2i_tasks.errors import ConfigError
from k2i_tasks.predicates import conjuncts, plain
from k2i_tasks.tickets import Condition, Scalar


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
    wrong = ConfigError(
        f"The value for column {condition.column} is not of its type, {kind}.", field="where"
    )
    if value is None:
        raise wrong
    comparisons = {
        "=": column.eq,
        "!=": column.ne,
        "<": column.lt,
        "<=": column.le,
        ">": column.gt,
        ">=": column.ge,
    }
    try:
        return comparisons[condition.operator](value)
    except pl.exceptions.PolarsError as error:
        # A whole number of more bits than any type has.
        raise wrong from error


def fit(conditions: Iterable[Condition], schema: Mapping[str, Any]) -> bool:
    """Whether all columns are there, and all values mean here what they mean to SQL."""
    return all(
        condition.column in schema
        and (condition.operator.startswith("is ") or _as_in_sql(condition.value, kind))
        for condition in conditions
        for kind in (schema.get(condition.column),)
    )


def _as_in_sql(value: Scalar | None, kind: Any) -> bool:
    """SQL takes no text but a date for a column of dates, and no heed of the zone in a text for one
    of moments without a zone. A number with a fraction it compares with exact ones in its own way:
    here both would become doubles, which whole numbers near 10**19 do not fit."""
    found = typed(value, kind)
    if isinstance(found, float) and not kind.is_float():
        return False
    if kind == pl.Date and found is not None:
        return bool(found.isoformat() == value)
    if kind == pl.Datetime and getattr(kind, "time_zone", None) is None and found is not None:
        return datetime.fromisoformat(str(value)).tzinfo is None
    return found is not None


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
    """Those parts of `predicate`, all of which must hold, that are plain comparisons."""
    found = []
    for one in conjuncts(plain(predicate)):
        # As text they are sent; an aware one says so by its offset.
        value = one.value.isoformat() if isinstance(one.value, date) else one.value
        condition = Condition(one.column, one.operator, value)
        if _fits(condition, schema):
            found.append(condition)
    return found


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
