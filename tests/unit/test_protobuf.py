"""Protobuf payloads: presence and defaults, rare forms on the wire, and what is refused."""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from google.protobuf import message_factory

from k2i_tasks.codecs import chunked, protobuf_rows
from k2i_tasks.codecs.payloads import DecodedPayloads, Payloads
from k2i_tasks.codecs.protobuf import ProtobufDecoder
from k2i_tasks.codecs.protobuf_compile import compile_schema
from k2i_tasks.codecs.protobuf_schema import message_at
from tests.property.protobuf_wire import varint

PROTO2, PROTO3 = 'syntax = "proto2";\n', 'syntax = "proto3";\n'
#: Of payloads that are read side by side; fewer are walked.
MANY = 60


class Type:
    """A message type, its decoder, and Google's class for it."""

    def __init__(self, text: str) -> None:
        kind = message_at(compile_schema(text, {}), (0,))
        self.decoder = ProtobufDecoder(kind)
        self.make: Any = message_factory.GetMessageClass(kind)

    def decode(self, payloads: Sequence[bytes]) -> DecodedPayloads:
        decoded = self.decoder.decode(Payloads.joined(payloads))
        decoded.columns.validate(full=True)
        return decoded

    def rows(self, *payloads: bytes) -> list[dict[str, Any]]:
        """The rows of valid payloads, which are the same among many."""
        decoded = self.decode(payloads)
        assert not decoded.errors
        found: list[dict[str, Any]] = decoded.columns.to_pylist()
        among = self.decode([*payloads] * MANY)
        assert among.columns.to_pylist() == found * MANY
        return found

    def code(self, payload: bytes) -> str:
        """Of the payload's error, which is the same among many and touches no other."""
        (alone,) = self.decode([payload]).errors.values()
        among = self.decode([payload, b""] * MANY)
        assert set(among.errors) == set(range(0, 2 * MANY, 2))
        assert {(e.code, e.what) for e in among.errors.values()} == {(alone.code, alone.what)}
        assert among.columns.num_rows == MANY
        return alone.code


@pytest.fixture(scope="module")
def plain() -> Type:
    return Type(
        PROTO3 + "message M { int32 i = 1; string s = 2; double d = 3; M m = 4;"
        " repeated int64 r = 5; repeated fixed32 f = 6; I n = 7; }"
        " message I { int32 a = 1; string b = 2; }"
    )


def test_absent_fields_are_defaults_where_they_have_no_presence_and_null_where_they_have() -> None:
    three = Type(
        PROTO3 + "message M { int32 i = 1; optional int32 o = 2; string s = 3; bytes b = 4;"
        " bool t = 5; E e = 6; I n = 7; repeated int32 r = 8; map<string, int32> m = 9;"
        " oneof c { int32 x = 10; string y = 11; } uint64 u = 12; float f = 13; }"
        " enum E { ZERO = 0; ONE = 1; } message I { int32 a = 1; }"
    )
    assert three.rows(b"") == [
        {"i": 0, "o": None, "s": "", "b": b"", "t": False, "e": "ZERO", "n": None, "r": []}
        | {"m": [], "x": None, "y": None, "u": Decimal(0), "f": 0.0}
    ]
    two = Type(
        PROTO2 + "message M { optional int32 i = 1 [default = 5]; required string s = 2;"
        " optional E e = 3; repeated E r = 4; } enum E { THREE = 3; ONE = 1; }"
    )
    assert two.rows(b"") == [{"i": None, "s": None, "e": None, "r": []}]
    edition = Type(
        'edition = "2023"; message M { int32 i = 1;'
        " int32 j = 2 [features.field_presence = IMPLICIT];"
        " I n = 3 [features.message_encoding = DELIMITED]; } message I { int32 a = 1; }"
    )
    message = edition.make(n={"a": 4}).SerializeToString()
    assert message[0] == 0x1B
    assert edition.rows(b"", message) == [
        {"i": None, "j": 0, "n": None},
        {"i": None, "j": 0, "n": {"a": 4}},
    ]


