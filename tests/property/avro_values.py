"""Strategies: Avro schemas with values, in the forms that fastavro and our columns have them in.

A value of a union is (branch name, value), as fastavro's writer takes it: it says which branch.
"""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Form = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Kind:
    """A schema and its values.

    Args:
        schema: as JSON holds it.
        values: strategy for what fastavro's writer takes.
        read: such a value as fastavro's reader gives it.
        column: such a value as a column holds it.
        void: it has no bytes.
    """

    schema: Any
    values: st.SearchStrategy[Any]
    read: Form = _same
    column: Form = _same
    void: bool = False

    @property
    def name(self) -> str:
        """As a union tells it apart."""
        if isinstance(self.schema, dict):
            return str(self.schema.get("name", self.schema["type"]))
        return str(self.schema)


#: Members of the schemas of types with parts.
_NESTED = {"items", "values", "fields"}
#: Named types get numbers when a whole schema is put together.
Builder = Callable[[Iterator[int]], Kind]


def _logical(kind: str, logical: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": logical, **more}


def _decimals(digits: int, scale: int) -> st.SearchStrategy[decimal.Decimal]:
    most = 10**digits - 1
    few = min(most, 200)
    numbers = st.one_of(st.integers(-most, most), st.integers(-few, few))
    return numbers.map(lambda n: decimal.Decimal((n < 0, _digits(abs(n)), -scale)))


def _digits(number: int) -> tuple[int, ...]:
    return tuple(map(int, str(number)))


def _milliseconds(moment: Any) -> Any:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


_MOMENTS = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1))
_UTC = _MOMENTS.map(lambda moment: moment.replace(tzinfo=dt.UTC))
_LEAVES = [
    Kind("null", st.none(), void=True),
    Kind("boolean", st.booleans()),
    Kind("int", st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-70, 70))),
    Kind("long", st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-70, 70))),
    Kind("float", st.floats(width=32, allow_nan=False)),
    Kind("double", st.floats(allow_nan=False)),
    Kind("bytes", st.binary(max_size=20)),
    Kind("string", st.text(max_size=20)),
    Kind(_logical("int", "date"), st.dates()),
    Kind(_logical("int", "time-millis"), st.times().map(_milliseconds)),
    Kind(_logical("long", "time-micros"), st.times()),
    Kind(_logical("long", "timestamp-millis"), _UTC.map(_milliseconds)),
    Kind(_logical("long", "timestamp-micros"), _UTC),
    Kind(_logical("long", "timestamp-nanos"), st.integers(-(2**63), 2**63 - 1)),
    Kind(_logical("long", "local-timestamp-millis"), _MOMENTS.map(_milliseconds)),
    Kind(_logical("long", "local-timestamp-micros"), _MOMENTS),
    Kind(_logical("string", "uuid"), st.uuids()),
    *(
        Kind(_logical("bytes", "decimal", precision=p, scale=s), _decimals(p, s))
        for p, s in ((1, 0), (9, 2), (19, 19), (38, 10))
    ),
]


def _enum(numbers: Iterator[int]) -> Kind:
    symbols = ["A", "BB", "C_3"]
    schema = {"type": "enum", "name": f"n{next(numbers)}", "symbols": symbols}
    return Kind(schema, st.sampled_from(symbols))


def _fixed(size: int) -> Builder:
    def build(numbers: Iterator[int]) -> Kind:
        schema = {"type": "fixed", "name": f"n{next(numbers)}", "size": size}
        return Kind(schema, st.binary(min_size=size, max_size=size))

    return build


def _fixed_decimal(size: int, precision: int, scale: int) -> Builder:
    def build(numbers: Iterator[int]) -> Kind:
        logical = {"logicalType": "decimal", "precision": precision, "scale": scale}
        schema = {"type": "fixed", "name": f"n{next(numbers)}", "size": size, **logical}
        return Kind(schema, _decimals(precision, scale))

    return build


