"""Decides whether a query only reads the tables it may read.

Polars' SQL can open any local file (`SELECT * FROM read_csv('/etc/passwd')`) and change what is
registered. So a query has to pass an allow-list before Polars sees it:

- it is one SELECT, or WITH ... SELECT, made of tokens of the strict lexer below;
- each name in front of a parenthesis is a known scalar or aggregate function, or a keyword;
- each relation (after FROM, JOIN, or a comma of a FROM list) is a known table, a CTE of the query,
  or a parenthesis.

What is passed on is not the text but the tokens, each separated by one blank and without the
comments: a comment, an escape or a prefix that two lexers read in two ways cannot hide anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from k2i_tasks.errors import ConfigError
from k2i_tasks.sql_words import END_OF_FROM, FORBIDDEN, FROM_INSIDE, FUNCTIONS, KEYWORDS

SQL_CHARS_MAX = 65_536
DEPTH_MAX = 64

_LEXER = re.compile(
    r"""
    (?P<blank>[ \t\r\n\f]+ | --[^\n]* | /\*(?:(?!/\*|\*/).)*\*/)
  | (?P<string>'(?:[^'\\]|''|\\(?!'))*')
  | (?P<quoted>"(?:[^"\\]|"")+")
  | (?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?![A-Za-z0-9_]))
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign><=>|->>|!~\*|<=|>=|<>|!=|==|\|\||::|->|~\*|!~|//|\*\*|/(?!\*)|[-+*%=<>~^&|.,()\[\]:])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a query: `kind` is a group of the lexer, `column` counts from 1."""

    kind: str
    text: str
    column: int

    @property
    def word(self) -> str:
        """The keyword or plain name in lower case; empty for all other kinds."""
        return self.text.lower() if self.kind == "word" else ""

    @property
    def name(self) -> str:
        """The identifier that it is, in lower case; empty when it cannot be one."""
        if self.kind == "quoted":
            return self.text[1:-1].replace('""', '"').lower()
        return self.word


@dataclass(frozen=True, slots=True)
class CheckedQuery:
    """A query that may run: its text in canonical form, and the tables it names."""

    sql: str
    tables: frozenset[str]


def check_query(sql: str, tables: Collection[str]) -> CheckedQuery:
    """Lets `sql` pass, or says why not.

    Args:
        sql: the query.
        tables: names it may read, such as `orders` and `demo.orders`; case does not matter.

    Raises:
        ConfigError: it is not a single read of these tables; names the column of the text.
    """
    tokens = tokenize(sql)
    if not tokens or tokens[0].word not in ("select", "with"):
        raise _refused("Only a SELECT, or WITH ... SELECT, can be run.", tokens[:1])
    known = {name.lower(): name for name in tables}
    found = _Walk(tokens, known).run()
    return CheckedQuery(" ".join(token.text for token in tokens), frozenset(found))


def tokenize(sql: str) -> list[Token]:
    """The tokens of `sql`, without comments and without a semicolon at the end.

    Raises:
        ConfigError: it is too long, or holds a character or form that is not in the lexer.
    """
    if len(sql) > SQL_CHARS_MAX:
        raise _refused(f"The query is longer than {SQL_CHARS_MAX} characters.")
    return list(_tokens(sql.rstrip(" \t\r\n\f;")))


def _tokens(sql: str) -> Iterator[Token]:
    at = 0
    while at < len(sql):
        match = _LEXER.match(sql, at)
        if match is None or match.lastgroup is None:
            shown = sql[at : at + 12].encode("unicode_escape").decode()
            raise _refused(f"Not understood at column {at + 1}: {shown}")
        if match.lastgroup != "blank":
            yield Token(match.lastgroup, match[0], at + 1)
        at = match.end()


def _refused(
    what: str,
    at: Collection[Token] = (),
    remedy: str = "Put names that are keywords, or not plain ASCII, in double quotes.",
) -> ConfigError:
    where = "".join(f" (column {token.column})" for token in at)
    return ConfigError(
        f"{what.removesuffix('.')}{where}.",
        field="sql",
        remedy=remedy,
    )


