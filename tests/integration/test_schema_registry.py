"""A real registry, real producers: what they write lands, also while the registry is away."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import message_factory

from k2i_tasks.codecs.protobuf_compile import compile_schema
from k2i_tasks.codecs.protobuf_schema import message_named
from tests.conftest import Stack
from tests.program import Program, finished
from tests.running import running
from tests.schema_registry import FakeRegistry, frame
from tests.stack.programs import free_port
from tests.support import assert_exactly_once, create_topic, produce, read_by_metadata

pytestmark = pytest.mark.integration

Row = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"


class Registered:
    """A topic whose payloads are framed, its registry and its program.

    Args:
        kind: the format.
    """

    def __init__(self, folder: Path, bootstrap: str, registry: str, kind: str) -> None:
        self.topic = f"registered-{uuid.uuid4().hex[:8]}"
        create_topic(bootstrap, self.topic, 1)
        # Without a time-out of ours it waits for ever; in time it asks again.
        self.client = SchemaRegistryClient({"url": registry, "timeout": 20})
        self.program = Program(folder, bootstrap, self.topic)
        self.program.environ = {
            "K2I_KAFKA_FORMAT_TYPE": kind,
            "K2I_KAFKA_FORMAT_SCHEMA_REGISTRY_URL": registry,
        }
        self.count = 0

    def context(self) -> SerializationContext:
        return SerializationContext(self.topic, MessageField.VALUE)

    def json_writer(
        self, properties: Row, references: tuple[SchemaReference, ...] = ()
    ) -> Callable[[Row], bytes]:
        """Registers a schema and gives what writes with it."""
        body = {"$schema": DRAFT, "title": "E", "type": "object", "properties": properties}
        schema = Schema(json.dumps(body), "JSON", list(references))
        # An open schema may not grow, by the registry's own rule.
        self.client.set_compatibility(f"{self.topic}-value", "NONE")
        serializer = JSONSerializer(schema, self.client, conf={"auto.register.schemas": True})
        return lambda row: bytes(serializer(row, self.context()) or b"")

    def avro_writer(
        self, fields: dict[str, Any], references: tuple[SchemaReference, ...] = ()
    ) -> Callable[[Row], bytes]:
        """Registers a record's schema and gives what writes with it.

        Args:
            fields: name -> Avro type.
        """
        named = [{"name": name, "type": kind} for name, kind in fields.items()]
        body = {"type": "record", "name": "Order", "namespace": "shop", "fields": named}
        schema = Schema(json.dumps(body), "AVRO", list(references))
        # Fields are added without defaults.
        self.client.set_compatibility(f"{self.topic}-value", "NONE")
        serializer = AvroSerializer(self.client, schema, conf={"auto.register.schemas": True})
        return lambda row: bytes(serializer(row, self.context()) or b"")

    def protobuf_writer(
        self, text: str, references: Mapping[str, str], name: str
    ) -> Callable[[Row], bytes]:
        """Registers a file, and what it imports, and gives what writes one of its types with it.

        Args:
            text: of the file.
            references: import name -> text.
            name: full name of the type.
        """
        kind = message_named(compile_schema(text, references), name)
        # Types that widen.
        self.client.set_compatibility(f"{self.topic}-value", "NONE")
        make = message_factory.GetMessageClass(kind)
        serializer = ProtobufSerializer(make, self.client, {"use.deprecated.format": False})
        return lambda row: bytes(serializer(make(**row), self.context()) or b"")

    def write(self, *values: bytes | None) -> None:
        produce(self.program.bootstrap, self.topic, values, partition_of=lambda _n: 0)
        self.count += len(values)

    def rows(self) -> list[Row]:
        return read_by_metadata(self.program.metadata_location())

    def letters(self) -> dict[int, str]:
        """Offset -> code."""
        found = read_by_metadata(
            self.program.metadata_location(f"{self.program.table}__dead_letters")
        )
        return {letter["offset"]: letter["code"] for letter in found}

    def run_to_the_end(self) -> str:
        with running(self.program) as run:
            run.until_at({0: self.count})
            return run.drain()


@pytest.fixture
def registered(tmp_path: Path, kafka_bootstrap: str, schema_registry: str) -> Registered:
    return Registered(tmp_path, kafka_bootstrap, schema_registry, "jsonschema")


def test_framed_json_becomes_columns_by_its_schemas_references_included(
    registered: Registered,
) -> None:
    address = {"type": "object", "properties": {"city": {"type": "string"}}}
    subject = f"{registered.topic}-address"
    registered.client.register_schema(subject, Schema(json.dumps(address), "JSON"))
    properties = {
        "id": {"type": "integer"},
        "at": {"type": ["string", "null"], "format": "date-time"},
        "price": {"oneOf": [{"type": "null"}, {"type": "number"}]},
        "address": {"$ref": "address.json"},
        "never": {"type": "boolean"},
    }
    reference = SchemaReference("address.json", subject, 1)
    first = registered.json_writer(properties, (reference,))
    second = registered.json_writer({**properties, "tags": {"items": {"type": "string"}}})
    third = registered.json_writer({"tags": {"type": "array", "items": {"type": "string"}}})
    rows: list[Row] = [
        {"id": 1, "at": "2026-01-02T03:04:05Z", "price": 5, "address": {"city": "Ulm"}},
        {"id": 2, "at": None, "price": None, "extra": "not in the schema"},
        {"tags": ["a", "b"]},
    ]
    registered.program.environ["K2I_KAFKA_KEY_FORMAT_TYPE"] = "string"
    registered.write(first(rows[0]), second(rows[1]), None, third(rows[2]))
    registered.write(b"", b"\0", b"{}xxxx", b"\0\x7f\xff\xff\xff{}", first({"id": 3})[:-1])
    registered.run_to_the_end()
    assert registered.letters() == {
        4: "frame.short",
        5: "frame.short",
        6: "frame.magic",
        7: "registry.unknown_id",
        8: "json.syntax",
    }
    code, output = finished(registered.program.command("verify", "--values", "full"))
    assert code == 0, output
    found = sorted(registered.rows(), key=lambda row: row["_kafka_offset"])
    assert [row["_kafka_offset"] for row in found] == [0, 1, 2, 3]
    assert [row["id"] for row in found] == [1, 2, None, None]
    assert [row["price"] for row in found] == [5.0, None, None, None]
    assert found[0]["at"].isoformat() == "2026-01-02T03:04:05+00:00"
    assert found[0]["address"] == {"city": "Ulm"}
    assert found[1]["extra"] == "not in the schema"
    assert found[3]["tags"] == ["a", "b"]
    assert [row["_kafka_key_decoded"] for row in found] == [f"key-{n}" for n in range(4)]
    # A column of the schema is there though no record ever had it.
    assert found[0]["never"] is None


def test_framed_avro_becomes_columns_by_its_schemas_references_included(
    tmp_path: Path, kafka_bootstrap: str, schema_registry: str
) -> None:
    registered = Registered(tmp_path, kafka_bootstrap, schema_registry, "avro")
    subject = f"{registered.topic}-address"
    named = [{"name": "city", "type": "string"}, {"name": "zip", "type": ["null", "int"]}]
    address = {"type": "record", "name": "Address", "namespace": "shop", "fields": named}
    registered.client.register_schema(subject, Schema(json.dumps(address), "AVRO"))
    reference = SchemaReference("shop.Address", subject, 1)
    fields = {
        "id": "int",
        "at": {"type": "long", "logicalType": "timestamp-micros"},
        "price": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2},
        "address": ["null", "shop.Address"],
        "tags": {"type": "array", "items": "string"},
        "counts": {"type": "map", "values": "long"},
        "uuid": {"type": "string", "logicalType": "uuid"},
        "uuids": {"type": "array", "items": {"type": "string", "logicalType": "uuid"}},
        "either": ["null", "long", "string"],
        "kind": {"type": "enum", "name": "Kind", "symbols": ["NEW", "OLD"]},
    }
    first = registered.avro_writer(fields, (reference,))
    # A type that widens, a field that goes, one that comes.
    changed = {name: kind for name, kind in fields.items() if name != "price"}
    second = registered.avro_writer({**changed, "id": "long", "note": "string"}, (reference,))
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    known = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
    row: Row = {
        "id": 1,
        "at": at,
        "price": Decimal("12.34"),
        "address": {"city": "Ulm", "zip": 89073},
        "tags": ["a", "ü"],
        "counts": {"x": 2**40},
        "uuid": known,
        "uuids": [known, known],
        "either": "text",
        "kind": "NEW",
    }
    other: Row = {**row, "id": 2**40, "address": None, "tags": [], "either": 7, "note": "n"}
    registered.write(first(row), None, second(other), first(row)[:-1], b"\0\x7f\xff\xff\xff\2")
    registered.run_to_the_end()
    assert registered.letters() == {3: "avro.truncated", 4: "registry.unknown_id"}
    code, output = finished(registered.program.command("verify", "--values", "full"))
    assert code == 0, output
    found = sorted(registered.rows(), key=lambda one: one["_kafka_offset"])
    assert [one["_kafka_offset"] for one in found] == [0, 1, 2]
    payload = [{name: one[name] for name in (*fields, "note")} for one in found]
    wanted = {**row, "either": {"long": None, "string": "text"}}
    assert payload[0] == {**wanted, "note": None}
    assert set(payload[1].values()) == {None}
    assert payload[2] == {**other, "price": None, "either": {"long": 7, "string": None}}


def test_framed_protobuf_becomes_columns_by_its_schemas_references_included(
    tmp_path: Path, kafka_bootstrap: str, schema_registry: str
) -> None:
    registered = Registered(tmp_path, kafka_bootstrap, schema_registry, "protobuf")
    imported = f"{registered.topic}/address.proto"
    address = 'syntax = "proto3"; package geo; message Address { string city = 1; int32 zip = 2; }'
    head = f"""syntax = "proto3"; package shop;
        import "{imported}"; import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto"; import "google/type/date.proto";"""
    body = """
          google.protobuf.Timestamp at = 2;
          geo.Address address = 3;
          repeated Line lines = 4;
          map<string, sint64> counts = 5;
          oneof either { int64 number = 6; string text = 7; }
          Kind kind = 8;
          google.protobuf.StringValue wrapped = 9;
          repeated uint64 large = 10;
          optional double price = 11;
          google.type.Date day = 12;
          Order above = 13;
          message Line { string sku = 1; uint32 count = 2; }
          enum Kind { NEW = 0; OLD = 1; }"""
    first = f"{head} message Order {{ int32 id = 1; {body} }}"
    # A type that widens, and a field that comes.
    second = f"{head} message Order {{ int64 id = 1; {body} string note = 14; }}"
    references = {imported: address}
    write = registered.protobuf_writer(first, references, "shop.Order")
    write_more = registered.protobuf_writer(second, references, "shop.Order")
    write_line = registered.protobuf_writer(second, references, "shop.Order.Line")
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    row: Row = {
        "id": 1,
        "at": at,
        "address": {"city": "Ülm", "zip": 89073},
        "lines": [{"sku": "a", "count": 2**32 - 1}, {"sku": "b", "count": 0}],
        "counts": {"x": -(2**40)},
        "text": "either",
        "kind": 1,
        "wrapped": {"value": "w"},
        "large": [2**64 - 1, 0],
        "price": 0.5,
        "day": {"year": 2026, "month": 1, "day": 2},
        "above": {"id": 7},
    }
    other: Row = {"id": 2**40, "number": 0, "kind": 7, "note": "n"}
    line = write_line({"sku": "c", "count": 3})
    # The first type of the file, and in it the second: the first is the entry of a map.
    assert line[5:8] == b"\4\0\2"
    registered.write(write(row), None, write_more(other), line, write(row)[:-1])
    registered.run_to_the_end()
    assert registered.letters() == {4: "protobuf.truncated"}
    code, output = finished(registered.program.command("verify", "--values", "full"))
    assert code == 0, output
    found = sorted(registered.rows(), key=lambda one: one["_kafka_offset"])
    assert [one["_kafka_offset"] for one in found] == [0, 1, 2, 3]
    wanted: Row = {**row, "kind": "OLD", "number": None, "wrapped": "w", "note": None}
    above = json.loads(found[0].pop("above"))
    assert (above["id"], above["kind"], above["lines"]) == (7, "NEW", [])
    del wanted["above"]
    assert {name: found[0][name] for name in wanted} == wanted
    assert {found[1][name] for name in wanted} == {None}
    nothing: Row = dict.fromkeys(("at", "address", "text", "wrapped", "price", "day", "above"))
    wanted = {**nothing, **other, "kind": "7", "lines": [], "counts": {}, "large": []}
    assert {name: found[2][name] for name in wanted} == wanted
    # Another type of the file has columns of its own, beside those.
    assert (found[3]["sku"], found[3]["count"], found[3]["id"]) == ("c", 3, None)


