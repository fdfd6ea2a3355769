"""Which columns a JSON Schema names, and what it leaves to the values."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.codecs.base import decoded_whole
from k2i_tasks.codecs.infer import JSON_TEXT_METADATA
from k2i_tasks.codecs.json_framed import FramedJsonDecoder
from k2i_tasks.codecs.json_schema import NODES_MAX, json_schema_columns
from k2i_tasks.codecs.writers import Writers
from k2i_tasks.errors import DecodeError
from k2i_tasks.types import DecodedBatch
from tests.schema_registry import frame
from tests.unit.codec_batches import COLUMNS, batch_of, codes, payload
from tests.unit.framed_rows import Known

TEXT = pa.string()
JSON_TEXT = pa.field("c", TEXT, metadata=JSON_TEXT_METADATA)
INTEGER, STRING, NOTHING = {"type": "integer"}, {"type": "string"}, {"type": "null"}
ZONED = pa.timestamp("us", "UTC")


def one(schema: Any, **beside: Any) -> pa.Field | None:
    """The column of a schema for the member `c`."""
    whole = {"type": "object", "properties": {"c": schema}, **beside}
    found = json_schema_columns(json.dumps(whole), {})
    return found.field("c") if "c" in found.names else None


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "boolean"}, pa.bool_()),
        (INTEGER, pa.int64()),
        ({"type": "integer", "maximum": 2**64}, pa.decimal128(38, 0)),
        ({"type": "integer", "maximum": 2**31}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": ["integer", "number"]}, pa.float64()),
        (STRING, TEXT),
        ({"type": "string", "format": "date-time"}, ZONED),
        ({"type": "string", "format": "date"}, pa.date32()),
        ({"type": "string", "format": "email"}, TEXT),
        ({"type": ["null", "string"], "format": "date"}, pa.date32()),
        ({"oneOf": [NOTHING, INTEGER]}, pa.int64()),
        ({"anyOf": [{"type": "string", "maxLength": 3}, STRING]}, TEXT),
        ({"allOf": [STRING, {"maxLength": 3}]}, TEXT),
        ({"type": "array", "items": INTEGER}, pa.list_(pa.int64())),
        ({"type": "object", "properties": {"x": STRING}}, pa.struct([("x", TEXT)])),
        ({"type": "object", "additionalProperties": INTEGER}, pa.map_(TEXT, pa.int64())),
        (
            {
                "allOf": [
                    {"type": "object", "properties": {"x": STRING}},
                    {"type": "object", "properties": {"y": INTEGER}},
                ]
            },
            pa.struct([("x", TEXT), ("y", pa.int64())]),
        ),
    ],
    ids=str,
)
def test_a_clear_type_is_a_column(schema: Any, kind: pa.DataType) -> None:
    assert one(schema) == pa.field("c", kind)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "integer"]},
        {"oneOf": [STRING, INTEGER]},
        {"type": "array", "items": {"type": ["string", "integer"]}},
    ],
    ids=str,
)
def test_several_kinds_of_value_are_json_text(schema: Any) -> None:
    found = one(schema)
    assert found is not None
    assert found.equals(JSON_TEXT, check_metadata=True)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        False,
        {},
        NOTHING,
        {"enum": [1, 2]},
        {"type": "array"},
        {"type": "array", "items": [STRING, INTEGER]},
        {"type": "object"},
        {"type": "object", "additionalProperties": True},
        {"type": "object", "properties": {"x": {}}},
        {"oneOf": [STRING, {}]},
        {"$ref": "#/definitions/nothing"},
        {"$ref": "elsewhere.json"},
        {"$ref": "#named"},
        {"type": "odd"},
        {"type": 5},
        5,
    ],
    ids=str,
)
def test_what_is_not_clear_is_left_to_the_values(schema: Any) -> None:
    assert one(schema) is None


def test_references_are_followed_within_and_beyond_the_schema_but_not_in_circles() -> None:
    tree = {"type": "object", "properties": {"v": INTEGER, "next": {"$ref": "#/$defs/tree"}}}
    assert one({"$ref": "#/$defs/tree"}, **{"$defs": {"tree": tree}}) == pa.field(
        "c", pa.struct([("v", pa.int64())])
    )
    odd = {"a/b": {"~": STRING}}
    assert one({"$ref": "#/$defs/a~1b/~0"}, **{"$defs": odd}) == pa.field("c", TEXT)
    other = {"$id": "http://example.com/other.json", "$defs": {"x": INTEGER}, "type": "string"}
    deep = {"properties": {"x": {"$ref": "other.json#/$defs/x"}}, "type": "object"}
    main = {
        "$id": "http://example.com/main.json",
        "type": "object",
        "properties": {
            "a": {"$ref": "other.json"},
            "b": {"$ref": "http://example.com/other.json#/$defs/x"},
            "c": {"$ref": "deep"},
        },
    }
    found = json_schema_columns(
        json.dumps(main), {"other.json": json.dumps(other), "deep": json.dumps(deep)}
    )
    inner = pa.struct([("x", pa.int64())])
    assert found == pa.schema([("a", TEXT), ("b", pa.int64()), ("c", inner)])


def test_a_schema_that_unfolds_without_end_or_is_no_json_is_refused() -> None:
    levels = {
        f"l{n}": {
            "type": "object",
            "properties": {side: {"$ref": f"#/$defs/l{n + 1}"} for side in "abcd"},
        }
        for n in range(15)
    }
    with pytest.raises(DecodeError, match=f"more than {NODES_MAX}"):
        one({"$ref": "#/$defs/l0"}, **{"$defs": levels})
    for text in ("", "{", "[" * 100_000):
        with pytest.raises(DecodeError) as refused:
            json_schema_columns(text, {})
        assert refused.value.code == "schema.invalid"
    for text in ("5", "true", "[]", '{"type": "string"}', '{"type": "object"}'):
        assert json_schema_columns(text, {}) == pa.schema([])


class Columns(Known):
    """Writers whose schemas are columns alone."""

    def decoder(self, table: pa.Schema | None = None, mode: str = "auto-additive") -> Any:
        writers: Writers[pa.Schema] = Writers(
            self,  # type: ignore[arg-type]
            lambda schema, path: self.schemas[schema.id],
        )
        return FramedJsonDecoder(writers, COLUMNS, table, max_message_bytes=1000, mode=mode)


def decoded(decoder: Any, *values: bytes | None) -> DecodedBatch:
    return decoded_whole(decoder, batch_of(values), 0.0)


def test_schemas_name_columns_and_records_bring_more() -> None:
    decoder = Columns(
        {1: pa.schema([("at", ZONED), ("n", pa.float64())]), 2: pa.schema([("s", TEXT)])}
    ).decoder()
    at = "2026-01-02T03:04:05Z"
    found = decoded(
        decoder,
        frame(1, b'{"n":1,"more":true}'),
        None,
        frame(2, b'{"s":"%s"}' % at.encode()),
        frame(1, b'{"at":"soon"}'),
        frame(9, b"{}"),
        b"{}",
        frame(1, b'{"at":"%s"}' % at.encode()),
    )
    assert codes(found) == ["json.type_mismatch", "registry.unknown_id", "frame.magic"]
    assert [letter.offset for letter in found.dead_letters] == [3, 4, 5]
    assert found.dead_letters[0].value == frame(1, b'{"at":"soon"}')
    rows = payload(found)
    assert [row["n"] for row in rows] == [1.0, None, None, None]
    # By the values alone it would be a time.
    assert rows[2]["s"] == at
    assert rows[3]["at"].isoformat() == "2026-01-02T03:04:05+00:00"
    assert rows[0]["more"] is True


def test_manual_makes_the_columns_of_the_first_schemas_and_no_others() -> None:
    known = Columns({1: pa.schema([("a", pa.int64())]), 2: pa.schema([("b", TEXT)])})
    decoder = known.decoder(mode="manual")
    assert codes(decoded(decoder, frame(1, b'{"a":1}'), frame(1, b'{"b":1}'))) == [
        "json.unknown_field"
    ]
    assert codes(decoded(decoder, frame(2, b'{"b":"x"}'))) == ["json.unknown_field"]
    assert decoder.schema == pa.schema([("a", pa.int64())])


def test_a_column_of_the_table_keeps_its_type_whatever_a_schema_says() -> None:
    decoder = Columns({1: pa.schema([("a", TEXT)])}).decoder(pa.schema([("a", pa.int64())]))
    found = decoded(decoder, frame(1, b'{"a":1}'), frame(1, b'{"a":"x"}'))
    assert payload(found) == [{"a": 1}]
    assert codes(found) == ["json.type_mismatch"]