def _leaf(kind: Kind) -> Builder:
    return lambda numbers: kind


def _array(item: Builder) -> Builder:
    def build(numbers: Iterator[int]) -> Kind:
        one = item(numbers)
        return Kind(
            {"type": "array", "items": one.schema},
            _sized(one),
            lambda value: [one.read(item) for item in value],
            lambda value: [one.column(item) for item in value],
        )

    return build


def _sized(item: Kind) -> st.SearchStrategy[Any]:
    """Short lists, and of small items long ones that repeat a few."""
    short = st.lists(item.values, max_size=4)
    parts = item.schema if isinstance(item.schema, list) else [item.schema]
    if item.void or any(isinstance(part, dict) and _NESTED & part.keys() for part in parts):
        return short
    return st.one_of(short, st.builds(lambda few, times: few * times, short, st.integers(0, 40)))


def _map(item: Builder) -> Builder:
    def build(numbers: Iterator[int]) -> Kind:
        one = item(numbers)
        return Kind(
            {"type": "map", "values": one.schema},
            st.dictionaries(st.text(max_size=3), one.values, max_size=4),
            lambda value: {key: one.read(item) for key, item in value.items()},
            lambda value: [(key, one.column(item)) for key, item in value.items()],
        )

    return build


def _record(members: list[Builder]) -> Builder:
    def build(numbers: Iterator[int]) -> Kind:
        name = f"n{next(numbers)}"
        kinds = {f"f{place}": member(numbers) for place, member in enumerate(members)}
        held = {label: kind for label, kind in kinds.items() if not kind.void}
        fields = [{"name": label, "type": kind.schema} for label, kind in kinds.items()]

        def column(value: dict[str, Any]) -> Any:
            return {label: kind.column(value[label]) for label, kind in held.items()} or True

        return Kind(
            {"type": "record", "name": name, "fields": fields},
            st.fixed_dictionaries({label: kind.values for label, kind in kinds.items()}),
            lambda value: {label: kind.read(value[label]) for label, kind in kinds.items()},
            column,
            void=not held,
        )

    return build


def _union(members: list[Builder]) -> Builder:
    def build(numbers: Iterator[int]) -> Kind:
        kinds: dict[str, Kind] = {}
        for member in members:
            kind = member(numbers)
            if not isinstance(kind.schema, list):
                kinds.setdefault(kind.name, kind)
        if not kinds:
            kinds["null"] = _LEAVES[0]
        held = [name for name in kinds if name != "null"]

        def column(value: tuple[str, Any]) -> Any:
            name, inner = value
            if name == "null":
                return None
            if len(held) == 1:
                return kinds[name].column(inner)
            return {one: kinds[one].column(inner) if one == name else None for one in held}

        return Kind(
            [kind.schema for kind in kinds.values()],
            st.one_of([st.tuples(st.just(name), kind.values) for name, kind in kinds.items()]),
            lambda value: kinds[value[0]].read(value[1]),
            column,
        )

    return build


def _inner(parts: st.SearchStrategy[Builder]) -> st.SearchStrategy[Builder]:
    return st.one_of(
        st.lists(parts, max_size=4).map(_record),
        parts.map(_array),
        parts.map(_map),
        st.lists(parts, min_size=1, max_size=4).map(_union),
        parts.map(lambda part: _union([_leaf(_LEAVES[0]), part])),
    )


_BUILDERS = st.recursive(
    st.one_of(
        st.sampled_from([*map(_leaf, _LEAVES), _enum, _fixed(1), _fixed(5), _fixed(16)]),
        st.sampled_from(
            [_fixed_decimal(4, 9, 3), _fixed_decimal(16, 38, 38), _fixed_decimal(20, 38, 0)]
        ),
    ),
    _inner,
    max_leaves=8,
)
#: Whole schemas with their values; most are records.
KINDS = st.one_of(st.lists(_BUILDERS, min_size=1, max_size=5).map(_record), _BUILDERS).map(
    lambda build: build(itertools.count())
)
