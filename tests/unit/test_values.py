"""The value that decides on a record's table: the same for a record whatever stands beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2i_tasks.codecs.values import VALUE_CHARS_MAX, FieldValues, coded, header_values
from tests.schema_registry import frame
from tests.unit.codec_batches import batch_of


def values(path: str, *payloads: bytes | None) -> list[str | None]:
    reader = FieldValues(path.split("."), framed=False, max_message_bytes=10_000)
    return list(reader(batch_of(payloads)))


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b'{"a":"x"}', "x"),
        (b'  {"b":1,"a":"x"}\n', "x"),
        (b'{"a":"\\u00fc\\n"}', "ü\n"),
        (b'{"a":5}', "5"),
        (b'{"a":1.50}', "1.50"),
        (b'{"a":1e400}', "1e400"),
        (b'{"a":123456789012345678901234567890}', "123456789012345678901234567890"),
        (b'{"a":true}', "true"),
        (b'{"a":null}', None),
        (b'{"a":""}', None),
        (b'{"a":{"b":1}}', None),
        (b'{"a":["x"]}', None),
        (b'{"b":{"a":"x"}}', None),
        (b'{"a":"\\ud800"}', None),
        (b'{"b":"\\ud800","a":"x"}', "x"),
        (b'{"b":NaN,"a":"x"}', "x"),
        (b'{"a":"x","a":"y"}', "y"),
        (b'{"a":"' + b"x" * (VALUE_CHARS_MAX + 1) + b'"}', None),
        (b"[1]", None),
        (b'{"a":"x"', None),
        (b'{"a":"x"}{"a":"y"}', None),
        (b"\xff", None),
        (b"", None),
        (None, None),
    ],
)
def test_of_each_payload_its_value_or_none(payload: bytes | None, value: str | None) -> None:
    assert values("a", payload) == [value]
    good = b'{"a":"good"}'
    assert values("a", good, payload, good) == ["good", value, "good"]


def test_nested_members_by_their_path() -> None:
    payloads = [b'{"a":{"b":{"c":"x"}}}', b'{"a":{"b":7}}', b'{"a":{"b":{"c":7}}}', b'{"a":"x"}']
    assert values("a.b.c", *payloads) == ["x", None, "7", None]


def test_frames_are_taken_off() -> None:
    reader = FieldValues(["a"], framed=True, max_message_bytes=10_000)
    batch = batch_of([frame(7, b'{"a":"x"}'), b"\0", None, b'{"a":"x"}'])
    assert reader(batch) == ["x", None, None, None]


documents = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
payloads = st.one_of(
    st.fixed_dictionaries({"a": documents}).map(lambda d: json.dumps(d).encode()),
    st.dictionaries(st.sampled_from(["a", "b"]), documents).map(lambda d: json.dumps(d).encode()),
    st.binary(max_size=12),
    st.none(),
)


@settings(deadline=None)
@given(st.lists(payloads, max_size=40))
def test_a_value_does_not_depend_on_what_stands_beside_it(some: list[bytes | None]) -> None:
    alone = [values("a", payload)[0] for payload in some]
    assert values("a", *some) == alone
    for payload, value in zip(some, alone, strict=True):
        assert value == reference(payload), payload


def reference(payload: bytes | None) -> str | None:
    """The rule, said by Python's own reader."""
    try:
        text = (payload or b"").removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        found: Any = json.loads(text, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "a" not in found:
        return None
    value = found["a"]
    if isinstance(value, bool):
        return str(value).lower()
    whole = isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
    return value if whole and 0 < len(value) <= VALUE_CHARS_MAX else None


def test_the_last_header_of_a_name_counts() -> None:
    read = header_values("kind")
    headers = [
        (("kind", b"x"), ("kind", b"y"), ("other", b"z")),
        (("kind", None),),
        (("kind", b"\xff"),),
        None,
        (),
    ]
    batch = replace(batch_of([b""] * 5), headers=headers)
    assert list(read(batch)) == ["y", None, None, None, None]
    assert list(read(batch_of([b"", b""]))) == [None, None]


def test_keys_are_asked_for_once_for_each_value() -> None:
    asked: list[str | None] = []

    def key_of(value: str | None) -> str:
        asked.append(value)
        return "none" if value is None else value[:1]

    codes, found = coded(["ax", "b", None, "ay", "ax"], key_of)
    assert codes.tolist() == [0, 1, 2, 0, 0]
    assert found == {"a": "ax", "b": "b", "none": None}
    assert asked == ["ax", "b", None, "ay"]
