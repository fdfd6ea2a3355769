"""The memory of a run does not grow with the number of its task runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm")


def grown(calls: int, per_flow_run: int, seconds: float) -> dict[str, float]:
    """What each of `calls` task runs left behind, measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.flows.task_run_memory", str(calls), str(per_flow_run)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
        | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "ERROR", "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    print(done.stdout)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_fifteen_hundred_task_runs_leave_nothing_behind() -> None:
    found = grown(1_500, 150, 280)
    # The first, which Prefect's event thread was made in, the last full one and the current one.
    assert found["contexts"] <= 3
    assert found["objects_per_call"] < 1.0  # keeping the contexts would be 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_twenty_thousand_task_runs() -> None:
    found = grown(20_000, 2_000, 3_000)
    # The system's figure: 42 on a quiet machine, 650 with others at work on it and objects flat.
    assert found["bytes_per_call"] < 1_000
    assert found["objects_per_call"] < 0.2
    assert found["contexts"] <= 3