def test_an_entry_of_a_map_may_lack_its_key_and_its_value() -> None:
    two = Type(
        PROTO2 + "message M { map<string, E> e = 1; map<int32, I> n = 2; }"
        " enum E { ZERO = 0; ONE = 1; } message I { optional int32 a = 1; }"
    )
    assert two.rows(b"\n\0\x12\0") == [{"e": [("", "ZERO")], "n": [(0, {"a": None})]}]
    known = Type(
        f'{PROTO3} import "google/protobuf/wrappers.proto"; import "google/protobuf/struct.proto";'
        "message M { map<string, google.protobuf.Int32Value> w = 1;"
        " map<string, google.protobuf.Struct> s = 2; }"
    )
    assert known.rows(b"\n\0\x12\0") == [{"w": [("", 0)], "s": [("", "{}")]}]


def test_of_a_key_that_is_there_twice_the_last_value_counts() -> None:
    kind = Type(PROTO3 + "message M { map<string, int32> m = 1; }")
    entries = [b"\n\x05\n\x01a\x10\x01", b"\n\x05\n\x01b\x10\x02", b"\n\x05\n\x01a\x10\x03"]
    assert kind.rows(b"".join(entries)) == [{"m": [("b", 2), ("a", 3)]}]


def test_numbers_are_cut_to_their_types_as_by_every_reader_of_protobuf() -> None:
    kind = Type(
        PROTO3 + "message M { int32 a = 1; uint32 b = 2; sint32 c = 3; bool d = 4; uint64 e = 5;"
        " sint64 f = 6; fixed64 g = 7; fixed32 h = 8; }"
    )
    high = varint(2**63 + 2**32 + 5)
    tags = [bytes([number << 3]) for number in range(1, 7)]
    payload = b"".join(tag + high for tag in tags) + b"\x39" + b"\xff" * 8 + b"\x45" + b"\xff" * 4
    assert kind.rows(payload) == [
        {"a": 5, "b": 5, "c": -3, "d": True, "e": Decimal(2**63 + 2**32 + 5)}
        | {"f": -(2**62) - 2**31 - 3, "g": Decimal(2**64 - 1), "h": 2**32 - 1}
    ]
    read = kind.make.FromString(payload)
    assert [read.a, read.b, read.c, read.d] == [5, 5, -3, True]
    assert [read.e, read.f] == [2**63 + 2**32 + 5, -(2**62) - 2**31 - 3]


@pytest.mark.parametrize("head", [PROTO2, PROTO3])
def test_an_enums_number_without_a_name_is_text_and_of_names_the_first_counts(head: str) -> None:
    label = "optional " if head == PROTO2 else ""
    kind = Type(
        f"{head} message M {{ {label} E e = 1; repeated E r = 2; map<int32, E> m = 3; }}"
        " enum E { option allow_alias = true; ZERO = 0; TEN = 10; ALSO = 10; LESS = -1; }"
    )
    numbers = [10, -1, -9, 0, 7]
    message = b"\x08\x07" + b"".join(b"\x10" + varint(number) for number in numbers)
    assert kind.rows(message + b"\x1a\x04\x08\x01\x10\x07") == [
        {"e": "7", "r": ["TEN", "LESS", "-9", "ZERO", "7"], "m": [(1, "7")]}
    ]


def test_unknown_fields_are_passed_over_groups_included(plain: Type) -> None:
    unknown = [b"\x98\x06\x05", b"\x99\x06" + b"x" * 8, b"\x9d\x06" + b"x" * 4, b"\x9a\x06\x02hi"]
    group = b"\x9b\x06" + b"".join(unknown) + b"\x0b\x0c" + b"\x9c\x06"
    # A known field of another wire type is an unknown one.
    other = b"\x0d" + b"x" * 4
    (row,) = plain.rows(b"".join([*unknown, b"\x08\x01", group, other, b"\x12\x01s", *unknown]))
    assert (row["i"], row["s"]) == (1, "s")


