"""Typed values that JSON writes as text: times, dates, UUIDs. One parser for every path.

The fast and the exact path both call `from_text`, so they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

_ZONED = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d(:?\d\d)?)", re.ASCII
)
_LOCAL = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_UUID = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"

#: Seconds of 0001-01-01T00:00:00 and 10000-01-01T00:00:00; readers fail outside.
_FIRST_SECOND = -62_135_596_800
_END_SECOND = 253_402_300_800
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

ZONED = pa.timestamp("us", "UTC")
LOCAL = pa.timestamp("us")
DATE = pa.date32()


def is_text_type(wanted: pa.DataType) -> bool:
    """Whether JSON writes values of this type as a string that `from_text` reads."""
    return bool(
        pa.types.is_timestamp(wanted)
        or pa.types.is_date32(wanted)
        or pa.types.is_time(wanted)
        or wanted == pa.uuid()
    )


def from_text(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Strings as `wanted`; nulls stay null.

    A timestamp with zone needs a zone in every string, one without refuses it; more digits than
    the unit holds are refused, never cut.

    Raises:
        pa.ArrowInvalid: a string has another form, or lies outside years 1 to 9999.
    """
    if pa.types.is_timestamp(wanted):
        parsed = texts.cast(wanted)
        _within(parsed.view(pa.int64()), _PER_SECOND[wanted.unit])
        return parsed
    if pa.types.is_date32(wanted):
        parsed = texts.cast(wanted)
        _within(parsed.view(pa.int32()), 1 / 86_400)
        return parsed
    if pa.types.is_time(wanted):
        return _times(texts, wanted)
    return _uuids(texts)


def temporal_form(text: str) -> pa.DataType | None:
    """The temporal type that a string shows by its form; None for plain text."""
    if len(text) < 10 or text[4] != "-":
        return None
    if _DATE.fullmatch(text):
        return DATE
    if _ZONED.fullmatch(text):
        return ZONED
    return LOCAL if _LOCAL.fullmatch(text) else None


def are_readable(texts: Sequence[str], wanted: pa.DataType) -> bool:
    """Whether every string, of the form of `wanted`, can be read as it: there is no 30 February."""
    try:
        from_text(pa.array(texts, pa.string()), wanted)
    except pa.ArrowInvalid:
        return False
    return True


def _within(numbers: pa.Array, per_second: float) -> None:
    bounds = pc.min_max(numbers).as_py()
    low, high = bounds["min"], bounds["max"]
    if low is None:
        return
    if low < _FIRST_SECOND * per_second or high >= _END_SECOND * per_second:
        raise pa.ArrowInvalid("outside years 1 to 9999")


def _times(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    # Arrow reads no time of day from text: it is read as a time on the epoch's first day.
    moments = pc.binary_join_element_wise("1970-01-01T", texts, "").cast(pa.timestamp(wanted.unit))
    numbers = moments.view(pa.int64())
    return numbers.cast(pa.int32()).view(wanted) if wanted.bit_width == 32 else numbers.view(wanted)


def _uuids(texts: pa.Array) -> pa.Array:
    if not pc.all(pc.match_substring_regex(texts, _UUID), min_count=0).as_py():
        raise pa.ArrowInvalid("not a UUID in its canonical form")
    packed = [None if text is None else UUID(text).bytes for text in texts.to_pylist()]
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(packed, type=pa.binary(16)))
