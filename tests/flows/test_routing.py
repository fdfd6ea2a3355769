"""The ingestion flow with many tables: all are shown in Prefect, and none waits for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.live import ROOT, Live, client_environ
from tests.flows.rig import wait_until
from tests.integration.test_routing import World
from tests.integration.test_routing_faults import BY_KIND, Kinds
from tests.running import PATIENCE_SECONDS, Running, running
from tests.stack.programs import free_port
from tests.support import CatalogAt

pytestmark = [pytest.mark.integration, pytest.mark.prefect_server]

NAMES = ("a", "b", "c")


def commits(live: Live) -> int:
    """Commits that Prefect shows as completed."""
    return sum(
        run["name"].startswith("commit ") and run["state_type"] == "COMPLETED"
        for run in live.task_runs()
    )


@pytest.fixture
def kinds(
    live: Live, kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path
) -> Iterator[Kinds]:
    """A topic with events of three kinds, and a server."""
    rest_catalog.clear_faults()
    live.start()
    world = World(tmp_path, kafka_bootstrap, rest_catalog)
    found = Kinds(world, world.topic("events"))
    world.routing(BY_KIND)
    found.write(300, *NAMES)
    yield found
    live.server.stop()


@pytest.mark.timeout(600)
def test_the_flow_deals_one_topic_out_and_goes_on_while_its_server_is_gone(
    live: Live, kinds: Kinds
) -> None:
    world = kinds.world
    world.program.tracked = True
    world.program.environ |= client_environ(live)
    with running(world.program) as run:
        run.until_logged("shown in Prefect")
        # The first ones were not waited for.
        kinds.write(300, *NAMES)
        kinds.until_read(run)
        wait_until(lambda: commits(live) >= 3, PATIENCE_SECONDS, "commits of each table shown")
        (flow_run,) = live.ask("/flow_runs/filter", {"limit": 10})
        assert flow_run["state_type"] == "RUNNING"
        live.kill()
        kinds.write(300, *NAMES, "new")
        kinds.until_read(run)
        run.until_committed(900)
        live.start()
        kinds.write(100, *NAMES)
        kinds.until_read(run)
        run.kill()
    kinds.write(50, *NAMES)
    with running(world.program) as run:
        run.until_logged("shown in Prefect")
        kinds.until_read(run)
        before = {one["id"] for one in live.ask("/flow_runs/filter", {"limit": 10})}
        assert len(before) == 2
        run.drain()
    kinds.check()
    states = {one["state_type"] for one in live.ask("/flow_runs/filter", {"limit": 10})}
    assert "COMPLETED" in states


#: As a worker calls it.
CALL = """
import sys
from flows.ingest import ingest
port = {"monitoring.health_port": int(sys.argv[2])}
print(ingest(sys.argv[1], port, return_state=True).name)
"""


@pytest.mark.timeout(600)
def test_the_deployed_flow_runs_all_tables_and_ends_drained(
    live: Live, kinds: Kinds, tmp_path: Path
) -> None:
    world = kinds.world
    log, port = tmp_path / "log.txt", free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", CALL, str(world.program.config), str(port)],
            cwd=ROOT,
            env=client_environ(live),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    run = Running(process, log, port)
    try:
        kinds.until_read(run)
        assert "Completed" in run.drain()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
    kinds.check()