def test_fields_in_any_order_are_the_same_message(plain: Type) -> None:
    rng = np.random.default_rng(1)
    parts = [
        b"\x08\x07",
        b"\x12\x02ab",
        b"\x19" + b"\0" * 7 + b"@",
        b"\x28\x01",
        b"\x3a\x02\x08\x03",
    ]
    payloads = [b"".join(parts[n] for n in rng.permutation(5)) for _ in range(200)]
    rows = plain.decode(payloads).columns.to_pylist()
    wanted = {"i": 7, "s": "ab", "d": 2.0, "m": None, "r": [1], "f": [], "n": {"a": 3, "b": ""}}
    assert rows == [wanted] * 200


def test_the_last_value_counts_and_messages_in_parts_are_merged(plain: Type) -> None:
    parts = [
        b"\x08\x01",
        b"\x3a\x05\x08\x01\x12\x01x",
        b"\x12\x01a",
        b"\x3a\x02\x08\x02",
        b"\x08\x09",
    ]
    (row,) = plain.rows(b"".join(parts))
    assert (row["i"], row["s"], row["n"]) == (9, "a", {"a": 2, "b": "x"})


def test_lists_are_read_packed_or_not_and_both() -> None:
    for options in ("", " [packed = true]", " [packed = false]"):
        kind = Type(PROTO3 + f"message M {{ repeated sint64 a = 1{options}; }}")
        packed = b"\n\x03\x02\x80\x01"
        assert kind.rows(packed + b"\x08\x06" + packed + b"\n\0" + b"\x08\x08") == [
            {"a": [1, 64, 3, 1, 64, 4]}
        ]


def test_of_a_oneof_the_last_member_counts_and_takes_the_others_away() -> None:
    kind = Type(
        PROTO3 + "message M { oneof c { int32 i = 1; I n = 2; string s = 3; } }"
        " message I { int32 a = 1; int32 b = 2; }"
    )
    number, text = b"\x08\x05", b"\x1a\x01x"
    first, second = b"\x12\x02\x08\x01", b"\x12\x02\x10\x02"
    rows = kind.rows(number + text, text + number, first + second, first + number + second)
    assert rows == [
        {"i": None, "n": None, "s": "x"},
        {"i": 5, "n": None, "s": None},
        {"i": None, "n": {"a": 1, "b": 2}, "s": None},
        {"i": None, "n": {"a": 0, "b": 2}, "s": None},
    ]
    # What is taken away has to be valid, too.
    assert kind.code(b"\x12\x01\x08" + number) == "protobuf.truncated"
    assert kind.code(b"\x1a\x01\xff" + number) == "protobuf.encoding"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x08", "truncated"),
        (b"\x08\x80", "truncated"),
        (b"\x12\x05abc", "truncated"),
        (b"\x19\0\0", "truncated"),
        (b"\x12\xff\xff\xff\xff\x07", "truncated"),
        (b"\x12\xff\xff\xff\xff\x0f", "truncated"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "number"),
        (b"\x12\x80\x80\x80\x80\x80\0", "number"),
        (b"\x80", "tag"),
        (b"\0\x01", "tag"),
        (b"\x88\x80\x80\x80\x80\0\x01", "tag"),
        (b"\xf8\xff\xff\xff\x1f\x01", "tag"),
        (b"\xff\xff\xff\xff\x0f", "tag"),
        (b"\x0e", "wire_type"),
        (b"\x0f", "wire_type"),
        (b"\x0c", "wire_type"),
        (b"\x0b", "tag"),
        (b"\x0b\x14", "group"),
        (b"\x0b" * 101 + b"\x0c" * 101, "group"),
        (b"\x12\x01\xff", "encoding"),
        (b"\x12\x01\xff\x12\x01a", "encoding"),
        (b"\x2a\x01\x80", "truncated"),
        (b"\x2a\x0b" + b"\xff" * 10 + b"\x01", "number"),
        (b"\x32\x05abcde", "truncated"),
        (b"\x3a\x01\x08", "truncated"),
        (b"\x3a\x02\x12\x05", "truncated"),
        (b"\x22\x01\x08", "message"),
    ],
)
def test_what_is_no_message_is_refused_and_says_why(plain: Type, payload: bytes, code: str) -> None:
    assert plain.code(payload) == f"protobuf.{code}"
    with pytest.raises(Exception, match="parsing message"):
        plain.make.FromString(payload)


