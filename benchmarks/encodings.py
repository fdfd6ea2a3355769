"""The same order events in each format, with the schemas that a registry gives."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import fastavro
from google.protobuf import json_format, message_factory

from k2i_tasks.codecs.protobuf_compile import compile_schema
from tests.schema_registry import FakeRegistry, frame

#: Every so many records of a dirty stream one is spoilt.
BAD_EVERY = 1_000

AVRO: dict[str, Any] = {
    "type": "record",
    "name": "Order",
    "namespace": "shop",
    "fields": [
        {"name": "event_id", "type": "long"},
        {"name": "event_type", "type": "string"},
        {"name": "user_id", "type": "long"},
        {"name": "session_id", "type": "string"},
        {
            "name": "product",
            "type": {
                "type": "record",
                "name": "Product",
                "fields": [
                    {"name": "sku", "type": "string"},
                    {"name": "category", "type": "string"},
                    {"name": "price", "type": "double"},
                ],
            },
        },
        {"name": "quantity", "type": "long"},
        {"name": "amount", "type": "double"},
        {"name": "currency", "type": "string"},
        {"name": "is_mobile", "type": "boolean"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "country", "type": "string"},
        {"name": "event_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ],
}
PROTOBUF = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
message Order {
  int64 event_id = 1;
  string event_type = 2;
  int64 user_id = 3;
  string session_id = 4;
  Product product = 5;
  int64 quantity = 6;
  double amount = 7;
  string currency = 8;
  bool is_mobile = 9;
  repeated string tags = 10;
  string country = 11;
  google.protobuf.Timestamp event_time = 12;
}
message Product {
  string sku = 1;
  string category = 2;
  double price = 3;
}
"""
_STRING, _INTEGER, _NUMBER = ({"type": kind} for kind in ("string", "integer", "number"))
JSON_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "event_id": _INTEGER,
        "event_type": _STRING,
        "user_id": _INTEGER,
        "session_id": _STRING,
        "product": {
            "type": "object",
            "properties": {"sku": _STRING, "category": _STRING, "price": _NUMBER},
        },
        "quantity": _INTEGER,
        "amount": _NUMBER,
        "currency": _STRING,
        "is_mobile": {"type": "boolean"},
        "tags": {"type": "array", "items": _STRING},
        "country": _STRING,
        "event_time": {"type": "string", "format": "date-time"},
    },
}
#: From one event as JSON to its payload.
Encode = Callable[[bytes], bytes]


def encoders(registry: FakeRegistry) -> Mapping[str, Encode]:
    """How an event is written in each format; registers the schemas."""
    avro = fastavro.parse_schema(AVRO)
    avro_id = registry.add("avro", json.dumps(AVRO))
    json_id = registry.add("jsonschema", json.dumps(JSON_SCHEMA), kind="JSON")
    protobuf_id = registry.add("protobuf", PROTOBUF, kind="PROTOBUF")
    order = compile_schema(PROTOBUF, {}).message_types_by_name["Order"]
    message = message_factory.GetMessageClass(order)

    def avro_of(value: bytes) -> bytes:
        event = json.loads(value)
        event["event_time"] = datetime.fromisoformat(event["event_time"])
        body = io.BytesIO()
        fastavro.schemaless_writer(body, avro, event)
        return frame(avro_id, body.getvalue())

    def protobuf_of(value: bytes) -> bytes:
        # The first message type of the file.
        return frame(protobuf_id, b"\0" + json_format.Parse(value, message()).SerializeToString())

    return {
        "raw": bytes,
        "string": bytes,
        "json": bytes,
        "jsonschema": lambda value: frame(json_id, value),
        "avro": avro_of,
        "protobuf": protobuf_of,
    }


#: How a payload is spoilt: cut at its end, or so that only reading up to there tells it.
SPOILS: dict[str, Encode] = {
    "cut": lambda payload: payload[:-1],
    "broken": lambda payload: payload[:-1] + b",}",
}


def written(
    events: Iterator[tuple[bytes, bytes]], encode: Encode, spoil: str
) -> Iterator[tuple[bytes, bytes]]:
    """Keys and payloads, of which one in `BAD_EVERY` is spoilt.

    Args:
        events: keys and events in JSON.
        encode: gives the payload of an event.
        spoil: a name of `SPOILS`; empty for none.
    """
    for number, (key, value) in enumerate(events):
        payload = encode(value)
        bad = spoil and number % BAD_EVERY == BAD_EVERY - 1
        yield key, SPOILS[spoil](payload) if bad else payload
