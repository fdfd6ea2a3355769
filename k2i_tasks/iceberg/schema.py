"""The table: its schema from Arrow's, and its creation."""

from __future__ import annotations

import logging

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError, TableAlreadyExistsError
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table
from pyiceberg.types import (
    BinaryType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestamptzType,
)

from k2i_tasks.config import Config
from k2i_tasks.config.model_iceberg import Iceberg, MetadataColumns
from k2i_tasks.errors import Component, SchemaConflictError, TransientError
from k2i_tasks.iceberg.arrow import arrow_schema
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.files import local_path
from k2i_tasks.iceberg.names import checked_identifier, must_be_inside
from k2i_tasks.iceberg.spec import partition_spec, sort_order, with_identifiers
from k2i_tasks.iceberg.store import warehouse_location

log = logging.getLogger(__name__)

_HEADERS = ListType(
    0,
    StructType(NestedField(0, "key", StringType()), NestedField(0, "value", BinaryType())),
)
#: Kafka's own fields: the types that a column for them may have.
METADATA_TYPES: dict[str, tuple[IcebergType, ...]] = {
    "topic": (StringType(),),
    "partition": (IntegerType(), LongType()),
    "offset": (LongType(),),
    "timestamp": (TimestamptzType(),),
    "key": (BinaryType(),),
    "headers": (_HEADERS,),
}
_PROPERTIES = {
    "format-version": "2",
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "100",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "10",
}


def iceberg_schema(schema: pa.Schema) -> Schema:
    """The Iceberg schema of `schema` with fresh field ids, all columns optional.

    Columns whose type is not known yet (Arrow's null) are left out: they hold no values.

    Raises:
        SchemaConflictError: a type that Iceberg has not.
    """
    fields = [field for field in map(_writable, schema) if field is not None]
    try:
        found = _pyarrow_to_schema_without_ids(pa.schema(fields), downcast_ns_timestamp_to_us=True)
    except (TypeError, ValueError) as error:
        raise SchemaConflictError(f"The records' schema cannot be a table's: {error}.") from error
    return assign_fresh_schema_ids(found)


def _writable(field: pa.Field) -> pa.Field | None:
    kind = _writable_type(field.type)
    if kind is None:
        return None
    return pa.field(field.name, kind, nullable=True, metadata=_doc(field))


def _doc(field: pa.Field) -> dict[bytes, bytes] | None:
    """The field's comment, which says how its values are to be read; other metadata is left out."""
    text = (field.metadata or {}).get(b"doc")
    return None if text is None else {b"doc": text}