def test_the_latest_schema_makes_the_table_before_the_first_record(
    registered: Registered,
) -> None:
    registered.json_writer({"id": {"type": "integer"}, "note": {"type": "string"}})({"id": 1})
    with running(registered.program) as run:
        run.until(lambda report: report["epoch"] > 0, "owning a table")
        run.drain()
    table = registered.program.load_table()
    assert table is not None
    assert [field.name for field in table.schema().fields][:2] == ["id", "note"]


def test_an_outage_stops_only_what_needs_the_registry_and_loses_nothing(
    registered: Registered, stack: Stack
) -> None:
    first = registered.json_writer({"id": {"type": "integer"}})
    second = registered.json_writer({"id": {"type": "integer"}, "b": {"type": "string"}})
    third = registered.json_writer({"id": {"type": "integer"}, "c": {"type": "string"}})
    early, later, last = first({"id": 0}), second({"id": 1, "b": "x"}), third({"id": 2, "c": "y"})
    registered.write(early)
    # Their schemas are fetched in the order in which they are met, so that two are not known yet.
    environ = {"K2I_KAFKA_FORMAT_LATEST_ON_STARTUP": "false"}
    with running(registered.program, environ=environ) as run:
        run.until_committed(1)
        stack.kill("apicurio")
        registered.write(early, early)
        run.until_committed(3)
        registered.write(later, early, last)
        page = run.until(lambda report: "registry" in report["components"], "missing the registry")
        assert page["status"] == "degraded"
        assert "schema registry at http" in page["components"]["registry"]["message"]
        assert page["partitions"][0]["position"] == 3
        stack.restart("apicurio")
        run.until_committed(6)
        run.drain()
    expected = [(0, None, None)] * 3 + [(1, "x", None), (0, None, None), (2, None, "y")]
    rows = {(0, n): dict(zip(("id", "b", "c"), row, strict=True)) for n, row in enumerate(expected)}
    assert_exactly_once(registered.rows(), rows)


