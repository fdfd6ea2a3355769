"""Several writers' rows decoded in groups against each record by itself."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.codecs.base import decoded_whole
from tests.schema_registry import frame
from tests.unit.codec_batches import COLUMNS, batch_of
from tests.unit.framed_rows import Known, framed, row

INT, LONG, TEXT = pa.int32(), pa.int64(), pa.string()
SCHEMAS = {
    1: pa.schema([("a", INT), ("b", TEXT)]),
    2: pa.schema([("b", TEXT), ("s", pa.struct([("x", INT)]))]),
    3: pa.schema([("s", pa.struct([("y", TEXT), ("x", LONG)])), ("a", LONG)]),
    4: pa.schema([("l", pa.list_(pa.struct([("x", INT)]))), ("m", pa.map_(TEXT, INT))]),
    5: pa.schema([("l", pa.list_(pa.struct([("y", LONG)]))), ("m", pa.map_(TEXT, LONG))]),
    6: pa.schema([("a", TEXT)]),
}
NUMBERS, WORDS = st.integers(-5, 5), st.text("ab", max_size=2)


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values of a type, nulls among them."""
    if pa.types.is_struct(kind):
        members = {member.name: values(member.type) for member in kind}
        return st.none() | st.fixed_dictionaries(members)
    if pa.types.is_list(kind):
        return st.none() | st.lists(values(kind.value_type), max_size=3)
    if pa.types.is_map(kind):
        pairs = st.dictionaries(WORDS, values(kind.item_type), max_size=3)
        return st.none() | pairs.map(lambda found: list(found.items()))
    return st.none() | (WORDS if pa.types.is_string(kind) else NUMBERS)


def record(schema_id: int) -> st.SearchStrategy[tuple[bytes | None, dict[str, Any] | None]]:
    """A payload and its row, the writer's own columns alone; None for one that is refused."""
    fields = {field.name: values(field.type) for field in SCHEMAS[schema_id]}
    return st.fixed_dictionaries(fields).map(lambda found: (row(schema_id, **found), found))


RECORDS = st.lists(
    st.one_of(
        st.just((None, {})),
        st.sampled_from([(b"", None), (frame(9, b"{}"), None), (frame(1, b"!"), None)]),
        st.sampled_from([1, 2, 3, 4, 5, 6]).flatmap(record),
    ),
    max_size=25,
)


def fits(wanted: dict[str, Any], first_a: str) -> bool:
    """Whether a row has no value of a kind that its column has not: `a` is what was there first."""
    return wanted.get("a") is None or isinstance(wanted["a"], str) == (first_a == "text")


def shown(value: Any, kind: pa.DataType) -> Any:
    """A value as its column shows it: members that the writer had not are null."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {member.name: shown(value.get(member.name), member.type) for member in kind}
    if pa.types.is_list(kind):
        return [shown(item, kind.value_type) for item in value]
    if pa.types.is_map(kind):
        return [(name, shown(item, kind.item_type)) for name, item in value]
    return value


@given(RECORDS, st.lists(st.integers(0, 25), max_size=3))
def test_groups_of_writers_give_what_each_record_gives(
    records: list[tuple[bytes | None, dict[str, Any] | None]], cuts: list[int]
) -> None:
    decoder = framed(Known(SCHEMAS))
    ends = sorted({*(cut for cut in cuts if cut < len(records)), len(records)})
    first_a, start = "", 0
    for end in ends:
        part = records[start:end]
        found = decoded_whole(decoder, batch_of([value for value, _ in part], start), 0.0)
        if not first_a and "a" in found.table.column_names:
            first_a = "text" if found.table.schema.field("a").type == TEXT else "number"
        payload = COLUMNS.without(found.table.schema)
        wanted = [
            (start + n, {f.name: shown(one.get(f.name), f.type) for f in payload})
            for n, (_, one) in enumerate(part)
            if one is not None and fits(one, first_a)
        ]
        rows = found.table.select(payload.names).to_pylist() if len(payload) else None
        assert found.table["_kafka_offset"].to_pylist() == [offset for offset, _ in wanted]
        assert rows is None or rows == [one for _, one in wanted]
        refused = {letter.offset: letter.code for letter in found.dead_letters}
        assert sorted(refused) == sorted(set(range(start, end)) - {n for n, _ in wanted})
        for offset, code in refused.items():
            assert (code == "schema.conflict") == (records[offset][1] is not None)
        start = end
