"""A member of Avro and Protobuf records as text, against fastavro and Google's library."""

from __future__ import annotations

import decimal
import json
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.codecs.avro import AvroDecoder
from k2i_tasks.codecs.avro_schema import parse_schema
from k2i_tasks.codecs.members import avro_steps, column_steps
from k2i_tasks.codecs.payloads import PayloadDecoder, Payloads
from k2i_tasks.codecs.protobuf import ProtobufDecoder
from k2i_tasks.codecs.registered_values import MemberReader
from tests.property.avro_values import KINDS as AVRO_KINDS
from tests.property.avro_values import Kind as AvroKind
from tests.property.protobuf_kinds import Kind, Refused, kinds
from tests.property.protobuf_wire import payloads
from tests.property.test_avro_codec import encoded, read_by_fastavro

SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def text_of(value: Any) -> str | None:
    """What of a single value can be meant as a name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, decimal.Decimal):
        whole = value.as_tuple().exponent == 0
        return str(int(value)) if whole else None
    return str(value) if isinstance(value, int | str) else None


def inside(value: Any, path: list[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def read(decoder: PayloadDecoder, places: Any, some: list[bytes]) -> list[str | None]:
    found = MemberReader(decoder, places).read(Payloads.joined(some))
    assert found.type == pa.string()
    found.validate(full=True)
    texts: list[str | None] = found.to_pylist()
    return texts


def avro_paths(schema: Any) -> list[list[str]]:
    """Paths to every leaf of a schema, through unions, and through maps by a key."""
    if isinstance(schema, list):
        return [path for branch in schema for path in avro_paths(branch)]
    if isinstance(schema, dict) and schema["type"] == "record":
        return [
            [field["name"], *path]
            for field in schema["fields"]
            for path in avro_paths(field["type"])
        ]
    if isinstance(schema, dict) and schema["type"] == "map":
        return [[key, *path] for key in ("", "0") for path in avro_paths(schema["values"])]
    return [[]]


@SETTINGS
@given(st.data(), AVRO_KINDS)
def test_an_avro_member_is_what_fastavro_reads_at_its_path(
    data: st.DataObject, kind: AvroKind
) -> None:
    paths = [path for path in avro_paths(kind.schema) if path] or [["f0"]]
    path = data.draw(st.sampled_from(paths) | st.lists(st.sampled_from(["f0", "f1", "value"])))
    path = path or ["f0"]
    values = data.draw(st.lists(kind.values, max_size=8))
    sound = [encoded(kind.schema, value) for value in values]
    broken = [payload + b"!" for payload in sound]
    text = json.dumps(kind.schema)
    places = avro_steps(parse_schema(text), path)
    mixed = [one for pair in zip(sound, broken, strict=True) for one in pair]
    found = read(AvroDecoder(text), places, mixed)
    for payload, good, bad in zip(sound, found[::2], found[1::2], strict=True):
        assert good == text_of(inside(read_by_fastavro(kind.schema, payload), path))
        assert bad is None


def protobuf_paths(kind: Any, depth: int = 3) -> list[list[str]]:
    """Paths to members that are messages or have one value, down to a depth."""
    found = []
    for field in kind.fields:
        found.append([field.name])
        message = field.message_type
        if message is not None and depth:
            inner = message.fields[1].message_type if _is_map(field) else message
            steps = [field.name, "a"] if _is_map(field) else [field.name]
            if inner is None:
                found.append(steps)
            else:
                found += [[*steps, *path] for path in protobuf_paths(inner, depth - 1)]
    return found


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def member(row: Any, kind: Any, path: list[str]) -> str | None:
    """The text of the member of a row, as `Kind.row` has it."""
    if not isinstance(row, dict):
        return None
    field = kind.fields_by_name.get(path[0])
    if field is None:
        return None
    value, rest = row[path[0]], path[1:]
    if _is_map(field):
        key, item = field.message_type.fields
        if not rest or key.type != key.TYPE_STRING:
            return None
        field, value, rest = item, dict(value).get(rest[0]), rest[1:]
    elif field.is_repeated:
        return None
    if not rest:
        empty = field.message_type is not None and not field.message_type.fields
        return text_of(value) if not empty else ("true" if value else None)
    return None if field.message_type is None else member(value, field.message_type, rest)


@SETTINGS
@given(st.data(), kinds())
def test_a_protobuf_member_is_what_googles_library_reads_at_its_path(
    data: st.DataObject, kind: Kind
) -> None:
    if not kind.kind.fields:
        return
    path = data.draw(st.sampled_from(protobuf_paths(kind.kind)))
    some = data.draw(st.lists(payloads(kind), min_size=1, max_size=5))
    together = some * data.draw(st.sampled_from([1, 1, 60]))
    decoder = ProtobufDecoder(kind.kind, truncates=True)
    errors = decoder.decode(Payloads.joined(together)).errors
    found = read(decoder, column_steps(decoder.schema, path), together)
    for place, (payload, text) in enumerate(zip(together, found, strict=True)):
        if place in errors:
            assert text is None
            continue
        try:
            row = kind.row(payload)
        except Refused:
            continue
        assert text == member(row, kind.kind, path), path
