"""The ingest flow as users of Prefect run it: deployed to a worker, on a schedule, and served."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from flows.ingest import configuration
from k2i_tasks.local_server import free_port
from k2i_tasks.wiring_table import table_report
from tests.flows.live import ROOT, Live, client_environ, prefect
from tests.flows.rig import wait_until

pytestmark = pytest.mark.prefect_server

PROBE = """
  - name: probe
    entrypoint: tests/flows/scheduled_probe.py:probe
    schedules:
      - {cron: "* * * * *", timezone: UTC, slug: minutely}
    work_pool: {name: k2i, job_variables: {stream_output: false}}
"""


@pytest.fixture(scope="module")
def worker(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A worker on the pool that prefect.yaml is deployed to, beside a probe; its log."""
    if not live.server.healthy():
        live.start()
    folder = tmp_path_factory.mktemp("worker")
    template = json.loads((ROOT / "deployments" / "process-pool.json").read_text())
    live.ask("/work_pools/", {"name": "k2i", "type": "process", "base_job_template": template})
    everything = folder / "prefect.yaml"
    everything.write_text((ROOT / "prefect.yaml").read_text() + PROBE)
    prefect(live, "deploy", "--all", "--prefect-file", str(everything))
    log_path = folder / "worker.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "k2i"],
            env=client_environ(live),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield log_path
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.mark.usefixtures("worker")
def test_prefect_yaml_deploys_ingest_without_a_concurrency_lease_and_the_report_on_a_cron(
    live: Live,
) -> None:
    deployed = {d["name"]: d for d in live.ask("/deployments/filter", {})}
    assert set(deployed) == {"ingest", "table-report", "verify", "maintain", "probe"}
    assert deployed["ingest"]["entrypoint"] == "flows/ingest.py:ingest"
    assert deployed["ingest"]["global_concurrency_limit"] is None
    assert deployed["table-report"]["schedules"][0]["schedule"]["cron"] == "*/15 * * * *"
    assert deployed["verify"]["entrypoint"] == "flows/verify.py:verify"
    assert deployed["verify"]["global_concurrency_limit"]["limit"] == 1
    assert deployed["verify"]["schedules"][0]["schedule"]["cron"] == "7 * * * *"
    assert deployed["maintain"]["entrypoint"] == "flows/maintain.py:maintain"
    assert deployed["maintain"]["global_concurrency_limit"]["limit"] == 1
    assert deployed["maintain"]["schedules"][0]["schedule"]["cron"] == "37 * * * *"
    named = {"deployments": {"name": {"any_": ["table-report"]}}}
    wait_until(
        lambda: any(run["auto_scheduled"] for run in live.ask("/flow_runs/filter", named)),
        30,
        "runs of the report are scheduled",
    )


def demo_overrides(folder: Path) -> dict[str, Any]:
    """The demo in a folder of its own, on ports of its own."""
    return {
        "run.data_dir": str(folder / "data"),
        "monitoring.health_port": free_port("127.0.0.1", 0),
        "monitoring.metrics_port": free_port("127.0.0.1", 0),
    }


def created(live: Live, deployment: str, overrides: dict[str, Any]) -> str:
    """A run of a deployment of the ingest flow, to be started at once; its id."""
    found = live.ask(f"/deployments/name/k2i-ingest/{deployment}")["id"]
    parameters = {"config_path": None, "overrides": overrides}
    # Asked again after a refusal, it is still one run.
    body = {"parameters": parameters, "idempotency_key": overrides["run.data_dir"]}
    return str(live.ask(f"/deployments/{found}/create_flow_run", body)["id"])


def drained_after_two_commits(live: Live, run_id: str, log_path: Path) -> None:
    """Cancels the run once it has committed twice, and waits until it has ended as cancelled."""

    def committed() -> bool:
        state = live.run(run_id)["state"]
        assert state["type"] not in ("FAILED", "CRASHED"), (state, log_path.read_text())
        mine = {"flow_runs": {"id": {"any_": [run_id]}}}
        runs = live.ask("/task_runs/filter", mine)
        names = [r["name"] for r in runs if r["state_type"] == "COMPLETED"]
        return sum(str(name).startswith("commit ") for name in names) >= 2

    wait_until(committed, 120, "two commits of the deployed run")
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    live.ask(f"/flow_runs/{run_id}/set_state", cancelling)
    wait_until(lambda: live.run(run_id)["state_type"] == "CANCELLED", 90, "it is cancelled")


def test_a_deployed_ingest_that_is_cancelled_drains_and_ends_as_cancelled(
    live: Live, worker: Path, tmp_path: Path
) -> None:
    overrides = demo_overrides(tmp_path)
    run_id = created(live, "ingest", overrides)
    drained_after_two_commits(live, run_id, worker)
    assert live.run(run_id)["name"] == "ingest orders → demo.orders #1"
    # Everything that was read is in the table, once: the embedded topic starts at 0, without gaps.
    report = table_report(configuration(None, None, overrides))
    assert report["rows"] == sum(report["offsets"].values()) > 0
    (summary,) = live.ask("/artifacts/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    for partition, offset in report["offsets"].items():
        assert f"| {partition} | {offset:,} | {offset:,} |" in summary["data"]


def test_a_run_made_by_a_cron_schedule_completes_on_a_worker(live: Live, worker: Path) -> None:
    named = {"deployments": {"name": {"any_": ["probe"]}}}
    done = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    wait_until(
        lambda: any(r["auto_scheduled"] for r in live.ask("/flow_runs/filter", named | done)),
        110,
        f"a cron run is completed; the worker's log is {worker}",
    )


SERVE = "from flows.ingest import ingest; ingest.serve(name='served', pause_on_shutdown=False)"


@contextmanager
def served(live: Live, log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves the ingest flow, as deployments/README.md says; ended by SIGTERM.

    If it has to be killed, what its threads were doing is in the log, and the log in the failure.
    """
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", SERVE],
            env=client_environ(live),
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        except BaseException as error:
            if process.poll() is None:
                process.send_signal(signal.SIGABRT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                with suppress(ProcessLookupError):  # and its runs, if there are any
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            error.add_note(log_path.read_text())
            raise


def test_a_served_ingest_runs_is_cancelled_and_the_server_process_ends_on_sigterm(
    live: Live, tmp_path: Path
) -> None:
    if not live.server.healthy():
        live.start()
    log_path = tmp_path / "serve.log"
    overrides = demo_overrides(tmp_path)
    with served(live, log_path) as process:

        def known() -> bool:
            assert process.poll() is None, log_path.read_text()
            return any(d["name"] == "served" for d in live.ask("/deployments/filter", {}))

        wait_until(known, 60, "the deployment is there")
        run_id = created(live, "served", overrides)
        drained_after_two_commits(live, run_id, log_path)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.poll() is not None, 60, "serve ends")
    report = table_report(configuration(None, None, overrides))
    assert report["rows"] == sum(report["offsets"].values()) > 0
