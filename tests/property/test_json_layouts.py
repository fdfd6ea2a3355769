"""Documents of one layout, some of them spoilt: the walk against the exact path."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.codecs import json_habit, json_parts, json_texts, make_decoder
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.wire import RefusedError
from k2i_tasks.types import DecodedBatch
from tests.property.test_json_codec import COLUMNS, batch_of

QUICK = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
TABLE = pa.schema(
    [
        ("small", pa.int32()),
        ("whole", pa.int64()),
        ("real", pa.float64()),
        ("rough", pa.float32()),
        ("text", pa.string()),
        ("when", pa.timestamp("us", "UTC")),
        ("flag", pa.bool_()),
        ("inner", pa.struct([("x", pa.int64()), ("y", pa.struct([("z", pa.string())]))])),
        ("numbers", pa.list_(pa.float64())),
        ("words", pa.list_(pa.string())),
        ("lines", pa.list_(pa.struct([("sku", pa.string()), ("count", pa.int32())]))),
        ("deep", pa.list_(pa.list_(pa.int64()))),
    ]
)
INTEGERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.integers(0, 22).map(lambda digits: "9" * (digits + 1)),
    st.sampled_from(["0", "-0", "00", "01", "-", "+1", "1.0", "1e2", "2147483647", "2147483648"]),
)
DIGITS = st.text("0123456789", min_size=1, max_size=30)
NUMBERS = st.one_of(
    INTEGERS,
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    st.builds("{}.{}".format, DIGITS, DIGITS),
    st.builds("{}.{}e{}".format, DIGITS, DIGITS, st.integers(-400, 400)),
    st.sampled_from(["1.", ".5", "1.e5", "1e", "1E+5", "1e-5", "-0.0", "NaN", "Infinity", "1e999"]),
    st.sampled_from(["9007199254740991", "9007199254740992", "0.1", "123456789.123456789"]),
)
TEXTS = st.one_of(
    st.text(max_size=40).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.text("abcdefgh", min_size=0, max_size=100).map(json.dumps),
    st.text('ab"ö\n\\', max_size=120).map(json.dumps),
    st.text('a"ö', max_size=120).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from([r'"\x"', r'"\ud800"', r'"\ud83d\ude00"', '"' + "x" * 70 + r'\n"', r'"\"']),
    st.sampled_from(['"\t"', '"a\\u0041"', '"', '"12345678"', '"1234567"', '"ö' + "x" * 15 + '"']),
)
TIMES = st.sampled_from(
    ['"2024-01-01T00:00:00Z"', '"2024-01-01T00:00:00.123+02:00"', '"2024-02-30T00:00:00Z"', '"x"']
)
FLAGS = st.sampled_from(["true", "false", "True", "tru", "falsey"])
#: What programs write into each column, and what may be found there once in a while.
SOUND: dict[str, st.SearchStrategy[str]] = {
    "small": st.integers(-(2**31) + 1, 2**31 - 1).map(str),
    "whole": st.integers(-(2**63) + 1, 2**63 - 1).map(str),
    "real": st.one_of(
        st.floats(-1e9, 1e9).map(repr), st.decimals(-(10**9), 10**9, places=2).map(str)
    ),
    "rough": st.sampled_from(["0.5", "-2", "1.25"]),
    "text": st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cc", "Cs"])).map(
        '"{}"'.format
    ),
    "when": st.sampled_from(['"2024-01-01T00:00:00Z"', '"2024-01-01T00:00:00.123+02:00"']),
    "flag": st.sampled_from(["true", "false"]),
}
ODD: dict[str, st.SearchStrategy[str]] = {
    "small": INTEGERS,
    "whole": INTEGERS,
    "real": NUMBERS,
    "rough": NUMBERS,
    "text": TEXTS,
    "when": TIMES,
    "flag": FLAGS,
}
#: How a program puts its words: after an opening, a name, a comma, and before a closing.
STYLES = st.sampled_from(
    [("", "", "", ""), ("", " ", " ", ""), (" ", " ", " ", " "), ("", " ", "", "  ")]
)
Style = tuple[str, str, str, str]


def _object(style: Style, members: Sequence[tuple[str, str]]) -> str:
    opening, colon, comma, closing = style
    inside = f",{comma}".join(f'"{name}":{colon}{value}' for name, value in members)
    return "{" + opening + inside + closing + "}"


def _list(style: Style, items: Sequence[str]) -> str:
    return "[" + f",{style[2]}".join(items) + "]"


@st.composite
def _value(draw: st.DrawFn, name: str, style: Style) -> str:
    def one(kind: str) -> str:
        chance = draw(st.integers(0, 24))
        return "null" if not chance else draw((ODD if chance == 1 else SOUND)[kind])

    def several(item: Callable[[], str]) -> str:
        return _list(style, [item() for _ in range(draw(st.integers(0, 3)))])

    if not draw(st.integers(0, 19)):
        return "null"
    if name == "inner":
        inner = "null" if not draw(st.integers(0, 9)) else _object(style, [("z", one("text"))])
        return _object(style, [("x", one("whole")), ("y", inner)])
    if name == "numbers":
        return several(lambda: one("real"))
    if name == "words":
        return several(lambda: one("text"))
    if name == "lines":
        return several(lambda: _object(style, [("sku", one("text")), ("count", one("small"))]))
    if name == "deep":
        return several(lambda: several(lambda: one("whole")))
    return one(name)


def _spoilt(text: bytes, place: int, how: int, sign: bytes) -> bytes:
    place %= len(text)
    if how == 0:
        return text[:place]
    if how == 1:
        return text[:place] + text[place + 1 :]
    if how == 2:
        return text[:place] + sign + text[place:]
    return text[:place] + sign + text[place + 1 :]


@st.composite
def streams(draw: st.DrawFn) -> list[list[bytes | None]]:
    """Batches of documents with the same members in the same order, but for some."""
    style = draw(STYLES)
    names = draw(st.permutations(TABLE.names))[: draw(st.integers(1, 6))]
    batches: list[list[bytes | None]] = []
    for _ in range(draw(st.integers(1, 3))):
        batch: list[bytes | None] = []
        for _ in range(draw(st.integers(1, 20))):
            missing = draw(st.sampled_from([None, None, None, *names]))
            kept = [name for name in names if name != missing]
            text = _object(style, [(name, draw(_value(name, style))) for name in kept])
            value = text.encode("utf-8", "replace")
            if not draw(st.integers(0, 14)):
                sign = draw(
                    st.sampled_from([b'"', b",", b"}", b"{", b" ", b"\\", b"0", b"\xff", b"\n"])
                )
                value = _spoilt(value, draw(st.integers(0, 10_000)), draw(st.integers(0, 3)), sign)
            batch.append(value if draw(st.integers(0, 19)) else None)
        batches.append(batch)
    return batches


def decode_all(
    batches: Sequence[Sequence[bytes | None]], mode: str, table: pa.Schema | None, way: str
) -> list[DecodedBatch]:
    decoder = make_decoder(
        "json", columns=COLUMNS, table_schema=table, max_message_bytes=4000, mode=mode
    )
    with ExitStack() as stack:

        def changed(owner: Any, name: str, **how: Any) -> None:
            stack.enter_context(patch.object(owner, name, **how))

        changed(json_habit, "WALK_RECORDS_MIN", new=10**9 if way == "exact" else 1)
        changed(json_texts, "_ROUNDS", new=3)
        if way == "beside":
            # Arrow's reader has a share of each page, though it is small.
            changed(json_parts, "SHARE_BYTES_MIN", new=16)
            changed(json_parts, "processors", return_value=4)
        else:
            changed(Page, "read", side_effect=RefusedError())
        return [decoder.decode(batch_of(values)) for values in batches]


def _bits(value: Any) -> Any:
    """Doubles as they are: -0.0 is not 0.0."""
    if isinstance(value, dict):
        return {name: _bits(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_bits(item) for item in value]
    return value.hex() if isinstance(value, float) else value


@QUICK
@given(
    streams(),
    st.sampled_from(["auto-additive", "manual"]),
    st.sampled_from([TABLE, None]),
    st.sampled_from(["alone", "beside"]),
)
def test_the_walk_gives_what_the_exact_path_gives(
    batches: list[list[bytes | None]], mode: str, table: pa.Schema | None, way: str
) -> None:
    walked = decode_all(batches, mode, table, way)
    exact = decode_all(batches, mode, table, "exact")
    for left, right in zip(walked, exact, strict=True):
        left.table.validate(full=True)
        assert left.table.schema.equals(right.table.schema, check_metadata=True)
        assert _bits(left.table.to_pylist()) == _bits(right.table.to_pylist())
        assert left.dead_letters == right.dead_letters
