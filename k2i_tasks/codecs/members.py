"""Where a member that is named by a path is in the columns of a writer's records, as text.

A path leads through records, messages and maps, and through unions to whichever branch has such a
member. Its end is a text, a whole number, an enum or a boolean: what cannot be meant as a name has
no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.codecs.avro_schema import AvroType, Map, Record, Union
from k2i_tasks.codecs.avro_types import (
    VALUE,
    branch_names,
    column_type,
    is_void,
    value_branches,
)
from k2i_tasks.codecs.infer import JSON_TEXT_METADATA


@dataclass(frozen=True, slots=True)
class Step:
    """From a struct to a member of it, or from a map to the value of a key.

    Args:
        name: of the member, or the key.
        is_key: whether it is a key.
    """

    name: str
    is_key: bool = False


#: From the columns to the values.
Steps = tuple[Step, ...]


def avro_steps(kind: AvroType, path: Sequence[str]) -> tuple[Steps, ...]:
    """Where values of a member are in the columns of `kind`; several in branches of unions.

    Args:
        kind: of the payloads.
        path: names from the outermost record down.
    """
    if isinstance(kind, Record):
        return tuple(_avro(kind, path))
    return tuple((Step(VALUE), *steps) for steps in _avro(kind, path))


def _avro(kind: AvroType, path: Sequence[str]) -> Iterator[Steps]:
    if isinstance(kind, Union):
        kept = value_branches(kind)
        if len(kept) == 1:
            yield from _avro(kept[0], path)
            return
        for name, branch in zip(branch_names(kept), kept, strict=True):
            for steps in _avro(branch, path):
                yield (Step(name), *steps)
    elif not path:
        if not is_void(kind) and has_text(column_type(kind)):
            yield ()
    elif isinstance(kind, Record):
        for name, member in kind.fields:
            if name == path[0]:
                for steps in _avro(member, path[1:]):
                    yield (Step(name), *steps)
    elif isinstance(kind, Map):
        for steps in _avro(kind.values, path[1:]):
            yield (Step(path[0], is_key=True), *steps)


def column_steps(schema: pa.Schema, path: Sequence[str]) -> tuple[Steps, ...]:
    """Where values of a member are in columns whose structs are messages: one place, or none."""
    steps: list[Step] = []
    kind: pa.DataType = pa.struct(list(schema))
    for name in path:
        if pa.types.is_struct(kind) and kind.get_field_index(name) >= 0:
            field = kind.field(name)
            if field.metadata == JSON_TEXT_METADATA:
                return ()
            kind = field.type
            steps.append(Step(name))
        elif pa.types.is_map(kind) and pa.types.is_string(kind.key_type):
            kind = kind.item_type
            steps.append(Step(name, is_key=True))
        else:
            return ()
    return (tuple(steps),) if has_text(kind) else ()


def has_text(kind: pa.DataType) -> bool:
    """Whether values of a type are written in one way alone, and may be meant as names."""
    whole = pa.types.is_decimal(kind) and kind.scale == 0
    plain = pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)
    return bool(plain or whole)


def texts_at(table: pa.Table, places: Sequence[Steps]) -> pa.Array:
    """The values at the first of `places` that has one, null where none has.

    Args:
        table: n rows, its columns in one chunk each.
        places: one or more.

    Returns:
        Strings, n.
    """
    found = [_text_at(table, steps) for steps in places]
    return found[0] if len(found) == 1 else pc.coalesce(*found)


def _text_at(table: pa.Table, steps: Steps) -> pa.Array:
    first, *others = steps
    column = table.column(first.name).combine_chunks()
    return reduce(_after, others, column).cast(pa.string())


def _after(values: pa.Array, step: Step) -> pa.Array:
    if step.is_key:
        return _at_key(values, step.name)
    return pc.struct_field(values, step.name)


def _at_key(maps: pa.MapArray, key: str) -> pa.Array:
    """The last value of a key in each of n maps."""
    # The values are numbered, and the numbers looked up: Arrow builds no values of some types.
    numbers = pa.array(np.arange(len(maps.items)))
    mask = maps.is_null() if maps.null_count else None
    offsets = pa.array(maps.offsets.to_numpy())
    numbered = pa.MapArray.from_arrays(offsets, maps.keys, numbers, mask=mask)
    return maps.items.take(pc.map_lookup(numbered, pa.scalar(key), "last"))
