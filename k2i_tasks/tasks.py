"""Every Prefect task and flow that an ingest run is shown by.

A task here is a frame around a call that the engine owns: it runs `Call.attempt` if the call is
still to be had, and returns nothing. Sync, without tags and without caching: tags ask the API for
a slot before they run, async tasks build a client each, and a cached commit would be a lost one.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, StateDetails, TaskRun
from prefect.context import FlowRunContext, SettingsContext, TaskRunContext, get_settings_context
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed

from k2i_tasks.calls import Call, RetryPolicy, figures
from k2i_tasks.tracking.performance import JITTER, Link, Performance, delays_seconds
from k2i_tasks.tracking.seat import Seat

log = logging.getLogger(__name__)

FLOW_NAME = "k2i-ingest"
#: Time ends a call's retries, not their number; Prefect wants a number.
RETRIES_MAX = 100_000

Occupant = Callable[[Seat], None]
_occupant: contextvars.ContextVar[tuple[int, Occupant]] = contextvars.ContextVar("k2i_occupant")


def _may_retry(_task: Task[..., Any], _run: TaskRun, _state: State[Any]) -> bool:
    """Whether the call asks for another try: its error is transient, in budget, no stop asked."""
    context = TaskRunContext.get()
    performance = context.parameters.get("performance") if context is not None else None
    return isinstance(performance, Performance) and performance.may_retry()


def _perform(performance: Performance) -> State[Any] | None:
    context = TaskRunContext.get()
    link = None
    if context is not None and context.task_run.flow_run_id is not None:
        link = Link(context.task_run.flow_run_id, context.task_run.id)
    if not performance.begin(link):
        return Cancelled(message="Prefect was late: this ran untracked, once.")
    performance.attempt()
    if performance.call.summary:
        get_run_logger().info("%s", figures(performance.call.summary))
    return None


@task(cache_policy=NO_CACHE, persist_result=False, log_prints=False)
def flush(performance: Performance) -> State[Any] | None:
    """Writes one sealed batch to data files."""
    return _perform(performance)


@task(cache_policy=NO_CACHE, persist_result=False, log_prints=False)
def commit(performance: Performance) -> State[Any] | None:
    """Commits data files and offsets in one snapshot."""
    return _perform(performance)


@task(cache_policy=NO_CACHE, persist_result=False, log_prints=False)
def operation(performance: Performance) -> State[Any] | None:
    """Any other operation on the table, named by its kind."""
    return _perform(performance)


@lru_cache(maxsize=64)
def task_for(kind: str, policy: RetryPolicy) -> Task[[Performance], State[Any] | None]:
    """The task that shows calls of `kind`, retried as `policy` says."""
    base = {"flush": flush, "commit": commit}.get(kind, operation)
    return base.with_options(
        name=kind,
        task_run_name="{performance.label}",
        retries=RETRIES_MAX,
        retry_delay_seconds=delays_seconds(policy),
        retry_jitter_factor=JITTER,
        retry_condition_fn=_may_retry,
    )


def perform_tracked(performance: Performance, after: Link | None) -> None:
    """Runs one call as a task of the current flow run. May block; idempotent by the call's owner.

    Args:
        performance: the call.
        after: the task run whose result it uses; drawn as an arrow.

    Raises: what the call raised last, or whatever went wrong in Prefect.
    """
    shown = task_for(performance.call.kind, performance.call.policy)
    if after is None:
        shown(performance)
        return
    details = StateDetails(flow_run_id=after.flow_run_id, task_run_id=after.task_run_id)
    shown(performance, wait_for=[Completed(data="done", state_details=details)])


def run_task(call: Call) -> None:
    """Runs one call to its end as a task of the current flow run. May block.

    If Prefect does not see it to its end, it is run here. Raises nothing of the call's: what it
    failed with is in `call.error`.
    """
    performance = Performance(call, 0.0)
    task_for(call.kind, call.policy)(performance, return_state=True)
    performance.leave()
    performance.finish()


@flow(
    name=FLOW_NAME,
    flow_run_name="ingest {topic} \u2192 {table} #{number}",
    validate_parameters=False,
    persist_result=False,
    log_prints=False,
)
def generation(topic: str, table: str, number: int) -> State[Any]:
    """A bounded stretch of one ingest run; the next follows in the same process.

    Args:
        topic: what is read.
        table: where it goes.
        number: which stretch of the process this is.
    """
    seat = seat_here(_occupant.get()[0])
    _occupant.get()[1](seat)
    if seat.verdict == "cancelled":
        return Cancelled(message=f"Drained after {seat.task_runs} task runs.")
    return Completed(message=f"{seat.task_runs} task runs.")


def run_generation(topic: str, table: str, number: int, occupant: Occupant) -> None:
    """Runs one generation on this thread, with `occupant` in its seat. Blocks until it returns.

    Raises: whatever Prefect raises, signals that are no `Exception` among them.
    """
    token = _occupant.set((number, occupant))
    try:
        generation(topic, table, number, return_state=True)
    finally:
        _occupant.reset(token)


def seat_here(number: int) -> Seat:
    """The seat in the flow run that this thread is in.

    Raises:
        MissingContextError: there is none.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise MissingContextError("not inside a flow run")
    return Seat(number, context.flow_run.id, contextvars.copy_context(), perform_tracked)


def settings_here() -> Callable[[], AbstractContextManager[Any]]:
    """A scope with the settings of this thread, for a thread that starts with none."""
    current = get_settings_context()
    return lambda: SettingsContext(profile=current.profile, settings=current.settings)