@dataclass(slots=True)
class _Level:
    """What is known about one pair of parentheses, or about the whole query."""

    opener: str = ""
    has_select: bool = False
    in_from: bool = False
    relation_next: bool = False


@dataclass(slots=True)
class _Walk:
    """One pass over the tokens, with a stack of parentheses."""

    tokens: list[Token]
    known: dict[str, str]
    levels: list[_Level] = field(default_factory=lambda: [_Level()])
    found: set[str] = field(default_factory=set)
    at: int = 0

    def run(self) -> set[str]:
        ctes = self._cte_names()
        while self.at < len(self.tokens):
            token, level = self.tokens[self.at], self.levels[-1]
            if token.text == "(":
                self._open(token)
            elif token.text == ")":
                self._close(token)
            elif level.relation_next and token.word not in ("select", "with"):
                self._relation(token, ctes)
            else:
                self._other(token, level)
            self.at += 1
        if len(self.levels) > 1 or self.levels[0].relation_next:
            raise _refused("The query ends in the middle.")
        return self.found

    def _cte_names(self) -> set[str]:
        triples = zip(self.tokens, self.tokens[1:], self.tokens[2:], strict=False)
        return {a.name for a, b, c in triples if b.word == "as" and c.text == "(" and a.name}

    def _before(self, steps: int = 1) -> Token:
        at = self.at - steps
        return self.tokens[at] if at >= 0 else Token("sign", "", 0)

    def _open(self, token: Token) -> None:
        before = self._before()
        allowed = before.kind == "sign" and before.text not in (")", "]")
        if before.kind == "word":
            allowed = before.word in FUNCTIONS or before.word in KEYWORDS
        if not allowed:
            raise _refused(f"{before.text}( is not among the functions of a query", [before])
        if len(self.levels) >= DEPTH_MAX:
            raise _refused(f"More than {DEPTH_MAX} parentheses within each other", [token])
        # A parenthesis in place of a relation holds a query, or a relation again.
        self.levels.append(_Level(before.word, relation_next=self.levels[-1].relation_next))

    def _close(self, token: Token) -> None:
        if len(self.levels) == 1 or self.levels[-1].relation_next:
            raise _refused("Unexpected )", [token])
        self.levels.pop()
        self.levels[-1].relation_next = False

    def _relation(self, token: Token, ctes: set[str]) -> None:
        name, first = token.name, token
        if not name:
            raise _refused(f"A table is expected in place of {token.text}", [token])
        while self._ahead(1) == "." and self.at + 2 < len(self.tokens):
            self.at += 2
            name += "." + self.tokens[self.at].name
        if self._ahead(1) == "(":
            raise _refused(f"Table functions such as {first.text}( cannot be used", [first])
        if name in self.known:
            self.found.add(self.known[name])
        elif name not in ctes:
            there = ", ".join(sorted(self.known.values()))
            remedy = "Name one of these; --config or --data-dir says which configuration is asked."
            raise _refused(f"There is no table {name}; there are: {there}", [first], remedy)
        self.levels[-1].relation_next = False
        self.levels[-1].in_from = True

    def _ahead(self, steps: int) -> str:
        at = self.at + steps
        return self.tokens[at].text if at < len(self.tokens) else ""

    def _other(self, token: Token, level: _Level) -> None:
        word = token.word
        # After a dot it is the name of a column or field, whatever the word.
        if not word or self._before().text == ".":
            level.relation_next = token.text == "," and level.in_from
            return
        if word in FORBIDDEN and not (word in FUNCTIONS and self._ahead(1) == "("):
            raise _refused(f"{token.text.upper()} cannot be used in a query", [token])
        if word in END_OF_FROM:
            level.in_from = level.relation_next = False
            level.has_select = level.has_select or word == "select"
        elif word == "with":
            level.relation_next = False
        elif word == "join" or (word == "from" and not self._from_of_an_expression(level)):
            level.relation_next = level.in_from = True

    def _from_of_an_expression(self, level: _Level) -> bool:
        if level.opener in FROM_INSIDE and not level.has_select:
            return True
        return self._before().word == "distinct" and self._before(2).word in ("is", "not")
