"""Drifting JSON under each policy: every record has one fate, and every value is kept exactly."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.codecs.conflicts import Policy
from k2i_tasks.codecs.rules import Rules, SchemaLimits, hints_of
from k2i_tasks.errors import SchemaConflictError
from k2i_tasks.types import DeadLetter
from tests.property.json_payloads import BATCHES
from tests.scale import times
from tests.unit.codec_batches import COLUMNS, batch_of
from tests.unit.standstill_rig import Rig

PROVEN = settings(
    deadline=None,
    max_examples=times(120, 20_000),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
NUMBERS = st.one_of(
    st.sampled_from(["0", "-0", "1.50", "7", "0.1", "1e2", "1e39", "12345.67", "0.001"]),
    st.sampled_from(["2147483648", "9223372036854775808", "9007199254740993", "123456789.125"]),
    st.sampled_from(["1" * 38, "9" * 39]),
)
TEXTS = st.sampled_from(['"x"', '"1.5"', "true", "null", '"2024-01-01"', '"2024-01-01T00:00:00Z"'])
LITERALS = st.recursive(
    st.one_of(NUMBERS, NUMBERS, TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{','.join(items)}]"),
        st.dictionaries(st.sampled_from(["i", "m", "z"]), inner, max_size=2).map(lambda d: obj(d)),
    ),
    max_leaves=4,
)
NARROW = pa.struct([("i", pa.int32()), ("m", pa.decimal128(5, 2))])
TABLE = (
    ("i", pa.int32()),
    ("f", pa.float32()),
    ("m", pa.decimal128(5, 2)),
    ("t", pa.timestamp("us", "UTC")),
    ("s", NARROW),
    ("l", pa.list_(pa.field("element", NARROW))),
    ("map", pa.map_(pa.string(), pa.int32())),
)
MEMBERS = st.sampled_from(
    ["i", "f", "m", "t", "s", "l", "map", "new", "newer", "i__string", "_rest"]
)


def obj(members: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}"


DRIFTING = st.lists(
    st.lists(
        st.dictionaries(MEMBERS, LITERALS, max_size=3).map(lambda d: obj(d).encode()), max_size=8
    ),
    max_size=3,
)
RULES = st.sampled_from(
    [
        Rules(),
        Rules(limits=SchemaLimits(columns=17), overflow="_rest"),
        Rules(overflow="_rest", hints=hints_of({"new": "decimal(9,3)", "newer": "json"})),
        Rules(nested_as_text=True),
    ]
)
BATCHES_AND_TABLES = st.one_of(
    st.tuples(DRIFTING, st.just(TABLE)),
    st.tuples(DRIFTING, st.none()),
    st.tuples(BATCHES, st.none()),
)


class Fates:
    """What became of the records of some batches, by offset."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.rows: dict[int, tuple[dict[str, Any], pa.Schema]] = {}
        self.letters: dict[int, DeadLetter] = {}

    def poll(self, times: int = 3) -> None:
        for _ in range(times):
            for decoded in self.rig.poll():
                decoded.table.validate(full=True)
                schema = COLUMNS.without(decoded.table.schema)
                for row in decoded.table.to_pylist():
                    place = row["_kafka_offset"]
                    assert place not in self.rows.keys() | self.letters.keys()
                    self.rows[place] = ({name: row[name] for name in schema.names}, schema)
                for letter in decoded.dead_letters:
                    assert letter.offset not in self.rows.keys() | self.letters.keys()
                    self.letters[letter.offset] = letter

    @property
    def decided(self) -> list[int]:
        return sorted([*self.rows, *self.letters])


def batches_of(batches: list[list[bytes | None]]) -> tuple[list[Any], list[bytes | None]]:
    raw: list[Any] = []
    values: list[bytes | None] = []
    for each in batches:
        if each:
            raw.append(batch_of(each, len(values)))
            values += each
    return raw, values


@PROVEN
@given(BATCHES_AND_TABLES, RULES, st.sampled_from([Policy.DEAD_LETTER, Policy.VARIANT_COLUMN]))
def test_every_record_is_one_row_or_one_dead_letter_and_every_value_is_kept(
    drawn: tuple[list[list[bytes | None]], Any], rules: Rules, policy: Policy
) -> None:
    raw, values = batches_of(drawn[0])
    with TemporaryDirectory() as folder:
        fates = Fates(Rig(Path(folder), policy, *raw, table=drawn[1], rules=rules))
        fates.poll(len(raw) + 1)
    assert fates.decided == list(range(len(values)))
    for offset, letter in fates.letters.items():
        assert letter.value == values[offset]
        if policy is Policy.VARIANT_COLUMN and letter.code == "json.type_mismatch":
            # Where there is no room for a column beside it, and its place cannot be told in the
            # column for the rest.
            crowded = rules.limits.columns < 20 and ".element." in (letter.conflict or "")
            assert "another field" in letter.reason or crowded, letter.reason
    for offset, (row, schema) in fates.rows.items():
        assert_kept(values[offset], row, schema, rules)


