"""Avro schemas to columns, and the schemas that are refused."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.codecs.avro import AvroDecoder
from k2i_tasks.codecs.avro_schema import MAX_DEPTH
from k2i_tasks.errors import DecodeError


def record(*fields: tuple[str, Any], name: str = "r") -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": label, "type": kind} for label, kind in fields],
    }


def schema_of(schema: Any, *references: Any) -> pa.Schema:
    return AvroDecoder(json.dumps(schema), [json.dumps(one) for one in references]).schema


def type_of(schema: Any, *references: Any) -> pa.DataType:
    return schema_of(record(("f", schema)), *references).field("f").type


def logical(kind: str, called: str, /, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": called, **more}


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ("boolean", pa.bool_()),
        ("int", pa.int32()),
        ("long", pa.int64()),
        ("float", pa.float32()),
        ("double", pa.float64()),
        ("bytes", pa.binary()),
        ("string", pa.string()),
        ({"type": "string", "avro.java.string": "String"}, pa.string()),
        ({"type": {"type": "long"}}, pa.int64()),
        (logical("int", "date"), pa.date32()),
        (logical("int", "time-millis"), pa.time64("us")),
        (logical("long", "time-micros"), pa.time64("us")),
        (logical("long", "timestamp-millis"), pa.timestamp("us", "UTC")),
        (logical("long", "timestamp-micros"), pa.timestamp("us", "UTC")),
        (logical("long", "timestamp-nanos"), pa.int64()),
        (logical("long", "local-timestamp-millis"), pa.timestamp("us")),
        (logical("long", "local-timestamp-micros"), pa.timestamp("us")),
        (logical("string", "uuid"), pa.uuid()),
        (logical("fixed", "uuid", name="u", size=16), pa.uuid()),
        (logical("bytes", "decimal", precision=9, scale=2), pa.decimal128(9, 2)),
        (logical("bytes", "decimal", precision=9), pa.decimal128(9, 0)),
        (logical("fixed", "decimal", name="d", size=16, precision=38), pa.decimal128(38, 0)),
        ({"type": "fixed", "name": "x", "size": 3}, pa.binary(3)),
        ({"type": "enum", "name": "e", "symbols": ["A"]}, pa.string()),
        ({"type": "array", "items": "int"}, pa.list_(pa.field("element", pa.int32()))),
        ({"type": "map", "values": "int"}, pa.map_(pa.string(), pa.int32())),
        (["null", "int"], pa.int32()),
        (["string", "null"], pa.string()),
        (["string"], pa.string()),
        (["null", "int", "string"], pa.struct({"int": pa.int32(), "string": pa.string()})),
        (record(("a", "int"), name="x.y"), pa.struct({"a": pa.int32()})),
        (record(("a", "int"), ("n", "null"), name="x"), pa.struct({"a": pa.int32()})),
        ({"type": "array", "items": "null"}, pa.list_(pa.field("element", pa.bool_()))),
        (
            ["null", record(name="Empty"), "int"],
            pa.struct({"Empty": pa.bool_(), "int": pa.int32()}),
        ),
    ],
    ids=str,
)
def test_a_type_has_its_column_type(schema: Any, wanted: pa.DataType) -> None:
    assert type_of(schema) == wanted


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (logical("string", "date"), pa.string()),
        (logical("long", "time-millis"), pa.int64()),
        (logical("bytes", "unheard-of"), pa.binary()),
        (logical("bytes", "decimal"), pa.binary()),
        (logical("bytes", "decimal", precision=2, scale=3), pa.binary()),
        (logical("fixed", "decimal", name="d", size=2, precision=5), pa.binary(2)),
        (logical("fixed", "uuid", name="u", size=15), pa.binary(15)),
        (logical("fixed", "duration", name="u", size=12), pa.binary(12)),
    ],
    ids=str,
)
def test_a_logical_type_that_does_not_fit_is_left_out_of_account(
    schema: Any, wanted: pa.DataType
) -> None:
    assert type_of(schema) == wanted


def test_a_record_has_a_column_for_each_field_and_anything_else_one_called_value() -> None:
    assert schema_of(record(("a", "int"), ("n", "null"))) == pa.schema({"a": pa.int32()})
    assert schema_of("long") == pa.schema({"value": pa.int64()})
    assert schema_of(["null", record(("a", "int"))]).names == ["value"]


def test_a_column_may_be_null_whatever_the_schema_says() -> None:
    schema = schema_of(record(("a", "int"), ("b", {"type": "array", "items": "int"})))
    assert all(field.nullable for field in schema)
    assert schema.field("b").type.value_field.nullable


def test_a_named_type_is_found_by_short_and_full_name_in_its_namespace() -> None:
    money = {"type": "fixed", "name": "Money", "size": 4}
    inner = {**record(("first", money), ("again", "Money"), ("full", "shop.Money")), "name": "In"}
    outer = {**record(("in", inner), ("later", "Money")), "namespace": "shop"}
    four = pa.binary(4)
    inside = pa.struct({"first": four, "again": four, "full": four})
    assert schema_of(outer) == pa.schema({"in": inside, "later": four})


def test_references_may_use_one_another_in_any_order() -> None:
    line = {**record(("item", "shop.Item"), name="Line"), "namespace": "shop"}
    item = {**record(("id", "long"), name="Item"), "namespace": "shop"}
    wanted = pa.struct({"item": pa.struct({"id": pa.int64()})})
    assert type_of("shop.Line", line, item) == wanted
    assert type_of("shop.Line", item, line) == wanted
    texts = {"item": json.dumps(item), "line": json.dumps(line)}
    schema = json.dumps(record(("f", "shop.Line")))
    assert AvroDecoder(schema, texts).schema.field("f").type == wanted


def test_branches_of_one_short_name_are_told_apart_by_their_namespace() -> None:
    one, other = (record(("a", "int"), name=f"{space}.Paid") for space in ("shop.v1", "shop.v2"))
    assert [field.name for field in type_of([one, other])] == ["shop_v1_Paid", "shop_v2_Paid"]


DEEP: Any = "int"
for _ in range(MAX_DEPTH + 1):
    DEEP = {"type": "array", "items": DEEP}
WIDE = record(("a", "int"), name="w0")
for _level in range(1, 20):
    # Two uses of the one before, at each level: a million types from twenty declarations.
    WIDE = record(("a", WIDE), ("b", f"w{_level - 1}"), name=f"w{_level}")


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("strin", "'strin' is declared nowhere"),
        (7, "neither text, object nor list"),
        ({}, "no member 'type'"),
        ({"type": 7}, "no member 'type'"),
        ([], "no branches"),
        (["int", "int"], "two branches of one type"),
        (["int", ["null", "string"]], "a union is a branch of a union"),
        ({"type": "array"}, "no member 'items'"),
        ({"type": "map"}, "no member 'values'"),
        ({"type": "record", "fields": []}, "no name"),
        ({"type": "record", "name": "r"}, "no list 'fields'"),
        ({"type": "record", "name": "r", "namespace": 1, "fields": []}, "namespace is no text"),
        ({"type": "record", "name": "r", "fields": [{"name": "a"}]}, "no type"),
        ({"type": "record", "name": "r", "fields": ["a"]}, "no name"),
        (record(("a", "int"), ("A", "int")), "at 'A': record 'r' has this field twice"),
        ({"type": "enum", "name": "e", "symbols": []}, "no symbols"),
        ({"type": "fixed", "name": "x", "size": 0}, "not a size"),
        ({"type": "fixed", "name": "x"}, "not a size"),
        (
            record(("a", record(("b", ["null", "r"]), name="in"))),
            "at 'a.b': the record 'r' contains",
        ),
        (record(("a", logical("bytes", "decimal", precision=39))), "at 'a': a decimal has 39"),
        (
            [{"type": "fixed", "name": "x", "size": 1}, {"type": "fixed", "name": "x", "size": 2}],
            "declared twice",
        ),
        (DEEP, "levels"),
        (WIDE, "more than 10000 types"),
        (
            [record(name="a.B"), record(name="a_b"), record(name="c.b")],
            "cannot be told apart",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_schema_that_no_columns_can_hold_is_refused_with_what_and_where(
    schema: Any, told: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        schema_of(schema)
    assert told in caught.value.what
    assert caught.value.code == "schema.invalid"


@pytest.mark.parametrize("text", ["", "{", "record", "[" * 100_000], ids=lambda text: text[:9])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(DecodeError, match="the schema is no JSON"):
        AvroDecoder(text)
    with pytest.raises(DecodeError, match="reference 'other' is no JSON"):
        AvroDecoder('"int"', {"other": text})
