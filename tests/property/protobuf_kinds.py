"""Strategies: Protobuf schemas, and the rows that payloads of them have.

The reference is Google's library. It reads what is the same on the wire but hides nothing: enums as
int32, since a number without a name would be put away with the unknown fields; maps as lists of
entries, since one with an unknown field would be, too; and of proto2 strings as bytes, since they
are not checked there.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.message import DecodeError as ProtobufError
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
Field = descriptor_pb2.FieldDescriptorProto
FILES = (
    any_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
SCALARS = [
    kind
    for name, kind in Field.Type.items()
    if name not in ("TYPE_MESSAGE", "TYPE_GROUP", "TYPE_ENUM")
]
FIXED8 = (Field.TYPE_FIXED64, Field.TYPE_SFIXED64, Field.TYPE_DOUBLE)
FIXED4 = (Field.TYPE_FIXED32, Field.TYPE_SFIXED32, Field.TYPE_FLOAT)
RANGES = (Field.TYPE_STRING, Field.TYPE_BYTES)
KEYS = [kind for kind in SCALARS if kind not in (*FIXED8[2:], *FIXED4[2:], Field.TYPE_BYTES)]
WELL_KNOWN = [
    f"google.protobuf.{name}"
    for name in (
        *("Timestamp", "Duration", "Any", "Empty", "FieldMask", "Struct", "Value", "ListValue"),
        *("Int64Value", "UInt64Value", "FloatValue", "BoolValue", "StringValue", "BytesValue"),
    )
]
_UTC = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Refused(Exception):
    """The reference has a value that no column holds."""


@dataclass(frozen=True)
class Kind:
    """A message type.

    Args:
        kind: its descriptor.
        reference: the class that reads it, see above.
        proto3: else proto2.
    """

    kind: Any
    reference: Any
    proto3: bool

    def row(self, payload: bytes) -> dict[str, Any] | None:
        """The row of a payload, None if it is none.

        Raises:
            Refused: it has a value that no column holds.
        """
        message = self.reference()
        try:
            message.ParseFromString(payload)
        except ProtobufError:
            return None
        return _struct(message, self.kind, ())


def _struct(message: Any, kind: Any, inside: tuple[str, ...]) -> dict[str, Any]:
    return {field.name: _field(message, field, (*inside, kind.full_name)) for field in kind.fields}


def _field(message: Any, field: Any, inside: tuple[str, ...]) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, item = field.message_type.fields
        # Of a key that is there twice the last value counts.
        entries = {_one(one.key, key, inside): _one(one.value, item, inside) for one in value}
        return sorted(entries.items(), key=lambda entry: entry[0])
    if field.is_repeated:
        return [_one(one, field, inside) for one in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _one(value, field, inside)


def _one(value: Any, field: Any, inside: tuple[str, ...]) -> Any:
    if field.type == field.TYPE_ENUM:
        named = field.enum_type.values_by_number.get(value)
        return str(value) if named is None else named.name
    if field.type in (field.TYPE_UINT64, field.TYPE_FIXED64):
        return decimal.Decimal(value)
    if field.type == field.TYPE_STRING and isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Refused from None
    if field.message_type is None:
        return value
    kind = field.message_type
    if kind.full_name in inside or kind.full_name in (
        "google.protobuf.Struct",
        "google.protobuf.Value",
        "google.protobuf.ListValue",
    ):
        return _json(value, kind)
    if not kind.fields:
        return True
    if kind.full_name == "google.protobuf.Timestamp":
        if value.nanos % 1000 or not 0 <= value.nanos < 10**9:
            raise Refused
        try:
            return _UTC + dt.timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
        except OverflowError:
            raise Refused from None
    if kind.full_name.endswith("Value") and kind.file.name.startswith("google/"):
        return _one(value.value, kind.fields[0], inside)
    return _struct(value, kind, inside)


def _json(value: Any, kind: Any) -> Any:
    own = message_factory.GetMessageClass(kind).FromString(value.SerializeToString())
    try:
        found = json_format.MessageToDict(
            own,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            descriptor_pool=kind.file.pool,
        )
        return Json(json.loads(json.dumps(found, allow_nan=False)))
    except (json_format.Error, ProtobufError, TypeError, ValueError):
        raise Refused from None


@dataclass(frozen=True)
class Json:
    """What a JSON text says; the order of members does not matter."""

    value: Any


def plain(value: Any) -> Any:
    """Rows of both sides in a form that can be compared: NaN equals NaN."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else (value, math.copysign(1, value))
    if isinstance(value, dict):
        return {name: plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [plain(member) for member in value]
    return value


def columns(value: Any, field: Any, inside: tuple[str, ...]) -> Any:
    """A value of a column as `Kind.row` has it: JSON read, maps in the order of their keys."""
    if value is None or field.message_type is None:
        return value
    kind = field.message_type
    if kind.GetOptions().map_entry:
        item = kind.fields[1]
        entries = sorted(value, key=lambda entry: entry[0])
        return [(key, columns(one, item, inside)) for key, one in entries]
    if isinstance(value, list):
        return [columns(one, field, inside) for one in value]
    if isinstance(value, dict):
        inner = (*inside, kind.full_name)
        return {member.name: columns(value[member.name], member, inner) for member in kind.fields}
    if isinstance(value, str) and kind.full_name != "google.protobuf.StringValue":
        return Json(json.loads(value))
    return value


def _numbers(draw: Draw, count: int) -> list[int]:
    few = st.integers(1, 20) | st.sampled_from([2047, 2048, 18_000, 2**29 - 1])
    found: list[int] = draw(st.lists(few, unique=True, min_size=count, max_size=count))
    return found


def _add_field(draw: Draw, message: Any, name: str, number: int, types: int, proto3: bool) -> Any:
    field = message.field.add(name=name, number=number, label=draw(st.sampled_from([1, 1, 3])))
    what = draw(st.sampled_from(["scalar"] * 5 + ["enum", "message", "known", "group"]))
    if what == "scalar":
        field.type = draw(st.sampled_from(SCALARS))
    elif what == "enum":
        field.type, field.type_name = Field.TYPE_ENUM, ".p.E"
    elif what == "known":
        field.type = Field.TYPE_MESSAGE
        field.type_name = f".{draw(st.sampled_from(WELL_KNOWN))}"
    else:
        group = what == "group" and not proto3
        field.type = Field.TYPE_GROUP if group else Field.TYPE_MESSAGE
        field.type_name = f".p.M{draw(st.integers(0, types - 1))}"
    packable = field.type not in (*RANGES, Field.TYPE_MESSAGE, Field.TYPE_GROUP)
    if field.label == 3 and packable and draw(st.booleans()):
        field.options.packed = draw(st.booleans())
    return field


def _add_map(draw: Draw, message: Any, field: Any) -> None:
    """Makes a map of a repeated field, its type the values'."""
    entry = message.nested_type.add(name=f"{field.name.title()}Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=draw(st.sampled_from(KEYS)))
    value = entry.field.add(name="value", number=2, label=1, type=field.type)
    if field.type_name:
        value.type_name = field.type_name
    field.type, field.type_name = Field.TYPE_MESSAGE, f".p.{message.name}.{entry.name}"
    field.ClearField("options")


def _presence(draw: Draw, message: Any, proto3: bool) -> None:
    """Puts some fields into a oneof, and of proto3 makes some optional."""
    single = [field for field in message.field if field.label == 1]
    # In a oneof of proto2 an enum without a name for its number is none to Google's library.
    able = [field for field in single if proto3 or field.type != Field.TYPE_ENUM]
    chosen = [field for field in able if draw(st.booleans())]
    if len(chosen) > 1:
        message.oneof_decl.add(name="choice")
        for field in chosen:
            field.oneof_index = 0
    for field in single:
        if proto3 and not field.HasField("oneof_index") and draw(st.booleans()):
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")


@st.composite
def kinds(draw: Draw) -> Kind:
    """Message types of proto2 and proto3, nested, and in themselves."""
    proto3 = draw(st.booleans())
    file = descriptor_pb2.FileDescriptorProto(
        name="test.proto", package="p", syntax="proto3" if proto3 else "proto2"
    )
    for known in FILES:
        file.dependency.append(known.DESCRIPTOR.name)
    enum = file.enum_type.add(name="E")
    for number, name in enumerate(["ZERO", "ONE", "TWO"]):
        enum.value.add(name=name, number=number)
    if draw(st.booleans()):
        enum.value.add(name="LESS", number=-7)
        enum.value.add(name="MOST", number=2**31 - 1)
    types = draw(st.integers(1, 3))
    for place in range(types):
        message = file.message_type.add(name=f"M{place}")
        count = draw(st.integers(0 if place else 1, 6))
        for position, number in enumerate(_numbers(draw, count)):
            field = _add_field(draw, message, f"f{position}", number, types, proto3)
            if field.label == 3 and field.type != Field.TYPE_GROUP and draw(st.booleans()):
                _add_map(draw, message, field)
        _presence(draw, message, proto3)
    reference = descriptor_pb2.FileDescriptorProto()
    reference.CopyFrom(file)
    for message in reference.message_type:
        for nested in message.nested_type:
            nested.ClearField("options")
        for one in (*message.field, *(f for nested in message.nested_type for f in nested.field)):
            if one.type == Field.TYPE_ENUM:
                one.type = Field.TYPE_INT32
                one.ClearField("type_name")
            if one.type == Field.TYPE_STRING and not proto3:
                one.type = Field.TYPE_BYTES
    own, other = (_root(one) for one in (file, reference))
    return Kind(own, message_factory.GetMessageClass(other), proto3)


def _root(file: Any) -> Any:
    pool = descriptor_pool.DescriptorPool()
    for known in FILES:
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return pool.FindMessageTypeByName("p.M0")
