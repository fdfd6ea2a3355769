"""The rest of one message, field by field: for few long ones, and those with groups."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from k2i_tasks.codecs.protobuf_tags import (
    BYTES4,
    BYTES8,
    GROUP,
    GROUP_END,
    LEAST_TAG,
    LENGTH,
    MAX_DEPTH,
    NO_TAG,
    NUMBER,
    TAG_BYTES,
    WIRE_BITS,
)

_MASK = 2**64 - 1
_SIZES = {BYTES4: 4, BYTES8: 8}


class Malformed(Exception):
    """Bytes that are no message.

    Args:
        code: of the error, as in `protobuf_tags.REASONS`.
        tag: of the field, 0 where there is none.
    """

    def __init__(self, code: str, tag: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.tag = tag


class Walked:
    """Values of known fields, by tag: their messages, where they begin, and what they are.

    Attributes:
        parts: tag -> rows, positions and raw values, as in `Found`, side by side; the raw values
            of numbers of 4 and 8 bytes are 0.
    """

    def __init__(self, known: Iterable[int]) -> None:
        self.parts = {tag: (array("q"), array("q"), array("Q")) for tag in known}

    def walk(self, row: int, data: bytes, base: int, tag: int) -> None:
        """Takes in the values of a message.

        Args:
            row: the message.
            data: its bytes from behind a tag on.
            base: where they begin in the source.
            tag: that one.

        Raises:
            Malformed: the bytes are no message; values before that are taken in.
        """
        at, end = 0, len(data)
        while True:
            start, raw, at = _value(data, at, tag)
            part = self.parts.get(tag)
            if part is not None:
                rows, positions, values = part
                rows.append(row)
                positions.append(base + start)
                values.append(raw)
            if at == end:
                return
            tag, at = _tag(data, at, LEAST_TAG)


def _value(data: bytes, at: int, tag: int) -> tuple[int, int, int]:
    """Where a value begins, what it is, and the position after it."""
    wire = tag & WIRE_BITS
    if wire == NUMBER:
        number, after = _varint(data, at, tag)
        return at, number, after
    if wire == LENGTH:
        length, start = _varint(data, at, tag)
        if start - at > TAG_BYTES:
            raise Malformed("number", tag)
        return start, length, _inside(data, start + length, tag)
    if wire == GROUP:
        end, after = _group_end(data, at, tag)
        return at, end - at, after
    if wire not in _SIZES:
        raise Malformed("wire_type", tag)
    return at, 0, _inside(data, at + _SIZES[wire], tag)


def _group_end(data: bytes, at: int, first: int) -> tuple[int, int]:
    """Where the content of a group ends, and where the tag that ends it does."""
    open_groups = [first]
    while True:
        before = at
        # Google's library takes a field of number 0 in a group that it does not know.
        tag, at = _tag(data, at, 0)
        wire = tag & WIRE_BITS
        if wire == GROUP_END:
            if open_groups.pop() >> 3 != tag >> 3:
                raise Malformed("group", first)
            if not open_groups:
                return before, at
        elif wire == GROUP:
            open_groups.append(tag)
            if len(open_groups) > MAX_DEPTH:
                raise Malformed("group", first)
        else:
            at = _value(data, at, tag)[2]


def _tag(data: bytes, at: int, least: int) -> tuple[int, int]:
    """A tag and the position after it."""
    try:
        tag, after = _varint(data, at, 0)
    except Malformed:
        raise Malformed("tag") from None
    if after - at > TAG_BYTES or not least <= tag < NO_TAG:
        raise Malformed("tag")
    return tag, after


def _inside(data: bytes, after: int, tag: int) -> int:
    if after > len(data):
        raise Malformed("truncated", tag)
    return after


def _varint(data: bytes, at: int, tag: int) -> tuple[int, int]:
    number = shift = 0
    try:
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number & _MASK, at
            shift += 7
            if shift > 63:
                raise Malformed("number", tag)
    except IndexError:
        raise Malformed("truncated", tag) from None
