"""A writer's values that the table has no room for, as JSON text beside their columns."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.codecs.conflicts import variant_name
from k2i_tasks.codecs.growth import ELEMENT, Place, nested
from k2i_tasks.codecs.infer import JSON_TEXT_METADATA
from k2i_tasks.codecs.json_exact import ExactDouble, json_text


def set_beside(
    table: pa.Table, varied: Iterable[Place], spilled: tuple[Place, ...], rest: str
) -> pa.Table:
    """`table` with values as JSON text in other columns, and nothing in their own.

    Args:
        table: n rows of a writer, each column one chunk that is no slice.
        varied: columns, or members of structs, whose values go into the one beside.
        spilled: those whose values go together into column `rest`.
    """
    if spilled:
        table = _with_rest(table, spilled, rest)
    for place in varied:
        columns, names = [column.chunk(0) for column in table.columns], list(table.schema.names)
        columns, names = _split(columns, names, place)
        table = pa.Table.from_arrays(columns, schema=_marked(columns, names))
    return table


def _with_rest(table: pa.Table, spilled: tuple[Place, ...], rest: str) -> pa.Table:
    values = [_values(_at(table, place)) for place in spilled]
    texts = []
    for row in zip(*values, strict=True):
        given = [(place, one) for place, one in zip(spilled, row, strict=True) if one is not None]
        texts.append(json_text(nested(given)) if given else None)
    return table.append_column(_text_field(rest), pa.array(texts, pa.string()))


def _at(table: pa.Table, place: Place) -> pa.Array:
    array = table.column(place[0]).chunk(0)
    return pc.struct_field(array, list(place[1:])) if place[1:] else array


def _split(
    columns: list[pa.Array], names: list[str], place: Place
) -> tuple[list[pa.Array], list[str]]:
    """Members of a struct, and their names, with the one at `place` split in two."""
    name, *below = place
    at = names.index(name)
    array = columns[at]
    if below:
        return [*columns[:at], _inside(_whole(array), tuple(below)), *columns[at + 1 :]], names
    texts = [None if value is None else json_text(value) for value in _values(array)]
    split = [*columns[:at], pa.nulls(len(array)), *columns[at + 1 :], pa.array(texts, pa.string())]
    return split, [*names, variant_name(name)]


def _inside(array: pa.Array, place: Place) -> pa.Array:
    kind = array.type
    mask = array.is_null() if array.null_count else None
    if pa.types.is_struct(kind):
        # Not `array.field`: where the struct is null, what lies in its members is no value.
        members = [pc.struct_field(array, [member.name]) for member in kind]
        members, names = _split(members, [member.name for member in kind], place)
        fields = list(_marked(members, names))
        return pa.StructArray.from_arrays(members, fields=fields, mask=mask)
    if pa.types.is_map(kind):
        items = _inside(_whole(array.items), place[1:])
        return pa.MapArray.from_arrays(array.offsets, array.keys, items, mask=mask)
    values = _inside(_whole(array.values), place[1:])
    wanted = pa.list_(pa.field(ELEMENT, values.type))
    return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=mask)


def _whole(array: pa.Array) -> pa.Array:
    return array.take(pa.array(range(len(array)))) if array.offset else array


def _marked(columns: list[pa.Array], names: list[str]) -> pa.Schema:
    return pa.schema([pa.field(n, c.type) for n, c in zip(names, columns, strict=True)])


def _text_field(name: str) -> pa.Field:
    return pa.field(name, pa.string(), metadata=JSON_TEXT_METADATA)


def _values(array: pa.Array) -> list[Any]:
    """Values as JSON has them; bytes as base64, times in ISO 8601, numbers digit by digit."""
    plain = _plain(array.type)
    return [None if value is None else plain(value) for value in array.to_pylist()]


def _plain(kind: pa.DataType) -> Callable[[Any], Any]:
    types = pa.types
    if types.is_struct(kind):
        members = {member.name: _optional(_plain(member.type)) for member in kind}
        return lambda value: {name: members[name](one) for name, one in value.items()}
    if types.is_list(kind):
        element = _optional(_plain(kind.value_type))
        return lambda value: [element(one) for one in value]
    if types.is_map(kind):
        key, item = _plain(kind.key_type), _optional(_plain(kind.item_type))
        return lambda value: {str(key(name)): item(one) for name, one in value}
    if types.is_decimal(kind):
        return lambda value: ExactDouble(format(Decimal(value), "f"))
    if types.is_floating(kind):
        return lambda value: value if abs(value) < float("inf") else str(value)
    if types.is_binary(kind) or types.is_fixed_size_binary(kind):
        return lambda value: base64.b64encode(value).decode()
    if types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind):
        return lambda value: value.isoformat()
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_string(kind):
        return lambda value: value
    return str


def _optional(plain: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else plain(value)
