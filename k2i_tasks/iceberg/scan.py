"""Conditions on a table as people write them."""

from __future__ import annotations

from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.expressions.parser import parse
from pyiceberg.expressions.visitors import bind
from pyiceberg.table import Table
from pyparsing import ParseBaseException

from k2i_tasks.errors import ConfigError


def condition(where: str | BooleanExpression, table: Table, name: str) -> BooleanExpression:
    """The condition, known to fit the table's columns and their types.

    Raises:
        ConfigError: it cannot be read, or does not fit.
    """
    if not where:
        return AlwaysTrue()
    try:
        parsed = parse(where) if isinstance(where, str) else where
        bind(table.schema(), parsed, case_sensitive=True)
    except (ParseBaseException, ValueError, TypeError) as error:
        # The grammar in full, which the parser tells, says less than the place.
        why = f"{where!r} is none" if isinstance(error, ParseBaseException) else str(error)
        raise ConfigError(
            f"The condition on {name} cannot be used: {why.rstrip('.')}.",
            field="where",
            remedy="Write it as column = 'value', with >, <, in (...), is null, and, or, not.",
        ) from error
    return parsed
