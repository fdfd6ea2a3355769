"""Additive evolution of a table's schema: what rows need, on its own or for their own commit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.schema import Schema
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.types import ListType, MapType, NestedField, StructType

from k2i_tasks.config import Config
from k2i_tasks.errors import CommitConflictError, CommitStateUnknownError, SchemaMovedError
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.difference import Difference, Path, difference
from k2i_tasks.iceberg.errors import commit_outcome, translated
from k2i_tasks.iceberg.pending import PendingSchema, with_metadata
from k2i_tasks.iceberg.schema import METADATA_TYPES, iceberg_schema

log = logging.getLogger(__name__)

_EVOLVE_ATTEMPTS = 10


def wanted_columns(
    schemas: Iterable[pa.Schema], config: Config
) -> tuple[pa.Schema, frozenset[str]]:
    """What rows of these schemas need, and the columns that may be made optional for them."""
    wanted = pa.unify_schemas(list(schemas), promote_options="permissive")
    if config.schema_evolution.mode != "permissive":
        return wanted, frozenset()
    # Kafka's own columns are what they are.
    columns = config.iceberg.metadata_columns
    kept = {getattr(columns, role) for role in METADATA_TYPES}
    return wanted, frozenset(wanted.names) - kept


def widened(
    table: Table, schema: pa.Schema, *, may_relax: Collection[str] = ()
) -> tuple[Table, PendingSchema | None]:
    """`table` with the columns of `schema` that it lacks and types widened; nothing is committed.

    Args:
        table: as loaded, perhaps with changes that are not committed yet.
        schema: of the rows.
        may_relax: columns that are made optional, or what in them is, where `schema` has it so.

    Returns:
        The table as it will be, with the field ids that files have to carry, and the change;
        the table itself and None when nothing is lacking.

    Raises:
        SchemaMovedError: a column has a type that the table's cannot be widened to.
    """
    found = _lacking(table, schema, may_relax)
    if not found.changes:
        return table, None
    with translated("changing the schema of " + ".".join(table.name())):
        transaction = Transaction(table)
        update = transaction.update_schema()
        add(update, found)
        update.commit()  # into the transaction, which is never sent
        after: TableMetadata = transaction.table_metadata
    return with_metadata(table, after), PendingSchema.between(table.metadata, after.schema())


def evolve(
    catalog: Catalog,
    identifier: tuple[str, ...],
    schema: pa.Schema,
    *,
    may_relax: Collection[str] = (),
) -> Table:
    """Adds the columns of `schema` that the table lacks and widens types, in one commit.

    Nothing is dropped, renamed or reordered. May block; idempotent.

    Args:
        catalog, identifier: of the table.
        schema: of the rows.
        may_relax: columns that are made optional, or what in them is, where `schema` has it so.

    Returns:
        The table as loaded after the change; as it is when there is nothing to add.

    Raises:
        SchemaMovedError: a column has a type that the table's cannot be widened to.
        CommitConflictError: other writers were first, again and again.
    """
    name = ".".join(identifier)
    for attempt in range(1, _EVOLVE_ATTEMPTS + 1):
        with translated(f"reading table {name}"):
            table = catalog.load_table(identifier)
        found = _lacking(table, schema, may_relax)
        if not found.changes:
            return table
        try:
            hit("schema.evolve.before")
            _apply(table, found)
            hit("schema.evolved")
        except (CommitConflictError, CommitStateUnknownError) as error:
            if attempt == _EVOLVE_ATTEMPTS:
                raise
            log.warning("schema of %s was not changed, looking again: %s", name, error)
    raise AssertionError("unreachable")


def _lacking(table: Table, schema: pa.Schema, may_relax: Collection[str]) -> Difference:
    found = difference(table.schema(), iceberg_schema(schema))
    if found.conflicts:
        raise SchemaMovedError(
            f"Table {'.'.join(table.name())} and the records disagree: "
            f"{'; '.join(found.conflicts)}.",
            remedy="Nothing is lost: the next run reads the records by the table's columns.",
        )
    found.optional.extend(optional_for(table.schema(), schema, may_relax))
    return found


def _apply(table: Table, found: Difference) -> None:
    with commit_outcome("changing the schema of " + ".".join(table.name())):
        update = table.update_schema()
        add(update, found)
        update.commit()


def add(update: UpdateSchema, found: Difference) -> None:
    """Asks `update` for all of the difference."""
    for path, kind, doc in found.missing:
        update.add_column(path, kind, doc=doc)
    for path, kind in found.wider:
        update.update_column(path, field_type=kind)
    for path in found.optional:
        update.make_column_optional(path)


def optional_for(table: Schema, rows: pa.Schema, names: Collection[str]) -> list[Path]:
    """What the table requires in these columns and the rows may lack."""
    found: list[Path] = []
    for field in table.fields:
        if field.name in names and field.name in rows.names:
            found += _optional_in(field, rows.field(field.name), (field.name,))
    return found


def _optional_in(field: NestedField, row: pa.Field, path: Path) -> list[Path]:
    found = [path] if field.required and row.nullable else []
    kind, given = field.field_type, row.type
    if isinstance(kind, StructType) and pa.types.is_struct(given):
        for member in kind.fields:
            at = given.get_field_index(member.name)
            if at >= 0:
                found += _optional_in(member, given.field(at), (*path, member.name))
    elif isinstance(kind, ListType) and pa.types.is_list(given):
        found += _optional_in(kind.element_field, given.value_field, (*path, "element"))
    elif isinstance(kind, MapType) and pa.types.is_map(given):
        found += _optional_in(kind.value_field, given.item_field, (*path, "value"))
    return found
