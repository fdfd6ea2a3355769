"""The columns that a JSON decoder knows, and how it comes to know more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from k2i_tasks.codecs.conflicts import variant_name
from k2i_tasks.codecs.growth import (
    Place,
    column_paths,
    count_fields,
    grow,
    hinted,
    inserted,
    name_refusal,
    nested,
    overflow_of,
    relaxed,
    replaced,
    struct_only,
    text_field,
    typed_schema,
)
from k2i_tasks.codecs.infer import Shape
from k2i_tasks.codecs.json_exact import json_text, parse_document
from k2i_tasks.codecs.json_hints import suited
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.json_rows import (
    Choices,
    MisfitError,
    Notes,
    Reader,
    Unlisted,
    Varied,
    row_reader,
)
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.codecs.unite import unite
from k2i_tasks.codecs.wire import is_supported, plain_field, wire_schema
from k2i_tasks.errors import ConflictError, DecodeError, SchemaConflictError

#: Documents that are looked at when columns are created.
SAMPLE_RECORDS = 1000
#: The same for each of several new members of one document, at least.
SAMPLE_RECORDS_MIN = 50
#: Places that will never be a column are remembered, so that each is tried once.
HOPELESS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything derived from one state of the learned schema."""

    learned: pa.Schema
    typed: pa.Schema
    fast: pa.Schema
    exact: pa.Schema
    reader: Reader
    fields: int
    paths: frozenset[str]

    @classmethod
    def of(
        cls, learned: pa.Schema, reserved: frozenset[str], choices: Choices, overflow: str
    ) -> Plan:
        """The plan for a learned schema; `reserved` are names that no new column may have."""
        return cls(
            learned=learned,
            typed=typed_schema(learned),
            fast=wire_schema(learned, exact=False),
            exact=wire_schema(learned, exact=True),
            reader=row_reader(learned, choices, overflow),
            fields=count_fields(field for field in learned if field.name != overflow),
            paths=frozenset(column_paths(learned) | reserved),
        )