def test_a_reason_names_the_field() -> None:
    kind = Type(PROTO3 + "message M { repeated I a = 1; } message I { string b = 1; }")
    (error,) = kind.decode([b"\n\x03\n\x01\xff"]).errors.values()
    assert error.what == "Field 'a.element.b' is not UTF-8."


def test_timestamps_are_exact_and_what_microseconds_cannot_hold_is_refused() -> None:
    kind = Type(
        f'{PROTO3} import "google/protobuf/timestamp.proto";'
        "message M { google.protobuf.Timestamp t = 1; }"
    )

    def payload(seconds: int, nanos: int) -> bytes:
        return bytes(kind.make(t={"seconds": seconds, "nanos": nanos}).SerializeToString())

    edges = [
        (-62_135_596_800, 0, dt.datetime(1, 1, 1, tzinfo=dt.UTC)),
        (253_402_300_799, 999_999_000, dt.datetime(9999, 12, 31, 23, 59, 59, 999999, dt.UTC)),
        (-1, 999_999_000, dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC)),
        (0, 0, dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
    ]
    rows = kind.rows(*(payload(seconds, nanos) for seconds, nanos, _ in edges), b"")
    assert [row["t"] for row in rows] == [*(edge for _, _, edge in edges), None]
    seconds = (-62_135_596_801, 253_402_300_800, 2**63 - 1)
    for outside in (*((one, 0) for one in seconds), (0, -1000), (0, 10**9)):
        assert kind.code(payload(*outside)) == "protobuf.range"
    assert kind.code(payload(0, 1)) == "protobuf.nanoseconds"
    # Cut off if the operator says so, towards the past.
    kind.decoder = ProtobufDecoder(kind.make.DESCRIPTOR, truncates=True)
    moments = [(-1, 999_999_999), (0, 1_999), (253_402_300_799, 999_999_999)]
    rows = kind.rows(*(payload(*moment) for moment in moments))
    assert [row["t"].microsecond for row in rows] == [999_999, 1, 999_999]
    assert kind.code(payload(0, 10**9)) == "protobuf.range"


def test_structs_and_messages_in_themselves_are_json(plain: Type) -> None:
    kind = Type(
        f'{PROTO3} import "google/protobuf/struct.proto"; import "google/protobuf/any.proto";'
        "message M { google.protobuf.Struct s = 1; repeated google.protobuf.Value v = 2;"
        " M m = 3; repeated M l = 4; google.protobuf.Any a = 5; }"
    )
    message = kind.make()
    message.s.update({"a": [1, None, "ü", {"b": True}], "c": 0.5})
    message.v.add().number_value = 3
    message.v.add().null_value = 0
    message.m.s.update({"x": 1})
    message.l.add().v.add().string_value = "y"
    row, empty = kind.rows(message.SerializeToString(), b"")
    assert json.loads(row["s"]) == {"a": [1, None, "ü", {"b": True}], "c": 0.5}
    assert [json.loads(one) for one in row["v"]] == [3, None]
    assert json.loads(row["m"])["s"] == {"x": 1}
    assert [json.loads(one)["v"] for one in row["l"]] == [["y"]]
    assert empty == {"s": None, "v": [], "m": None, "l": [], "a": None}
    message.s.update({"n": math.nan})
    assert kind.code(message.SerializeToString()) == "protobuf.json"
    other = kind.make()
    other.m.a.type_url = "type.googleapis.com/not.Known"
    assert kind.code(other.SerializeToString()) == "protobuf.json"
    # In a column of its own an Any is kept as it is.
    other = kind.make()
    other.a.type_url, other.a.value = "type.googleapis.com/not.Known", b"\xff"
    (row,) = kind.rows(other.SerializeToString())
    assert row["a"] == {"type_url": "type.googleapis.com/not.Known", "value": b"\xff"}
    # In parts it is merged, as any message.
    parts = (
        plain.make(m={"i": 1}).SerializeToString() + plain.make(m={"s": "x"}).SerializeToString()
    )
    (row,) = plain.rows(parts)
    assert json.loads(row["m"])["i"] == 1
    assert json.loads(row["m"])["s"] == "x"


