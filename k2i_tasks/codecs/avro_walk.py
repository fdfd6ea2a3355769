"""Where the items of one long list begin, found one after the other.

Items of varying size can only be found in order. Many rows are better read item by item for all at
once; but of a few rows with long lists, this walk finds the items' starts, so that their values can
be read at once. It skips and checks nothing but sizes: a reader at each start finds what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from k2i_tasks.codecs.avro_schema import (
    Array,
    AvroType,
    Enum,
    Fixed,
    Map,
    Primitive,
    Record,
    exact_size,
    least_size,
)

#: Position after the value that begins at a position. IndexError: it runs past the end; ValueError:
#: it has no valid form.
Skip = Callable[[bytes, int], int]
_MOST_BITS = 64


def skipper(kind: AvroType) -> Skip:
    """What skips one value of `kind`."""
    size = exact_size(kind)
    if size is not None:
        return _fixed_skipper(size)
    if isinstance(kind, Enum) or (isinstance(kind, Primitive) and kind.name in ("int", "long")):
        return lambda data, at: read_long(data, at)[1]
    if isinstance(kind, Primitive):
        return _skip_bytes
    if isinstance(kind, Record):
        return _record_skipper([skipper(member) for _, member in kind.fields])
    if isinstance(kind, Array):
        return _list_skipper(skipper(kind.items), least_size(kind.items))
    if isinstance(kind, Map):
        return _list_skipper(_record_skipper([_skip_bytes, skipper(kind.values)]), 1)
    assert not isinstance(kind, Fixed)
    return _union_skipper([skipper(branch) for branch in kind.branches])


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """A long and the position after it.

    Raises:
        IndexError: it runs past the end.
        ValueError: it has more than 64 bits.
    """
    byte = data[at]
    at += 1
    number = byte & 0x7F
    shift = 7
    while byte & 0x80:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > _MOST_BITS + 6:
            raise ValueError
    if number >> _MOST_BITS:
        raise ValueError
    return (number >> 1) ^ -(number & 1), at


def read_count(data: bytes, at: int) -> tuple[int, int]:
    """The number of items of the block that begins at a position, and where the first begins.

    Raises:
        IndexError: it runs past the end.
        ValueError: the count or the size in bytes is none.
    """
    count, at = read_long(data, at)
    if count >= 0:
        return count, at
    size, at = read_long(data, at)
    if size < 0 or size > len(data) - at:
        raise ValueError
    return -count, at


def _fixed_skipper(size: int) -> Skip:
    def skip(data: bytes, at: int) -> int:
        if at + size > len(data):
            raise IndexError
        return at + size

    return skip


def _skip_bytes(data: bytes, at: int) -> int:
    length, at = read_long(data, at)
    if length < 0:
        raise ValueError
    if at + length > len(data):
        raise IndexError
    return at + length


def _record_skipper(members: list[Skip]) -> Skip:
    def skip(data: bytes, at: int) -> int:
        for member in members:
            at = member(data, at)
        return at

    return skip


def _union_skipper(branches: list[Skip]) -> Skip:
    def skip(data: bytes, at: int) -> int:
        index, at = read_long(data, at)
        if index < 0:
            raise ValueError
        return branches[index](data, at)

    return skip


def _list_skipper(item: Skip, least: int) -> Skip:
    def skip(data: bytes, at: int) -> int:
        while True:
            count, at = read_count(data, at)
            if not count:
                return at
            if not least:
                continue
            for _ in range(count):
                at = item(data, at)

    return skip
