"""Calls as task runs of bounded flow runs, against a throw-away Prefect API."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.companion import Companion, ShowOptions
from k2i_tasks.errors import IntegrityError, TransientError
from k2i_tasks.status import Refusal
from tests.flows.rig import QUICK, Rig, status, wait_until

pytestmark = pytest.mark.usefixtures("prefect_api_url")


@contextmanager
def shown(
    table: str,
    drains: list[str] | None = None,
    status_changes: dict[str, object] | None = None,
    **options: Any,
) -> Iterator[tuple[Companion, Rig]]:
    """A companion whose first flow run is attached, and a rig on its tracker."""
    from k2i_tasks import tasks

    companion = Companion(
        ShowOptions("orders", table, **({"watch_interval_seconds": 0.5} | options)),
        lambda: status(table=table, **(status_changes or {})),
        (drains if drains is not None else []).append,
        claim_timeout_seconds=10.0,  # this machine is busy; being late is tested elsewhere
        settings=tasks.settings_here(),
    )
    rig = Rig(companion.tracker)
    companion.start()
    wait_until(lambda: companion.tracker.seat is not None, 30, "a flow run is attached")
    try:
        yield companion, rig
    finally:
        rig.close()
        companion.tracker.close(15.0)


def api() -> Any:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def flow_runs(table: str) -> list[Any]:
    runs = api().read_flow_runs(limit=200)
    return sorted(
        (r for r in runs if f"→ {table} #" in r.name), key=lambda r: r.expected_start_time
    )


def task_runs(table: str) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter

    ids = [run.id for run in flow_runs(table)]
    body = FlowRunFilter.model_validate({"id": {"any_": ids}})
    return list(api().read_task_runs(flow_run_filter=body, limit=200))


def settled(table: str, count: int) -> dict[str, Any]:
    """Task runs by name, once `count` are there and final."""
    found: dict[str, Any] = {}

    def there() -> bool:
        found.clear()
        found.update({run.name: run for run in task_runs(table)})
        return len(found) >= count and all(run.state.is_final() for run in found.values())

    wait_until(there, 20, f"{count} final task runs")
    return found


def test_flush_and_commit_are_completed_task_runs_with_names_and_an_arrow() -> None:
    with shown("t.arrows") as (_, rig):
        rig.flush_and_commit("events 0:[0,10)")
        wait_until(lambda: len(rig.done) == 2, 20, "both calls are done")
    runs = settled("t.arrows", 2)
    flush, commit = runs["flush events 0:[0,10)"], runs["commit events 0:[0,10)"]
    assert flush.state.name == commit.state.name == "Completed"
    assert [str(i.id) for i in commit.task_inputs["wait_for"]] == [str(flush.id)]
    assert flush.tags == commit.tags == []
    (run,) = flow_runs("t.arrows")
    assert run.name == "ingest orders → t.arrows #1"
    assert run.parent_task_run_id is None  # else it would never be vacuumed
    assert run.state.name == "Completed"


def test_only_transient_errors_are_retried_and_the_final_error_is_the_calls() -> None:
    with shown("t.retries") as (companion, _):
        flaky: dict[str, list[BaseException]] = {
            "flush away": [TransientError("a"), TransientError("b")],
            "flush bad": [IntegrityError("bad"), IntegrityError("never raised")],
            "flush exits": [SystemExit(1)],
        }
        rig = Rig(companion.tracker, flaky)
        for label in flaky:
            rig.submit(rig.call("flush", label))
        wait_until(lambda: len(rig.done) == 3, 20, "all calls are done")
        rig.close()
    away, bad, exits = rig.done
    assert (away.error, away.attempts, away.owner) == (None, 3, "prefect")
    assert isinstance(bad.error, IntegrityError)
    assert bad.attempts == 1
    assert isinstance(exits.error, SystemExit)
    runs = settled("t.retries", 3)
    assert (runs["flush away"].state.name, runs["flush away"].run_count) == ("Completed", 3)
    assert (runs["flush bad"].state.name, runs["flush bad"].run_count) == ("Failed", 1)
    assert runs["flush exits"].state.name == "Crashed"


def test_the_calls_own_budget_ends_prefects_retries() -> None:
    with shown("t.budget") as (companion, _):
        rig = Rig(companion.tracker, {"flush away": [TransientError("x") for _ in range(1000)]})
        began = time.monotonic()
        rig.submit(rig.call("flush", "flush away", policy=RetryPolicy(0.05, 0.1, 1.0)))
        wait_until(lambda: len(rig.done) == 1, 20, "the call is over")
        assert 0.9 < time.monotonic() - began < 5
        rig.close()
    assert isinstance(rig.done[0].error, TransientError)


def test_equal_calls_are_never_skipped_as_cached() -> None:
    with shown("t.cached") as (_, rig):
        for _ in range(5):
            rig.submit(rig.call("commit", "commit same"))
        rig.submit(rig.call("compact", "compact same"))
        wait_until(lambda: len(rig.done) == 6, 20, "all calls are done")
    assert rig.executed["commit same"] == 5
    assert rig.owners == {"prefect": 6}
    wait_until(lambda: len(task_runs("t.cached")) == 6, 20, "all are recorded")
    assert {run.state.name for run in task_runs("t.cached")} == {"Completed"}


def test_a_full_flow_run_is_followed_by_the_next_and_no_call_waits() -> None:
    with shown("t.rolls", generation_task_runs=20) as (_, rig):
        submitted = 0
        deadline = time.monotonic() + 40
        while len(flow_runs("t.rolls")) < 3 and time.monotonic() < deadline:
            rig.flush_and_commit(str(submitted))
            submitted += 1
            time.sleep(0.05)
        wait_until(lambda: len(rig.done) == 2 * submitted, 20, "all calls are done")
    assert set(rig.executed.values()) == {1}
    assert len(rig.executed) == 2 * submitted
    names = [run.name for run in flow_runs("t.rolls")]
    assert names[:3] == [f"ingest orders → t.rolls #{n}" for n in (1, 2, 3)]
    assert {run.state.name for run in flow_runs("t.rolls")} == {"Completed"}


def test_cancelling_the_flow_run_asks_for_a_drain_and_ends_as_cancelled() -> None:
    from prefect.states import Cancelling

    drains: list[str] = []
    with shown("t.cancel", drains) as (_, rig):
        api().set_flow_run_state(flow_runs("t.cancel")[0].id, Cancelling())
        wait_until(lambda: bool(drains), 10, "a drain is asked for")
        rig.flush_and_commit("of the drain")
        wait_until(lambda: len(rig.done) == 2, 20, "the drain's calls are done")
        assert rig.owners == {"prefect": 2}
    assert flow_runs("t.cancel")[0].state.name == "Cancelled"


def test_a_cancelled_run_ends_as_cancelled_though_a_call_in_it_hangs() -> None:
    from prefect.states import Cancelling

    drains: list[str] = []
    let_go = threading.Event()

    def hang() -> None:
        let_go.wait(60)

    with shown("t.hung", drains) as (companion, rig):
        hung = Call("commit", "commit that hangs", hang, QUICK)
        rig.submit(hung)
        wait_until(lambda: hung.attempts == 1, 20, "the call hangs")
        api().set_flow_run_state(flow_runs("t.hung")[0].id, Cancelling())
        wait_until(lambda: bool(drains), 10, "a drain is asked for")
        companion.tracker.close(15.0)
        assert flow_runs("t.hung")[0].state.name == "Cancelled"
        let_go.set()


def test_a_run_ended_from_outside_is_followed_by_the_next_and_ingestion_goes_on() -> None:
    from prefect.states import Crashed

    drains: list[str] = []
    with shown("t.crashed", drains) as (_, rig):
        api().set_flow_run_state(flow_runs("t.crashed")[0].id, Crashed(), force=True)
        wait_until(lambda: len(flow_runs("t.crashed")) == 2, 20, "the next flow run")
        rig.flush_and_commit("after")
        wait_until(lambda: len(rig.done) == 2, 20, "calls are done")
    assert drains == []
    assert all(run.state.is_final() for run in flow_runs("t.crashed"))


def test_a_generation_has_one_summary_that_is_written_anew() -> None:
    from prefect.client.schemas.filters import ArtifactFilter

    with shown("t.summary", artifact_interval_seconds=0.6) as (_, rig):
        rig.flush_and_commit("1")
        wait_until(lambda: len(rig.done) == 2, 20, "calls are done")
        body = ArtifactFilter.model_validate({"key": {"any_": ["k2i-ingest-t-summary"]}})

        def found() -> list[Any]:
            return list(api().read_artifacts(artifact_filter=body))

        wait_until(lambda: bool(found()), 20, "an artifact")
        first = found()[0].updated
        wait_until(lambda: found()[0].updated > first, 20, "its next version")
    (artifact,) = found()
    assert "| flush | 1 |" in artifact.data
    assert artifact.flow_run_id == flow_runs("t.summary")[0].id


def test_dead_letters_have_an_artifact_of_their_own_that_grows_with_them() -> None:
    from prefect.client.schemas.filters import ArtifactFilter

    refusals = [Refusal("decode", "json.syntax", 2, 0.0, 1.0, "orders/0/7", "no JSON")]
    body = ArtifactFilter.model_validate({"key": {"any_": ["k2i-dead-letters-t-refused"]}})

    def found() -> list[Any]:
        return list(api().read_artifacts(artifact_filter=body))

    changing: dict[str, object] = {}
    with shown("t.refused", status_changes=changing, artifact_interval_seconds=0.6) as (_, rig):
        rig.flush_and_commit("1")
        wait_until(lambda: len(rig.done) == 2, 20, "calls are done")
        assert found() == [], "there were no letters yet"
        changing["refusals"] = tuple(refusals)
        wait_until(lambda: bool(found()), 20, "an artifact")
        changing["refusals"] = (replace(refusals[0], letters=5),)
    (artifact,) = found()
    assert "| json.syntax | decode | 5 |" in artifact.data, "it was not written at the end"
    assert artifact.flow_run_id == flow_runs("t.refused")[0].id
