"""By what rules columns come to be and change: bounds, hints, and what is done about conflicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from k2i_tasks.codecs.conflicts import Conflicts
from k2i_tasks.codecs.infer import JSON_TEXT_METADATA
from k2i_tasks.errors import ConfigError

_DECIMAL = re.compile(r"decimal\((\d{1,2}),(\d{1,2})\)")
_TYPES = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", tz="UTC"),
    "string": pa.string(),
    "uuid": pa.uuid(),
}
#: The hint of a column that holds JSON documents as text.
JSON_HINT = "json"


@dataclass(frozen=True, slots=True)
class SchemaLimits:
    """Bounds of a learned schema.

    Args:
        columns: fields in all, nested ones and list elements included.
        depth: levels of nesting; what lies deeper is held as JSON text.
        name_chars: longest field name.
    """

    columns: int = 1000
    depth: int = 20
    name_chars: int = 256


@dataclass(frozen=True, slots=True)
class Rules:
    """How columns are learned.

    Args:
        limits: bounds of the schema.
        conflicts: what is done about values that the columns cannot hold.
        hints: fields by lower-case dotted path, of the type that the column there is to have.
        nested_as_text: whether new lists and objects are held as JSON text.
        relaxes: whether a required column becomes optional for a record without its value.
        overflow: column for new members once there are `limits.columns`; empty for none.
    """

    limits: SchemaLimits = SchemaLimits()
    conflicts: Conflicts = field(default_factory=Conflicts)
    hints: Mapping[str, pa.Field] = field(default_factory=dict)
    nested_as_text: bool = False
    relaxes: bool = False
    overflow: str = ""


def hints_of(fields: Mapping[str, str]) -> dict[str, pa.Field]:
    """What hints stand for: lower-case path -> a field of that type.

    Args:
        fields: dotted path -> Iceberg's name of a type, or `json`.

    Raises:
        ConfigError: a word that is no such type.
    """
    return {path.lower(): _hinted(path, word) for path, word in fields.items()}


def _hinted(path: str, word: str) -> pa.Field:
    text = word.lower().replace(" ", "")
    if text == JSON_HINT:
        return pa.field(path, pa.string(), metadata=JSON_TEXT_METADATA)
    if text in _TYPES:
        return pa.field(path, _TYPES[text])
    found = _DECIMAL.fullmatch(text)
    if found and 1 <= int(found[1]) <= 38 and int(found[2]) <= int(found[1]):
        return pa.field(path, pa.decimal128(int(found[1]), int(found[2])))
    known = ", ".join([*_TYPES, "decimal(P,S)", JSON_HINT])
    what = f"kafka.format.fields: {path!r} is to be {word!r}; it is one of {known}."
    raise ConfigError(what, field="kafka.format.fields")
