"""Settings of the Kafka side."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, StringConstraints, field_validator

from k2i_tasks.config.fields import (
    AnyCaseLower,
    AnyCaseUpper,
    Column,
    FilePath,
    Flag,
    HttpUrl,
    Integer,
    Secret,
    Section,
    Text,
    setting,
)

#: Formats whose payloads name their schema, which is in a registry.
FORMATS_REGISTERED = ("avro", "protobuf", "jsonschema")

#: librdkafka settings that have a key of their own here, or that the exactly-once protocol owns.
OWNED_PROPERTIES: dict[str, str] = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "metadata.broker.list": "kafka.bootstrap_servers",
    "group.id": "kafka.consumer_group",
    "session.timeout.ms": "kafka.session_timeout_ms",
    "heartbeat.interval.ms": "kafka.heartbeat_interval_ms",
    "max.poll.interval.ms": "kafka.max_poll_interval_ms",
    "message.max.bytes": "kafka.max_message_bytes",
    "fetch.message.max.bytes": "kafka.max_message_bytes",
    "max.partition.fetch.bytes": "kafka.max_message_bytes",
    "receive.message.max.bytes": "kafka.max_message_bytes",
    "security.protocol": "kafka.security.protocol",
    "sasl.mechanism": "kafka.security.sasl_mechanism",
    "sasl.mechanisms": "kafka.security.sasl_mechanism",
    "sasl.username": "kafka.security.sasl_username",
    "sasl.password": "kafka.security.sasl_password",
    "ssl.ca.location": "kafka.security.ssl_ca_location",
    "ssl.certificate.location": "kafka.security.ssl_cert_location",
    "ssl.key.location": "kafka.security.ssl_key_location",
    "auto.offset.reset": "",
    "isolation.level": "",
    "enable.auto.commit": "",
    "auto.commit.enable": "",
    "auto.commit.interval.ms": "",
    "enable.auto.offset.store": "",
    "enable.partition.eof": "",
    "allow.auto.create.topics": "",
    "partition.assignment.strategy": "",
    "group.protocol": "",
    "group.instance.id": "",
    "enable.ssl.certificate.verification": "",
    "ssl.endpoint.identification.algorithm": "",
    "plugin.library.paths": "",
    "debug": "",
}
SECRETIVE = re.compile(
    r"secret|passw|token|credential|access[-_.]key|private|\.pem$|sas[-_.]|account[-_.]key"
    r"|connection[-_.]string|authorization|jaas",
    re.IGNORECASE,
)


def plain_properties(properties: dict[str, str]) -> dict[str, str]:
    """Refuses the names that look like a secret: such a table is shown as it is."""
    for key in properties:
        if SECRETIVE.search(key):
            raise ValueError(f"{key!r} looks like a secret, which does not belong in this table")
    return properties


def _no_rdkafka_of_ours(properties: dict[str, str]) -> dict[str, str]:
    for key in properties:
        if key in OWNED_PROPERTIES:
            own = OWNED_PROPERTIES[key]
            raise ValueError(
                f"{key!r} cannot be set here: "
                + (f"use {own}" if own else "it is fixed, since no row may be lost or doubled")
            )
    return plain_properties(properties)


def _split(servers: Any) -> Any:
    """Servers given as `["a:9092,b:9092"]` work in K2I, so they do here."""
    if not isinstance(servers, (list, tuple)):
        return servers
    return [part for s in servers for part in (s.split(",") if isinstance(s, str) else [s])]


def _servers(servers: tuple[str, ...]) -> tuple[str, ...]:
    if not 1 <= len(servers) <= 64:
        raise ValueError("must name 1 to 64 servers")
    return servers


def _topic(topic: str) -> str:
    if topic in (".", ".."):
        raise ValueError("must not be '.' or '..'")
    return topic


Server = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, max_length=255, pattern=r"^([A-Za-z_]+://)?[A-Za-z0-9_.\-\[\]:%]+$"
    ),
]
Servers = Annotated[tuple[Server, ...], BeforeValidator(_split), AfterValidator(_servers)]
Topic = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,249}$"), AfterValidator(_topic)
]
Properties = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=255, pattern=r"^\S+$")],
        Annotated[str, StringConstraints(max_length=4096)],
    ],
    AfterValidator(_no_rdkafka_of_ours),
]


#: A payload format, of values or keys.
FormatName = Annotated[
    Literal["raw", "json", "string", "avro", "protobuf", "jsonschema"], AnyCaseLower
]


class SchemaRegistry(Section):
    """How the Schema Registry is reached, beside its address."""

    username: Secret | None = setting("User name, for basic authentication.", None)
    password: Secret | None = setting("Password, for basic authentication.", None)
    token: Secret | None = setting("Bearer token, in place of user name and password.", None)
    ssl_ca_location: FilePath | None = setting("File with the CA certificates.", None)
    ssl_cert_location: FilePath | None = setting("File with the client's certificate.", None)
    ssl_key_location: FilePath | None = setting("File with the client's private key.", None)
    request_timeout_seconds: Integer = setting("Longest wait for one answer.", 10, ge=1, le=300)
    cache_dir: FilePath | None = setting(
        "Folder in which schemas are kept, for the time when the registry is away; `schemas` in "
        "`transaction_log.log_dir` when not given.",
        None,
    )


_TYPE = re.compile(
    r"boolean|int|long|float|double|date|time|timestamp|timestamptz|string|uuid|json"
    r"|decimal\((\d{1,2}),(\d{1,2})\)"
)


def _flat(fields: Any) -> Any:
    """`address.zip = "string"` without quotes is a table in a table."""
    if not isinstance(fields, dict):
        return fields
    flat: dict[str, Any] = {}
    waiting: list[tuple[tuple[Any, ...], Any]] = [
        ((name,), value) for name, value in fields.items()
    ]
    while waiting:
        names, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [((*names, name), inner) for name, inner in value.items()]
        else:
            flat[".".join(map(str, names))] = value
    return flat


def _field_types(fields: dict[str, str]) -> dict[str, str]:
    for path, word in fields.items():
        found = _TYPE.fullmatch(word.lower().replace(" ", ""))
        digits, scale = (int(found[n] or 1) for n in (1, 2)) if found else (0, 0)
        if not 1 <= digits <= 38 or scale > digits:
            raise ValueError(f"{path!r}: {word!r} is no type that a JSON field can have")
    if len({path.lower() for path in fields}) < len(fields):
        raise ValueError("two paths differ in case alone")
    return fields


FieldTypes = Annotated[
    dict[Column, Annotated[str, StringConstraints(max_length=64)]],
    BeforeValidator(_flat),
    AfterValidator(_field_types),
]


class KafkaFormat(Section):
    """How the values of the topic are decoded."""

    type: FormatName = setting("Format of the values.", "raw")
    schema_registry_url: HttpUrl | None = setting(
        "Address of the Schema Registry, with the path that its API is under.", None
    )
    subject_strategy: Annotated[
        Literal["topic_name", "record_name", "topic_record_name"], AnyCaseLower
    ] = setting(
        "How the subject is named whose latest schema is fetched: `TOPIC-value`, the message "
        "type's full name, or `TOPIC-` and that name.",
        "topic_name",
    )
    message_type: Text | None = setting(
        "Full name of the record or message type: in the subject's name, and in a Protobuf file "
        "with several.",
        None,
    )
    cache_ttl_seconds: Integer = setting(
        "How long an answer of the registry is believed that may change: which schema is a "
        "subject's latest and, for 30 s at most, that an id is not known. A schema is kept for "
        "good.",
        300,
        ge=1,
        le=604_800,
    )
    fields: FieldTypes = setting(
        "For JSON: the type of a column by the dotted path of its field, as Iceberg names it, such "
        "as `decimal(18,4)`, or `json` for JSON text; else it is inferred.",
        {},
        native=True,
        max_length=1_000,
    )
    nested: Annotated[Literal["columns", "json"], AnyCaseLower] = setting(
        "For JSON: whether new lists and objects become lists and structs, or JSON text.",
        "columns",
        native=True,
    )
    nanoseconds: Annotated[Literal["dead-letter", "truncate"], AnyCaseLower] = setting(
        "For Protobuf: what becomes of a timestamp with more digits than the microseconds that a "
        "column holds, as Go's clients write them: its record is a dead letter, or they are cut "
        "off.",
        "dead-letter",
        native=True,
    )
    latest_on_startup: Flag = setting(
        "Fetch the subject's latest schema at the start, so that its columns are there before the "
        "first record.",
        True,
    )
    schema_registry: SchemaRegistry = setting(
        "Login and encryption for the Schema Registry.", SchemaRegistry(), native=True
    )

    @property
    def registered(self) -> bool:
        """Whether the payloads' schemas are in a registry."""
        return self.type in FORMATS_REGISTERED


