"""What of a Polars predicate is plain: comparisons of a column with a value, AND, OR.

Whoever is nearer to the rows can check that much before they are read or sent; the predicate is
evaluated as a whole where it came from, too. The form of a Polars expression may change with its
version, so what is not known here is `None`, which lets all rows through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a run that nobody queries does not load it
    import polars as pl

Value = str | int | float | bool | date | datetime
_OPERATORS = {"Gt": ">", "GtEq": ">=", "Lt": "<", "LtEq": "<=", "Eq": "=", "NotEq": "!="}
_TURNED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "=": "=", "!=": "!="}
_JOINTS = {"And": True, "LogicalAnd": True, "Or": False, "LogicalOr": False}
_CHECKS = {"IsNull": "is null", "IsNotNull": "is not null"}
#: Microseconds of a unit of time. Nanoseconds are more than a Python datetime can say.
_STEPS = {"Microseconds": 1, "Milliseconds": 1_000}
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column compared with a value, which is None for `is null` and `is not null`.

    Args:
        operator: one of `tickets.OPERATORS`.
        value: moments are in UTC where Polars' have a zone, else naive.
    """

    column: str
    operator: str
    value: Value | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """Two predicates; both must hold, or (not `both`) one of them."""

    left: Predicate
    right: Predicate
    both: bool


#: None: whatever is not known, so that all rows may be meant.
Predicate = Comparison | Joined | None


def plain(expression: pl.Expr | None) -> Predicate:
    """What of an expression is known here."""
    if expression is None:
        return None
    import polars as pl

    try:
        return _read(json.loads(expression.meta.serialize(format="json")))
    except (pl.exceptions.PolarsError, ValueError, TypeError, KeyError, RecursionError):
        # A function of Python's, which has no such form; or one too deep; or another version's.
        return None


def conjuncts(predicate: Predicate) -> list[Comparison]:
    """The comparisons that must all hold."""
    found, stack = [], [predicate]
    while stack:
        part = stack.pop()
        if isinstance(part, Comparison):
            found.append(part)
        elif part is not None and part.both:
            stack += [part.left, part.right]
    return found


def _read(node: Any) -> Predicate:
    if not isinstance(node, dict) or len(node) != 1:
        return None
    if "Function" in node:
        return _null_check(node["Function"])
    if "BinaryExpr" not in node:
        return None
    left, op, right = (node["BinaryExpr"][part] for part in ("left", "op", "right"))
    if op in _JOINTS:
        return Joined(_read(left), _read(right), _JOINTS[op])
    if op not in _OPERATORS:
        return None
    operator = _OPERATORS[op]
    if _column(left) is None:
        left, right, operator = right, left, _TURNED[operator]
    column, value = _column(left), _value(right)
    return None if column is None or value is None else Comparison(column, operator, value)


def _null_check(call: Any) -> Predicate:
    function = call["function"]
    kind = function.get("Boolean") if isinstance(function, dict) else None
    if not isinstance(kind, str) or kind not in _CHECKS:
        return None
    [argument] = call["input"]
    column = _column(argument)
    return None if column is None else Comparison(column, _CHECKS[kind])


def _column(node: Any) -> str | None:
    name = node.get("Column") if isinstance(node, dict) and len(node) == 1 else None
    return name if isinstance(name, str) else None


def _value(node: Any) -> Value | None:
    literal = node.get("Literal") if isinstance(node, dict) and len(node) == 1 else None
    held = literal.get("Scalar", literal.get("Dyn")) if isinstance(literal, dict) else None
    if not isinstance(held, dict) or len(held) != 1:
        return None
    [(kind, value)] = held.items()
    if kind in ("String", "Boolean", "Float", "Float64") or kind.startswith(("Int", "UInt")):
        # Not Float32: the text of such a number is another number as Float64.
        return value if isinstance(value, (str, int, float, bool)) else None
    try:
        if kind == "Datetime":
            return _moment(*value)
        if kind == "Date":
            return (_EPOCH + timedelta(days=value)).date()
    except OverflowError:  # beyond Python's calendar
        return None
    return None


def _moment(count: int, unit: str, zone: dict[str, str] | None) -> datetime | None:
    """A point in time: whatever the zone, Polars counts in UTC."""
    if unit not in _STEPS:
        return None
    moment = _EPOCH + timedelta(microseconds=count * _STEPS[unit])
    return moment if zone is None else moment.replace(tzinfo=UTC)
