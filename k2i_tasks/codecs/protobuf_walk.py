"""The rest of one message, field by field: for few long ones, and the ends of groups."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from k2i_tasks.codecs.protobuf_tags import (
    BYTES4,
    BYTES8,
    GROUP,
    GROUP_END,
    LENGTH,
    MAX_DEPTH,
    NUMBER,
    TAG_BYTES,
    WIRE_BITS,
)

_MASK = 2**64 - 1
#: Field numbers begin with 1.
_LEAST_TAG = 8
_SIZES = {BYTES4: 4, BYTES8: 8}


class Malformed(Exception):
    """Bytes that are no message.

    Args:
        code: the last part of the error's code.
        what: one sentence.
    """

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what


@dataclass(frozen=True, slots=True)
class Value:
    """One value in the bytes; `raw` as in `Found`, but 0 for numbers of 4 and 8 bytes."""

    tag: int
    at: int
    raw: int


def walk(data: bytes, at: int, tag: int, known: Container[int]) -> list[Value]:
    """The values of known fields from a position on.

    Args:
        data: of a whole message.
        at: behind the first tag.
        tag: the first.
        known: tags.

    Raises:
        Malformed: the bytes are no message.
    """
    values: list[Value] = []
    while True:
        value, at = _value(data, at, tag)
        if tag in known:
            values.append(value)
        if at == len(data):
            return values
        tag, at = _tag(data, at, _LEAST_TAG)


def group_end(data: bytes, at: int, number: int) -> tuple[int, int]:
    """Where the content of a group ends, and where the tag that ends it does.

    Args:
        data: of a whole message.
        at: behind the group's first tag.
        number: of its field.

    Raises:
        Malformed: it has no end, or what is in it is no message.
    """
    open_groups = [number]
    while True:
        before = at
        # Google's library takes a field of number 0 in a group that it does not know.
        tag, at = _tag(data, at, 0)
        wire = tag & WIRE_BITS
        if wire == GROUP_END:
            if open_groups.pop() != tag >> 3:
                raise Malformed("group", "A group is ended by another one's tag.")
            if not open_groups:
                return before, at
        elif wire == GROUP:
            open_groups.append(tag >> 3)
            if len(open_groups) > MAX_DEPTH:
                raise Malformed("group", f"Groups are nested deeper than {MAX_DEPTH}.")
        else:
            _, at = _value(data, at, tag)


def _tag(data: bytes, at: int, least: int) -> tuple[int, int]:
    """A tag and the position after it."""
    tag, after = _varint(data, at)
    if after - at > TAG_BYTES or not least <= tag < 1 << 32:
        raise Malformed("tag", "A tag is none.")
    return tag, after


def _value(data: bytes, at: int, tag: int) -> tuple[Value, int]:
    """A value and the position after it."""
    wire = tag & WIRE_BITS
    if wire == NUMBER:
        number, after = _varint(data, at)
        return Value(tag, at, number), after
    if wire == LENGTH:
        length, start = _varint(data, at)
        if start - at > TAG_BYTES:
            raise Malformed("number", "A length is none.")
        return Value(tag, start, length), _inside(data, start + length)
    if wire == GROUP:
        end, after = group_end(data, at, tag >> 3)
        return Value(tag, at, end - at), after
    if wire not in _SIZES:
        raise Malformed("wire_type", f"A field has wire type {wire}, which none can have here.")
    return Value(tag, at, 0), _inside(data, at + _SIZES[wire])


def _inside(data: bytes, after: int) -> int:
    if after > len(data):
        raise Malformed("truncated", "A value runs past the message's end.")
    return after


def _varint(data: bytes, at: int) -> tuple[int, int]:
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
                raise Malformed("number", "A number has more than 10 bytes.")
    except IndexError:
        raise Malformed("truncated", "A value runs past the message's end.") from None
