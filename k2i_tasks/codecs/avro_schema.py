"""A writer's Avro schema: JSON text, with named types and references, to a tree of types.

Source: the Apache Avro 1.12 specification, sections "Schema Declaration", "Names" and "Logical
Types". As it asks, a logical type that is unknown, or does not fit the type it stands on, is left
out of account. Defaults, aliases and the order of fields do not matter for reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from k2i_tasks.errors import DecodeError

#: Bounds of a schema: what a table holds, far above what people write.
MAX_TYPES = 10_000
MAX_DEPTH = 64
MAX_FIXED_BYTES = 1 << 20

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
#: Logical type -> the types it may stand on; decimals and fixed UUIDs are looked at further.
_LOGICAL = {
    "date": ("int",),
    "time-millis": ("int",),
    "time-micros": ("long",),
    "timestamp-millis": ("long",),
    "timestamp-micros": ("long",),
    "local-timestamp-millis": ("long",),
    "local-timestamp-micros": ("long",),
    "uuid": ("string", "fixed"),
    "decimal": ("bytes", "fixed"),
}
_NAMED = ("record", "error", "enum", "fixed")
_UUID_BYTES = 16
_MOST_DIGITS = 38


@dataclass(frozen=True, slots=True)
class Decimal:
    """The logical type decimal: `precision` digits, `scale` of them after the point."""

    precision: int
    scale: int


Logical = str | Decimal | None


@dataclass(frozen=True, slots=True)
class Primitive:
    """A type of `PRIMITIVES`."""

    name: str
    logical: Logical = None


@dataclass(frozen=True, slots=True)
class Fixed:
    """`size` bytes."""

    name: str
    size: int
    logical: Logical = None


@dataclass(frozen=True, slots=True)
class Enum:
    """One of `symbols`, by index."""

    name: str
    symbols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Fields one after the other; `name` is the full one."""

    name: str
    fields: tuple[tuple[str, AvroType], ...]


@dataclass(frozen=True, slots=True)
class Array:
    """Any number of items."""

    items: AvroType


@dataclass(frozen=True, slots=True)
class Map:
    """Any number of values, each under a string."""

    values: AvroType


@dataclass(frozen=True, slots=True)
class Union:
    """One of `branches`, by index."""

    branches: tuple[AvroType, ...]


AvroType = Primitive | Fixed | Enum | Record | Array | Map | Union


def parse_schema(schema: str, references: Mapping[str, str] | Sequence[str] = ()) -> AvroType:
    """The tree of `schema`, every name replaced by what it stands for.

    Args:
        schema: JSON text.
        references: JSON texts of schemas whose named types it may use; in any order. The keys of
            a mapping are used in errors only.

    Raises:
        DecodeError: the schema is none, or one that no table's columns can hold; says
            what and where.
    """
    names = _Names()
    named = references.items() if isinstance(references, Mapping) else enumerate(references)
    for key, text in named:
        names.collect(_loaded(text, f"reference {key!r}"), "", 0)
    whole = _loaded(schema, "the schema")
    names.collect(whole, "", 0)
    return _Resolver(names).resolve(whole, "", "", ())


def least_size(kind: AvroType) -> int:
    """The fewest bytes that a value has."""
    if isinstance(kind, Primitive):
        return {"null": 0, "float": 4, "double": 8}.get(kind.name, 1)
    if isinstance(kind, Record):
        return sum(least_size(member) for _, member in kind.fields)
    return kind.size if isinstance(kind, Fixed) else 1


def exact_size(kind: AvroType) -> int | None:
    """The bytes that every value has; None if values differ."""
    if isinstance(kind, Primitive):
        return {"null": 0, "boolean": 1, "float": 4, "double": 8}.get(kind.name)
    if isinstance(kind, Fixed):
        return kind.size
    if isinstance(kind, Record):
        sizes = [exact_size(member) for _, member in kind.fields]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None
    return None


def short_name(kind: AvroType) -> str:
    """The name of a type as a union tells its branches apart, without a namespace."""
    if isinstance(kind, Primitive | Fixed | Enum | Record):
        return kind.name.rpartition(".")[2]
    return type(kind).__name__.lower()


