"""How the known columns grow by what was seen: additions only, nested ones too.

The learned schema is wider than the table's: a place where only nulls (or empty lists) were seen
is remembered as type null (or list of null), so that the reader expects it; it becomes a
column with the first value that has a type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from k2i_tasks.codecs.infer import JSON_TEXT_METADATA, Shape, is_json_text
from k2i_tasks.codecs.rules import Rules, SchemaLimits

ELEMENT = "element"
VALUE = "value"
#: From a column down to a place in it: names of members, `ELEMENT`, `VALUE` in maps.
Place = tuple[str, ...]
_EMPTY: Mapping[str, Shape] = {}


def typed_schema(learned: pa.Schema) -> pa.Schema:
    """The part of a learned schema that has types: the table's columns."""
    return pa.schema([typed for field in learned if (typed := typed_field(field)) is not None])


def typed_field(field: pa.Field) -> pa.Field | None:
    """A learned field without the places whose type is not known yet; None if nothing is left."""
    kind = field.type
    if pa.types.is_null(kind):
        return None
    if pa.types.is_list(kind):
        element = typed_field(kind.value_field)
        return None if element is None else field.with_type(pa.list_(element))
    if pa.types.is_struct(kind):
        members = [typed for member in kind if (typed := typed_field(member)) is not None]
        return field.with_type(pa.struct(members)) if members else None
    return field


def text_field(name: str) -> pa.Field:
    """A column that holds JSON documents as text."""
    return pa.field(name, pa.string(), metadata=JSON_TEXT_METADATA)


def find_field(fields: Iterable[pa.Field], place: Place) -> pa.Field | None:
    """The field at `place`; None if there is none."""
    name, *below = place
    found = next((field for field in fields if field.name == name), None)
    if found is None or not below:
        return found
    return find_field(_children(found), tuple(below))


def replaced(fields: Iterable[pa.Field], place: Place, kind: pa.DataType) -> list[pa.Field]:
    """`fields` with the type of the one at `place`, which is there, made `kind`."""
    return _changed(fields, place, lambda field: field.with_type(kind))


def relaxed(fields: Iterable[pa.Field], place: Place) -> list[pa.Field]:
    """`fields` with the one at `place`, which is there, made optional."""
    return _changed(fields, place, lambda field: field.with_nullable(True))


def _changed(
    fields: Iterable[pa.Field], place: Place, change: Callable[[pa.Field], pa.Field]
) -> list[pa.Field]:
    name, *below = place
    return [
        field
        if field.name != name
        else change(field)
        if not below
        else _with_children(field, _changed(_children(field), tuple(below), change))
        for field in fields
    ]


def struct_only(fields: Iterable[pa.Field], place: Place) -> bool:
    """Whether `place`, which is there, is a struct in structs alone; the columns if empty."""
    for name in place:
        found = find_field(fields, (name,))
        if found is None or not pa.types.is_struct(found.type):
            return False
        fields = list(found.type)
    return True


def hinted(given: pa.Schema, rules: Rules) -> pa.Schema:
    """Columns that a schema names, of the types that the hints say, and nested ones as text."""
    return pa.schema([_hinted(field, field.name.lower(), rules) for field in given])


def _hinted(field: pa.Field, path: str, rules: Rules) -> pa.Field:
    hint = rules.hints.get(path)
    if hint is not None:
        return hint.with_name(field.name)
    children = _children(field)
    if not children:
        return field
    if rules.nested_as_text:
        return text_field(field.name)
    inner = [_hinted(each, f"{path}.{each.name.lower()}", rules) for each in children]
    if pa.types.is_list(field.type) and is_json_text(inner[0]):
        return text_field(field.name)
    return _with_children(field, inner)


def overflow_of(known: pa.Schema, name: str) -> str:
    """The overflow column's name; none where the table has another column of it."""
    taken = {field.name.lower(): field for field in known}.get(name.lower())
    return name if taken is None or (taken.name == name and is_json_text(taken)) else ""


def nested(values: Iterable[tuple[Place, Any]]) -> dict[str, Any]:
    """One object that holds the values at their places, which are in structs alone."""
    whole: dict[str, Any] = {}
    for place, value in values:
        at = whole
        for name in place[:-1]:
            at = at.setdefault(name, {})
        at[place[-1]] = value
    return whole


def inserted(fields: Iterable[pa.Field], parent: Place, new: pa.Field) -> list[pa.Field]:
    """`fields` with `new` as the last member of the struct at `parent`; of themselves if empty."""
    if not parent:
        return [*fields, new]
    name, *below = parent
    return [
        _with_children(field, inserted(_children(field), tuple(below), new))
        if field.name == name
        else field
        for field in fields
    ]


def count_fields(fields: Iterable[pa.Field]) -> int:
    """Number of fields, nested ones and list elements included."""
    return sum(1 + count_fields(_children(field)) for field in fields)


def name_refusal(name: str, path: str, taken: Iterable[str], limits: SchemaLimits) -> str | None:
    """Why a new field may not be called `name`; None if it may.

    Args:
        name: the member's name.
        path: its full lower-case dotted path.
        taken: lower-case dotted paths of all columns.
    """
    if not name:
        return "an empty name"
    if len(name) > limits.name_chars:
        return f"a name of more than {limits.name_chars} characters"
    if path in taken:
        return "a name that another column has (case is ignored)"
    return None


