"""Strategies: payloads as topics hold them, drifting, broken, or for the columns of a table."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "c", "A", "a.b", "", "schlüssel", "_kafka_offset", '"q"', "x\n"])
NUMBERS = st.one_of(
    st.integers(-5, 5),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**40]),
    st.floats(allow_nan=False, allow_infinity=False),
)
TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        [
            "2024-01-01T00:00:00Z",
            "2024-01-01T00:00:00.123456+02:00",
            "2024-01-01T00:00:00.123456789Z",
            "2024-01-01T00:00:00",
            "2024-01-01 10:00",
            "2024-01-01",
            "2024-02-30",
            "0000-01-01",
            "9999-12-31T23:59:59-01:00",
        ]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=4)
# Records of one kind, as most topics have them, so that the fast path has something to do.
ORDERS = st.fixed_dictionaries(
    {"a": st.integers(-9, 9), "b": st.floats(-9, 9), "c": st.sampled_from(["x", "y"])},
    optional={"t": st.just("2024-01-01T00:00:00Z"), "l": st.lists(st.integers(0, 3), max_size=2)},
)
GARBAGE = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"",
            b" ",
            b"{",
            b"}",
            b"{}}",
            b"[]",
            b"null",
            b"1",
            b'"x"',
            b"{}{}",
            b"{}\n{}",
            b'{"a":1} {"a":2}',
            b'{"a":1}null{"a":2}',
            b'{"a":{}',
            b'{"a":"}',
            b'{"a":[{}',
            b'{"a":1,"a":1}',
            b'{"a":NaN}',
            b'{"a":Infinity}',
            b'{"a":1e400}',
            b'{"a":-0}',
            b'{"a":1.0}',
            b'{"b":1e22}',
            b'{"b":9007199254740993}',
            b'{"b":' + b"1" * 400 + b"}",
            b'{"a":' + b"1" * 5000 + b"}",
            b'{"c":"\\ud800"}',
            b'{"c":"\\ud83d\\ude00"}',
            b'{"c":"\xff"}',
            b'{"c":"\xed\xa0\x80"}',
            b'{"c":"\x00"}',
            b'{"c":1}\x00}',
            b'{"\\u0061":7}',
            b'{"a":1,"\\u0061":7}',
            b'\xef\xbb\xbf{"a":1}',
            b'{"a":01}',
            b"{'a':1}",
            b'{"a":1,}',
            b"[" * 3000 + b"]" * 3000,
            b'{"a":' * 3000 + b"1" + b"}" * 3000,
        ]
    ),
)


def written(document: dict[str, Any], style: int) -> bytes:
    text = json.dumps(document, indent=style or None, ensure_ascii=style % 2 == 0)
    return (" " * style + text + "\n" * style).encode()


#: How a sound document is broken, for records that are broken alike.
BREAKS = st.sampled_from(
    [
        lambda text: text[:-1] + b",}",
        lambda text: text + b"}",
        lambda text: text + text,
        lambda text: text + b"\r\n" + text,
        lambda text: text[: len(text) // 2] + b"}",
        lambda text: text[: len(text) // 2] + b'"}',
        lambda text: text.replace(b'"c": "', b'"c": ', 1),
        lambda text: text.replace(b'"c":', b'"c"', 1),
        lambda text: text.replace(b'"c": "x"', b'"c": None', 1),
        lambda text: text.replace(b'"c": "x"', b'"c": {"d": 1}', 1),
        lambda text: text[:-1] + b', "new": 1}',
        lambda text: text[:-1] + b', "c": "",}}{[\\" "}',
        lambda text: text + b"\r\n",
        lambda text: b"\xef\xbb\xbf " + text,
    ]
)
#: Batches of orders in which some are broken, in one way or two.
BROKEN_ALIKE = st.lists(BREAKS, min_size=1, max_size=2).flatmap(
    lambda breaks: st.lists(
        st.lists(
            st.one_of(
                *[st.builds(written, ORDERS, st.just(0))] * 3,
                *[st.builds(written, ORDERS, st.just(0)).map(spoil) for spoil in breaks],
            ),
            min_size=1,
            max_size=30,
        ),
        max_size=3,
    )
)
PAYLOADS = st.one_of(
    st.builds(written, DOCUMENTS, st.integers(0, 3)),
    st.builds(written, ORDERS, st.integers(0, 1)),
    GARBAGE,
    st.none(),
)
MOSTLY_ORDERS = st.lists(
    st.one_of(*[st.builds(written, ORDERS, st.just(0))] * 8, PAYLOADS), min_size=1, max_size=60
)
BATCHES = st.lists(st.one_of(st.lists(PAYLOADS, max_size=12), MOSTLY_ORDERS), max_size=3)


TABLE = pa.schema(
    [
        ("i", pa.int32()),
        ("l", pa.int64()),
        ("f", pa.float32()),
        ("d", pa.float64()),
        ("m", pa.decimal128(10, 2)),
        ("w", pa.decimal128(38, 0)),
        ("s", pa.large_string()),
        ("z", pa.timestamp("us", "UTC")),
        ("t", pa.timestamp("us")),
        ("day", pa.date32()),
        ("at", pa.time64("us")),
        ("u", pa.uuid()),
        ("bin", pa.binary()),
        ("ds", pa.large_list(pa.float64())),
        ("st", pa.struct([pa.field("f", pa.float32()), pa.field("q", pa.int64(), False)])),
        ("map", pa.map_(pa.string(), pa.date32())),
    ]
)
# As they are written in JSON.
LITERALS = st.one_of(
    SCALARS.map(json.dumps),
    st.sampled_from(
        [
            "-0",
            "-0.0",
            "1e2",
            "1.50",
            "1.505",
            "99999999.99",
            "1e-400",
            "16777217",
            "3.5e38",
            "1e38",
            "0.1",
            "2147483648",
            "NaN",
            "-Infinity",
            "1e400",
            '"1.5"',
            '"+1"',
            '"1."',
            '".5"',
            '"1e2"',
            '" 1"',
            '"NaN"',
            '"1_0"',
            '""',
            '"12:00"',
            '"12:00:00.5"',
            '"24:00:00"',
            '"12:00:00Z"',
            '"12"',
            '"-1:00"',
            '"2024-01-01T00:00:00+23:59"',
            '"0001-01-01T00:00:00+01:00"',
            '"10000-01-01"',
            '"12345678-1234-5678-1234-567812345678"',
            '"12345678123456781234567812345678"',
            "[]",
            "[1, 0.5, null]",
            "[9007199254740993]",
            "[NaN]",
            "{}",
            '{"q":1}',
            '{"q":1,"f":1e39}',
            '{"q":1,"f":0.1}',
            '{"q":null}',
            '{"k":"2024-01-01"}',
            "9" * 38,
            "9" * 39,
        ]
    ),
)


def _object(members: dict[str, str]) -> bytes:
    return b"{" + ",".join(f'"{name}":{text}' for name, text in members.items()).encode() + b"}"


TYPED = st.dictionaries(st.sampled_from(TABLE.names), LITERALS, max_size=2).map(_object)
