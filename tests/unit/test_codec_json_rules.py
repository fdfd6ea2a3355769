"""Typed JSON: what drifts is promoted, goes beside its column, into the rest, or is a conflict."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.codecs.conflicts import Conflicts, Policy
from k2i_tasks.codecs.infer import is_json_text
from k2i_tasks.codecs.rules import Rules, SchemaLimits, hints_of
from k2i_tasks.errors import ConfigError, SchemaConflictError
from tests.unit.codec_batches import codes, decode, decoder_of, payload, types_of

VARIANT = Rules(conflicts=Conflicts(Policy.VARIANT_COLUMN))
TEXT = pa.field("x", pa.string(), metadata={b"doc": b"JSON text"})


def row(*documents: Any) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


def alone(kind: pa.DataType) -> pa.DataType:
    return kind


def member(kind: pa.DataType) -> pa.DataType:
    return pa.struct([("s", kind)])


def element(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind))


def deep(kind: pa.DataType) -> pa.DataType:
    return element(member(element(kind)))


@pytest.mark.parametrize(
    ("narrow", "small", "large", "wide"),
    [
        (pa.int32(), 7, -2147483649, pa.int64()),
        (pa.float32(), 0.5, 1e39, pa.float64()),
        (pa.decimal128(5, 2), Decimal("1.25"), Decimal("12345.67"), pa.decimal128(7, 2)),
        (pa.decimal128(5, 2), Decimal("1.25"), Decimal("1" * 36 + ".25"), pa.decimal128(38, 2)),
    ],
)
@pytest.mark.parametrize(
    ("typed", "text", "value"),
    [
        (alone, "%s", lambda x: x),
        (member, '{"s":%s}', lambda x: {"s": x}),
        (element, "[%s]", lambda x: [x]),
        (deep, '[{"s":[%s]}]', lambda x: [{"s": [x]}]),
    ],
)
def test_a_column_is_promoted_when_a_value_needs_it_wherever_it_is(
    narrow: pa.DataType,
    small: Any,
    large: Any,
    wide: pa.DataType,
    typed: Any,
    text: str,
    value: Any,
) -> None:
    decoder = decoder_of([("x", typed(narrow))])
    values = [small, large, small]
    decoded = decode(decoder, *(b'{"x":%s}' % (text % one).encode() for one in values))
    assert codes(decoded) == []
    assert types_of(decoder)["x"] == typed(wide)
    assert [each["x"] for each in payload(decoded)] == [value(one) for one in values]


def test_a_float_becomes_a_double_for_a_number_that_it_would_round() -> None:
    decoder = decoder_of([("f", pa.float32())])
    assert payload(decode(decoder, *row({"f": 0.5}, {"f": 3}))) == [{"f": 0.5}, {"f": 3.0}]
    assert types_of(decoder) == {"f": pa.float32()}
    found = payload(decode(decoder, *row({"f": 0.5}, {"f": 0.1}, {"f": 16777217})))
    assert [each["f"] for each in found] == [0.5, 0.1, 16777217.0]
    assert types_of(decoder) == {"f": pa.float64()}


def test_a_float_that_is_wanted_takes_the_nearest() -> None:
    for decoder in (
        decoder_of(rules=Rules(hints=hints_of({"f": "float"}))),
        decoder_of([("f", pa.float32())], mode="manual"),
    ):
        assert payload(decode(decoder, b'{"f":0.1}')) == [{"f": 0.10000000149011612}]
        assert types_of(decoder) == {"f": pa.float32()}


def test_map_values_are_promoted_too() -> None:
    decoder = decoder_of([("m", pa.map_(pa.string(), pa.int32()))])
    decoded = decode(decoder, *row({"m": {"a": 1}}, {"m": {"b": 2**40}}))
    assert [each["m"] for each in payload(decoded)] == [[("a", 1)], [("b", 2**40)]]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int64(), 0.5),
        (pa.int64(), 2**63),
        (pa.int32(), 2**63),
        (pa.decimal128(5, 2), 0.001),
        (pa.decimal128(5, 2), 10**37),
        (pa.float64(), 2**53 + 1),
    ],
)
def test_what_iceberg_cannot_promote_is_a_conflict(kind: pa.DataType, value: Any) -> None:
    decoder = decoder_of([("x", kind)])
    decoded = decode(decoder, *row({"x": value}))
    assert [letter.conflict for letter in decoded.dead_letters] == ["x"]
    assert types_of(decoder)["x"] == kind


def test_the_manual_mode_promotes_nothing() -> None:
    decoder = decoder_of([("x", pa.int32())], mode="manual")
    assert codes(decode(decoder, *row({"x": 2**40}))) == ["json.out_of_range"]


def test_what_a_column_cannot_hold_goes_beside_it_digit_by_digit() -> None:
    decoder = decoder_of([("n", pa.int64())], rules=VARIANT)
    values = [
        b'{"n":1}',
        b'{"n":0.10000000000000000555}',
        b'{"n":"x"}',
        b'{"n":{"a":[1.50,null]}}',
        b'{"n":null}',
    ]
    decoded = decode(decoder, *values)
    assert codes(decoded) == []
    assert payload(decoded) == [
        {"n": 1, "n__string": None},
        {"n": None, "n__string": "0.10000000000000000555"},
        {"n": None, "n__string": '"x"'},
        {"n": None, "n__string": '{"a":[1.50,null]}'},
        {"n": None, "n__string": None},
    ]
    schema = decoder.schema
    assert schema is not None
    assert is_json_text(schema.field("n__string"))


def test_members_of_structs_vary_where_they_are_and_elements_with_their_list() -> None:
    inner = pa.struct([("a", pa.int64()), ("l", pa.list_(pa.field("element", pa.int64())))])
    table = [("s", inner), ("l", pa.list_(pa.field("element", inner)))]
    decoder = decoder_of(table, rules=VARIANT)
    decoded = decode(
        decoder,
        *row(
            {"s": {"a": "x", "l": [1]}},
            {"s": {"a": 1, "l": [1, "y"]}},
            {"l": [{"a": 1}, {"a": True}]},
            {"s": 5},
        ),
    )
    assert codes(decoded) == []
    first, second, third, fourth = payload(decoded)
    assert first["s"] == {"a": None, "l": [1], "a__string": '"x"', "l__string": None}
    assert second["s"] == {"a": 1, "l": None, "a__string": None, "l__string": '[1,"y"]'}
    assert [each["a__string"] for each in third["l"]] == [None, "true"]
    assert (fourth["s"], fourth["s__string"]) == (None, "5")


@pytest.mark.parametrize(
    ("table", "document"),
    [
        ([("n", pa.int64()), ("n__string", pa.int64())], {"n": "x"}),
        ([("n", pa.int64()), ("n__string", pa.string())], {"n": "x"}),
        ([("n", pa.int64()), ("N__STRING", pa.int64())], {"n": "x"}),
        ([("n", pa.int64())], {"n": "x", "n__string": "y"}),
        ([pa.field("n", pa.int64(), nullable=False)], {"n": "x"}),
    ],
)
def test_a_name_that_is_taken_or_a_required_column_makes_a_dead_letter(
    table: Any, document: Any
) -> None:
    decoder = decoder_of(table, rules=VARIANT)
    assert codes(decode(decoder, *row(document))) == ["json.type_mismatch"]


def test_a_map_goes_beside_itself_as_a_whole() -> None:
    value = pa.struct([("a", pa.int64())])
    decoder = decoder_of([("m", pa.map_(pa.string(), value))], rules=VARIANT)
    decoded = decode(decoder, *row({"m": {"k": {"a": "x"}}}))
    assert payload(decoded) == [{"m": None, "m__string": '{"k":{"a":"x"}}'}]


def test_one_field_alone_may_vary() -> None:
    conflicts = Conflicts()
    conflicts.decide("s.a", Policy.VARIANT_COLUMN)
    table = [("s", pa.struct([("a", pa.int64()), ("b", pa.int64())]))]
    decoder = decoder_of(table, rules=Rules(conflicts=conflicts))
    decoded = decode(decoder, *row({"s": {"a": "x"}}, {"s": {"b": "x"}}))
    assert codes(decoded) == ["json.type_mismatch"]
    assert payload(decoded) == [{"s": {"a": None, "b": None, "a__string": '"x"'}}]


def test_the_manual_mode_fills_the_column_beside_only_if_it_is_there() -> None:
    field = TEXT.with_name("n__string")
    absent = decoder_of([("n", pa.int64())], mode="manual", rules=VARIANT)
    present = decoder_of([pa.field("n", pa.int64()), field], mode="manual", rules=VARIANT)
    assert codes(decode(absent, *row({"n": "x"}))) == ["json.type_mismatch"]
    assert payload(decode(present, *row({"n": "x"}))) == [{"n": None, "n__string": '"x"'}]


def limited(columns: int, **more: Any) -> Rules:
    return Rules(limits=SchemaLimits(columns=columns), overflow="_rest", **more)


def test_new_members_beyond_the_bound_go_together_into_one_column() -> None:
    decoder = decoder_of(rules=limited(2))
    decode(decoder, *row({"a": 1, "s": {}}))
    documents = [b'{"a":2,"b":1.50,"c":[],"d":null}', b'{"a":3}', b'{"e":{"f":1}}']
    decoded = decode(decoder, *documents)
    assert codes(decoded) == []
    rest = [each["_rest"] for each in payload(decoded)]
    assert rest == ['{"b":1.50,"c":[]}', None, '{"e":{"f":1}}']
    again = decoder_of(list(decoder.schema or ()), rules=limited(2))
    assert payload(decode(again, *row({"a": 1, "z": 0})))[0]["_rest"] == '{"z":0}'
    assert types_of(again) == types_of(decoder)


def test_new_members_of_structs_keep_their_place_in_the_rest_and_lists_are_conflicts() -> None:
    inner = pa.struct([("a", pa.int64())])
    table = [("s", inner), ("l", pa.list_(pa.field("element", inner)))]
    decoder = decoder_of(table, rules=limited(5))
    decoded = decode(decoder, *row({"s": {"a": 1, "b": 2}, "n": 3}, {"l": [{"b": 1}]}))
    assert codes(decoded) == ["json.too_many_columns"]
    assert payload(decoded)[0]["_rest"] == '{"s":{"b":2},"n":3}'


def test_a_member_of_the_overflow_columns_name_is_a_conflict() -> None:
    decoder = decoder_of([("a", pa.int64())], rules=limited(1))
    assert codes(decode(decoder, *row({"_rest": 1}, {"b": 1}, {"_rest": 1}))) == [
        "json.field_name",
        "json.field_name",
    ]


def test_a_table_with_another_column_of_that_name_has_no_overflow() -> None:
    decoder = decoder_of([("_rest", pa.int64())], rules=limited(1))
    decoded = decode(decoder, *row({"_rest": 1}, {"b": 1}))
    assert codes(decoded) == ["json.too_many_columns"]
    assert payload(decoded) == [{"_rest": 1}]


def test_a_hint_names_the_type_whatever_comes_first() -> None:
    hints = hints_of(
        {"price": "decimal(18, 4)", "Payload": "JSON", "s.day": "string", "l.element": "double"}
    )
    decoder = decoder_of(rules=Rules(hints=hints))
    decoded = decode(
        decoder,
        b'{"price":1,"payload":{"a":1.50},"s":{"day":"2024-01-01"},"l":[1]}',
        b'{"price":0.1,"payload":7}',
        b'{"price":0.00001}',
        b'{"price":null}',
    )
    assert codes(decoded) == ["json.out_of_range"]
    assert types_of(decoder)["price"] == pa.decimal128(18, 4)
    first, second, _ = payload(decoded)
    assert (first["price"], second["price"]) == (Decimal("1.0000"), Decimal("0.1000"))
    assert (first["payload"], second["payload"]) == ('{"a":1.50}', "7")
    assert first["s"] == {"day": "2024-01-01"}
    assert types_of(decoder)["l"].value_type == pa.float64()


def test_a_hinted_column_is_there_with_the_first_null_and_is_not_promoted() -> None:
    decoder = decoder_of(rules=Rules(hints=hints_of({"n": "int"})))
    assert codes(decode(decoder, b'{"n":null}')) == []
    assert types_of(decoder) == {"n": pa.int32()}
    assert codes(decode(decoder, *row({"n": 2**40}))) == ["json.out_of_range"]


def test_a_hint_widens_the_column_that_is_there_or_refuses_the_table() -> None:
    rules = Rules(hints=hints_of({"n": "long"}))
    assert types_of(decoder_of([("n", pa.int32())], rules=rules)) == {"n": pa.int64()}
    for kind in (pa.string(), pa.float64()):
        with pytest.raises(SchemaConflictError, match="'n' to be int64"):
            decoder_of([("n", kind)], rules=rules)
    text = Rules(hints=hints_of({"n": "json"}))
    assert decoder_of([TEXT.with_name("n")], rules=text)
    with pytest.raises(SchemaConflictError, match="'n' to be json"):
        decoder_of([("n", pa.string())], rules=text)


@pytest.mark.parametrize("word", ["", "binary", "decimal(39,0)", "decimal(2,3)", "list<int>"])
def test_a_hint_is_a_type_that_json_has_a_form_for(word: str) -> None:
    with pytest.raises(ConfigError, match="is to be"):
        hints_of({"n": word})


def test_new_lists_and_objects_may_be_text() -> None:
    rules = Rules(nested_as_text=True)
    decoder = decoder_of([("s", pa.struct([("a", pa.int64())]))], rules=rules)
    decoded = decode(decoder, b'{"s":{"a":1,"b":[1.0]},"l":[1,2],"o":{"x":1},"n":5}')
    assert payload(decoded) == [{"s": {"a": 1, "b": "[1.0]"}, "l": "[1,2]", "o": '{"x":1}', "n": 5}]


INNER = pa.struct([pa.field("a", pa.int64(), nullable=False), ("b", pa.int64())])
REQUIRED = [
    pa.field("n", pa.int64(), nullable=False),
    pa.field("s", INNER),
    pa.field("l", pa.list_(pa.field("element", pa.int64(), nullable=False))),
]
LACKING = row({"n": 1, "s": {"a": 1}, "l": [1]}, {"s": {"b": 2}}, {"n": None, "l": [None]})


def test_a_required_column_becomes_optional_for_a_record_without_it_if_that_is_wanted() -> None:
    decoder = decoder_of(REQUIRED, rules=Rules(relaxes=True))
    decoded = decode(decoder, *LACKING)
    assert codes(decoded) == []
    assert payload(decoded)[1:] == [
        {"n": None, "s": {"a": None, "b": 2}, "l": None},
        {"n": None, "s": None, "l": [None]},
    ]
    schema = decoder.schema
    assert schema is not None
    assert schema.field("n").nullable
    assert schema.field("s").type.field("a").nullable
    assert schema.field("l").type.value_field.nullable


def test_a_required_column_stays_one_otherwise() -> None:
    for mode, rules in (("auto-additive", Rules()), ("manual", Rules(relaxes=True))):
        decoder = decoder_of(REQUIRED, mode=mode, rules=rules)
        decoded = decode(decoder, *LACKING)
        assert codes(decoded) == ["json.missing_field"] * 2
        assert [letter.conflict for letter in decoded.dead_letters] == ["s.a", "n"]
