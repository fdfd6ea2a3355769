"""How the documents of a stream are laid out: which members come in which order, between what.

Programs write their documents alike: the same members in the same order, the same white space. A
layout is learned from documents and then expected of the others; what is read by it checks every
byte, so that a layout that does not hold costs time and nothing else. The idea is that of the
speculative parsing in Y. Li et al., "Mison: A Fast JSON Parser for Data Analytics", VLDB 2017.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

#: Deeper objects and lists are left to the general reader.
DEPTH_MAX: Final = 8
#: Longer documents are not learned from: it takes a step of Python for each value.
DOCUMENT_BYTES_MAX: Final = 16 * 1024
#: Most bytes between two values.
LEAD_BYTES_MAX: Final = 96
#: Spaces are part of a layout; line ends are not, so that none is ever skipped.
_MEMBER = re.compile(rb' *[{,] *"([^"\\\x00-\x1f]*)" *: *')
_CLOSING = re.compile(rb" *\}")
_ITEM = re.compile(rb" *[\[,] *")
_EMPTY_LIST = re.compile(rb"\[ *\]")
_LIST_END = re.compile(rb" *\]")
_SCALAR = re.compile(
    rb'"(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+"|-?[0-9][0-9.eE+-]*|true|false|null'
)


class UnlikeError(Exception):
    """A document that has no layout, or another one."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object.

    Args:
        name: of its column.
        lead: all bytes between the value before it, or the object's place, and its own value.
        value: what is inside; None for a scalar, a list of scalars, or where nothing is known yet.
    """

    name: str
    lead: bytes
    value: Layout | None


@dataclass(frozen=True, slots=True)
class Layout:
    """An object, or for a list the objects in it.

    Args:
        members: in the order of their appearance; of those that may be absent, all.
        closing: from the last value to the end of the object.
    """

    members: tuple[Member, ...]
    closing: bytes

    def merged(self, other: Layout) -> Layout:
        """What both are examples of.

        Raises:
            UnlikeError: the order or the white space is another.
        """
        if self.closing != other.closing or self.members[0].lead != other.members[0].lead:
            raise UnlikeError
        members = list(self.members)
        places = {member.name: place for place, member in enumerate(members)}
        at = 0
        for member in other.members:
            place = places.get(member.name)
            if place is None:
                members.insert(at, member)
                places = {each.name: place for place, each in enumerate(members)}
            elif place < at or members[place].lead != member.lead:
                raise UnlikeError
            else:
                members[place] = _both(members[place], member)
                at = place
            at += 1
        return Layout(tuple(members), self.closing)


def layout_of(payload: bytes, schema: pa.Schema) -> Layout:
    """The layout of one document.

    Args:
        payload: a document, without white space around it.
        schema: the columns; each member must be one.

    Raises:
        UnlikeError: it has none that could be expected of others, or is too long.
    """
    if len(payload) > DOCUMENT_BYTES_MAX:
        raise UnlikeError
    layout, end = _object(payload, 0, {field.name: field.type for field in schema}, DEPTH_MAX)
    if end != len(payload):
        raise UnlikeError
    return layout


def _both(one: Member, other: Member) -> Member:
    if one.value is None or other.value is None:
        return Member(one.name, one.lead, one.value or other.value)
    return Member(one.name, one.lead, one.value.merged(other.value))


def _object(
    payload: bytes, at: int, kinds: dict[str, pa.DataType], depth: int
) -> tuple[Layout, int]:
    if depth <= 0:
        raise UnlikeError
    members: dict[str, Member] = {}
    while found := _MEMBER.match(payload, at):
        # Only the first one follows the brace.
        if (payload[at : found.end()].lstrip(b" ")[:1] == b"{") == bool(members):
            raise UnlikeError
        try:
            name = found[1].decode()
            kind = kinds[name]
        except (UnicodeDecodeError, KeyError):
            raise UnlikeError from None
        if name in members or found.end() - at > LEAD_BYTES_MAX:
            raise UnlikeError
        value, end = _value(payload, found.end(), kind, depth - 1)
        members[name] = Member(name, payload[at : found.end()], value)
        at = end
    closing = _CLOSING.match(payload, at)
    if closing is None or not members or len(closing[0]) > LEAD_BYTES_MAX:
        raise UnlikeError
    return Layout(tuple(members.values()), closing[0]), closing.end()


def _value(payload: bytes, at: int, kind: pa.DataType, depth: int) -> tuple[Layout | None, int]:
    first = payload[at : at + 1]
    if first == b"{" and pa.types.is_struct(kind):
        return _object(payload, at, {field.name: field.type for field in kind}, depth)
    if first == b"[" and pa.types.is_list(kind):
        return _list(payload, at, kind.value_type, depth)
    found = _SCALAR.match(payload, at)
    if found is None:
        raise UnlikeError
    return None, found.end()


def _list(payload: bytes, at: int, kind: pa.DataType, depth: int) -> tuple[Layout | None, int]:
    if empty := _EMPTY_LIST.match(payload, at):
        return None, empty.end()
    inside: Layout | None = None
    while found := _ITEM.match(payload, at):
        value, at = _value(payload, found.end(), kind, depth - 1)
        if value is not None:
            inside = value if inside is None else inside.merged(value)
    end = _LIST_END.match(payload, at)
    if end is None:
        raise UnlikeError
    return inside, end.end()
