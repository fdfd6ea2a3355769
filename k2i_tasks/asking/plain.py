"""Recognises the SQL that is a plain scan, so that no worker is needed for it.

    SELECT * | column, ... FROM table [WHERE column = value [AND ...]] [LIMIT n]

Anything else, also what only looks unusual, is left to a worker; both ways give the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from k2i_tasks.sql_guard import Token, tokenize
from k2i_tasks.sql_words import FORBIDDEN, KEYWORDS
from k2i_tasks.tickets import OPERATORS, Condition, Rows, Scalar
from k2i_tasks.views import Part

_SIGNS = {"==": "=", "<>": "!="}
_DIGITS = re.compile(r"[0-9]+")
#: Of a whole number that is compared as it is; what is more is no whole number to SQL either.
_WHOLE_MAX = (1 << 63) - 1
#: Words that end a list or mean something else than a column.
_WORDS = frozenset(
    (KEYWORDS | FORBIDDEN) - {"char", "character"}
    | {"true", "false", "interval", "date", "time", "timestamp", "null", "as", "cast"}
    | {"current_date", "current_time", "current_timestamp", "asc", "desc", "nulls"}
)


def plain_scan(sql: str, tables: Collection[str], part: Part) -> Rows | None:
    """The scan that a checked query is; None when it is more than that.

    Args:
        sql: the query, in canonical form.
        tables: the names that it may use, in lower case.
        part: of the table.
    """
    reader = _Reader(tokenize(sql), tables)
    try:
        found = reader.scan(part)
    except _Other:
        return None
    return found


class _Other(Exception):
    """The query is not a plain scan."""


class _Reader:
    def __init__(self, tokens: list[Token], tables: Collection[str]) -> None:
        self._tokens = tokens
        self._tables = tables
        self._at = 0

    def scan(self, part: Part) -> Rows:
        self._word("select")
        columns = self._columns()
        self._word("from")
        table = self._table()
        where: tuple[Condition, ...] = ()
        limit = None
        if self._is_word("where"):
            where = tuple(self._conditions())
        if self._is_word("limit"):
            token = self._next()
            limit = _whole(token.text) if token.kind == "number" else None
            if not limit:
                raise _Other
        if self._at < len(self._tokens):
            raise _Other
        return Rows(table, columns, where, part, limit)

    def _columns(self) -> tuple[str, ...]:
        if self._is_sign("*"):
            return ()
        found = [self._column()]
        while self._is_sign(","):
            found.append(self._column())
        if len(set(found)) < len(found):
            raise _Other
        return tuple(found)

    def _table(self) -> str:
        name = self._next().name
        while self._is_sign("."):
            name += "." + self._next().name
        if name not in self._tables:
            raise _Other
        return name

    def _conditions(self) -> list[Condition]:
        found = [self._condition()]
        while self._is_word("and"):
            found.append(self._condition())
        return found

    def _condition(self) -> Condition:
        column = self._column()
        if self._is_word("is"):
            negated = self._is_word("not")
            self._word("null")
            return Condition(column, "is not null" if negated else "is null")
        sign = self._next()
        operator = _SIGNS.get(sign.text, sign.text)
        if sign.kind != "sign" or operator not in OPERATORS:
            raise _Other
        return Condition(column, operator, self._value())

    def _value(self) -> Scalar:
        negative = self._is_sign("-")
        token = self._next()
        if token.kind == "number":
            whole = _whole(token.text)
            number = float(token.text) if whole is None else whole
            return -number if negative else number
        if negative or token.kind != "string" or "\\" in token.text:
            raise _Other
        return token.text[1:-1].replace("''", "'")

    def _column(self) -> str:
        token = self._next()
        if token.kind == "quoted":
            return token.text[1:-1].replace('""', '"')
        if token.kind != "word" or token.word in _WORDS:
            raise _Other
        return token.text

    def _next(self) -> Token:
        if self._at >= len(self._tokens):
            raise _Other
        self._at += 1
        return self._tokens[self._at - 1]

    def _is_word(self, word: str) -> bool:
        return self._is(lambda token: token.word == word)

    def _is_sign(self, sign: str) -> bool:
        return self._is(lambda token: token.kind == "sign" and token.text == sign)

    def _is(self, wanted: object) -> bool:
        assert callable(wanted)
        if self._at < len(self._tokens) and wanted(self._tokens[self._at]):
            self._at += 1
            return True
        return False

    def _word(self, word: str) -> None:
        if not self._is_word(word):
            raise _Other


def _whole(text: str) -> int | None:
    """The whole number that a token is; None for one with a fraction or an exponent."""
    if not _DIGITS.fullmatch(text):
        return None
    # More digits than any such number has: `int` takes its time for thousands of them.
    if len(text) > 100 or int(text) > _WHOLE_MAX:
        raise _Other
    return int(text)
