"""What a table's schema lacks for given rows: columns to add, types to widen, contradictions."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyiceberg.exceptions import ResolveError
from pyiceberg.schema import Schema, promote
from pyiceberg.types import IcebergType, ListType, MapType, PrimitiveType, StructType

#: Names from the top down; `element`, `key` and `value` stand for the parts of lists and maps.
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Changes that make a table's schema take rows of another.

    Args:
        missing: columns to add, nested ones by path, each with its comment.
        wider: columns whose type is to be widened, with the wider type.
        optional: columns that are to be required no more.
        conflicts: sentences, one per column that neither fits nor can be widened.
    """

    missing: list[tuple[Path, IcebergType, str | None]] = field(default_factory=list)
    wider: list[tuple[Path, PrimitiveType]] = field(default_factory=list)
    optional: list[Path] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        return bool(self.missing or self.wider or self.optional)


def difference(table: Schema, rows: Schema) -> Difference:
    """What `table` lacks to take rows of `rows`, matched by name."""
    found = Difference()
    _struct(found, (), table.as_struct(), rows.as_struct())
    return found


def _struct(found: Difference, path: Path, table: StructType, rows: StructType) -> None:
    known = {each.name: each for each in table.fields}
    folded = {each.name.lower(): each.name for each in table.fields}
    for wanted in rows.fields:
        inner = (*path, wanted.name)
        if wanted.name in known:
            _type(found, inner, known[wanted.name].field_type, wanted.field_type)
        elif wanted.name.lower() in folded:
            found.conflicts.append(
                f"{_shown(inner)} differs only in case from {folded[wanted.name.lower()]!r}"
            )
        else:
            found.missing.append((inner, wanted.field_type, wanted.doc))
            folded[wanted.name.lower()] = wanted.name


def _type(
    found: Difference, path: Path, table: IcebergType, rows: IcebergType, *, is_key: bool = False
) -> None:
    if isinstance(table, StructType) and isinstance(rows, StructType):
        _struct(found, path, table, rows)
    elif isinstance(table, ListType) and isinstance(rows, ListType):
        _type(found, (*path, "element"), table.element_type, rows.element_type)
    elif isinstance(table, MapType) and isinstance(rows, MapType):
        _type(found, (*path, "key"), table.key_type, rows.key_type, is_key=True)
        _type(found, (*path, "value"), table.value_type, rows.value_type)
    elif table == rows or fits(rows, table):
        return
    elif fits(table, rows) and isinstance(rows, PrimitiveType) and not is_key:
        found.wider.append((path, rows))
    else:
        found.conflicts.append(f"{_shown(path)} is {table} in the table and {rows} in the records")


def fits(narrow: IcebergType, wide: IcebergType) -> bool:
    """Whether each `narrow` value is a `wide` one, without a change of kind."""
    try:
        promoted = promote(narrow, wide)
    except ResolveError:
        return False
    # PyIceberg also reads strings as binary and the other way round, and fixed as UUID.
    return promoted == wide and _family(narrow) == _family(wide)


def _family(kind: IcebergType) -> str:
    name = type(kind).__name__
    families = {"IntegerType": "int", "LongType": "int", "FloatType": "real", "DoubleType": "real"}
    return families.get(name, name)


def _shown(path: Path) -> str:
    return repr(".".join(path))