def _refuse(what: str, where: str) -> NoReturn:
    place = f" at {where!r}" if where else ""
    raise DecodeError("schema.invalid", f"The Avro schema{place}: {what}.")


def _loaded(text: str, which: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(f"{which} is no JSON ({type(error).__name__})", "")


def _full_name(name: object, namespace: str, where: str) -> str:
    if not isinstance(name, str) or not name:
        _refuse("a named type has no name", where)
    return name if "." in name or not namespace else f"{namespace}.{name}"


def _declared(schema: Mapping[str, Any], namespace: str, where: str) -> str:
    """The full name of a type that is declared here."""
    inner = schema.get("namespace", namespace)
    if not isinstance(inner, str):
        _refuse("a namespace is no text", where)
    return _full_name(schema.get("name"), inner, where)


class _Names:
    """Declarations of named types, by full name."""

    def __init__(self) -> None:
        self.found: dict[str, Mapping[str, Any]] = {}

    def collect(self, schema: Any, namespace: str, depth: int) -> None:
        """Takes in every declaration in `schema`, so that it may be used before and elsewhere."""
        if depth > 3 * MAX_DEPTH:
            _refuse(f"more than {MAX_DEPTH} levels", "")
        if isinstance(schema, list):
            for branch in schema:
                self.collect(branch, namespace, depth + 1)
        if not isinstance(schema, dict):
            return
        kind = schema.get("type")
        if isinstance(kind, dict | list):
            self.collect(kind, namespace, depth + 1)
        elif isinstance(kind, str) and kind in _NAMED:
            name = _declared(schema, namespace, "")
            if self.found.setdefault(name, schema) != schema:
                _refuse(f"the name {name!r} is declared twice, differently", "")
            namespace = name.rpartition(".")[0]
        for key in ("items", "values"):
            self.collect(schema.get(key), namespace, depth + 1)
        fields = schema.get("fields")
        for field in fields if isinstance(fields, list) else ():
            if isinstance(field, dict):
                self.collect(field.get("type"), namespace, depth + 1)

    def of(self, name: str, namespace: str) -> str | None:
        """The full name that `name` means inside `namespace`; None if there is no such type."""
        full = _full_name(name, namespace, "")
        # As Java's reader does, a name without namespace is looked for everywhere.
        return next((one for one in (full, name) if one in self.found), None)


class _Resolver:
    """Builds the tree; counts its types and knows the records it is inside of."""

    def __init__(self, names: _Names) -> None:
        self._names = names
        self._count = 0

    def resolve(self, schema: Any, namespace: str, where: str, inside: tuple[str, ...]) -> AvroType:
        """The type that `schema` declares or names.

        Args:
            schema: parsed JSON.
            namespace: the one around it.
            where: dotted path, for errors.
            inside: full names of the records around it; "" for every other level.
        """
        self._count += 1
        if self._count > MAX_TYPES:
            _refuse(f"more than {MAX_TYPES} types, named ones counted at each use", where)
        if len(inside) > MAX_DEPTH:
            _refuse(f"more than {MAX_DEPTH} levels", where)
        if isinstance(schema, str):
            return self._named(schema, namespace, where, inside)
        if isinstance(schema, list):
            return self._union(schema, namespace, where, inside)
        if not isinstance(schema, dict):
            _refuse("a type is neither text, object nor list", where)
        kind = schema.get("type")
        if isinstance(kind, dict | list):
            return self.resolve(kind, namespace, where, (*inside, ""))
        if not isinstance(kind, str):
            _refuse("a type's object has no member 'type'", where)
        return self._declared(kind, schema, namespace, where, inside)

    def _declared(
        self, kind: str, schema: Mapping[str, Any], namespace: str, where: str, inside: Any
    ) -> AvroType:
        if kind in PRIMITIVES:
            return Primitive(kind, _logical(schema, kind, None, where))
        if kind in ("array", "map"):
            key, step = ("items", "element") if kind == "array" else ("values", "value")
            if key not in schema:
                _refuse(f"{kind} has no member {key!r}", where)
            path = f"{where}.{step}" if where else step
            inner = self.resolve(schema[key], namespace, path, (*inside, ""))
            return Array(inner) if kind == "array" else Map(inner)
        if kind not in _NAMED:
            return self._named(kind, namespace, where, inside)
        name = _declared(schema, namespace, where)
        if kind == "enum":
            return Enum(name, _symbols(schema, where))
        if kind == "fixed":
            size = schema.get("size")
            if not isinstance(size, int) or not 0 < size <= MAX_FIXED_BYTES:
                _refuse(f"fixed {name!r} has not a size of 1 to {MAX_FIXED_BYTES}", where)
            return Fixed(name, size, _logical(schema, kind, size, where))
        return self._record(name, schema, where, inside)

    def _named(self, name: str, namespace: str, where: str, inside: tuple[str, ...]) -> AvroType:
        if name in PRIMITIVES:
            return Primitive(name)
        full = self._names.of(name, namespace)
        if full is None:
            _refuse(f"the type {name!r} is declared nowhere", where)
        outer = full.rpartition(".")[0]
        schema = self._names.found[full]
        return self._declared(schema["type"], {**schema, "name": full}, outer, where, inside)

    def _record(
        self, name: str, schema: Mapping[str, Any], where: str, inside: tuple[str, ...]
    ) -> Record:
        if name in inside:
            _refuse(f"the record {name!r} contains itself, which no column type can hold", where)
        fields = schema.get("fields")
        if not isinstance(fields, list):
            _refuse(f"record {name!r} has no list 'fields'", where)
        found: list[tuple[str, AvroType]] = []
        taken: set[str] = set()
        for field in fields:
            label = field.get("name") if isinstance(field, dict) else None
            if not isinstance(label, str) or not label or "type" not in field:
                _refuse(f"a field of record {name!r} has no name or no type", where)
            path = f"{where}.{label}" if where else label
            if label.lower() in taken:
                _refuse(f"record {name!r} has this field twice (case is ignored)", path)
            taken.add(label.lower())
            namespace = name.rpartition(".")[0]
            inner = self.resolve(field["type"], namespace, path, (*inside, name))
            found.append((label, inner))
        return Record(name, tuple(found))

    def _union(
        self, schema: list[Any], namespace: str, where: str, inside: tuple[str, ...]
    ) -> Union:
        if not schema:
            _refuse("a union has no branches", where)
        branches = tuple(self.resolve(one, namespace, where, (*inside, "")) for one in schema)
        if any(isinstance(branch, Union) for branch in branches):
            _refuse("a union is a branch of a union", where)
        unnamed = [
            short_name(branch)
            for branch in branches
            if not isinstance(branch, Fixed | Enum | Record)
        ]
        named = [branch.name for branch in branches if isinstance(branch, Fixed | Enum | Record)]
        for names in (unnamed, named):
            if len(set(names)) < len(names):
                _refuse("a union has two branches of one type", where)
        return Union(branches)


def _symbols(schema: Mapping[str, Any], where: str) -> tuple[str, ...]:
    symbols = schema.get("symbols")
    if not isinstance(symbols, list) or not symbols or not all(isinstance(s, str) for s in symbols):
        _refuse("an enum has no symbols", where)
    return tuple(symbols)


def _logical(schema: Mapping[str, Any], kind: str, size: int | None, where: str) -> Logical:
    """The logical type, if it fits.

    Raises:
        DecodeError: a decimal of more digits than a table's column can have.
    """
    name = schema.get("logicalType")
    if not isinstance(name, str) or kind not in _LOGICAL.get(name, ()):
        return None
    if name == "uuid":
        return name if size in (None, _UUID_BYTES) else None
    if name != "decimal":
        return name
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if not isinstance(precision, int) or not isinstance(scale, int):
        return None
    # 8 bits a byte, one of them the sign's.
    if not 0 <= scale <= precision or precision < 1:
        return None
    if size is not None and 10**precision > 2 ** (8 * size - 1):
        return None
    if precision > _MOST_DIGITS:
        _refuse(f"a decimal has {precision} digits; a column holds {_MOST_DIGITS}", where)
    return Decimal(precision, scale)