class LearnedColumns:
    """Payload columns: those of the table, then those that records brought.

    Args:
        columns: names of the metadata columns.
        table_schema: columns of the table, None when it does not exist.
        max_message_bytes: a longer payload is a dead letter.
        mode: "manual" adds no columns (but creates them once where there is no table).
        rules: bounds, hints and what is done about conflicts.

    Raises:
        SchemaConflictError: a required column of the table has a type that JSON has no form for,
            or a column has another type than is hinted.
    """

    def __init__(
        self,
        columns: MetadataColumns,
        table_schema: pa.Schema | None,
        *,
        max_message_bytes: int,
        mode: str,
        rules: Rules,
    ) -> None:
        self._rules = rules
        self._limits = rules.limits
        self._max_message_bytes = max_message_bytes
        self._manual = mode == "manual"
        # Without a table even the manual mode has to create the columns, once.
        self._may_create = table_schema is None
        self._hopeless: set[str] = set()
        present = _table_columns(table_schema, columns)
        learned = suited(present, rules.hints, additive=self._additive)
        self._overflow = "" if self._manual else overflow_of(learned, rules.overflow)
        self._reserved = columns.reserved() | ({self._overflow.lower()} - {""})
        self._choices = Choices(rules.conflicts.varies, self.widens, rules.relaxes)
        self._take(learned)

    @property
    def plan(self) -> Plan:
        """What is read for at this moment."""
        return self._plan

    @property
    def _additive(self) -> bool:
        return self._may_create or not self._manual

    def create(self, page: Page) -> None:
        """Make the first columns from a sample of the page, whatever its order, if there are none.

        Idempotent by doing nothing once there are columns.
        """
        if self._may_create and len(page):
            self._grow(_shape(self._documents(page.sample(SAMPLE_RECORDS))))
            self._may_create = not len(self._plan.typed)
            if self._manual:
                # What has no type by now will not get one.
                self._take(self._plan.typed)

    def adopt(self, given: pa.Schema) -> None:
        """Take in columns that a schema of the records' has, as far as the mode allows.

        What is known keeps its type where the two have none in common.
        """
        united = unite(
            self._plan.learned,
            hinted(given, self._rules),
            additive=self._additive,
            reserved=self._reserved,
            rules=self._rules,
        )
        if united.schema != self._plan.learned:
            self._take(united.schema)
            self._may_create = False

    def learn(self, page: Page, document: dict[str, Any], notes: Notes) -> bool:
        """Try to make columns for what has none in a document. Whether the columns have changed."""
        changed = bool(notes.unlisted) and self._add(page, document, notes.unlisted)
        for varied in notes.varied:
            changed |= self._add_beside(varied)
        if not changed and self._spills(notes) and not self._has_overflow:
            self._take(pa.schema([*self._plan.learned, text_field(self._overflow)]))
            return True
        return changed

    def promote(self, misfit: MisfitError) -> bool:
        """Promote or relax the column that a value does not fit, if that helps and is allowed."""
        if misfit.code == "json.missing_field" and self._rules.relaxes and self._additive:
            self._take(pa.schema(relaxed(self._plan.learned, misfit.place)))
            return True
        if misfit.wider is None or not self.widens(".".join(misfit.place)):
            return False
        self._take(pa.schema(replaced(self._plan.learned, misfit.place, misfit.wider)))
        return True

    def rest(self, notes: Notes) -> dict[str, Any]:
        """Columns by name for what has none of its own, once no more can be learned.

        Raises:
            ConflictError: there is no place for it.
        """
        spilled = self._spills(notes)
        for varied in notes.varied:
            if varied not in spilled:
                raise varied.misfit.decode_error()
        if refusal := self._refusal([each for each in notes.unlisted if each not in spilled]):
            raise refusal
        if not spilled:
            return {}
        return {self._overflow: json_text(nested([(each.place, each.value) for each in spilled]))}

    def parse(self, payload: bytes) -> dict[str, Any]:
        """One document. Raises `DecodeError`."""
        return parse_document(payload, self._max_message_bytes)

    def _add(self, page: Page, document: dict[str, Any], unlisted: list[Unlisted]) -> bool:
        """Try to make columns for members that have none, seen over the whole page.

        Args:
            page: the batch.
            document: the record that has them.
            unlisted: its members without a column; at least one.

        Returns:
            Whether the columns have changed.
        """
        if self._manual:
            # Members that are null get no column, but the fast reader is to expect them.
            only_nulls = all(item.value is None for item in unlisted)
            return only_nulls and not self._full() and self._grow(_shape([document]))
        fresh = [item for item in unlisted if item.path not in self._hopeless]
        if not fresh or (self._full() and not any(item.known for item in fresh)):
            return False
        names = dict.fromkeys(item.name for item in fresh)
        most = max(SAMPLE_RECORDS // len(names), SAMPLE_RECORDS_MIN)
        others: list[dict[str, Any]] = []
        for name in list(names)[: SAMPLE_RECORDS // most]:
            needle = json.dumps(name, ensure_ascii=False).encode()
            others += self._documents(page.containing(needle, most))
        shape = _shape([*others, document])
        if self._grow(shape):
            return True
        if len(self._hopeless) < HOPELESS_MAX:
            self._hopeless.update(item.path for item in fresh)
        return False

    def _add_beside(self, varied: Varied) -> bool:
        """Try to make the column beside one that does not hold what its records bring."""
        name = variant_name(varied.name)
        path = ".".join((*varied.parent, name)).lower()
        taken = name_refusal(name, path, self._plan.paths, self._limits)
        if not self._additive or self._full() or taken is not None:
            return False
        new = text_field(name)
        self._take(pa.schema(inserted(self._plan.learned, varied.parent, new)))
        return True

    def _spills(self, notes: Notes) -> list[Unlisted | Varied]:
        """What goes together into the overflow column: no column will ever be its own."""
        if not self._overflow or not self._full():
            return []
        fresh = [each for each in notes.unlisted if each.value is not None and not each.known]
        return [
            *(each for each in fresh if self._name_is_free(each) and self._is_told(each.place)),
            *(each for each in notes.varied if self._is_told(each.place)),
        ]

    def _name_is_free(self, each: Unlisted) -> bool:
        path = each.path.lower()
        return name_refusal(each.name, path, self._plan.paths, self._limits) is None

    def _is_told(self, place: Place) -> bool:
        """Whether the rest could tell the place: elements of a list have no name."""
        return struct_only(self._plan.learned, place[:-1])

    @property
    def _has_overflow(self) -> bool:
        return self._overflow in self._plan.learned.names

    def widens(self, path: str) -> bool:
        """Whether the column at this dotted path may be promoted to a wider type."""
        return self._additive and path.lower() not in self._rules.hints

    def _take(self, learned: pa.Schema) -> None:
        self._plan = Plan.of(learned, self._reserved, self._choices, self._overflow)

    def _refusal(self, unlisted: list[Unlisted]) -> ConflictError | None:
        """Why members without a column make a dead letter; None if they carry no value."""
        for item in unlisted:
            # What has no type yet (null, empty lists) waits for one, except where none will come.
            if item.value is None or (not self._manual and not _has_type(item.value)):
                continue
            if self._manual:
                what = f"Field {item.path[:200]!r} has no column and schema evolution is manual."
                return ConflictError("json.unknown_field", what, item.path)
            taken = name_refusal(item.name, item.path.lower(), self._plan.paths, self._limits)
            if taken:
                what = f"Field {item.path[:200]!r} cannot be a column: {taken}."
                return ConflictError("json.field_name", what, item.path)
            what = f"Field {item.path[:200]!r} has no column: {self._limits.columns} is the limit."
            return ConflictError("json.too_many_columns", what, item.path)
        return None

    def _documents(self, payloads: list[bytes]) -> list[dict[str, Any]]:
        documents = []
        for payload in payloads:
            try:
                documents.append(self.parse(payload))
            except DecodeError:
                # It becomes a dead letter when its turn comes.
                continue
        return documents

    def _full(self) -> bool:
        return self._plan.fields >= self._limits.columns

    def _grow(self, shape: Shape) -> bool:
        learned = grow(self._plan.learned, shape, self._reserved, self._rules)
        if learned == self._plan.learned:
            return False
        self._take(learned)
        return True


def _table_columns(table_schema: pa.Schema | None, columns: MetadataColumns) -> pa.Schema:
    if table_schema is None:
        return pa.schema([])
    learned = pa.schema([plain_field(field) for field in columns.without(table_schema)])
    for field in learned:
        if not field.nullable and not is_supported(field.type):
            raise SchemaConflictError(
                f"Column {field.name!r} of the table is required and of type {field.type}, "
                "which JSON has no form for.",
                remedy="Make the column optional or choose another table.",
            )
    return learned


def _shape(documents: list[dict[str, Any]]) -> Shape:
    shape = Shape()
    for document in documents:
        shape.observe(document)
    return shape


def _has_type(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_type, value))
    return value is not None
