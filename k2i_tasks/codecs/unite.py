"""The table's columns and one writer's put together: what is added, widened, or refused.

Only additions and Iceberg's own promotions: int to long, float to double, a decimal of the same
scale to more digits. What a place of the writer's schema cannot become is refused there: a record
with a value in that place is a dead letter, one without is a row.

Source of the promotions: the Iceberg table specification, "Schema Evolution".
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from k2i_tasks.codecs.growth import (
    ELEMENT,
    SchemaLimits,
    column_paths,
    count_fields,
    name_refusal,
    typed_field,
)

#: From a column down to a place in it: names of members, `ELEMENT`, `MAP_VALUE`.
Place = tuple[str, ...]
MAP_VALUE = "value"
_EXACT_IN_DOUBLE = frozenset({pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()})
_WIDTH_OF_UNSIGNED = {pa.uint8(): 9, pa.uint16(): 17, pa.uint32(): 33}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A place of a writer's schema that the table has no room for.

    Args:
        place: where in the writer's rows.
        code: of the dead letter that a value there makes.
        what: the reason, one sentence.
    """

    place: Place
    code: str
    what: str

    @property
    def path(self) -> str:
        """The place as people and policies name it."""
        return ".".join(self.place)


@dataclass(frozen=True, slots=True)
class Union:
    """Columns that hold what was known and what a writer has.

    Args:
        schema: the columns; the known ones first, in their order.
        refusals: what of the writer's is not in them.
    """

    schema: pa.Schema
    refusals: tuple[Refusal, ...]


def unite(
    known: pa.Schema,
    given: pa.Schema,
    *,
    additive: bool,
    reserved: frozenset[str],
    limits: SchemaLimits,
) -> Union:
    """Puts a writer's columns to the known ones.

    Args:
        known: the columns so far, of plain types.
        given: the writer's, of plain types; those of no type (null, empty structs) are no columns.
        additive: whether columns may be added and widened.
        reserved: lower-case top-level names that belong to metadata columns.
        limits: bounds of the result.
    """
    uniting = _Uniting(known, additive, reserved, limits)
    fields = uniting.members(list(known), list(given), ())
    return Union(pa.schema(fields), tuple(uniting.refusals))


def wider(known: pa.DataType, given: pa.DataType) -> pa.DataType | None:
    """The scalar type that holds both, reached from `known` by a promotion; None if there is none.

    A given type that `known` holds without change of a value gives `known`.
    """
    types = pa.types
    if known == given:
        return known
    if types.is_integer(known) and types.is_integer(given):
        low, high = sorted((known, given), key=_bits)
        return known if low == given else high if types.is_signed_integer(high) else None
    if types.is_floating(known) and types.is_floating(given):
        return known if known.bit_width >= given.bit_width else given
    if types.is_float64(known) and given in _EXACT_IN_DOUBLE:
        return known
    if types.is_decimal128(known) and types.is_decimal128(given):
        if known.scale != given.scale:
            return None
        return known if known.precision >= given.precision else given
    if types.is_timestamp(known) and types.is_timestamp(given):
        return known if (known.tz is None) == (given.tz is None) and _finer(known, given) else None
    if types.is_time(known) and types.is_time(given):
        return known if _finer(known, given) else None
    return None


def _bits(kind: pa.DataType) -> int:
    return _WIDTH_OF_UNSIGNED.get(kind, int(kind.bit_width))


def _finer(known: pa.DataType, given: pa.DataType) -> bool:
    units = ("s", "ms", "us", "ns")
    return units.index(known.unit) >= units.index(given.unit)


class _Uniting:
    """One union: knows the paths that are taken and counts the fields."""

    def __init__(
        self, known: pa.Schema, additive: bool, reserved: frozenset[str], limits: SchemaLimits
    ) -> None:
        self._additive = additive
        self._paths = column_paths(known) | reserved
        self._count = count_fields(known)
        self._limits = limits
        self.refusals: list[Refusal] = []

    def members(self, known: list[pa.Field], given: list[pa.Field], at: Place) -> list[pa.Field]:
        """The members of a struct, or the columns."""
        wanted = {field.name: field for field in given}
        united = [
            self._united(field, wanted[field.name], (*at, field.name))
            if field.name in wanted
            else field
            for field in known
        ]
        names = {field.name for field in known}
        for name, field in wanted.items():
            if name not in names:
                added = self._added(field, (*at, name))
                united += [] if added is None else [added]
        return united

    def _added(self, field: pa.Field, place: Place) -> pa.Field | None:
        typed = typed_field(field)
        if typed is None:
            return None
        below = column_paths([typed], "".join(f"{name.lower()}." for name in place[:-1]))
        size = count_fields([typed])
        reason = self._reason(typed, place, below, size)
        if reason is not None:
            code, why = reason
            what = f"Field {'.'.join(place)[:200]!r} {why}."
            self.refusals.append(Refusal(place, code, what))
            return None
        self._paths |= below
        self._count += size
        return _optional(typed)

    def _reason(
        self, field: pa.Field, place: Place, below: set[str], size: int
    ) -> tuple[str, str] | None:
        """Code and words for why `field` may not be added; None if it may."""
        if not self._additive:
            return "schema.unknown_field", "has no column and schema evolution is manual"
        path = ".".join(place).lower()
        taken = name_refusal(field.name, path, self._paths, self._limits)
        if taken is None and (below & self._paths or len(below) != size):
            taken = "it holds a name twice (case is ignored)"
        if taken is not None:
            return "schema.field_name", f"cannot be a column: {taken}"
        if self._count + size > self._limits.columns:
            return "schema.too_many_columns", f"has no column: {self._limits.columns} is the limit"
        return None

    def _united(self, known: pa.Field, given: pa.Field, place: Place) -> pa.Field:
        kind = self._type(known.type, given.type, place)
        return known if kind == known.type else known.with_type(kind)

    def _type(self, known: pa.DataType, given: pa.DataType, place: Place) -> pa.DataType:
        """The type for both; `known`, and a refusal, when there is none."""
        types = pa.types
        if known == given or types.is_null(given):
            return known
        if types.is_null(known):
            return given  # a place where nothing that tells a type was seen yet
        if types.is_struct(known) and types.is_struct(given):
            return pa.struct(self.members(list(known), list(given), place))
        if types.is_list(known) and types.is_list(given):
            element = self._united(known.value_field, given.value_field, (*place, ELEMENT))
            return pa.list_(element)
        if types.is_map(known) and types.is_map(given) and known.key_type == given.key_type:
            item = self._united(known.item_field, given.item_field, (*place, MAP_VALUE))
            return pa.map_(known.key_field, item)
        kind = wider(known, given)
        if kind is None or (kind != known and not self._additive):
            what = f"Column {'.'.join(place)[:200]!r} is {known} in the table and {given} in "
            refusal = Refusal(place, "schema.conflict", f"{what}the writer's schema.")
            self.refusals.append(refusal)
            return known
        return kind


def _optional(field: pa.Field) -> pa.Field:
    """`field` with all of it nullable: other writers may lack it. Comments are kept."""
    kind = field.type
    if pa.types.is_struct(kind):
        kind = pa.struct([_optional(member) for member in kind])
    elif pa.types.is_list(kind):
        kind = pa.list_(_optional(kind.value_field))
    elif pa.types.is_map(kind):
        kind = pa.map_(kind.key_field, _optional(kind.item_field))
    return pa.field(field.name, kind, nullable=True, metadata=field.metadata)
