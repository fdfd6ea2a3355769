"""The value of one header or JSON field of each record: what decides on the record's table.

Fields of records with a schema are read by `registered_values`.

A record's value depends on the record alone, whatever stands beside it: records may be read again,
among others, and must then go where they went before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.codecs.frames import HEAD_BYTES, MAGIC
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.wire import RefusedError
from k2i_tasks.types import RawBatch

#: Longer values are none: they cannot be meant as names.
VALUE_CHARS_MAX = 200
#: Records of one reading.
PART_RECORDS = 4_096
PART_BYTES = 32 << 20

#: Of n records the value of each; None where there is none.
Values = Sequence[str | None]
#: Gives `Values`, or an array of strings.
ValuesOf = Callable[[RawBatch], Any]


def header_values(name: str) -> ValuesOf:
    """Reads the last header called `name`, if it is UTF-8."""

    def values(raw: RawBatch) -> Values:
        if raw.headers is None:
            return [None] * len(raw)
        return [_header(headers or (), name) for headers in raw.headers]

    return values


def _header(headers: Any, name: str) -> str | None:
    for label, value in reversed(headers):
        if label == name:
            try:
                return None if value is None else _bounded(value.decode("utf-8"))
            except UnicodeDecodeError:
                return None
    return None


def bounded(texts: pa.Array) -> pa.Array:
    """`texts`, strings, without those that are no values."""
    lengths = pc.utf8_length(texts)
    fits = pc.and_(pc.greater(lengths, 0), pc.less_equal(lengths, VALUE_CHARS_MAX))
    return pc.if_else(fits, texts, pa.scalar(None, pa.string()))


def _bounded(text: str) -> str | None:
    # Half of a surrogate pair can be written nowhere.
    sound = text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)
    return text if sound and 0 < len(text) <= VALUE_CHARS_MAX else None


class FieldValues:
    """Reads a member of JSON objects: texts as they are, numbers as they are written, true, false.

    Args:
        path: names from the outermost object down.
        framed: whether each payload stands behind a schema's id.
        max_message_bytes: what is longer has no value.
    """

    def __init__(self, path: Sequence[str], *, framed: bool, max_message_bytes: int) -> None:
        self._path = tuple(path)
        self._framed = framed
        self._max_message_bytes = max_message_bytes
        #: One for each type that the reader knows without a doubt. A value has one of them, so
        #: their order does not matter: the one that worked last is tried first.
        self._schemas = [
            _nested(self._path, kind) for kind in (pa.string(), pa.int64(), pa.bool_())
        ]

    def __call__(self, raw: RawBatch) -> Values:
        texts = raw.values
        if self._framed:
            texts = [
                None if text is None or text[:1] != MAGIC else text[HEAD_BYTES:] for text in texts
            ]
        page = Page(texts, self._max_message_bytes)
        found: list[str | None] = [None] * len(raw)
        at = 0
        while at < len(page):
            end = page.end_of(at, PART_RECORDS, PART_BYTES)
            waiting = [(at, end)]
            while waiting:
                low, high = waiting.pop()
                values = self._read(page, low, high)
                if values is None:
                    middle = (low + high) // 2
                    waiting += [(middle, high), (low, middle)]
                    continue
                found[low:high] = values
            at = end
        return found

    def _read(self, page: Page, low: int, high: int) -> Values | None:
        """The values of payloads [low, high); None if they have to be read in smaller parts."""
        for place, schema in enumerate(self._schemas):
            try:
                table = page.read(low, high, schema, others="ignore")
            except RefusedError:
                continue
            self._schemas.insert(0, self._schemas.pop(place))
            return [None if text is None else _bounded(text) for text in self._texts(table)]
        if high - low > 1:
            return None
        return [_written(page.payload(low), self._path)]

    def _texts(self, table: pa.Table) -> list[str | None]:
        column = table.column(self._path[0])
        for name in self._path[1:]:
            column = pc.struct_field(column, name)
        texts: list[str | None] = column.cast(pa.string()).to_pylist()
        return texts


def _nested(path: Sequence[str], kind: pa.DataType) -> pa.Schema:
    for name in reversed(path[1:]):
        kind = pa.struct([(name, kind)])
    return pa.schema([(path[0], kind)])


def _written(payload: bytes, path: Sequence[str]) -> str | None:
    """The value as Python reads it, with numbers as they are written."""
    try:
        found: Any = json.loads(payload, parse_int=_Number, parse_float=_Number)
    except (ValueError, RecursionError):
        return None
    for name in path:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    if isinstance(found, bool):
        return str(found).lower()
    return _bounded(str(found)) if isinstance(found, str) else None


class _Number(str):
    """The digits of a number."""

    __slots__ = ()


def coded(
    values: Values | pa.Array, key_of: Callable[[str | None], str]
) -> tuple[npt.NDArray[np.int64], dict[str, str | None]]:
    """The key of each value, as an index into the keys.

    Args:
        values: n values, or an array of n strings.
        key_of: called once for each distinct value.

    Returns:
        int64 [n], and for each key, in the order of their indices, a value that leads to it.
    """
    texts = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    encoded = texts.dictionary_encode(null_encoding="encode")
    found: dict[str, str | None] = {}
    places: dict[str, int] = {}
    codes: list[int] = []
    for value in encoded.dictionary.to_pylist():
        key = key_of(value)
        codes.append(places.setdefault(key, len(places)))
        found.setdefault(key, value)
    return np.array(codes, np.int64)[encoded.indices.to_numpy()], found