class KafkaKeyFormat(Section):
    """How the keys of the topic are decoded; their bytes are kept in any case."""

    type: FormatName = setting(
        "Format of the keys; raw decodes nothing. A schema registry is that of `kafka.format`.",
        "raw",
    )
    column: Column = setting(
        "Column for decoded keys: a text for string, a struct for the others.", "_kafka_key_decoded"
    )

    @property
    def registered(self) -> bool:
        """Whether the keys' schemas are in a registry."""
        return self.type in FORMATS_REGISTERED


class KafkaSecurity(Section):
    """How brokers are reached and how we log in."""

    protocol: (
        Annotated[Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], AnyCaseUpper] | None
    ) = setting("Protocol of the brokers' listener; PLAINTEXT when not given.", None)
    sasl_mechanism: (
        Annotated[Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"], AnyCaseUpper] | None
    ) = setting("SASL mechanism, for the SASL_ protocols.", None)
    sasl_username: Secret | None = setting("User name, for the SASL_ protocols.", None)
    sasl_password: Secret | None = setting("Password, for the SASL_ protocols.", None)
    ssl_ca_location: FilePath | None = setting("File with the CA certificates.", None)
    ssl_cert_location: FilePath | None = setting("File with the client's certificate.", None)
    ssl_key_location: FilePath | None = setting("File with the client's private key.", None)

    @field_validator("sasl_mechanism", mode="before")
    @classmethod
    def _no_kerberos(cls, mechanism: Any) -> Any:
        if isinstance(mechanism, str) and mechanism.upper() == "GSSAPI":
            raise ValueError("GSSAPI (Kerberos) is not part of the Kafka client this runs on")
        return mechanism


class Kafka(Section):
    """What is consumed and how."""

    bootstrap_servers: Servers = setting("Brokers to ask first, as `host:port`.")
    topic: Topic = setting("Topic that is ingested; needed unless `[routing]` has topics.", "")
    consumer_group: Text = setting(
        "Group under which offsets are published for lag tools, and whose members share the topic "
        "where `assignment` is group. The table's own offsets decide where reading starts."
    )
    batch_size: Integer = setting(
        "Most records per poll (K2I's own files: 1000 when not given).", 20_000, ge=1, le=1_000_000
    )
    batch_timeout_ms: Integer = setting("Longest wait of one poll.", 5_000, ge=1, le=600_000)
    session_timeout_ms: Integer = setting(
        "Silence after which the group drops us.", 30_000, ge=1, le=3_600_000
    )
    heartbeat_interval_ms: Integer = setting(
        "Time between heartbeats to the group.", 3_000, ge=1, le=3_600_000
    )
    max_poll_interval_ms: Integer = setting(
        "Longest time between two polls.", 300_000, ge=1, le=86_400_000
    )
    auto_offset_reset: Annotated[Literal["earliest", "latest"], AnyCaseLower] = setting(
        "Where a partition starts that the table has no offset for.", "earliest"
    )
    assignment: Annotated[Literal["all", "group"], AnyCaseLower] = setting(
        "Partitions that this process reads: all, or those that the consumer group gives it, which "
        "it shares with other processes.",
        "all",
        native=True,
    )
    on_gap: Annotated[Literal["halt", "continue"], AnyCaseLower] = setting(
        "When the broker has deleted records before they were read: stop, or go on and report.",
        "halt",
        native=True,
    )
    metadata_refresh_seconds: Integer = setting(
        "Time between two looks at the topic for new partitions and for another topic of its name.",
        10,
        native=True,
        ge=1,
        le=3_600,
    )
    max_message_bytes: Integer = setting(
        "Largest record that is fetched.", 10_485_760, native=True, ge=1_024, le=1_000_000_000
    )
    format: KafkaFormat = setting("Format of the values.", KafkaFormat())
    key_format: KafkaKeyFormat = setting("Format of the keys.", KafkaKeyFormat(), native=True)
    security: KafkaSecurity = setting("Encryption and login.", KafkaSecurity())
    properties: Properties = setting(
        "Further librdkafka settings; those with a key here and secrets are refused.",
        {},
        native=True,
        max_length=100,
    )
