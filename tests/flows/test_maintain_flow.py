"""The flow does its jobs as tracked tasks, publishes what came of them, and fails where one did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k2i_tasks.errors import ServiceError
from k2i_tasks.maintenance import Maintenance
from k2i_tasks.types import Job
from tests.flows.rig import wait_until
from tests.kafka_world import World

pytestmark = [pytest.mark.integration, pytest.mark.prefect_server]

EAGER = {
    "maintenance.compaction_min_files": 2,
    "maintenance.snapshots_kept": 2,
    "maintenance.snapshot_history_kept": 0,
    "maintenance.snapshot_grace_seconds": 0,
}


def asked(path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found: list[dict[str, Any]] = client._client.post(path, json=body).json()
    return found


def artifact(world: World) -> str:
    """The newest artifact of the world's table."""
    key = f"k2i-maintenance-tests-{world.program.table.replace('_', '-')}"
    wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "ID_DESC"}
    found = asked("/artifacts/filter", wanted)
    return str(max(found, key=lambda each: str(each["created"]))["data"])


def assert_task_runs(state: Any, wanted: dict[str, str]) -> None:
    """Name and state of each task run of a flow run; the server hears of them by and by."""
    mine = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}

    def found() -> dict[str, str]:
        return {each["name"]: each["state_type"] for each in asked("/task_runs/filter", mine)}

    wait_until(lambda: found() == wanted, 60, f"task runs {wanted}")


@pytest.mark.usefixtures("prefect_api_url")
def test_jobs_are_task_runs_and_one_that_fails_does_not_keep_the_others_from_being_done(
    kafka_bootstrap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.maintain import maintain

    world = World(tmp_path, kafka_bootstrap)
    for _ in range(4):
        world.more(20)
        code, output = world.program.run("--max-messages", "20")
        assert code == 0, output
    table = world.program.load_table()
    assert table is not None
    files = len(table.inspect.data_files())
    assert files >= 4
    path, name = str(world.program.config), f"tests.{world.program.table}"
    state = maintain(path, overrides=EAGER, return_state=True)
    assert state.is_completed(), state
    assert_task_runs(state, {f"{job} {name}": "COMPLETED" for job in Job})
    table = table.refresh()
    assert len(table.inspect.data_files()) == 1
    assert len(table.snapshots()) == 2
    told = artifact(world)
    assert "## compact" in told
    assert name in told

    plain = Maintenance.run

    def refusing(self: Maintenance, job: Job) -> Any:
        if job is Job.COMPACT:
            raise ServiceError("no right to write")
        return plain(self, job)

    monkeypatch.setattr(Maintenance, "run", refusing)
    state = maintain(path, overrides=EAGER, return_state=True)
    assert state.is_failed()
    done = {f"expire-snapshots {name}": "COMPLETED", f"clean-orphans {name}": "COMPLETED"}
    assert_task_runs(state, {f"compact {name}": "FAILED", **done})
    assert "no right to write" in artifact(world)
    state = maintain(path, jobs=["vacuum"], return_state=True)
    assert state.is_failed()
    assert "vacuum" in str(state.message)
