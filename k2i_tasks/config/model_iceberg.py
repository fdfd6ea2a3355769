"""Settings of the Iceberg table."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, StringConstraints

from k2i_tasks.config.fields import (
    AnyCaseLower,
    Branch,
    Column,
    FilePath,
    HttpUrl,
    Integer,
    Name,
    PlainName,
    Secret,
    Section,
    Text,
    Url,
    setting,
)
from k2i_tasks.config.model_catalog import (
    CatalogManager,
    GlueCatalog,
    NessieCatalog,
    ObjectStore,
    RestCatalog,
    SqlCatalog,
    TableManagement,
)
from k2i_tasks.config.model_kafka import plain_properties

_PLAIN = ("identity", "year", "month", "day", "hour", "void")
_SIZED = re.compile(r"(bucket|truncate)\s*\[\s*([0-9]{1,10})\s*\]")
_SIZE_KEY = {"bucket": "num_buckets", "truncate": "width"}
INT32_MAX = 2**31 - 1


def canonical_transform(value: Any) -> str:
    """Iceberg's own spelling (`day`, `bucket[16]`) of a transform given in any of K2I's ways.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(value, dict) and len(value) == 1:
        kind, body = next(iter(value.items()))
        key = _SIZE_KEY.get(kind)
        if key and isinstance(body, dict) and list(body) == [key] and type(body[key]) is int:
            value = f"{kind}[{body[key]}]"
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _PLAIN:
            return text
        if (sized := _SIZED.fullmatch(text)) and 1 <= int(sized[2]) <= INT32_MAX:
            return f"{sized[1]}[{int(sized[2])}]"
    raise ValueError(
        "must be identity, year, month, day, hour, void, bucket[N] or truncate[N], "
        "N from 1 to 2147483647"
    )


def _no_state_of_ours(properties: dict[str, str]) -> dict[str, str]:
    for key in properties:
        if key.startswith("k2i."):
            raise ValueError(f"{key!r} cannot be set: names from k2i. on hold our own state")
        if key.startswith("commit.retry."):
            raise ValueError(f"{key!r} cannot be set: commits are retried by us, safely")
    return plain_properties(properties)


Transform = Annotated[str, BeforeValidator(canonical_transform)]
Properties = dict[
    Annotated[str, StringConstraints(max_length=255, pattern=r"^\S+$")],
    Annotated[str, StringConstraints(max_length=4096)],
]
TableProperties = Annotated[Properties, AfterValidator(_no_state_of_ours)]
CatalogProperties = Annotated[Properties, AfterValidator(plain_properties)]
#: A column of ours: empty leaves it out.
MetadataName = Annotated[str, StringConstraints(pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,127})?$")]
Database = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,127}(\.[A-Za-z0-9_-]{1,128})*$")
]


class PartitionField(Section):
    """One field of the partition spec."""

    source_field: Column = setting("Column it is made from.")
    transform: Transform = setting(
        "identity, year, month, day, hour, void, bucket[N] or truncate[N]; "
        "K2I's `{ bucket = { num_buckets = 16 } }` and `{ truncate = { width = 2 } }` too."
    )
    name: Name | None = setting(
        "Name of the partition field; made from column and transform when not given.",
        None,
        native=True,
    )
    if_missing: Annotated[Literal["fail", "skip"], AnyCaseLower] = setting(
        "When the table is made and the first records have no such column: stop, or make the table "
        "without this field and say so (as K2I's own files ask, since K2I does not use the spec).",
        "fail",
        native=True,
    )


class SortField(Section):
    """One field of the sort order of the rows within a file."""

    source_field: Column = setting("Column it is made from.", native=True)
    transform: Transform = setting("As in partition_spec.", "identity", native=True)
    direction: Annotated[Literal["asc", "desc"], AnyCaseLower] = setting(
        "Rising or falling.", "asc", native=True
    )
    null_order: Annotated[Literal["first", "last"], AnyCaseLower] = setting(
        "Where nulls go.", "last", native=True
    )


class MetadataColumns(Section):
    """Names of the columns that keep Kafka's own fields; an empty name leaves one out."""

    topic: MetadataName = setting("Topic.", "_kafka_topic", native=True)
    partition: MetadataName = setting(
        "Partition; always kept.", "_kafka_partition", native=True, min_length=1
    )
    offset: MetadataName = setting(
        "Offset; always kept.", "_kafka_offset", native=True, min_length=1
    )
    timestamp: MetadataName = setting("Timestamp.", "_kafka_timestamp", native=True)
    key: MetadataName = setting("Key.", "_kafka_key", native=True)
    headers: MetadataName = setting("Headers.", "_kafka_headers", native=True)


