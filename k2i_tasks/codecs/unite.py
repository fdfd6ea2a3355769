"""The table's columns and one writer's put together: what is added, widened, or refused.

Only additions and Iceberg's own promotions: int to long, float to double, a decimal of the same
scale to more digits. What a place of the writer's schema cannot become is refused there: a record
with a value in that place is a dead letter, one without is a row.

Source of the promotions: the Iceberg table specification, "Schema Evolution".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from k2i_tasks.codecs.conflicts import variant_name
from k2i_tasks.codecs.growth import (
    ELEMENT,
    VALUE,
    Place,
    column_paths,
    count_fields,
    name_refusal,
    overflow_of,
    struct_only,
    text_field,
    typed_field,
)
from k2i_tasks.codecs.infer import is_json_text
from k2i_tasks.codecs.rules import Rules

_EXACT_IN_DOUBLE = frozenset({pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16()})
_WIDTH_OF_UNSIGNED = {pa.uint8(): 9, pa.uint16(): 17, pa.uint32(): 33}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A place of a writer's schema that the table has no room for.

    Args:
        place: where in the writer's rows.
        code: of the dead letter that a value there makes.
        what: the reason, one sentence.
        holder: the column, or member of a struct, that the place is or is in.
    """

    place: Place
    code: str
    what: str
    holder: Place

    @property
    def varies(self) -> bool:
        """Whether a column beside its own may take what has no room."""
        return self.code == "schema.conflict"

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
        varied: columns of the writer's, or members of structs, that go as JSON text into the one
            beside them.
        spilled: those that go together as JSON text into the overflow column.
    """

    schema: pa.Schema
    refusals: tuple[Refusal, ...]
    varied: tuple[Place, ...] = ()
    spilled: tuple[Place, ...] = ()


def unite(
    known: pa.Schema,
    given: pa.Schema,
    *,
    additive: bool,
    reserved: frozenset[str],
    rules: Rules,
    varies: bool = False,
) -> Union:
    """Puts a writer's columns to the known ones.

    Args:
        known: the columns so far, of plain types.
        given: the writer's, of plain types; those of no type (null, empty structs) are no columns.
        additive: whether columns may be added and widened.
        reserved: lower-case top-level names that belong to metadata columns.
        rules: bounds of the result, and what is done about conflicts.
        varies: whether what has no room goes into columns beside its own, or the overflow column,
            as far as the rules say so.
    """
    uniting = _Uniting(known, given, additive, reserved, rules, varies=varies)
    fields = uniting.members(list(known), list(given), ())
    if uniting.spilled and rules.overflow not in known.names:
        fields.append(text_field(rules.overflow))
    return Union(
        pa.schema(fields),
        tuple(uniting.refusals),
        tuple(uniting.varied),
        tuple(uniting.spilled),
    )


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
        self,
        known: pa.Schema,
        given: pa.Schema,
        additive: bool,
        reserved: frozenset[str],
        rules: Rules,
        *,
        varies: bool,
    ) -> None:
        self._given = given
        self._additive = additive
        self._overflow = overflow_of(known, rules.overflow) if varies and additive else ""
        self._paths = column_paths(known) | reserved | ({self._overflow.lower()} - {""})
        self._count = count_fields(field for field in known if field.name != self._overflow)
        self._limits = rules.limits
        self._conflicts = rules.conflicts
        self._varies = varies
        self._holder: Place = ()
        self.refusals: list[Refusal] = []
        self.varied: list[Place] = []
        self.spilled: list[Place] = []

    def members(self, known: list[pa.Field], given: list[pa.Field], at: Place) -> list[pa.Field]:
        """The members of a struct, or the columns."""
        holder = self._holder
        wanted = {field.name: field for field in given}
        names = {field.name: field for field in known}
        united: list[pa.Field] = []
        late: list[pa.Field] = []
        for field in known:
            if field.name not in wanted:
                united.append(field)
                continue
            self._holder = (*at, field.name)
            before = len(self.refusals)
            kept = self._united(field, wanted[field.name], self._holder)
            if self._beside(field, before, names, wanted, late):
                kept = field
            united.append(kept)
        for name, field in wanted.items():
            if name not in names:
                self._holder = (*at, name)
                added = self._added(field, self._holder)
                late += [] if added is None else [added]
        self._holder = holder
        return united + late

    def _beside(
        self,
        field: pa.Field,
        before: int,
        known: Mapping[str, pa.Field],
        given: Mapping[str, pa.Field],
        late: list[pa.Field],
    ) -> bool:
        """Whether what `field` cannot hold goes beside it; its refusals, the last, are taken back.

        Args:
            field: the member at `self._holder`.
            before: refusals that were there before it was looked at.
            known, given: the struct's members, and the writer's.
            late: given the column beside, if it is a new one.
        """
        own = [each for each in self.refusals[before:] if each.holder == self._holder]
        varies = self._varies and field.nullable and all(each.varies for each in own)
        if not own or not varies or not all(self._conflicts.varies(each.path) for each in own):
            return False
        name = variant_name(field.name)
        if name in given or (name in known and not is_json_text(known[name])):
            return False
        if name not in known:
            place = (*self._holder[:-1], name)
            new = text_field(name)
            below = {".".join(place).lower()}
            if self._reason(new, place, below, 1) is not None:
                return False
            self._paths |= below
            self._count += 1
            late.append(new)
        self.refusals[before:] = [each for each in self.refusals[before:] if each not in own]
        self.varied.append(self._holder)
        return True

    def _added(self, field: pa.Field, place: Place) -> pa.Field | None:
        typed = typed_field(field)
        if typed is None:
            return None
        below = column_paths([typed], "".join(f"{name.lower()}." for name in place[:-1]))
        size = count_fields([typed])
        reason = self._reason(typed, place, below, size)
        if reason is not None:
            code, why = reason
            spills = code == "schema.too_many_columns" and self._overflow
            # Elements of a list have no name by which the rest could tell them.
            if spills and struct_only(self._given, place[:-1]):
                self.spilled.append(place)
                return None
            what = f"Field {'.'.join(place)[:200]!r} {why}."
            self.refusals.append(Refusal(place, code, what, self._holder))
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
        if is_json_text(known) and not is_json_text(given):
            self._refuse("JSON text", str(given.type), place)
            return known
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
            item = self._united(known.item_field, given.item_field, (*place, VALUE))
            return pa.map_(known.key_field, item)
        kind = wider(known, given)
        if kind is None or (kind != known and not self._additive):
            self._refuse(str(known), str(given), place)
            return known
        return kind

    def _refuse(self, known: str, given: str, place: Place) -> None:
        what = f"Column {'.'.join(place)[:200]!r} is {known} in the table and {given} in "
        what = f"{what}the writer's schema."
        self.refusals.append(Refusal(place, "schema.conflict", what, self._holder))


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
