"""Lists of nothing but nulls have as many as the documents say, wherever they stand."""

from __future__ import annotations

import io
import json
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.codecs.null_lists import with_all_nulls
from tests.unit.codec_batches import decode, decoder_of, payload

NULLS = st.none() | st.lists(st.none(), max_size=4)
#: Type -> its values.
KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.list_(pa.null()): NULLS,
    pa.list_(pa.list_(pa.null())): st.none() | st.lists(NULLS, max_size=3),
    pa.struct([("n", pa.int64()), ("x", pa.list_(pa.null()))]): st.none()
    | st.fixed_dictionaries({"n": st.none() | st.integers(0, 9), "x": NULLS}),
    pa.list_(pa.struct([("x", pa.list_(pa.null()))])): st.none()
    | st.lists(st.none() | st.fixed_dictionaries({"x": NULLS}), max_size=3),
    pa.list_(pa.int64()): st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3),
}


def read(values: list[Any], kind: pa.DataType) -> pa.Table:
    lines = "\n".join(json.dumps({"m": value}) for value in values)
    return pyarrow.json.read_json(
        io.BytesIO(lines.encode()),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=pa.schema([("m", kind)])),
    )


@given(st.data(), st.sampled_from(list(KINDS)))
def test_the_values_are_those_of_the_documents(data: st.DataObject, kind: pa.DataType) -> None:
    values = data.draw(st.lists(KINDS[kind], min_size=1, max_size=5))
    found = with_all_nulls(read(values, kind))
    found.validate(full=True)
    assert found.column("m").to_pylist() == values
    assert found.schema == pa.schema([("m", kind)])


def test_arrow_still_needs_it() -> None:
    with pytest.raises(pa.ArrowInvalid):
        read([[None, None]], pa.list_(pa.null())).validate(full=True)


@pytest.mark.parametrize(
    ("documents", "rows"),
    [
        # The day is a text that is made a date: the whole object is made anew, its lists included.
        ([{"i": {"day": "2024-01-01", "m": [None, None]}}], [{"i": {"day": date(2024, 1, 1)}}]),
        (
            [{"m": [None, None, None], "n": 1}, {"m": ["x", None], "n": 2}],
            [{"m": [None, None, None], "n": 1}, {"m": ["x", None], "n": 2}],
        ),
        (
            [{"s": {"m": [[None, None]], "n": 1}}, {"s": {"m": [[7]], "n": 2}}],
            [{"s": {"m": [[None, None]], "n": 1}}, {"s": {"m": [[7]], "n": 2}}],
        ),
    ],
)
def test_documents_with_lists_of_nulls_are_rows(documents: list[Any], rows: list[Any]) -> None:
    decoder = decoder_of()
    for _ in range(2):
        decoded = decode(decoder, *(json.dumps(each).encode() for each in documents))
        decoded.table.validate(full=True)
        assert not decoded.dead_letters
        found = [{name: row[name] for name in rows[0]} for row in payload(decoded)]
        assert found == rows
