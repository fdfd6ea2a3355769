"""What a configuration asks for that this version does not do, said aloud."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from k2i_tasks.config.fields import is_loopback
from k2i_tasks.config.keys import all_keys
from k2i_tasks.config.model import Config

_NO_SOCKET = "the local RPC socket is not served by this version"
_NO_STATISTICS = "each file's own statistics, in its manifest, are all there are"
#: Keys that are read for K2I's sake and change nothing here, and why.
UNUSED: dict[str, str] = {
    "kafka.batch_timeout_ms": "a poll takes what is there and does not wait for more",
    "schema_evolution.schema_update_min_interval_seconds": (
        "the schema is changed with the commit that needs it"
    ),
    "iceberg.catalog_manager.connection_pool_size": "each thread has one connection",
    "iceberg.catalog_manager.health_check_interval_seconds": (
        "the catalog's health is that of the last commit"
    ),
    "iceberg.catalog_manager.reconnect_backoff_ms": "waits grow by themselves, with jitter",
    "iceberg.catalog_manager.max_retries": "attempts are bounded by run.retry_budget_seconds",
    "iceberg.glue.role_arn": "no role is assumed",
    "iceberg.glue.external_id": "no role is assumed",
    "iceberg.nessie.api_version": "Nessie is reached over the Iceberg REST protocol",
    "buffer.memory_alignment_bytes": "columns are aligned by Arrow, to 64 bytes",
    "maintenance.statistics_enabled": _NO_STATISTICS,
    "maintenance.statistics_interval_seconds": _NO_STATISTICS,
    "rpc.enabled": _NO_SOCKET,
    "rpc.socket_path": _NO_SOCKET,
    "rpc.read_timeout_ms": _NO_SOCKET,
    "rpc.max_concurrent_scans": _NO_SOCKET,
    "rpc.scan_ttl_seconds": _NO_SOCKET,
    "rpc.max_frame_bytes": _NO_SOCKET,
}


def notes(config: Config) -> list[str]:
    """One sentence for each thing in `config` that is not honoured, or differs from K2I."""
    return [
        *config.load_notes,
        *_unused(config),
        *_maintenance(config),
        *_login(config),
        *_registry(config),
        *_exposure(config),
    ]


def _unused(config: Config) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for key in all_keys():
        if key.dotted not in UNUSED:
            continue
        value: Any = config
        for name in key.path:
            value = getattr(value, name)
        if value != key.default:
            by_reason.setdefault(UNUSED[key.dotted], []).append(key.dotted)
    for reason, keys in by_reason.items():
        verb = "is" if len(keys) == 1 else "are"
        yield f"{', '.join(keys)} {verb} not used: {reason}."


def _maintenance(config: Config) -> Iterator[str]:
    upkeep = config.maintenance
    # On when not given: remarked only when a file turns it on by name.
    if "statistics_enabled" in upkeep.model_fields_set and upkeep.statistics_enabled:
        yield f"maintenance.statistics_enabled is not used: {_NO_STATISTICS}."
    if upkeep.orphan_cleanup_enabled and upkeep.orphan_retention_days == 0:
        yield "maintenance.orphan_retention_days 0 is taken as 1: a file may be on its way."
    if config.iceberg.catalog_type == "nessie":
        yield (
            "On Nessie snapshots are not expired and no files are removed: other branches may need "
            "them, and Nessie's own GC knows."
        )


def _login(config: Config) -> Iterator[str]:
    rest, security = config.iceberg.rest, config.kafka.security
    if rest.credential is not None and rest.credential_type == "none":
        yield (
            "iceberg.rest.credential is not sent: iceberg.rest.credential_type is none, as in K2I."
        )
    protocol = security.protocol or "PLAINTEXT"
    if security.sasl_password is not None and not protocol.startswith("SASL_"):
        yield f"kafka.security.sasl_password is not sent: kafka.security.protocol is {protocol}."


def _registry(config: Config) -> Iterator[str]:
    kind = config.kafka.format
    registered = kind.registered or config.kafka.key_format.registered
    if kind.schema_registry_url is not None and not registered:
        yield f"kafka.format.schema_registry_url is not used: format {kind.type} needs no schema."
    if kind.schema_registry.token is not None and kind.schema_registry.username is not None:
        yield ("kafka.format.schema_registry.username and password are not sent: there is a token.")
    nameless = kind.subject_strategy != "topic_name" and kind.message_type is None
    if kind.registered and kind.latest_on_startup and nameless:
        yield (
            "kafka.format.latest_on_startup is not used: the subject is named by "
            "kafka.format.message_type, which is not given."
        )


def _exposure(config: Config) -> Iterator[str]:
    places = {
        "monitoring.health_host": config.monitoring.health_host,
        "monitoring.metrics_host": config.monitoring.metrics_host,
        "prefect.server_host": config.prefect.server_host,
    }
    for key, host in places.items():
        if not is_loopback(host):
            yield f"{key}: {host} may be reached from other machines, and asks for no login."
    query = config.query
    if query.enabled and query.tls_cert_location is None and not is_loopback(query.host):
        yield (
            f"query.host: {query.host} may be reached from other machines, and without TLS: tokens "
            "and rows can be read on the way."
        )
