"""What an ingest run asks of Prefect's API, each bounded in time and never on the data path."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect import settings
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import State, StateType
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.logging.configuration import ensure_logging_setup
from prefect.logging.handlers import APILogWorker
from prefect.settings import temporary_settings
from prefect.states import Completed, Crashed

from k2i_tasks.errors import TransientError

#: One question to the API; a hung server costs its thread no more.
REQUEST_SECONDS = 5.0


@contextmanager
def translated() -> Iterator[None]:
    """Turns whatever a client call raises into `TransientError`: nothing here is worth a stop."""
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError, ValueError) as error:
        raise TransientError(f"Prefect's API: {type(error).__name__}: {error}") from error


@contextmanager
def impatient() -> Iterator[None]:
    """Settings under which a client gives up at once instead of after a minute."""
    updates: dict[Any, Any] = {
        settings.PREFECT_CLIENT_MAX_RETRIES: 0,
        settings.PREFECT_API_REQUEST_TIMEOUT: REQUEST_SECONDS,
        settings.PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
    }
    with temporary_settings(updates):
        yield


@contextmanager
def addressed(api_url: str | None, *, heartbeat: bool = True) -> Iterator[None]:
    """Settings that point at `api_url`; None leaves the address as it is."""
    updates: dict[Any, Any] = {}
    if api_url is not None:
        updates[settings.PREFECT_API_URL] = api_url
    if not heartbeat:
        updates[settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
    with temporary_settings(updates):
        yield


def keep_logs_apart(*, quiet: bool) -> None:
    """Lets flow and task runs log to the API whatever level the terminal has. Idempotent.

    Args:
        quiet: keep their lines, two for each task run, off the terminal.
    """
    ensure_logging_setup()  # else it happens later and undoes what follows
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).setLevel(logging.INFO)
        if quiet:
            logging.getLogger(name).propagate = False


def api_url() -> str | None:
    """The address that the environment or the active profile names, if any."""
    url = settings.PREFECT_API_URL.value()
    return None if url is None else str(url)


class Api:
    """A client of its own, for one thread, made inside `impatient`.

    Every method may block for a few seconds and raises `TransientError` when the API is away.
    """

    def __init__(self) -> None:
        self._client: SyncPrefectClient = get_client(sync_client=True)

    def answers(self) -> bool:
        """Whether the API is there."""
        return self._client.api_healthcheck() is None

    def verdict(self, flow_run_id: UUID) -> str | None:
        """None while the run goes on, "cancelled" if it is to stop, "ended" if it is over."""
        with translated():
            try:
                state = self._client.read_flow_run(flow_run_id).state
            except ObjectNotFound:
                return "ended"
        if state is None:
            return None
        if state.type in (StateType.CANCELLING, StateType.CANCELLED):
            return "cancelled"
        return "ended" if state.is_final() else None

    def rename(self, flow_run_id: UUID, name: str) -> None:
        """Names a run. Idempotent."""
        with translated():
            self._client.set_flow_run_name(flow_run_id, name)

    def put_markdown(
        self, key: str, markdown: str, description: str, flow_run_id: UUID, artifact_id: UUID | None
    ) -> UUID:
        """Creates a run's artifact, or writes it anew when its id is given; its id."""
        with translated():
            if artifact_id is not None:
                self._client.update_artifact(artifact_id, ArtifactUpdate(data=markdown))
                return artifact_id
            body = ArtifactCreate(
                key=key,
                type="markdown",
                data=markdown,
                description=description,
                flow_run_id=flow_run_id,
            )
            return self._client.create_artifact(body).id

    def close_run(self, flow_run_id: UUID) -> None:
        """Ends a run whose own last word was lost while the API was away. Idempotent."""
        with translated():
            run = self._client.read_flow_run(flow_run_id)
            if run.state is None or not run.state.is_final():
                message = "Its end was reported late: the API was away."
                self._client.set_flow_run_state(flow_run_id, Completed(message=message), force=True)

    def crash_leftovers(self, flow_name: str) -> int:
        """Ends runs that a killed process left running; how many. Only for a server of our own."""
        with translated():
            runs = self._client.read_flow_runs(
                flow_filter=FlowFilter.model_validate({"name": {"any_": [flow_name]}}),
                flow_run_filter=FlowRunFilter.model_validate(
                    {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
                ),
                limit=100,
            )
            for run in runs:
                state: State[Any] = Crashed(message="The process ended without a word.")
                self._client.set_flow_run_state(run.id, state, force=True)
        return len(runs)


def drain_reports(timeout_seconds: float) -> None:
    """Sends what is still queued for the API: task run states and logs. May block that long."""
    deadline = time.monotonic() + timeout_seconds
    APILogWorker.drain_all(timeout=timeout_seconds / 2, at_exit=False)
    EventsWorker.drain_all(timeout=max(0.0, deadline - time.monotonic()), at_exit=False)