class Iceberg(Section):
    """The table, its catalog and its store."""

    catalog_type: Annotated[Literal["rest", "hive", "glue", "nessie", "sql"], AnyCaseLower] = (
        setting("Kind of catalog.")
    )
    catalog_name: Name = setting("Name by which PyIceberg knows the catalog.", "k2i", native=True)
    warehouse_path: Text = setting("Root of the data: a path or an s3, gs, az or abfs URI.")
    database_name: Database = setting("Namespace of the table.")
    table_name: PlainName = setting("Name of the table; needed unless `[routing]` has topics.", "")
    target_file_size_mb: Integer = setting("Size that data files aim at.", 512, ge=1, le=65_536)
    compression: Annotated[Literal["snappy", "zstd", "lz4", "gzip", "none"], AnyCaseLower] = (
        setting("Compression of the Parquet files.", "snappy")
    )
    rest_uri: HttpUrl | None = setting("Address of the REST or Nessie catalog.", None)
    hive_metastore_uri: Url | None = setting("Address of the Hive metastore, thrift://.", None)
    aws_region: Text | None = setting("Region of S3 and Glue.", None)
    aws_access_key_id: Secret | None = setting(
        "AWS access key id; without it, AWS's own chain of credentials.", None
    )
    aws_secret_access_key: Secret | None = setting("AWS secret access key.", None)
    s3_endpoint: HttpUrl | None = setting("Address of an S3-compatible store.", None)
    gcs_bucket_name: Text | None = setting("Bucket, when not in warehouse_path.", None)
    gcs_service_account_path: FilePath | None = setting(
        "File with the service account's key.", None
    )
    azure_container_name: Text | None = setting("Container, when not in warehouse_path.", None)
    azure_storage_account_name: Text | None = setting(
        "Storage account; needed for az and abfs.", None
    )
    azure_access_key: Secret | None = setting("Key of the storage account.", None)
    partition_spec: tuple[PartitionField, ...] = setting(
        "Partition fields of a table that we create.", (), max_length=32
    )
    sort_order: tuple[SortField, ...] = setting(
        "Sort order of the rows within a file.", (), native=True, max_length=32
    )
    identifier_fields: tuple[Column, ...] = setting(
        "Columns that tell the rows of a table that we create apart, for engines that merge by "
        "them. They are required: a record without a value in one is a dead letter.",
        (),
        native=True,
        max_length=32,
    )
    properties: TableProperties = setting(
        "Properties of a table that we create.", {}, native=True, max_length=100
    )
    sink: Name = setting(
        "Name of this stream into the table; keeps two streams' offsets apart.", "main", native=True
    )
    branch: Branch = setting("Branch of the table that is written.", "main", native=True)
    on_rollback: Annotated[Literal["halt", "replay", "keep"], AnyCaseLower] = setting(
        "When the table was rolled back: stop, ingest again from its offsets, or go on from ours.",
        "halt",
        native=True,
    )
    dead_letter_table: PlainName | None = setting(
        "Table for records that cannot be decoded; `<table_name>__dead_letters` when not given.",
        None,
        native=True,
    )
    metadata_columns: MetadataColumns = setting(
        "Names of the Kafka columns.", MetadataColumns(), native=True
    )
    catalog_manager: CatalogManager = setting("Calls to the catalog.", CatalogManager())
    table_management: TableManagement = setting("The table itself.", TableManagement())
    rest: RestCatalog = setting("REST login.", RestCatalog())
    glue: GlueCatalog = setting("Glue.", GlueCatalog())
    nessie: NessieCatalog = setting("Nessie.", NessieCatalog())
    sql_catalog: SqlCatalog = setting("SQL catalog.", SqlCatalog())
    object_store: ObjectStore = setting("Object store.", ObjectStore())
    catalog_properties: CatalogProperties = setting(
        "Further properties for PyIceberg's catalog; secrets are refused.",
        {},
        native=True,
        max_length=100,
    )

    @property
    def identifier(self) -> tuple[str, ...]:
        """Namespace levels and table name."""
        return (*self.database_name.split("."), self.table_name)

    @property
    def dead_letter_identifier(self) -> tuple[str, ...]:
        """Namespace levels and name of the dead-letter table."""
        return (*self.database_name.split("."), self.dead_letter_table_name)

    @property
    def dead_letter_table_name(self) -> str:
        """The dead-letter table's name, whether given or derived."""
        return self.dead_letter_table or f"{self.table_name}__dead_letters"
