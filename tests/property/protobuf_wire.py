"""Strategies: bytes of Protobuf messages, also as no serialiser writes them."""

from __future__ import annotations

from typing import Any

from google.protobuf import timestamp_pb2
from google.protobuf.message import DecodeError as ProtobufError
from hypothesis import strategies as st

from tests.property.protobuf_kinds import FIXED4, FIXED8, RANGES, Draw, Field, Kind


def varint(number: int, padding: int = 0) -> bytes:
    """A number, with so many bytes more than it needs, of 10 at most."""
    number %= 2**64
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    for _ in range(min(padding, 10 - len(found))):
        found[-1] |= 0x80
        found.append(0)
    return bytes(found)


NUMBERS = st.one_of(
    st.integers(-3, 200),
    st.integers(0, 2**64 - 1),
    st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**32 + 5, 2**63, -(2**31), 1_700_000_000]),
)


def _number(draw: Draw) -> bytes:
    return varint(draw(NUMBERS), draw(st.sampled_from([0, 0, 0, 0, 1, 9])))


def _tag(draw: Draw, number: int, wire: int) -> bytes:
    encoded = varint(number << 3 | wire)
    return varint(number << 3 | wire, draw(st.sampled_from([0] * 9 + [5 - len(encoded)])))


def _ranged(body: bytes) -> bytes:
    return varint(len(body)) + body


def _scalar(draw: Draw, kind: int) -> tuple[int, bytes]:
    """Wire type and bytes of a value."""
    if kind in FIXED8:
        return 1, draw(st.binary(min_size=8, max_size=8))
    if kind in FIXED4:
        return 5, draw(st.binary(min_size=4, max_size=4))
    if kind == Field.TYPE_STRING:
        return 2, _ranged(draw(st.text(max_size=5)).encode())
    if kind == Field.TYPE_BYTES:
        return 2, _ranged(draw(st.binary(max_size=5)))
    return 0, _number(draw)


def _of(draw: Draw, field: Any) -> tuple[int, bytes]:
    """Wire type and bytes of a value of a field."""
    if field.enum_type is not None and field.enum_type.is_closed:
        # Others are passed over in JSON text, by Google's library, and nowhere else.
        return 0, varint(draw(st.integers(0, 2)))
    return _scalar(draw, field.type)


def _unknown(draw: Draw, number: int, depth: int) -> bytes:
    wire = draw(st.sampled_from([0, 1, 2, 3, 5]))
    if wire != 3:
        kinds = {0: Field.TYPE_INT64, 1: FIXED8[0], 2: Field.TYPE_BYTES, 5: FIXED4[0]}
        return _tag(draw, number, wire) + _scalar(draw, kinds[wire])[1]
    inner = b"" if depth > 2 else b"".join(_unknown(draw, 7, depth + 1) for _ in range(depth))
    return _tag(draw, number, 3) + inner + _tag(draw, number, 4)


def _value(draw: Draw, field: Any, depth: int) -> bytes:
    if draw(st.sampled_from([False] * 15 + [True])):
        # Of a wire type that the field may not have, or may.
        return _unknown(draw, field.number, 1)
    if field.message_type is not None:
        body = b"" if depth > 3 else wire(draw, field.message_type, depth + 1)
        if field.type == field.TYPE_GROUP:
            return _tag(draw, field.number, 3) + body + _tag(draw, field.number, 4)
        return _tag(draw, field.number, 2) + _ranged(body)
    if field.is_repeated and field.type not in RANGES and draw(st.booleans()):
        items = [_of(draw, field)[1] for _ in range(draw(st.integers(0, 5)))]
        return _tag(draw, field.number, 2) + _ranged(b"".join(items))
    kind, body = _of(draw, field)
    return _tag(draw, field.number, kind) + body


def wire(draw: Draw, kind: Any, depth: int = 0) -> bytes:
    """Bytes of a message, its fields in any order, several times, and unknown ones."""
    if kind.full_name == "google.protobuf.Timestamp" and draw(st.booleans()):
        # Else there is hardly one that is a time.
        seconds = draw(st.integers(-(10**10), 10**11))
        nanos = 1000 * draw(st.integers(0, 999_999))
        moment = timestamp_pb2.Timestamp(seconds=seconds, nanos=nanos)
        return bytes(moment.SerializeToString())
    values: list[tuple[int, bytes]] = []
    for _ in range(draw(st.integers(0, 7 if depth == 0 else 3))):
        if kind.fields and draw(st.sampled_from([True] * 9 + [False])):
            field = draw(st.sampled_from(list(kind.fields)))
            values.append((field.number, _value(draw, field, depth)))
        else:
            number = draw(st.sampled_from([21, 99, 2**29 - 2]))
            values.append((number, _unknown(draw, number, 1)))
    if draw(st.booleans()):
        values.sort()
    return b"".join(body for _, body in values)


@st.composite
def payloads(draw: Draw, kind: Kind) -> bytes:
    """Bytes of a message; some are as Google's library writes them, and some are damaged."""
    body: bytes = wire(draw, kind.kind)
    how = draw(st.sampled_from(["as it is", "as it is", "rewritten", "damaged", "cut"]))
    if how == "rewritten":
        message = kind.reference()
        try:
            message.ParseFromString(body)
        except ProtobufError:
            return body
        return bytes(message.SerializeToString())
    if how == "cut":
        return body[: draw(st.integers(0, len(body)))]
    if how == "damaged" and body:
        place = draw(st.integers(0, len(body) - 1))
        return body[:place] + bytes([draw(st.integers(0, 255))]) + body[place + 1 :]
    return body
