"""Decides how a run is shown, from its configuration and the environment."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from k2i_tasks.calls import InlineTracker, Tracker
from k2i_tasks.companion import Adopted, Companion, ShowOptions
from k2i_tasks.config import Config
from k2i_tasks.local_server import LocalServer
from k2i_tasks.status import Status

#: Topics that a name tells of.
NAMES_SHOWN_MAX = 3
#: Read by Prefect when it is imported; what the operator has set stays.
PROCESS_SETTINGS: dict[str, str] = {
    # Unbounded by default: a long outage would fill the memory with unsent task run states.
    "PREFECT_EVENTS_WORKER_MAX_QUEUE_SIZE": "20000",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # During an outage it writes whole events to the terminal; we say once that the API is away.
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True, slots=True)
class Tracking:
    """How a run is shown.

    Args:
        factory: makes the tracker, from the run's status and its drain request.
        ui_url: the page to open; None where there is none, or it is not known yet.
    """

    factory: Callable[[Callable[[], Status], Callable[[str], None]], Tracker]
    ui_url: str | None = None


def choose_tracking(
    config: Config, environ: MutableMapping[str, str], *, adopted: Adopted | None = None
) -> Tracking:
    """How the run of `config` is shown. Starts nothing, imports no Prefect.

    Not at all if `prefect.enabled` is false; else by the API in `PREFECT_API_URL`; else by a server
    of its own if `prefect.start_server` is set; else by the API of the active Prefect profile.

    Args:
        config: the configuration.
        environ: the environment of this process; settings that Prefect reads later are put there.
        adopted: the flow run that this process is inside of, if any.

    Raises:
        ServiceError: a server is to be started and there is no port for it.
    """
    if not config.prefect.enabled:
        return Tracking(lambda _status, _drain: InlineTracker())
    for name, value in PROCESS_SETTINGS.items():
        environ.setdefault(name, value)
    server: LocalServer | None = None
    url = environ.get("PREFECT_API_URL")
    if not url and config.prefect.start_server and adopted is None:
        home = _data_dir(config) / "prefect"
        server = LocalServer(home, config.prefect.server_host, config.prefect.server_port)
        environ["PREFECT_API_URL"] = url = server.url
    options = ShowOptions(
        topic=shown_topic(config),
        table=shown_table(config),
        generation_seconds=config.prefect.generation_seconds,
        generation_task_runs=config.prefect.generation_task_runs,
        artifact_interval_seconds=config.prefect.artifact_interval_seconds,
        api_url=url or None,
        owns_server=server is not None,
    )

    def factory(status: Callable[[], Status], request_drain: Callable[[str], None]) -> Tracker:
        companion = Companion(
            options,
            status,
            request_drain,
            claim_timeout_seconds=config.prefect.claim_timeout_seconds,
            server=server,
            adopted=adopted,
        )
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every question asked
        companion.start()
        return companion.tracker

    return Tracking(factory, _ui_url(environ, url))


def shown_topic(config: Config) -> str:
    """What is read, for people: a topic, several, or a pattern."""
    routing = config.routing
    if not routing.enabled:
        return config.kafka.topic
    parts = [*routing.topics, *([f"/{routing.topic_pattern}/"] if routing.topic_pattern else [])]
    shown = ", ".join(parts[:NAMES_SHOWN_MAX])
    rest = len(parts) - NAMES_SHOWN_MAX
    return f"{shown} and {rest} more" if rest > 0 else shown


def shown_table(config: Config) -> str:
    """Where it goes, for people: a table, or a namespace of tables."""
    name = "*" if config.routing.enabled else config.iceberg.table_name
    return f"{config.iceberg.database_name}.{name}"


def _ui_url(environ: MutableMapping[str, str], url: str | None) -> str | None:
    shown = environ.get("PREFECT_UI_URL") or url
    return shown.rstrip("/").removesuffix("/api") if shown else None


def _data_dir(config: Config) -> Path:
    return config.run.data_dir or Path(config.transaction_log.log_dir).parent
