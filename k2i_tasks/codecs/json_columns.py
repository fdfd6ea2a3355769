"""The columns that a JSON decoder knows, and how it comes to know more."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from k2i_tasks.codecs.growth import (
    SchemaLimits,
    column_paths,
    count_fields,
    grow,
    name_refusal,
    typed_schema,
)
from k2i_tasks.codecs.infer import Shape
from k2i_tasks.codecs.json_exact import parse_document
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.json_rows import Reader, Unlisted, row_reader
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.codecs.unite import unite
from k2i_tasks.codecs.wire import is_supported, plain_field, wire_schema
from k2i_tasks.errors import ConflictError, DecodeError, SchemaConflictError

#: Documents that are looked at when columns are created.
SAMPLE_RECORDS = 1000
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
    def of(cls, learned: pa.Schema, reserved: frozenset[str]) -> Plan:
        """The plan for a learned schema; `reserved` are the metadata columns' names."""
        return cls(
            learned=learned,
            typed=typed_schema(learned),
            fast=wire_schema(learned, exact=False),
            exact=wire_schema(learned, exact=True),
            reader=row_reader(learned),
            fields=count_fields(learned),
            paths=frozenset(column_paths(learned) | reserved),
        )


class LearnedColumns:
    """Payload columns: those of the table, then those that records brought.

    Args:
        columns: names of the metadata columns.
        table_schema: columns of the table, None when it does not exist.
        max_message_bytes: a longer payload is a dead letter.
        mode: "manual" adds no columns (but creates them once where there is no table).
        limits: bounds of the schema.

    Raises:
        SchemaConflictError: a required column of the table has a type that JSON has no form for.
    """

    def __init__(
        self,
        columns: MetadataColumns,
        table_schema: pa.Schema | None,
        *,
        max_message_bytes: int,
        mode: str,
        limits: SchemaLimits,
    ) -> None:
        self._reserved = columns.reserved()
        self._limits = limits
        self._max_message_bytes = max_message_bytes
        self._manual = mode == "manual"
        # Without a table even the manual mode has to create the columns, once.
        self._may_create = table_schema is None
        self._hopeless: set[str] = set()
        self._plan = Plan.of(_table_columns(table_schema, columns), self._reserved)

    @property
    def plan(self) -> Plan:
        """What is read for at this moment."""
        return self._plan

    def create(self, page: Page) -> None:
        """Make the first columns from a sample of the page, whatever its order, if there are none.

        Idempotent by doing nothing once there are columns.
        """
        if self._may_create and len(page):
            self._learn(_shape(self._documents(page.sample(SAMPLE_RECORDS))))
            self._may_create = not len(self._plan.typed)
            if self._manual:
                # What has no type by now will not get one.
                self._plan = Plan.of(self._plan.typed, self._reserved)

    def adopt(self, given: pa.Schema) -> None:
        """Take in columns that a schema of the records' has, as far as the mode allows.

        What is known keeps its type where the two have none in common.
        """
        additive = self._may_create or not self._manual
        united = unite(
            self._plan.learned,
            given,
            additive=additive,
            reserved=self._reserved,
            limits=self._limits,
        )
        if united.schema != self._plan.learned:
            self._plan = Plan.of(united.schema, self._reserved)
            self._may_create = False

    def add(self, page: Page, document: dict[str, Any], unlisted: list[Unlisted]) -> bool:
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
            return only_nulls and not self._full() and self._learn(_shape([document]))
        fresh = [item for item in unlisted if item.path not in self._hopeless]
        if not fresh or (self._full() and not any(item.known for item in fresh)):
            return False
        needle = json.dumps(fresh[0].name, ensure_ascii=False).encode()
        others = self._documents(page.containing(needle, SAMPLE_RECORDS))
        shape = _shape([*others, document])
        if self._learn(shape):
            return True
        if len(self._hopeless) < HOPELESS_MAX:
            self._hopeless.update(item.path for item in fresh)
        return False

    def refusal(self, unlisted: list[Unlisted]) -> ConflictError | None:
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

    def parse(self, payload: bytes) -> dict[str, Any]:
        """One document. Raises `DecodeError`."""
        return parse_document(payload, self._max_message_bytes)

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

    def _learn(self, shape: Shape) -> bool:
        learned = grow(self._plan.learned, shape, self._reserved, self._limits)
        if learned == self._plan.learned:
            return False
        self._plan = Plan.of(learned, self._reserved)
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