def _writable_type(kind: pa.DataType) -> pa.DataType | None:
    """`kind` without null-typed parts, unsigned integers widened; None when nothing is left."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_dictionary(kind):
        return _writable_type(kind.value_type)
    if pa.types.is_uint32(kind):
        return pa.int64()
    if pa.types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if pa.types.is_struct(kind):
        inner = [_writable(kind.field(i)) for i in range(kind.num_fields)]
        kept = [field for field in inner if field is not None]
        return pa.struct(kept) if kept else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        element = _writable(kind.value_field)
        return pa.list_(element) if element is not None else None
    if pa.types.is_map(kind):
        key, item = _writable_type(kind.key_type), _writable(kind.item_field)
        if key is None or item is None:
            return None
        return pa.map_(pa.field("key", key, nullable=False), item)
    return kind


def create_table(
    catalog: Catalog, identifier: tuple[str, ...], schema: pa.Schema, config: Config
) -> Table:
    """Creates the table and its namespace, or loads the one that is there. May block; idempotent.

    Args:
        catalog: guarded catalog.
        identifier: namespace parts and table name.
        schema: of the rows, Kafka's columns included.
        config: identifier fields, partition spec, sort order, properties, compression, location.

    Raises:
        ConfigError: a field of these that the schema lacks, or whose type does not suit.
        ServiceError: refused by the catalog or the store.
        TransientError: catalog or store away.
    """
    iceberg = config.iceberg
    name = ".".join(checked_identifier(identifier))
    wanted = with_identifiers(iceberg_schema(schema), iceberg)
    spec = partition_spec(wanted, iceberg)
    order = sort_order(wanted, iceberg)
    codec = "uncompressed" if iceberg.compression == "none" else iceberg.compression
    properties = {**_PROPERTIES, "write.parquet.compression-codec": codec, **iceberg.properties}
    location = _location(identifier, iceberg)
    with translated(f"creating table {name}"):
        catalog.create_namespace_if_not_exists(identifier[:-1])
        try:
            table = catalog.create_table(
                identifier,
                wanted,
                location=location,
                partition_spec=spec,
                sort_order=order,
                properties=properties,
            )
        except TableAlreadyExistsError:
            table = _there_already(catalog, identifier)
    if location is not None:
        must_be_inside(table.location(), warehouse_location(iceberg))
    return table


def _there_already(catalog: Catalog, identifier: tuple[str, ...]) -> Table:
    """The table that the catalog would not create, since it is there."""
    try:
        return catalog.load_table(identifier)
    except NoSuchTableError as error:  # a 409 may have come by way of a proxy, or it was dropped
        name = ".".join(identifier)
        raise TransientError(
            f"Table {name} was not created, since it was there, and then was not there.",
            component=Component.ICEBERG,
        ) from error


def _location(identifier: tuple[str, ...], iceberg: Iceberg) -> str | None:
    """A folder in a local warehouse that we choose; None where the catalog chooses."""
    root = local_path(warehouse_location(iceberg))
    if iceberg.catalog_type != "sql" or root is None:
        return None
    return str(root.joinpath(*identifier))


def check_compatible(table: Table, config: Config) -> None:
    """Refuses a table whose columns for Kafka's own fields are of another kind, or not there.

    Raises:
        SchemaConflictError: names the columns, their types and the types they should have.
    """
    must_suit(table, config.iceberg)


def must_suit(table: Table, iceberg: Iceberg) -> None:
    """`check_compatible` for the one section that it needs."""
    name = ".".join(table.name())
    if table.metadata.format_version != 2:
        raise SchemaConflictError(
            f"Table {name} has format version {table.metadata.format_version}; version 2 is "
            "written.",
            remedy="Write to another table, or upgrade this one to version 2.",
        )
    columns = iceberg.metadata_columns
    wrong, missing = [], []
    for role, types in METADATA_TYPES.items():
        column = getattr(columns, role)
        found = _top_field(table.schema(), column) if column else None
        if not column:
            continue
        if found is None:
            missing.append(column)
        elif not any(_same(found.field_type, kind) for kind in types):
            wrong.append(f"{column!r} is {_told(found.field_type)}, needed is {_told(types[0])}")
    if wrong:
        raise SchemaConflictError(
            f"Table {name} has other columns than Kafka's fields need: {'; '.join(wrong)}.",
            remedy="Choose other names in iceberg.metadata_columns, or another table.",
        )
    if missing and iceberg.table_management.schema_mismatch_action == "fail":
        raise SchemaConflictError(
            f"Table {name} exists and has no column {', '.join(map(repr, missing))}.",
            remedy='Set iceberg.table_management.schema_mismatch_action = "evolve" to add it, '
            "name existing columns in iceberg.metadata_columns, or choose another table.",
        )
    if missing:
        log.warning("table %s has no column %s: it is added", name, ", ".join(missing))


def _top_field(schema: Schema, name: str) -> NestedField | None:
    return next((field for field in schema.fields if field.name == name), None)


def _same(found: IcebergType, wanted: IcebergType) -> bool:
    """Equal but for field ids, docs and what is required."""
    if isinstance(found, ListType) and isinstance(wanted, ListType):
        return _same(found.element_type, wanted.element_type)
    if isinstance(found, StructType) and isinstance(wanted, StructType):
        ours = {field.name: field.field_type for field in wanted.fields}
        theirs = {field.name: field.field_type for field in found.fields}
        return ours.keys() <= theirs.keys() and all(_same(theirs[k], ours[k]) for k in ours)
    return found == wanted


def _told(kind: IcebergType) -> str:
    if isinstance(kind, ListType):
        return f"list<{_told(kind.element_type)}>"
    if isinstance(kind, StructType):
        return f"struct<{', '.join(f'{f.name}: {_told(f.field_type)}' for f in kind.fields)}>"
    return str(kind)


def payload_arrow_schema(table: Table, columns: MetadataColumns) -> pa.Schema:
    """Arrow schema of the table's columns other than Kafka's own: what a decoder produces.

    No `large_` types, timestamps in microseconds, no field ids; comments are kept.
    """
    return payload_columns(table.schema(), columns)


def payload_columns(schema: Schema, columns: MetadataColumns) -> pa.Schema:
    """`payload_arrow_schema` of a table with this schema."""
    ours = {getattr(columns, role) for role in METADATA_TYPES}
    fields = [field for field in arrow_schema(schema) if field.name not in ours]
    return pa.schema([_plain(field) for field in fields])


def _plain(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _plain_type(field.type), field.nullable, metadata=_doc(field))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([_plain(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_field))
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_field), _plain(kind.item_field))
    return kind