def column_paths(fields: Iterable[pa.Field], parent: str = "") -> set[str]:
    """Lower-case dotted paths of all fields; a table knows its columns by them."""
    paths: set[str] = set()
    for field in fields:
        path = f"{parent}{field.name.lower()}"
        paths.add(path)
        paths |= column_paths(_children(field), f"{path}.")
    return paths


def column_places(fields: Iterable[pa.Field], parent: Place = ()) -> list[Place]:
    """The places of all fields, each before those below it."""
    places: list[Place] = []
    for field in fields:
        place = (*parent, field.name)
        places += [place, *column_places(_children(field), place)]
    return places


def grow(learned: pa.Schema, seen: Shape, reserved: frozenset[str], rules: Rules) -> pa.Schema:
    """`learned` with additions for what `seen` holds more; equal to `learned` if nothing fits.

    Args:
        learned: the learned schema.
        seen: shape of whole documents.
        reserved: lower-case top-level names that belong to metadata columns.
        rules: bounds of the result, and hints.
    """
    growth = _Growth(column_paths(learned) | reserved, count_fields(learned), rules)
    return pa.schema(growth.members(list(learned), seen.fields or _EMPTY, "", 1))


class _Growth:
    """One growth step: knows the paths that are taken and counts the fields."""

    def __init__(self, paths: set[str], count: int, rules: Rules) -> None:
        self._paths = paths
        self._count = count
        self._rules = rules
        self._limits = rules.limits

    def members(
        self, present: list[pa.Field], seen: Mapping[str, Shape], parent: str, depth: int
    ) -> list[pa.Field]:
        """Members of a struct: present ones grown, then those that got their type now, then new."""
        kept: list[pa.Field] = []
        late: list[pa.Field] = []
        for field in present:
            shape = seen.get(field.name)
            if shape is None:
                kept.append(field)
                continue
            grown = self._grown(field, shape, f"{parent}{field.name.lower()}", depth)
            newly = typed_field(field) is None and typed_field(grown) is not None
            (late if newly else kept).append(grown)
        names = {field.name for field in present}
        for name, shape in seen.items():
            path = f"{parent}{name.lower()}"
            if name in names or self._refuses(name, path):
                continue
            late.append(self._new(name, shape, path, depth))
        return kept + late

    def _refuses(self, name: str, path: str) -> bool:
        full = self._count >= self._limits.columns
        return full or name_refusal(name, path, self._paths, self._limits) is not None

    def _grown(self, field: pa.Field, shape: Shape, path: str, depth: int) -> pa.Field:
        kind = field.type
        if pa.types.is_null(kind) or (typed_field(field) is None and not shape.only_lists):
            return self._typed(field.name, shape, path, depth) if shape.kinds else field
        if pa.types.is_list(kind) and shape.items is not None:
            inner = f"{path}.{ELEMENT}"
            element = self._grown(kind.value_field, shape.items, inner, depth + 1)
            return _list_of(field, element)
        if pa.types.is_struct(kind) and shape.fields is not None:
            members = self.members(list(kind), shape.fields, f"{path}.", depth + 1)
            return field.with_type(pa.struct(members))
        return field

    def _new(self, name: str, shape: Shape, path: str, depth: int) -> pa.Field:
        self._paths.add(path)
        self._count += 1
        return self._typed(name, shape, path, depth)

    def _typed(self, name: str, shape: Shape, path: str, depth: int) -> pa.Field:
        """A field that holds all of `shape`: as hinted, typed if one type can, else JSON text."""
        hint = self._rules.hints.get(path)
        if hint is not None:
            return hint.with_name(name)
        if shape.kinds == 0:
            return pa.field(name, pa.null())
        text = text_field(name)
        nested = shape.items is not None or shape.fields is not None
        deep = self._rules.nested_as_text or depth >= self._limits.depth
        if shape.kinds > 1 or (nested and deep):
            return text
        if shape.items is not None:
            element = self._new(ELEMENT, shape.items, f"{path}.{ELEMENT}", depth + 1)
            return _list_of(pa.field(name, pa.null()), element)
        if shape.fields is not None:
            members = self.members([], shape.fields, f"{path}.", depth + 1)
            whole = pa.field(name, pa.struct(members))
            return text if typed_field(whole) is None else whole
        kind = shape.scalar_type()
        return text if kind is None else pa.field(name, kind)


def _list_of(field: pa.Field, element: pa.Field) -> pa.Field:
    # Iceberg keeps a doc for a field, none for a list's element: there the mark "JSON text" would
    # be lost, so the whole list is held as JSON text.
    if is_json_text(element):
        return text_field(field.name)
    return field.with_type(pa.list_(element))


def _children(field: pa.Field) -> list[pa.Field]:
    kind = field.type
    if pa.types.is_struct(kind):
        return list(kind)
    if pa.types.is_list(kind):
        return [kind.value_field.with_name(ELEMENT)]
    if pa.types.is_map(kind):
        return [kind.key_field.with_name("key"), kind.item_field.with_name(VALUE)]
    return []


def _with_children(field: pa.Field, children: list[pa.Field]) -> pa.Field:
    """`field` with other children; the counterpart of `_children`."""
    kind = field.type
    if pa.types.is_struct(kind):
        return field.with_type(pa.struct(children))
    if pa.types.is_list(kind):
        return field.with_type(pa.list_(children[0].with_name(kind.value_field.name)))
    key, item = children
    names = kind.key_field.name, kind.item_field.name
    return field.with_type(pa.map_(key.with_name(names[0]), item.with_name(names[1])))
