"""The columns that a JSON Schema names: where it is clear about a type, and nowhere else.

What it leaves open (no type, recursion, tuples, `additionalProperties` beside properties) is left
to the values, as for JSON without a schema. Whether values are as the schema says is not checked;
they have to fit their columns.

Source: JSON Schema draft 7 and 2020-12, with `definitions` and `$defs`; `$ref` by JSON Pointer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import pyarrow as pa

from k2i_tasks.codecs.infer import INT64_MAX, INT64_MIN, JSON_TEXT_METADATA, is_json_text
from k2i_tasks.codecs.text_types import DATE, ZONED
from k2i_tasks.errors import DecodeError

#: Levels of nesting, and schemas that are looked at, references followed.
DEPTH_MAX = 20
NODES_MAX = 20_000
_FORMATS = {"date-time": ZONED, "date": DATE}
_WIDE_INTEGER = pa.decimal128(38, 0)


def json_schema_columns(text: str, references: Mapping[str, str]) -> pa.Schema:
    """The columns of a schema whose documents are objects; none for others. All are nullable.

    Args:
        text: the schema.
        references: `$ref`, as it is written, -> text.

    Raises:
        DecodeError: a text is no JSON, or the schema is too large (`schema.invalid`).
    """
    documents = {name: _loaded(name, one) for name, one in references.items()}
    reading = _Reading({"": _loaded("the schema", text), **documents})
    found = reading.field("", "", reading.documents[""], ())
    if found is None or not pa.types.is_struct(found.type):
        return pa.schema([])
    return pa.schema(list(found.type))


def _loaded(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DecodeError("schema.invalid", f"The JSON Schema {name!r} is no JSON.") from None


class _Reading:
    """One walk over a schema and those that it refers to."""

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self.documents = documents
        self._bases = {_base_of(one, name): name for name, one in documents.items()}
        self._nodes = 0

    def field(
        self, name: str, document: str, schema: Any, above: tuple[str, ...]
    ) -> pa.Field | None:
        """The field for a place, None where the schema does not say.

        Args:
            name: of the field.
            document: name of the document that `schema` is of.
            above: references that were followed to get here, and a word for each level.
        """
        self._nodes += 1
        if self._nodes > NODES_MAX:
            what = f"The JSON Schema has more than {NODES_MAX} parts, references followed."
            raise DecodeError("schema.invalid", what)
        if not isinstance(schema, dict) or above.count("") > DEPTH_MAX:
            return None
        if "$ref" in schema:
            return self._referred(name, document, str(schema["$ref"]), above)
        for word in ("oneOf", "anyOf"):
            if isinstance(schema.get(word), list):
                return self._one_of(name, document, schema[word], above)
        if isinstance(schema.get("allOf"), list):
            return self._all_of(name, document, schema, above)
        kinds = schema.get("type")
        listed = kinds if isinstance(kinds, list) else [kinds]
        given = {kind for kind in listed if kind != "null"}
        if given == {"integer", "number"}:
            given = {"number"}
        if len(given) > 1:
            return _json_text(name)
        kind = self._type(given.pop(), document, schema, above) if given else None
        if isinstance(kind, pa.Field):
            return kind.with_name(name)
        return None if kind is None else pa.field(name, kind)

    def _type(
        self, kind: Any, document: str, schema: Mapping[str, Any], above: tuple[str, ...]
    ) -> pa.DataType | pa.Field | None:
        """The type of one kind of value; a field where the mark "JSON text" is part of it."""
        if kind == "boolean":
            return pa.bool_()
        if kind == "integer":
            return _integer(schema)
        if kind == "number":
            return pa.float64()
        if kind == "string":
            return _FORMATS.get(str(schema.get("format")), pa.string())
        if kind == "array":
            element = self.field("element", document, schema.get("items"), (*above, ""))
            if element is not None and is_json_text(element):
                return _json_text("element")
            return None if element is None else pa.list_(element)
        if kind == "object":
            return self._object(document, schema, (*above, ""))
        return None

    def _object(
        self, document: str, schema: Mapping[str, Any], above: tuple[str, ...]
    ) -> pa.DataType | None:
        properties = schema.get("properties")
        if not isinstance(properties, dict) or not properties:
            item = self.field("value", document, schema.get("additionalProperties"), above)
            if item is None or is_json_text(item) or above == ("",):
                return None
            return pa.map_(pa.string(), item)
        found = [self.field(name, document, one, above) for name, one in properties.items()]
        members = [field for field in found if field is not None]
        return pa.struct(members) if members else None

    def _one_of(
        self, name: str, document: str, choices: list[Any], above: tuple[str, ...]
    ) -> pa.Field | None:
        """One field for all choices that are not null; JSON text if they are of several types."""
        rest = [one for one in choices if not (isinstance(one, dict) and one.get("type") == "null")]
        found = [self.field(name, document, one, above) for one in rest]
        fields = [field for field in found if field is not None]
        if not fields or len(fields) < len(found):
            return None
        if all(field.type == fields[0].type for field in fields):
            return fields[0]
        return _json_text(name)

    def _all_of(
        self, name: str, document: str, schema: Mapping[str, Any], above: tuple[str, ...]
    ) -> pa.Field | None:
        """One field for all parts: the members of objects together, or what one of them says."""
        own = {key: value for key, value in schema.items() if key != "allOf"}
        parts = [self.field(name, document, one, above) for one in [own, *schema["allOf"]]]
        said = [part for part in parts if part is not None]
        if said and all(pa.types.is_struct(part.type) for part in said):
            members = {member.name: member for part in said for member in part.type}
            return pa.field(name, pa.struct(list(members.values())))
        return said[0] if said and all(part.type == said[0].type for part in said) else None

    def _referred(
        self, name: str, document: str, reference: str, above: tuple[str, ...]
    ) -> pa.Field | None:
        place = self._find(document, reference)
        if place is None or f"{place[0]}#{place[1]}" in above:
            return None
        target, pointer, schema = place
        return self.field(name, target, schema, (*above, f"{target}#{pointer}"))

    def _find(self, document: str, reference: str) -> tuple[str, str, Any] | None:
        """Name of the document, pointer, and the schema that a reference leads to."""
        address, pointer = urldefrag(reference)
        target: str | None = document
        if address:
            base = _base_of(self.documents[document], document)
            forms = (address, reference, urljoin(base, address))
            target = next((form for form in forms if form in self.documents), None)
            target = target or next(
                (self._bases[form] for form in forms if form in self._bases), None
            )
        if target is None:
            return None
        schema = self.documents[target]
        for step in [unquote(part) for part in pointer.split("/")[1:]]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(schema, list) and step.isdecimal() and int(step) < len(schema):
                schema = schema[int(step)]
            elif isinstance(schema, dict) and step in schema:
                schema = schema[step]
            else:
                return None
        # A name for a place, `#address`, is not looked up.
        return None if pointer and not pointer.startswith("/") else (target, pointer, schema)


def _base_of(schema: Any, name: str) -> str:
    known = schema.get("$id") if isinstance(schema, dict) else None
    return known if isinstance(known, str) else name


def _json_text(name: str) -> pa.Field:
    return pa.field(name, pa.string(), metadata=JSON_TEXT_METADATA)


def _integer(schema: Mapping[str, Any]) -> pa.DataType:
    """long, unless the bounds say that it may be too small."""
    bounds = [schema.get(word) for word in ("minimum", "maximum")]
    numbers = [bound for bound in bounds if isinstance(bound, (int, float))]
    wide = any(not INT64_MIN <= number <= INT64_MAX for number in numbers)
    return _WIDE_INTEGER if wide else pa.int64()