def test_a_run_starts_without_the_registry_by_what_an_earlier_one_kept(
    registered: Registered,
) -> None:
    write = registered.json_writer({"id": {"type": "integer"}})
    registered.write(write({"id": 1}))
    registered.run_to_the_end()
    registered.write(write({"id": 2}))
    # The same address as before, behind a proxy that is not there.
    registered.program.environ["HTTP_PROXY"] = f"http://127.0.0.1:{free_port()}"
    output = registered.run_to_the_end()
    assert "the latest schema of" in output
    assert_exactly_once(registered.rows(), {(0, 0): {"id": 1}, (0, 1): {"id": 2}})


def test_a_drain_while_records_wait_ends_the_run_and_the_next_one_reads_them(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    text = json.dumps({"type": "object", "properties": {"id": {"type": "integer"}}})
    with FakeRegistry() as registry:
        known, unknown = (registry.add("s", text, kind="JSON") for _ in range(2))
        registered = Registered(tmp_path, kafka_bootstrap, registry.url, "jsonschema")
        registered.write(frame(known, b'{"id":0}'))
        with running(registered.program) as run:
            run.until_committed(1)
            with registry.away():
                registered.write(frame(unknown, b'{"id":1}'))
                run.until(lambda page: "registry" in page["components"], "missing the registry")
                run.drain()
        assert_exactly_once(registered.rows(), {(0, 0): {"id": 0}})
        registered.run_to_the_end()
    assert_exactly_once(registered.rows(), {(0, n): {"id": n} for n in range(2)})


def test_validate_looks_at_the_registry(registered: Registered) -> None:
    def validated(url: str) -> tuple[int, str]:
        environ = {"K2I_KAFKA_FORMAT_SCHEMA_REGISTRY_URL": url}
        return finished(registered.program.command("validate", "--connect", environ=environ))

    url = registered.program.environ["K2I_KAFKA_FORMAT_SCHEMA_REGISTRY_URL"]
    code, output = validated(url)
    assert code == 0, output
    assert f"schema registry {url}" in output
    code, output = validated(url.replace("/apis/ccompat/v7", ""))
    assert code == 2, output
    assert "schema_registry_url, path included" in output
    code, output = validated(f"http://127.0.0.1:{free_port()}")
    assert code == 2, output
    assert "does not answer" in output
    assert "Traceback" not in output