def test_messages_without_fields_are_true_where_they_are() -> None:
    kind = Type(
        PROTO3 + "message M { N n = 1; repeated N r = 2; map<int32, N> m = 3; } message N {}"
    )
    message = kind.make(r=[{}, {}], m={1: {}})
    assert kind.rows(b"", message.SerializeToString() + b"\n\x02\x08\x05") == [
        {"n": None, "r": [], "m": []},
        {"n": True, "r": [True, True], "m": [(1, True)]},
    ]
    assert kind.code(b"\n\x01\x08") == "protobuf.truncated"
    bare = Type(PROTO3 + "message M {}")
    assert bare.rows(b"", b"\x08\x01") == [{"value": True}] * 2
    assert bare.code(b"\x08") == "protobuf.truncated"


def test_groups_are_messages() -> None:
    kind = Type(
        PROTO2 + "message M { optional group G = 1 { optional int32 a = 1; optional string b = 2; }"
        " repeated group H = 2 { optional G2 g = 1; } }"
        " message G2 { optional group I = 1 { optional int32 c = 1; } }"
    )
    message = kind.make(g={"a": 1}, h=[{}, {"g": {"i": {"c": 5}}}]).SerializeToString()
    more = kind.make(g={"b": "x"}).SerializeToString()
    assert kind.rows(message + more) == [
        {"g": {"a": 1, "b": "x"}, "h": [{"g": None}, {"g": {"i": {"c": 5}}}]}
    ]


def test_chunks_are_put_together_in_order(plain: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = [plain.make(i=n, s="x" * n).SerializeToString() for n in range(10)]
    payloads[4] = b"\x08"
    whole = plain.decode(payloads)
    monkeypatch.setattr(chunked, "CHUNK_ROWS", 3)
    parts = plain.decode(payloads)
    assert parts.columns.equals(whole.columns)
    assert set(parts.errors) == {4}


def test_no_payloads_are_no_rows(plain: Type) -> None:
    decoded = plain.decoder.decode(Payloads.joined([]))
    assert decoded.columns.num_rows == 0
    assert decoded.columns.schema == plain.decoder.schema


def test_elements_without_bytes_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = "".join(f"int32 f{n} = {n};" for n in range(1, 11))
    kind = Type(PROTO3 + f"message M {{ repeated I r = 1; }} message I {{ {fields} }}")
    monkeypatch.setattr(protobuf_rows, "MAX_CELLS", 1_000)
    monkeypatch.setattr("k2i_tasks.codecs.protobuf_readers.MAX_CELLS", 1_000)
    assert len(kind.rows(b"\n\0" * 100)[0]["r"]) == 100
    assert kind.code(b"\n\0" * 101) == "protobuf.items"


@pytest.mark.parametrize("values", [1, 40, 400])
def test_the_time_for_many_values_grows_with_their_number(plain: Type, values: int) -> None:
    # Falling numbers: each is a step back, and none of them is with another one's.
    backwards = b"".join([b"\x28\x01", b"\x12\x01a", b"\x08\x01"]) * (40_000 // values)
    groups = b"\x9b\x06\x9c\x06" * (60_000 // values)
    numbers = b"\x28\x01" * (120_000 // values)
    messages = b"\x3a\x02\x08\x01" * (60_000 // values)
    for payload in (backwards, groups, numbers, messages):
        before = time.monotonic()
        assert not plain.decode([payload] * values).errors
        assert time.monotonic() - before < 5
