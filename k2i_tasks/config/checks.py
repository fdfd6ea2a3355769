"""What one setting asks of another: the checks that no single field can make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from k2i_tasks.config.fields import is_loopback

if TYPE_CHECKING:
    from k2i_tasks.config.model import Config
    from k2i_tasks.config.model_iceberg import Iceberg
    from k2i_tasks.config.model_kafka import Kafka, KafkaKeyFormat
    from k2i_tasks.config.model_query import Query

#: A field, as `section.key`, and what is wrong with it.
Problem = tuple[str, str]

#: Longest name that a broker takes.
TOPIC_CHARS_MAX = 249
_URI_OF_CATALOG = {
    "rest": "rest_uri",
    "nessie": "rest_uri",
    "hive": "hive_metastore_uri",
}


def contradictions(config: Config) -> list[Problem]:
    """All that does not fit together in `config`, in the order of its sections."""
    return [
        *_routing(config),
        *_kafka(config.kafka),
        *_format(config.kafka),
        *_catalog(config.iceberg),
        *_rest_login(config.iceberg),
        *_store(config.iceberg),
        *_table(config.iceberg, config.kafka.key_format, config.schema_evolution.overflow_column),
        *_dead_letters(config),
        *_process(config),
        *_query(config.query),
    ]


def _routing(config: Config) -> Iterator[Problem]:
    routing = config.routing
    named = {"kafka.topic": config.kafka.topic, "iceberg.table_name": config.iceberg.table_name}
    if not routing.enabled:
        for key, name in named.items():
            if not name:
                yield key, "is required"
        for key in ("topic", "tables"):
            if getattr(routing, key):
                yield f"routing.{key}", "needs routing.topics or routing.topic_pattern"
        return
    for key, name in named.items():
        if name:
            yield key, "must not be given beside routing.topics or routing.topic_pattern"
    if config.kafka.assignment == "group":
        yield "kafka.assignment", "must be all with [routing]: each topic has a run of its own"
    if routing.by_field and routing.by_header:
        yield "routing.by_header", "must not be given beside routing.by_field"
    if routing.value is not None and (routing.topic is None or not routing.by_value):
        yield "routing.value", "needs routing.topic, and routing.by_field or routing.by_header"
    for index, entry in enumerate(routing.tables):
        if entry.value is not None and not routing.by_value:
            yield f"routing.tables.{index}.value", "needs routing.by_field or routing.by_header"


def _kafka(kafka: Kafka) -> Iterator[Problem]:
    if kafka.heartbeat_interval_ms >= kafka.session_timeout_ms:
        yield "kafka.heartbeat_interval_ms", "must be less than kafka.session_timeout_ms"
    if kafka.session_timeout_ms > kafka.max_poll_interval_ms:
        yield "kafka.max_poll_interval_ms", "must not be less than kafka.session_timeout_ms"
    security = kafka.security
    protocol = security.protocol or "PLAINTEXT"
    if protocol.startswith("SASL_"):
        for key in ("sasl_mechanism", "sasl_username", "sasl_password"):
            if getattr(security, key) is None:
                yield f"kafka.security.{key}", f"is needed for protocol {protocol}"
    if security.ssl_key_location is not None and security.ssl_cert_location is None:
        yield "kafka.security.ssl_cert_location", "is needed with ssl_key_location"
    if security.ssl_cert_location is not None and security.ssl_key_location is None:
        yield "kafka.security.ssl_key_location", "is needed with ssl_cert_location"


def _format(kafka: Kafka) -> Iterator[Problem]:
    kind = kafka.format
    for name, one in (("type", kind), ("keys of type", kafka.key_format)):
        if one.registered and kind.schema_registry_url is None:
            yield "kafka.format.schema_registry_url", f"is needed for {name} {one.type}"
            break
    registry, at = kind.schema_registry, "kafka.format.schema_registry"
    if (registry.username is None) != (registry.password is None):
        missing = "username" if registry.username is None else "password"
        yield f"{at}.{missing}", "is needed, since the other half of the login is given"
    if (registry.ssl_cert_location is None) != (registry.ssl_key_location is None):
        missing = "cert" if registry.ssl_cert_location is None else "key"
        yield f"{at}.ssl_{missing}_location", "is needed, since the other file of the two is given"


def _catalog(iceberg: Iceberg) -> Iterator[Problem]:
    kind = iceberg.catalog_type
    key = _URI_OF_CATALOG.get(kind)
    if key is not None and getattr(iceberg, key) is None:
        yield f"iceberg.{key}", f"is needed for catalog_type {kind}"
    if kind == "glue" and iceberg.glue.role_arn:
        yield (
            "iceberg.glue.role_arn",
            "cannot be assumed here, since PyIceberg has no such setting: name the role in an AWS "
            "profile, and the profile in AWS_PROFILE",
        )
    if kind == "sql":
        url, database = iceberg.sql_catalog.url, iceberg.sql_catalog.type
        if url is None:
            yield "iceberg.sql_catalog.url", "is needed for catalog_type sql"
        elif not url.lower().startswith(database):
            yield "iceberg.sql_catalog.url", f"must begin with {database}, as its type says"


def _rest_login(iceberg: Iceberg) -> Iterator[Problem]:
    rest = iceberg.rest
    if rest.credential_type == "bearer" and rest.credential is None:
        yield "iceberg.rest.credential", "is needed for credential_type bearer"
    if rest.credential_type == "oauth2":
        for key in ("oauth2_client_id", "oauth2_client_secret"):
            if getattr(rest, key) is None:
                yield f"iceberg.rest.{key}", "is needed for credential_type oauth2"


def _store(iceberg: Iceberg) -> Iterator[Problem]:
    if (iceberg.aws_access_key_id is None) != (iceberg.aws_secret_access_key is None):
        missing = "id" if iceberg.aws_access_key_id is None else "secret"
        key = {"id": "aws_access_key_id", "secret": "aws_secret_access_key"}[missing]
        yield f"iceberg.{key}", "is needed, since the other half of the key is given"
    scheme, separator, rest = iceberg.warehouse_path.partition("://")
    if not separator:
        return
    scheme = scheme.lower()
    bucket = rest.partition("/")[0].partition("@")[0]
    if scheme in ("s3", "s3a", "s3n") and not bucket:
        yield "iceberg.warehouse_path", "names no bucket"
    if scheme in ("gs", "gcs") and not bucket and iceberg.gcs_bucket_name is None:
        yield "iceberg.warehouse_path", "names no bucket, nor does iceberg.gcs_bucket_name"
    if scheme in ("az", "abfs", "abfss", "wasb", "wasbs"):
        if iceberg.azure_storage_account_name is None:
            yield "iceberg.azure_storage_account_name", f"is needed for a {scheme}:// warehouse"
        if not bucket and iceberg.azure_container_name is None:
            yield (
                "iceberg.warehouse_path",
                ("names no container, nor does iceberg.azure_container_name"),
            )


def _table(iceberg: Iceberg, keys: KafkaKeyFormat, overflow: str) -> Iterator[Problem]:
    if iceberg.dead_letter_table_name == iceberg.table_name:
        yield "iceberg.dead_letter_table", "must not be the table itself"
    seen: set[tuple[str, str]] = set()
    names: set[str] = set()
    for index, part in enumerate(iceberg.partition_spec):
        where = f"iceberg.partition_spec.{index}"
        if (part.source_field, part.transform) in seen:
            yield where, "repeats an earlier field"
        seen.add((part.source_field, part.transform))
        if part.name is not None and part.name in names:
            yield f"{where}.name", "is the name of an earlier field"
        names |= {part.name} if part.name is not None else set()
    columns = iceberg.metadata_columns
    unsure = {columns.timestamp, columns.key, columns.headers} - {""}
    for index, name in enumerate(iceberg.identifier_fields):
        where = f"iceberg.identifier_fields.{index}"
        if name in unsure:
            yield where, f"must not be {name}, which may be null"
        if name in iceberg.identifier_fields[:index]:
            yield where, "repeats an earlier one"
    taken: dict[str, str] = {}
    for key in type(columns).model_fields:
        # As readers take names: without regard to case.
        column = getattr(columns, key).lower()
        if column and column in taken:
            yield f"iceberg.metadata_columns.{key}", f"is the name of {taken[column]} too"
        taken.setdefault(column, key)
    if overflow and overflow.lower() in taken:
        yield "schema_evolution.overflow_column", f"is the name of {taken[overflow.lower()]} too"
    if keys.type != "raw" and keys.column.lower() in taken:
        yield "kafka.key_format.column", f"is the name of {taken[keys.column.lower()]} too"


def _dead_letters(config: Config) -> Iterator[Problem]:
    if config.dead_letters.to == "table":
        return
    name = config.dead_letter_topic
    if name == config.kafka.topic:
        yield "dead_letters.topic", "must not be kafka.topic itself"
    if len(name) > TOPIC_CHARS_MAX:
        yield "dead_letters.topic", f"is needed, since {name!r} is too long for a topic's name"


def _process(config: Config) -> Iterator[Problem]:
    if config.iceberg.identifier_fields and config.schema_evolution.mode == "permissive":
        yield "schema_evolution.mode", "must not be permissive with iceberg.identifier_fields"
    buffer, monitoring = config.buffer, config.monitoring
    if buffer.flush_size_mb is not None and buffer.flush_size_mb > buffer.max_size_mb:
        yield "buffer.flush_size_mb", "must not be more than buffer.max_size_mb"
    upkeep = config.maintenance
    if upkeep.compaction_target_mb < upkeep.compaction_threshold_mb:
        # What has been joined would be small again, and joined without an end.
        yield (
            "maintenance.compaction_target_mb",
            "must not be less than maintenance.compaction_threshold_mb",
        )
    same_host = monitoring.health_host == monitoring.metrics_host
    if same_host and monitoring.health_port == monitoring.metrics_port != 0:
        yield "monitoring.metrics_port", "must not be monitoring.health_port too"


def _query(query: Query) -> Iterator[Problem]:
    if (query.tls_cert_location is None) != (query.tls_key_location is None):
        missing = "cert" if query.tls_cert_location is None else "key"
        yield f"query.tls_{missing}_location", "is needed, since the other file of the two is given"
    if query.flight_port == query.http_port != 0:
        yield "query.http_port", "must not be query.flight_port too"
    if not query.enabled or is_loopback(query.host):
        return
    if not query.may_listen:
        yield (
            "query.host",
            "may be reached from other machines, so query.tls_cert_location is needed, or "
            "query.insecure_network = true",
        )
    if not query.tokens:
        yield "query.tokens", "is needed, since query.host may be reached from other machines"
