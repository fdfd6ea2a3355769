"""Builds decoders, and the schema registry that some of them need.

What only those need is loaded for them alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from k2i_tasks.codecs import Decoder, MetadataColumns, make_decoder
from k2i_tasks.codecs.conflicts import Conflicts, Policy
from k2i_tasks.codecs.keyed import KEY_COLUMNS, KeyedDecoder, key_table_schema
from k2i_tasks.codecs.rules import Rules, SchemaLimits, hints_of
from k2i_tasks.config import Config
from k2i_tasks.config.model_kafka import FORMATS_REGISTERED
from k2i_tasks.errors import DecodeError, TransientError

if TYPE_CHECKING:
    from k2i_tasks.codecs.registered import RegisteredDecoder
    from k2i_tasks.registry import Schemas

log = logging.getLogger(__name__)


class Decoders:
    """Makes decoders that share one registry's schemas.

    Args:
        config: the whole configuration.
        resolved: plain secrets by the dotted name of their key.
        conflicts: what is done about conflicts; as configured when not given.
    """

    def __init__(
        self, config: Config, resolved: Mapping[str, str], conflicts: Conflicts | None = None
    ) -> None:
        self._config = config
        self._conflicts = conflicts or conflicts_of(config)
        self._rules = _rules_of(config, self._conflicts)
        self._schemas = schemas_of(config, resolved)

    def decoder(self, schema: pa.Schema | None, *, ahead: bool = False) -> Decoder:
        """The decoder of the configured format.

        Args:
            schema: the table's payload columns, None when it does not exist.
            ahead: whether to look at the subject's latest schema, if so configured, so that its
                columns are there before the first record. May block on the registry.

        Raises:
            ServiceError: the registry refuses us.
            SchemaConflictError: the table's columns cannot hold this format.
        """
        kafka, names = self._config.kafka, self._config.iceberg.metadata_columns
        keys = kafka.key_format
        column = "" if keys.type == "raw" else keys.column
        columns = MetadataColumns(**names.model_dump(), decoded_key=column)
        subject = latest_subject(self._config) if ahead else None
        message_type = kafka.format.message_type
        value = self._one(
            kafka.format.type, columns, schema, subject, self._rules, message_type=message_type
        )
        if not column:
            return value
        subject = key_subject(self._config) if ahead else None
        present = key_table_schema(schema, column, plain=keys.type == "string")
        # Hints are for fields of the value, and its columns alone are many.
        plain = Rules(
            self._rules.limits, self._conflicts.within(column), relaxes=self._rules.relaxes
        )
        key = self._one(keys.type, KEY_COLUMNS, present, subject, plain)
        return KeyedDecoder(value, key, column)

    def _one(
        self,
        kind: str,
        columns: MetadataColumns,
        schema: pa.Schema | None,
        subject: str | None,
        rules: Rules,
        *,
        message_type: str | None = None,
    ) -> Decoder:
        """The decoder of a format, which has looked at the latest schema of `subject`, if any."""
        limit, mode = self._config.kafka.max_message_bytes, self._config.schema_evolution.mode
        if kind not in FORMATS_REGISTERED:
            return make_decoder(
                kind,
                columns=columns,
                table_schema=schema,
                max_message_bytes=limit,
                mode=mode,
                rules=rules,
            )
        from k2i_tasks.codecs.registered import registered_decoder

        assert self._schemas is not None
        decoder = registered_decoder(
            kind,
            self._schemas,
            columns=columns,
            table_schema=schema,
            max_message_bytes=limit,
            mode=mode,
            rules=rules,
            unknown_seconds=float(self._config.kafka.format.cache_ttl_seconds),
            truncates=self._config.kafka.format.nanoseconds == "truncate",
        )
        if subject is not None:
            _look_ahead(kind, decoder, self._schemas, subject, message_type)
        return decoder


def _look_ahead(
    kind: str,
    decoder: RegisteredDecoder,
    schemas: Schemas,
    subject: str,
    message_type: str | None,
) -> None:
    """Takes in the columns of the subject's latest schema; without it records bring theirs."""
    from k2i_tasks.codecs.registered import columns_of

    try:
        latest = schemas.latest(subject)
        if latest is None:
            log.info("subject %s has no schema yet: the first records bring one", subject)
            return
        decoder.adopt(columns_of(kind, latest, message_type))
    except (DecodeError, TransientError) as error:
        log.warning("the latest schema of %s is not looked at: %s", subject, error)


def conflicts_of(config: Config) -> Conflicts:
    """The configured policy of all fields."""
    word = config.schema_evolution.on_breaking_change
    return Conflicts(Policy.DEAD_LETTER if word == "skip-message" else Policy(word))


def _rules_of(config: Config, conflicts: Conflicts) -> Rules:
    kind, evolution = config.kafka.format, config.schema_evolution
    return Rules(
        limits=SchemaLimits(columns=evolution.max_columns),
        conflicts=conflicts,
        hints=hints_of(kind.fields),
        nested_as_text=kind.nested == "json",
        relaxes=evolution.mode == "permissive",
        overflow=evolution.overflow_column,
    )


def schemas_of(config: Config, resolved: Mapping[str, str]) -> Schemas | None:
    """The configured registry's schemas; None where the format needs none. Reaches nothing yet."""
    kind = config.kafka.format
    needed = kind.registered or config.kafka.key_format.registered
    if not needed or kind.schema_registry_url is None:
        return None
    from k2i_tasks.registry import DiskCache, RegistrySettings, Schemas

    at, login = "kafka.format.schema_registry", kind.schema_registry
    settings = RegistrySettings(
        url=kind.schema_registry_url,
        user=resolved.get(f"{at}.username"),
        password=resolved.get(f"{at}.password"),
        token=resolved.get(f"{at}.token"),
        ca_file=login.ssl_ca_location,
        certificate_file=login.ssl_cert_location,
        key_file=login.ssl_key_location,
        timeout_seconds=float(login.request_timeout_seconds),
    )
    folder = login.cache_dir or Path(config.transaction_log.log_dir) / "schemas"
    disk = DiskCache(folder, settings.shown)
    return Schemas(settings, disk, latest_seconds=float(kind.cache_ttl_seconds))


def latest_subject(config: Config) -> str | None:
    """The subject whose latest schema is looked at when a run starts; None for none."""
    kind, topic = config.kafka.format, config.kafka.topic
    if not kind.latest_on_startup:
        return None
    if kind.subject_strategy == "topic_name":
        return f"{topic}-value"
    if kind.message_type is None:
        return None
    if kind.subject_strategy == "record_name":
        return kind.message_type
    return f"{topic}-{kind.message_type}"


def key_subject(config: Config) -> str | None:
    """As `latest_subject`, of the keys: only the topic's name tells it."""
    kind = config.kafka.format
    named = kind.latest_on_startup and kind.subject_strategy == "topic_name"
    return f"{config.kafka.topic}-key" if named else None
