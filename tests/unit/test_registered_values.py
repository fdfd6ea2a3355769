"""A field of framed records: by each one's writer, and never by a guess while that is not known."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fastavro
import pytest

from k2i_tasks.codecs.registered_values import RegisteredValues
from k2i_tasks.codecs.values import VALUE_CHARS_MAX, coded
from k2i_tasks.errors import ServiceError, TransientError
from k2i_tasks.kafka.places import Places
from k2i_tasks.registry import RegistrySettings, Schemas
from k2i_tasks.types import OffsetRange, RawBatch
from tests.schema_registry import FakeRegistry, frame, status
from tests.unit.codec_batches import batch_of

PATIENCE_SECONDS = 20.0
PROTO = """syntax = "proto3";
package t;
import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto";
enum Kind { NONE = 0; A = 1; }
message Meta {
  string text = 1; Kind kind = 2; uint64 big = 3; bool on = 4; optional int32 maybe = 5;
  oneof either { string left = 6; int64 right = 7; }
  map<string, string> labels = 8; map<int32, string> numbered = 9; bytes raw = 10;
  google.protobuf.Struct loose = 11; google.protobuf.StringValue wrapped = 12;
  repeated string many = 13; double real = 14; sint32 below = 15;
}
message Event { Meta meta = 1; }
message Empty {}
"""


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as found:
        yield found


class Nothing:
    """Keeps nothing."""

    def unread(self, schema_id: int) -> dict[int, list[OffsetRange]]:
        return {}

    def note_read(self, schema_id: int) -> None:
        assert schema_id

    def keep_unread(self, found: Mapping[int, Mapping[int, OffsetRange]]) -> None:
        assert found


def reader(registry: FakeRegistry, kind: str, path: str, **changes: Any) -> RegisteredValues:
    schemas = Schemas(RegistrySettings(url=registry.url), None)
    given: dict[str, Any] = {
        "max_message_bytes": 10_000,
        "unknown_seconds": 30.0,
        "unread": Nothing(),
        **changes,
    }
    return RegisteredValues(kind, schemas, path.split("."), **given)


def values(read: RegisteredValues, *payloads: bytes | None, start: int = 0) -> list[str | None]:
    batch = batch_of(payloads, start)
    while read.prepare(batch, PATIENCE_SECONDS) < len(batch):
        pass
    found: list[str | None] = read(batch).to_pylist()
    return found


def until_told(read: RegisteredValues, batch: RawBatch) -> None:
    """Asks for what `batch` needs until that fails."""
    while True:
        assert read.prepare(batch, PATIENCE_SECONDS) == 0


def avro(kind: Any, *data: Any) -> list[bytes]:
    schema = fastavro.parse_schema(kind)
    found = []
    for one in data:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, one)
        found.append(out.getvalue())
    return found


def record(name: str, **fields: Any) -> dict[str, Any]:
    named = [{"name": label, "type": kind} for label, kind in fields.items()]
    return {"type": "record", "name": name, "fields": named}


def test_each_record_is_read_by_the_schema_that_wrote_it(registry: FakeRegistry) -> None:
    shapes: list[tuple[Any, list[Any]]] = [
        (record("R", k="string", n="int"), [{"k": "x", "n": 1}, {"k": "", "n": 2}]),
        (record("R", n="int", k="long"), [{"k": -7, "n": 1}]),
        (record("R", k=["null", "boolean"]), [{"k": True}, {"k": None}]),
        (record("R", n="string"), [{"n": "k"}]),
        (record("R", k="double"), [{"k": 1.5}]),
        (record("R", k={"type": "array", "items": "string"}), [{"k": ["x"]}]),
        (record("R", k="string"), [{"k": "x" * (VALUE_CHARS_MAX + 1)}, {"k": "ü" * 200}]),
        # Several types of events in one topic.
        ([record("A", k="string"), record("B", m="int", k="long")], [("A", {"k": "x"})]),
        ([record("A", k="string"), record("B", m="int", k="long")], [("B", {"m": 1, "k": 9})]),
        ("string", ["k"]),
    ]
    payloads: list[bytes | None] = [None, b"", b"\0\0\0\0\x63x"]
    for n, (schema, data) in enumerate(shapes):
        schema_id = registry.add(f"s{n}", json.dumps(schema))
        payloads += [frame(schema_id, one) for one in avro(schema, *data)]
    wanted = ["x", None, "-7", "true", None, None, None, None, None, "ü" * 200, "x", "9", None]
    read = reader(registry, "avro", "k")
    assert values(read, *payloads) == [None, None, None, *wanted]
    # Whatever stands beside it, and in whatever order.
    assert values(read, *payloads[::-1]) == [*wanted[::-1], None, None, None]
    for payload, value in zip(payloads[3:], wanted, strict=True):
        assert values(read, payload) == [value]
    assert values(read) == []


def test_a_record_that_cannot_be_read_as_a_whole_has_no_value(registry: FakeRegistry) -> None:
    schema = record("R", k="string", n={"type": "enum", "name": "E", "symbols": ["A"]})
    (good,) = avro(schema, {"k": "x", "n": "A"})
    ours = registry.add("s", json.dumps(schema))
    json_schema = registry.add("j", "{}", kind="JSON")
    broken = registry.add("b", '{"type":"nothing"}')
    read = reader(registry, "avro", "k", max_message_bytes=20)
    some = [
        frame(ours, good),
        frame(ours, good[:-1]),
        frame(ours, good[:-1] + b"\x08"),
        frame(ours, good + b"!"),
        b"\x01" + frame(ours, good)[1:],
        frame(json_schema, good),
        frame(broken, good),
        frame(ours, good + b"!" * 20),
        frame(ours, good),
    ]
    assert values(read, *some) == ["x", *[None] * 7, "x"]


def test_of_a_key_that_is_twice_in_a_map_the_last_value_counts(registry: FakeRegistry) -> None:
    schema = record("R", m={"type": "map", "values": "string"})
    schema_id = registry.add("s", json.dumps(schema))
    twice = frame(schema_id, b"\x04\x02k\x02x\x02k\x02y\x00")
    assert values(reader(registry, "avro", "m.k"), twice) == ["y"]


def test_a_member_in_a_map_is_found_whatever_type_stands_beside_it(registry: FakeRegistry) -> None:
    uuid_type = {"type": "string", "logicalType": "uuid"}
    schema = record("R", m={"type": "map", "values": record("V", k="string", u=uuid_type)})
    schema_id = registry.add("s", json.dumps(schema))
    value = {"k": "x", "u": "12345678-1234-5678-1234-567812345678"}
    some = avro(
        schema, {"m": {"b": {**value, "k": "y"}, "a": value}}, {"m": {}}, {"m": {"c": value}}
    )
    payloads = [frame(schema_id, one) for one in some]
    assert values(reader(registry, "avro", "m.a.k"), *payloads) == ["x", None, None]


def test_protobuf_fields_of_every_type_that_may_be_a_name(registry: FakeRegistry) -> None:
    from google.protobuf import message_factory

    from k2i_tasks.codecs.protobuf_compile import compile_schema
    from k2i_tasks.codecs.protobuf_schema import message_named

    file = compile_schema(PROTO, {})
    event = message_factory.GetMessageClass(message_named(file, "t.Event"))
    schema_id = registry.add("p", PROTO, kind="PROTOBUF")
    full = {
        "text": "x",
        "kind": 1,
        "big": 2**64 - 1,
        "on": True,
        "maybe": -5,
        "right": 8,
        "labels": {"a.b": "dotted", "k": "label"},
        "numbered": {1: "one"},
        "raw": b"x",
        "loose": {"k": "v"},
        "many": ["x"],
        "real": 1.0,
        "below": -3,
    }
    whole = event(meta=full)
    whole.meta.wrapped.value = "w"
    some = [
        frame(schema_id, message.SerializeToString(), (1,))
        for message in (whole, event(meta={}), event())
    ]
    for path, wanted in {
        "text": ["x", None, None],
        "kind": ["A", "NONE", None],
        "big": [str(2**64 - 1), "0", None],
        "on": ["true", "false", None],
        "maybe": ["-5", None, None],
        "left": [None, None, None],
        "right": ["8", None, None],
        "labels.k": ["label", None, None],
        "numbered.1": [None, None, None],
        "raw": [None, None, None],
        "loose": [None, None, None],
        "loose.k": [None, None, None],
        "wrapped": ["w", None, None],
        "many": [None, None, None],
        "real": [None, None, None],
        "below": ["-3", "0", None],
        "text.more": [None, None, None],
        "nothing": [None, None, None],
    }.items():
        assert values(reader(registry, "protobuf", f"meta.{path}"), *some) == wanted, path
    assert values(reader(registry, "protobuf", "value"), frame(schema_id, b"", (2,))) == [None]


def test_while_the_registry_is_away_what_is_known_is_ready_and_the_rest_is_not(
    registry: FakeRegistry,
) -> None:
    schema = record("R", k="string")
    payload = avro(schema, {"k": "x"})[0]
    known, unknown = (registry.add(f"s{n}", json.dumps(schema)) for n in range(2))
    read = reader(registry, "avro", "k")
    assert values(read, frame(known, payload)) == ["x"]
    batch = batch_of([frame(known, payload), None, frame(unknown, payload), frame(known, payload)])
    with registry.away():
        assert read.prepare(batch, 0.0) == 2
        _, rest = batch.split(2)
        with pytest.raises(TransientError, match="registry"):
            until_told(read, rest)
    assert values(read, *rest.values) == ["x", "x"]
    registry.always = status(401)
    other: RawBatch = batch_of([frame(registry.add("s9", json.dumps(schema)), payload)])
    with pytest.raises(ServiceError):
        until_told(read, other)


def test_a_record_without_a_value_for_want_of_its_schema_has_none_once_that_is_known(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    schema = record("R", k="string")
    payload = avro(schema, {"k": "x"})[0]
    known = registry.add("s", json.dumps(schema))
    to_come = frame(known + 1, payload)
    path = tmp_path / "routing" / "tables.json"
    places = Places(path, "t", "rules")
    read = reader(registry, "avro", "k", unread=places, unknown_seconds=0.5)
    for start, wanted in ((10, ["x", None, "x", None]), (20, ["x", None, "x", None])):
        some = [frame(known, payload), to_come, frame(known, payload), to_come]
        assert values(read, *some, start=start) == wanted
    assert registry.add("s2", json.dumps(schema)) == known + 1
    # Also by another process, from behind on and again from before.
    for kept in (places, Places(path, "t", "rules")):
        read = reader(registry, "avro", "k", unread=kept)
        assert values(read, to_come, start=24) == ["x"]
        some = [to_come, frame(known, payload), to_come, to_come]
        assert values(read, *some, start=9) == ["x", "x", None, None]
        assert values(read, *some, start=22) == [None, "x", "x", "x"]
    # What is known of one schema is not of another, nor of another partition.
    assert places.unread(known) == {}
    assert places.unread(known + 1) == {0: (OffsetRange(11, 24),)}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_record_with_a_value_between_two_without_keeps_it(
    registry: FakeRegistry, tmp_path: Path, restarts: bool
) -> None:
    schema = record("R", k="string")
    known = frame(registry.add("s", json.dumps(schema)), avro(schema, {"k": "x"})[0])
    path = tmp_path / "tables.json"
    places = Places(path, "t", "rules")
    for offset, wanted in ((10, None), (11, "x"), (12, None), (13, None), (14, "x"), (15, None)):
        answer = status(404, b'{"error_code":40403,"message":"Schema not found"}')
        registry.always = answer if wanted is None else None
        if restarts:
            places = Places(path, "t", "rules")
        read = reader(registry, "avro", "k", unread=places)
        assert values(read, known, start=offset) == [wanted]
    registry.always = None
    for kept in (places, Places(path, "t", "rules")):
        read = reader(registry, "avro", "k", unread=kept)
        wanted_all = ["x", None, "x", None, None, "x", None, "x"]
        assert values(read, *[known] * 8, start=9) == wanted_all


def test_values_that_lead_to_one_table_have_one_key(registry: FakeRegistry) -> None:
    schema_id = registry.add("s", json.dumps(record("R", k="string")))
    schema = record("R", k="string")
    some = [frame(schema_id, one) for one in avro(schema, *({"k": k} for k in "abAc"))]
    read = reader(registry, "avro", "k")
    batch = batch_of([*some, None])
    assert read.prepare(batch, PATIENCE_SECONDS) == 5
    codes, found = coded(read(batch), lambda value: (value or "none").lower())
    assert codes.tolist() == [0, 1, 0, 2, 3]
    assert found == {"a": "a", "b": "b", "c": "c", "none": None}
