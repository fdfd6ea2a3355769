"""What clients may ask, as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.errors import ConfigError
from k2i_tasks.tickets import (
    OPERATORS,
    TICKET_BYTES_MAX,
    After,
    Ask,
    At,
    Condition,
    Key,
    Rows,
    Sql,
    parsed,
    ticket,
)
from k2i_tasks.types import TopicPartition

TEXTS = st.text(max_size=20)
OFFSETS = st.integers(0, 1 << 50)
SCALARS = st.one_of(TEXTS, st.integers(-(1 << 60), 1 << 60), st.booleans(), st.floats(-1e9, 1e9))
LIMITS = st.none() | st.integers(1, 10**9)
PARTS = st.sampled_from(["all", "hot", "cold"])
CONDITIONS = st.builds(
    Condition, TEXTS, st.sampled_from(sorted(o for o in OPERATORS if o[0] != "i")), SCALARS
) | st.builds(Condition, TEXTS, st.sampled_from(["is null", "is not null"]))
POSITIONS = st.dictionaries(st.builds(TopicPartition, TEXTS, st.integers(0, 99_999)), OFFSETS)
ASKS: st.SearchStrategy[Ask] = st.one_of(
    st.builds(Sql, TEXTS, PARTS, LIMITS),
    st.builds(
        Rows,
        TEXTS,
        st.lists(TEXTS, max_size=4, unique=True).map(tuple),
        st.lists(CONDITIONS, max_size=4).map(tuple),
        PARTS,
        LIMITS,
    ),
    st.builds(Key, TEXTS, SCALARS),
    st.builds(At, TEXTS, TEXTS, st.integers(0, 1 << 31), OFFSETS),
    st.builds(After, TEXTS, st.none() | POSITIONS, st.integers(1, 10**9), st.floats(0, 60)),
)


@given(ASKS)
def test_what_is_asked_arrives_as_it_was_asked(ask: Ask) -> None:
    assert parsed(ticket(ask)) == ask


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
_WORDS = "sql table columns where part limit key at after wait_seconds other"
_KEYS = st.sampled_from(tuple(_WORDS.split()))


@given(st.dictionaries(_KEYS, _JSON, max_size=5))
def test_any_object_is_a_question_or_a_clear_error(found: dict[str, object]) -> None:
    try:
        ask = parsed(json.dumps(found).encode())
    except ConfigError:
        return
    assert parsed(ticket(ask)) == ask


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'"SELECT 1"',
        b"[" * 200_000,
        b'{"sql": 1}',
        b'{"sql": "SELECT 1", "limit": 0}',
        b'{"sql": "SELECT 1", "limit": true}',
        b'{"sql": "SELECT 1", "part": "warm"}',
        b'{"sql": "SELECT 1", "table": "orders"}',
        b'{"table": "orders", "where": [["id", "like", "x"]]}',
        b'{"table": "orders", "where": [["id", "=", null]]}',
        b'{"table": "orders", "where": [["id", [], 1]]}',
        b'{"table": "orders", "where": [["id", {}, 1]]}',
        b'{"table": "orders", "columns": ["id", "id"]}',
        b'{"table": "orders", "where": [["id", "=", [1]]]}',
        b'{"table": "orders", "at": ["orders", -1, 3]}',
        b'{"table": "orders", "at": ["orders", 0]}',
        b'{"table": "orders", "key": null}',
        b'{"table": "orders", "after": {"orders": {"x": 1}}}',
        b'{"table": "orders", "after": null, "wait_seconds": 3600}',
        b'{"sql": "' + b"x" * TICKET_BYTES_MAX + b'"}',
    ],
)
def test_what_is_no_question_is_refused_without_repeating_it(body: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(body)
    assert "xxx" not in str(caught.value)
    assert "warm" not in str(caught.value)
