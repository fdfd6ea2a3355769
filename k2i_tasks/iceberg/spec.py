"""Partition spec and sort order of a table to be created, from the configuration."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Any

from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.transforms import Transform, parse_transform
from pyiceberg.types import DoubleType, FloatType, NestedField, StructType

from k2i_tasks.config.model_iceberg import Iceberg
from k2i_tasks.config.model_iceberg import PartitionField as ConfiguredField
from k2i_tasks.errors import ConfigError

log = logging.getLogger(__name__)

_SUFFIX = {"bucket": "bucket_{n}", "truncate": "trunc_{n}", "void": "null"}


def partition_spec(schema: Schema, iceberg: Iceberg) -> PartitionSpec:
    """The configured spec, bound to `schema`.

    Raises:
        ConfigError: an unknown column (with the nearest known), an unsuitable type, a name twice.
    """
    fields: list[PartitionField] = []
    seen: set[str] = set()
    columns = _leaf_names(schema.as_struct(), "")
    for number, wanted in enumerate(_configured(iceberg)):
        where = f"iceberg.partition_spec[{number}]"
        if wanted.if_missing == "skip" and wanted.source_field not in columns:
            log.warning("%s is left out: %r is no column", where, wanted.source_field)
            continue
        source, transform = _bound(schema, wanted.source_field, wanted.transform, where)
        name = wanted.name or _name(wanted.source_field, wanted.transform)
        taken = {each.name: each.field_id for each in schema.fields}
        if name in taken and not (
            wanted.transform in ("identity", "void") and taken[name] == source.field_id
        ):
            name = _free(name, taken, wanted.name is not None, where)
        if name in seen:
            raise ConfigError(
                f"{where}: the partition field {name!r} is there twice.",
                field=where,
                remedy="Give one of them another `name`.",
            )
        seen.add(name)
        field_id = PARTITION_FIELD_ID_START + len(fields)
        fields.append(PartitionField(source.field_id, field_id, transform, name))
    return PartitionSpec(*fields)


def sort_order(schema: Schema, iceberg: Iceberg) -> SortOrder:
    """The configured sort order, bound to `schema`.

    Raises:
        ConfigError: an unknown column (with the nearest known), or an unsuitable type.
    """
    fields = []
    for number, wanted in enumerate(iceberg.sort_order):
        where = f"iceberg.sort_order[{number}]"
        source, transform = _bound(schema, wanted.source_field, wanted.transform, where)
        direction = SortDirection.ASC if wanted.direction == "asc" else SortDirection.DESC
        nulls = NullOrder.NULLS_FIRST if wanted.null_order == "first" else NullOrder.NULLS_LAST
        fields.append(SortField(source.field_id, transform, direction, nulls))
    return SortOrder(*fields) if fields else SortOrder(order_id=0)


def with_identifiers(schema: Schema, iceberg: Iceberg) -> Schema:
    """`schema` with the configured identifier fields, which are required.

    Raises:
        ConfigError: an unknown column (with the nearest known), or one of a type that rows cannot
            be told apart by.
    """
    identifiers: list[int] = []
    for number, name in enumerate(iceberg.identifier_fields):
        where = f"iceberg.identifier_fields[{number}]"
        names = [field.name for field in schema.fields]
        if name not in names:
            raise ConfigError(
                f"{where} {name!r} is no column of the table.",
                field=where,
                remedy=_among(name, names) + " The table is made from the first records: make it "
                "beforehand if they may lack the column.",
            )
        field = schema.find_field(name)
        kind = field.field_type
        if not kind.is_primitive or isinstance(kind, FloatType | DoubleType):
            raise ConfigError(
                f"{where} {name!r} is {kind}, by which rows cannot be told apart.", field=where
            )
        identifiers.append(field.field_id)
    fields = [
        field.model_copy(update={"required": field.required or field.field_id in identifiers})
        for field in schema.fields
    ]
    return Schema(*fields, schema_id=schema.schema_id, identifier_field_ids=identifiers)


def _among(name: str, names: Sequence[str]) -> str:
    """The nearest of `names`, or all of them."""
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {nearest[0]!r}?" if nearest else f"There are {', '.join(names)}."


def _configured(iceberg: Iceberg) -> Sequence[ConfiguredField]:
    """The spec, or where there is none K2I's strategy, if the configuration names one itself."""
    if iceberg.partition_spec:
        return iceberg.partition_spec
    management, columns = iceberg.table_management, iceberg.metadata_columns
    if "partition_strategy" not in management.model_fields_set:
        return ()
    strategies = {
        "daily": (columns.timestamp, "day"),
        "hourly": (columns.timestamp, "hour"),
        "identity": (columns.partition, "identity"),
        "bucket": (columns.key or columns.offset, "bucket[16]"),
    }
    column, transform = strategies[management.partition_strategy]
    if not column:
        raise ConfigError(
            f"iceberg.table_management.partition_strategy {management.partition_strategy!r} needs "
            "the timestamp column.",
            field="iceberg.metadata_columns.timestamp",
            remedy="Name the column, or give iceberg.partition_spec.",
        )
    return (ConfiguredField(source_field=column, transform=transform),)


def _bound(
    schema: Schema, column: str, transform: str, where: str
) -> tuple[NestedField, Transform[Any, Any]]:
    """The field of the schema and the transform, if they suit each other."""
    names = _leaf_names(schema.as_struct(), "")
    if column not in names:
        remedy = _among(column, names) + (
            " The table is made from the first records: make it beforehand if they may lack the "
            'column, or set if_missing = "skip" in iceberg.partition_spec.'
        )
        raise ConfigError(
            f"{where}.source_field {column!r} is no column of the table.",
            field=f"{where}.source_field",
            remedy=remedy,
        )
    source = schema.find_field(column)
    parsed: Transform[Any, Any] = parse_transform(transform)
    if not source.field_type.is_primitive or not parsed.can_transform(source.field_type):
        raise ConfigError(
            f"{where}.transform {transform} does not take {column!r}, which is "
            f"{source.field_type}.",
            field=f"{where}.transform",
        )
    return source, parsed


def _leaf_names(struct: StructType, prefix: str) -> list[str]:
    names = []
    for each in struct.fields:
        name = prefix + each.name
        if isinstance(each.field_type, StructType):
            names += _leaf_names(each.field_type, f"{name}.")
        elif each.field_type.is_primitive:
            names.append(name)
    return names


def _name(column: str, transform: str) -> str:
    """Iceberg's usual name: `ts_day`, `id_bucket_16`, and the column's own for identity."""
    if transform == "identity":
        return column
    kind, _, size = transform.rstrip("]").partition("[")
    return f"{column}_{_SUFFIX.get(kind, kind).format(n=size)}"


def _free(name: str, taken: dict[str, int], given: bool, where: str) -> str:
    if given:
        raise ConfigError(f"{where}.name {name!r} is the name of a column.", field=f"{where}.name")
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
