"""kill -9 of a run that Prefect shows, at any moment: nothing lost, nothing doubled."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.flows.live import Live, client_environ
from tests.flows.rig import wait_until
from tests.kafka_world import Stream, World
from tests.running import PATIENCE_SECONDS, running
from tests.scale import times

pytestmark = [pytest.mark.integration, pytest.mark.prefect_server]

KILLS = times(5, 200)
SEED = 3


def committed(live: Live) -> bool:
    """Whether Prefect shows a commit that was completed."""
    return any(
        run["name"].startswith("commit ") and run["state_type"] == "COMPLETED"
        for run in live.task_runs()
    )


@pytest.mark.timeout(120 * KILLS)
def test_kills_of_a_tracked_run_lose_and_double_nothing(
    live: Live, kafka_bootstrap: str, tmp_path: Path
) -> None:
    live.start()
    world = World(tmp_path, kafka_bootstrap)
    world.program.tracked = True
    world.program.environ |= client_environ(live)
    draw = random.Random(SEED)
    with Stream(world) as stream:
        for _ in range(KILLS):
            with running(world.program) as run:
                run.until_logged("shown in Prefect")
                run.until_committed(20)
                # At some moment of the second after it: a flush or a commit is always near.
                time.sleep(draw.random())
                run.kill()
        with running(world.program) as run:
            run.until_logged("shown in Prefect")
            wait_until(lambda: committed(live), PATIENCE_SECONDS, "a commit shown as completed")
            stream.stop()
            run.until_at(world.ends())
            run.drain()
    world.all_in()
    assert world.next_offsets() == world.ends()
