"""What was seen at one place of many JSON documents, and the column type that holds all of it.

The order in which values are observed does not matter.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from k2i_tasks.codecs.text_types import are_readable, temporal_form

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
#: Every integer up to this one has a double of its own.
EXACT_DOUBLE_MAX = 2**53
_DECIMAL_END = 10**38

#: Doc text (Arrow field metadata, Iceberg field doc) of a column that holds JSON documents as
#: text. It is how the meaning of the column outlives a restart.
JSON_TEXT_DOC = "JSON text"
JSON_TEXT_METADATA = {b"doc": JSON_TEXT_DOC.encode()}


def is_json_text(field: pa.Field) -> bool:
    """Whether a column holds each value as its JSON text."""
    metadata = field.metadata or {}
    return bool(pa.types.is_string(field.type) and metadata.get(b"doc") == JSON_TEXT_DOC.encode())


class Shape:
    """Accumulates the values seen at one place.

    Attributes:
        items: shape of all elements of all lists seen here; None when no list was seen.
        fields: per member name its shape, in first-seen order; None when no object was seen.
    """

    __slots__ = (
        "_bools",
        "_doubles",
        "_forms",
        "_high",
        "_ints",
        "_low",
        "_temporal",
        "_texts",
        "fields",
        "items",
    )

    def __init__(self) -> None:
        self._bools = self._ints = self._doubles = self._texts = False
        self._low = self._high = 0
        #: Temporal types that the texts show by their forms, None for plain text.
        self._forms: set[pa.DataType | None] = set()
        #: Texts of one such form that were not read yet: all at once is much cheaper.
        self._temporal: list[str] = []
        self.items: Shape | None = None
        self.fields: dict[str, Shape] | None = None

    def observe(self, value: Any) -> None:
        """Take one parsed value in; its depth is bounded by the parser."""
        if value is None:
            return
        if isinstance(value, bool):
            self._bools = True
        elif isinstance(value, str):
            self._texts = True
            # Once plain text was seen the column is plain text: no need to look further.
            if None not in self._forms:
                self._forms.add(temporal_form(value))
                self._temporal.append(value)
        elif isinstance(value, int):
            self._ints = True
            self._low = min(self._low, value)
            self._high = max(self._high, value)
        elif isinstance(value, float):
            self._doubles = True
        elif isinstance(value, list):
            self.items = self.items or Shape()
            for item in value:
                self.items.observe(item)
        else:
            self.fields = {} if self.fields is None else self.fields
            for name, member in value.items():
                self.fields.setdefault(name, Shape()).observe(member)

    @property
    def kinds(self) -> int:
        """How many kinds of JSON value (boolean, number, string, list, object) were seen."""
        number = self._ints or self._doubles
        lists, objects = self.items is not None, self.fields is not None
        return sum((self._bools, number, self._texts, lists, objects))

    @property
    def only_lists(self) -> bool:
        """Whether lists were seen and nothing else but null."""
        return self.items is not None and self.kinds == 1

    def scalar_type(self) -> pa.DataType | None:
        """Type that holds every scalar seen here without changing it; None when there is none.

        Only meaningful for `kinds == 1` with neither `items` nor `fields`.
        """
        if self._bools:
            return pa.bool_()
        if self._texts:
            return self._temporal_type() or pa.string()
        if self._doubles:
            exact = max(self._high, -self._low) <= EXACT_DOUBLE_MAX
            return pa.float64() if exact else None
        if self._low >= INT64_MIN and self._high <= INT64_MAX:
            return pa.int64()
        return pa.decimal128(38, 0) if max(self._high, -self._low) < _DECIMAL_END else None

    def _temporal_type(self) -> pa.DataType | None:
        """The one type that every text can be read as; None if there is none."""
        only = next(iter(self._forms)) if len(self._forms) == 1 else None
        if only is not None and not are_readable(self._temporal, only):
            only = None
            self._forms.add(None)
        self._temporal = []
        return only
