"""Numbers side by side in one value: the packed form of a repeated field."""

from __future__ import annotations

import numpy as np

from k2i_tasks.codecs.protobuf_rows import Found, Span
from k2i_tasks.codecs.protobuf_tags import BYTES8, NUMBER
from k2i_tasks.codecs.vector import Positions, read_varints

_CONTINUES = 0x80


def unpacked(span: Span, packed: Found, wire: int, where: str) -> Found:
    """The numbers of packed lists, one by one.

    Args:
        span: the messages.
        packed: the lists.
        wire: of the numbers.
        where: dotted path, for errors.
    """
    if wire == NUMBER:
        return _varints(span, packed, where)
    size = 8 if wire == BYTES8 else 4
    bad = packed.raw % size != 0
    if bool(bad.any()):
        what = f"Field {where!r} is a list that ends within a number."
        span.refuse(packed.rows[bad], "protobuf.truncated", what)
        packed = packed.where(~bad)
    counts = packed.raw // size
    offsets, owner = _flattened(counts)
    at = packed.at[owner] + (np.arange(len(owner)) - offsets[owner]) * size
    raw = (span.source.words if wire == BYTES8 else span.source.halves)(at)
    return Found(packed.rows[owner], at, raw, False)


def _varints(span: Span, packed: Found, where: str) -> Found:
    # A number ends with its first byte below 128.
    packed = packed.where(packed.raw > 0)
    if not len(packed):
        return Found(packed.rows, packed.at, packed.raw.view(np.uint64), False)
    bad = span.source.data[packed.ends - 1] >= _CONTINUES
    if bool(bad.any()):
        what = f"Field {where!r} is a list that ends within a number."
        span.refuse(packed.rows[bad], "protobuf.truncated", what)
        packed = packed.where(~bad)
        return _varints(span, packed, where)
    low, high = int(packed.at.min()), int(packed.ends.max())
    lasts = np.flatnonzero(span.source.data[low:high] < _CONTINUES) + low
    first = np.searchsorted(lasts, packed.at)
    counts = np.searchsorted(lasts, packed.ends) - first
    offsets, owner = _flattened(counts)
    stops = lasts[first[owner] + np.arange(len(owner)) - offsets[owner]] + 1
    at = np.empty_like(stops)
    at[1:] = stops[:-1]
    at[offsets] = packed.at
    read = read_varints(span.source, at, stops, wraps=True)
    rows = packed.rows[owner]
    what = f"Field {where!r} holds no valid number."
    span.refuse(rows[read.invalid], "protobuf.number", what)
    span.refuse(rows[read.truncated], "protobuf.number", what)
    return Found(rows, at, read.values, False)


def _flattened(counts: Positions) -> tuple[Positions, Positions]:
    """For lists of `counts` items: the index of each list's first, and each item's list."""
    return np.cumsum(counts) - counts, np.repeat(np.arange(len(counts)), counts)
