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
from k2i_tasks.config import Config
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
    """

    def __init__(self, config: Config, resolved: Mapping[str, str]) -> None:
        self._config = config
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
        kind = self._config.kafka.format
        columns = MetadataColumns(**self._config.iceberg.metadata_columns.model_dump())
        limit, mode = self._config.kafka.max_message_bytes, self._config.schema_evolution.mode
        if self._schemas is None:
            return make_decoder(
                kind.type,
                columns=columns,
                table_schema=schema,
                max_message_bytes=limit,
                mode=mode,
            )
        from k2i_tasks.codecs.registered import registered_decoder

        decoder = registered_decoder(
            kind.type,
            self._schemas,
            columns=columns,
            table_schema=schema,
            max_message_bytes=limit,
            mode=mode,
            unknown_seconds=float(kind.cache_ttl_seconds),
        )
        subject = latest_subject(self._config)
        if ahead and subject is not None:
            self._look_ahead(decoder, self._schemas, subject)
        return decoder

    def _look_ahead(self, decoder: RegisteredDecoder, schemas: Schemas, subject: str) -> None:
        """Takes in the columns of the subject's latest schema; without it records bring theirs."""
        from k2i_tasks.codecs.registered import columns_of

        try:
            latest = schemas.latest(subject)
            if latest is None:
                log.info("subject %s has no schema yet: the first records bring one", subject)
                return
            decoder.adopt(columns_of(self._config.kafka.format.type, latest))
        except (DecodeError, TransientError) as error:
            log.warning("the latest schema of %s is not looked at: %s", subject, error)


def schemas_of(config: Config, resolved: Mapping[str, str]) -> Schemas | None:
    """The configured registry's schemas; None where the format needs none. Reaches nothing yet."""
    kind = config.kafka.format
    if not kind.registered or kind.schema_registry_url is None:
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