@PROVEN
@given(BATCHES_AND_TABLES, RULES)
def test_the_pause_stands_exactly_before_the_conflict_and_in_the_end_nothing_is_missing(
    drawn: tuple[list[list[bytes | None]], Any], rules: Rules
) -> None:
    raw, values = batches_of(drawn[0])
    with TemporaryDirectory() as folder:
        rig = Rig(Path(folder), Policy.PAUSE, *raw, table=drawn[1], rules=rules)
        fates = Fates(rig)
        fates.poll(2 * len(raw) + 1)
        while (stand := rig.progress.standstill) is not None:
            assert fates.decided == list(range(stand.offset))
            assert rig.source.paused
            # What the run has learned is in the table once all before is committed.
            rig.table = list(rig.intake.decoder.schema or ()) or rig.table
            rig.order("dead-letter")
            fates.poll(2 * len(raw) + 2)
            # A place that only had nulls is no column, and forgotten: there it may be a row now.
            letter = fates.letters.get(stand.offset)
            assert letter is None or letter.conflict == stand.field_path
            again = rig.progress.standstill
            if again is not None and again.offset == stand.offset:
                assert again.field_path != stand.field_path
            else:
                assert stand.offset in fates.decided
    assert fates.decided == list(range(len(values)))


@PROVEN
@given(BATCHES_AND_TABLES, RULES)
def test_the_policy_fail_gives_all_before_the_first_conflict(
    drawn: tuple[list[list[bytes | None]], Any], rules: Rules
) -> None:
    raw, values = batches_of(drawn[0])
    with TemporaryDirectory() as folder:
        fates = Fates(Rig(Path(folder), Policy.FAIL, *raw, table=drawn[1], rules=rules))
        ended = None
        try:
            fates.poll(2 * len(raw) + 1)
        except SchemaConflictError as error:
            ended = error.what
    if ended is None:
        assert len(fates.decided) == len(values)
    else:
        assert f"offset {len(fates.decided)} " in ended
    assert fates.decided == list(range(len(fates.decided)))
    assert all(letter.conflict is None for letter in fates.letters.values())


def assert_kept(value: bytes | None, row: dict[str, Any], schema: pa.Schema, rules: Rules) -> None:
    """The row holds all that the payload says."""
    text = b"{}" if value is None else value
    document = exactly(text.decode("utf-8-sig"))
    # Where it is the overflow column, no member is of this name.
    rest = exactly(row.get("_rest") or "{}") if rules.overflow else {}
    assert_members(document, row, list(schema), rest)


def exactly(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def assert_members(
    document: dict[str, Any], row: dict[str, Any], fields: list[pa.Field], rest: dict[str, Any]
) -> None:
    by_name = {field.name: field for field in fields}
    for name, value in document.items():
        beside = row.get(f"{name}__string")
        if says_nothing(value):
            continue
        if name not in by_name or (row[name] is None and name in rest):
            assert same_text(rest[name], value), name
        elif row[name] is None and beside is not None:
            assert same_text(exactly(beside), value), name
        else:
            assert_value(value, row[name], by_name[name], rest.get(name, {}))


def assert_value(value: Any, stored: Any, field: pa.Field, rest: Any) -> None:
    kind = field.type
    if value is None:
        assert stored is None
    elif (field.metadata or {}).get(b"doc") == b"JSON text":
        assert same_text(exactly(stored), value)
    elif pa.types.is_struct(kind):
        assert_members(value, stored, list(kind), rest)
    elif pa.types.is_list(kind):
        assert len(value) == len(stored)
        for item, kept in zip(value, stored, strict=True):
            assert_value(item, kept, kind.value_field, {})
    elif pa.types.is_map(kind):
        kept = dict(stored)
        assert kept.keys() == value.keys()
        for name, item in value.items():
            assert_value(item, kept[name], kind.item_field, {})
    elif pa.types.is_floating(kind):
        assert stored == nearest(value, kind)
        if value == value.to_integral_value() and abs(value) >= 2**53 and "E" not in str(value):
            assert Decimal(stored) == value
    elif pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        assert Decimal(stored) == (Decimal(value) if isinstance(value, str) else value)
    elif pa.types.is_boolean(kind) or pa.types.is_string(kind):
        assert type(stored) is type(value)
        assert stored == value
    else:  # times: their text is compared in another test
        assert isinstance(value, str)
        assert stored is not None


def nearest(value: Decimal, kind: pa.DataType) -> float:
    number = float(value)
    if pa.types.is_float32(kind):
        number = struct.unpack("<f", struct.pack("<f", number))[0]
    return number


def same_text(stored: Any, value: Any) -> bool:
    """Equal, numbers digit by digit."""
    if isinstance(value, Decimal):
        return isinstance(stored, Decimal) and stored.as_tuple() == value.as_tuple()
    if isinstance(value, dict):
        same = isinstance(stored, dict) and stored.keys() == value.keys()
        return same and all(same_text(stored[name], one) for name, one in value.items())
    if isinstance(value, list):
        same = isinstance(stored, list) and len(stored) == len(value)
        return same and all(map(same_text, stored, value))
    return type(stored) is type(value) and bool(stored == value)


def says_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(says_nothing, value)))
