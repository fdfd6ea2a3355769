"""Schema changes that are not in the table yet: each goes into the commit of the rows it is for.

Files that are staged meanwhile carry field ids that the table has not given out. They are right
only if the table's schema is still the one that the change was made on, or has the change already:
a commit looks, and requires of the catalog that it stays so. Else another writer may have given the
same ids to other columns, and the files must never be committed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import (
    AddSchemaUpdate,
    AssertCurrentSchemaId,
    AssertLastAssignedFieldId,
    SetCurrentSchemaUpdate,
    TableRequirement,
    TableUpdate,
    update_table_metadata,
)
from pyiceberg.types import IcebergType, PrimitiveType

from k2i_tasks.errors import SchemaRacedError
from k2i_tasks.iceberg.difference import fits

#: Changes of metadata, and what the catalog has to find for them.
Updates = tuple[tuple[TableUpdate, ...], tuple[TableRequirement, ...]]
NO_UPDATES: Updates = ((), ())


@dataclass(frozen=True, slots=True)
class PendingSchema:
    """A change of a table's schema that is not committed.

    Args:
        schema: the schema after it.
        base: digest of the schema that it was made on.
        last_column_id: the highest field id that the table had given out then.
    """

    schema: Schema
    base: str
    last_column_id: int

    @classmethod
    def between(cls, before: TableMetadata, after: Schema) -> PendingSchema:
        return cls(after, digest(before.schema()), before.last_column_id)

    def is_in(self, metadata: TableMetadata) -> bool:
        """Whether the table has all of it, with the same field ids."""
        current = metadata.schema()
        return all(self._held(current, number) for number in self.schema.field_ids)

    def is_made_on(self, metadata: TableMetadata) -> bool:
        """Whether the table's schema is the very one that it was made on."""
        return (
            metadata.last_column_id == self.last_column_id
            and digest(metadata.schema()) == self.base
        )

    def why_lost(self, table: Table) -> str:
        """Why files with its field ids can no longer be committed; empty if they can."""
        if self.is_in(table.metadata) or self.is_made_on(table.metadata):
            return ""
        return (
            f"Another writer has changed the schema of {'.'.join(table.name())} since the files of "
            "a batch were written, whose field ids are not the table's now."
        )

    def due(self, table: Table) -> Updates:
        """What a commit to `table`, just loaded, has to carry: nothing when the table has it all.

        Raises:
            SchemaRacedError: files with its field ids must not be committed.
        """
        if self.is_in(table.metadata):
            return NO_UPDATES
        why = self.why_lost(table)
        if why:
            raise SchemaRacedError(why)
        return _updates(table.metadata, self.schema)

    def to_json(self) -> dict[str, Any]:
        fields = json.loads(self.schema.model_dump_json())
        return {"schema": fields, "base": self.base, "last_column_id": self.last_column_id}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> PendingSchema:
        schema = Schema.model_validate_json(json.dumps(body["schema"]))
        return cls(schema, body["base"], body["last_column_id"])

    def _held(self, current: Schema, number: int) -> bool:
        ours, is_new = self.schema.find_field(number), number > self.last_column_id
        name = current.find_column_name(number)
        if name is None:
            # One that was there before, and was dropped since, is no field of readers any more.
            return not is_new
        if is_new and name != self.schema.find_column_name(number):
            return False
        theirs = current.find_field(number)
        return (ours.required or theirs.optional) and _holds(theirs.field_type, ours.field_type)


class Changes:
    """The pending changes of one table's staged files, oldest first.

    Each is made on the one before. One thread makes them; `landed` and `lost` are for the thread
    that commits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Those that staged batches carry.
        self._handed: list[PendingSchema] = []
        #: Of the batch that is being written.
        self._open: PendingSchema | None = None
        self._lost = False

    def grow(self, change: PendingSchema) -> None:
        """The batch that is being written needs this, too."""
        with self._lock:
            before = self._open
            self._open = change if before is None else replace(before, schema=change.schema)

    def hand_over(self) -> PendingSchema | None:
        """The batch is written: what its commit has to carry, if earlier commits do not."""
        with self._lock:
            if self._open is not None:
                self._handed.append(self._open)
                self._open = None
            return self._handed[-1] if self._handed else None

    def landed(self, change: PendingSchema) -> None:
        """A commit that carried it is in the table."""
        with self._lock:
            places = [n for n, each in enumerate(self._handed) if each is change]
            if places:
                del self._handed[: places[0] + 1]

    def lost(self, change: PendingSchema | None = None) -> None:
        """Another writer came before this change, so that those made on it are of no use, too.

        Args:
            change: None if nothing is known of the table any more.
        """
        with self._lock:
            if change is None or any(each is change for each in self._handed):
                self._lost = bool(self._handed or self._open)

    def start_anew(self) -> bool:
        """Forgets all of them if they are lost; whether they were."""
        with self._lock:
            lost = self._lost
        if lost:
            self.clear()
        return lost

    def clear(self) -> None:
        with self._lock:
            self._handed, self._open, self._lost = [], None, False

    def on(self, table: Table) -> Table | None:
        """`table`, just loaded, as it will be; None if another writer has made that impossible."""
        with self._lock:
            last = self._open
            chain = [*self._handed, *([] if last is None else [last])]
            while chain and chain[0].is_in(table.metadata):
                chain.pop(0)
            if not chain:
                self._handed, self._open = [], None
                return table
            if not chain[0].is_made_on(table.metadata):
                return None
        updates, _ = _updates(table.metadata, chain[-1].schema)
        return with_metadata(table, update_table_metadata(table.metadata, updates))


def digest(schema: Schema) -> str:
    """Tells schemas apart by fields, their ids and comments, and identifier fields."""
    body = json.loads(schema.model_dump_json())
    kept = {"fields": body["fields"], "identifier": sorted(schema.identifier_field_ids)}
    return blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=16).hexdigest()


def with_metadata(table: Table, metadata: TableMetadata) -> Table:
    """`table` as it would be with other metadata; for writing files, not for commits."""
    return Table(table.name(), metadata, table.metadata_location, table.io, table.catalog)


def _updates(metadata: TableMetadata, schema: Schema) -> Updates:
    """What makes `schema` current, and what the catalog has to find for it."""
    requirements = (
        AssertCurrentSchemaId.model_validate({"current-schema-id": metadata.current_schema_id}),
        AssertLastAssignedFieldId.model_validate(
            {"last-assigned-field-id": metadata.last_column_id}
        ),
    )
    for known in metadata.schemas:
        if known == schema:
            return (_current(known.schema_id),), requirements
    number = 1 + max(known.schema_id for known in metadata.schemas)
    fresh = Schema(
        *schema.fields, schema_id=number, identifier_field_ids=schema.identifier_field_ids
    )
    return (AddSchemaUpdate(schema=fresh), _current(-1)), requirements


def _current(schema_id: int) -> SetCurrentSchemaUpdate:
    return SetCurrentSchemaUpdate.model_validate({"schema-id": schema_id})


def _holds(table: IcebergType, files: IcebergType) -> bool:
    """Whether values of `files` can be read as `table`; what is nested is looked at by itself."""
    if isinstance(table, PrimitiveType) and isinstance(files, PrimitiveType):
        return table == files or fits(files, table)
    return type(table) is type(files)
