"""A real Prefect server: one that belongs to the process, an outage, a schedule."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from k2i_tasks.companion import Companion, ShowOptions
from k2i_tasks.local_server import LocalServer
from tests.flows.live import ROOT, START_SECONDS, Live, alive, children, server_group
from tests.flows.rig import Rig, status, wait_until

pytestmark = pytest.mark.prefect_server
FLUSHES_PER_SECOND = 2.0


@contextmanager
def running(live: Live, **options: Any) -> Iterator[tuple[Companion, Rig]]:
    """A companion that is pointed at the server, and a rig on its tracker."""
    shown = {"watch_interval_seconds": 1.0, "start_wait_seconds": 0.0} | options
    companion = Companion(
        ShowOptions("orders", "demo.orders", api_url=live.url, owns_server=True, **shown),
        status,
        lambda _reason: None,
    )
    rig = Rig(companion.tracker)
    companion.start()
    try:
        yield companion, rig
    finally:
        companion.tracker.close(15.0)


def submit_steadily(rig: Rig, until: Callable[[], bool], first: int, seconds_max: float) -> int:
    """Flushes at a steady pace until a condition holds; the number of the next one."""
    n, began = first, time.monotonic()
    while not until():
        assert time.monotonic() - began < seconds_max
        rig.flush_and_commit(str(n))
        n += 1
        time.sleep(max(0.0, began + (n - first) / FLUSHES_PER_SECOND - time.monotonic()))
    return n


def after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def outage(live: Live, away_seconds: float, generation_seconds: float) -> None:
    with running(live, generation_seconds=generation_seconds) as (companion, rig):
        # Not there at the start.
        n = submit_steadily(rig, after(3), 0, 60)
        assert set(rig.owners) == {"inline"}
        live.start(wait=False)
        n = submit_steadily(rig, lambda: companion.tracker.seat is not None, n, START_SECONDS)
        n = submit_steadily(rig, after(3), n, 60)
        assert rig.owners["prefect"] > 0
        # Killed in mid-run.
        live.kill()
        n = submit_steadily(rig, after(away_seconds), n, away_seconds + 60)
        live.start(wait=False)
        n = submit_steadily(rig, live.server.healthy, n, START_SECONDS)
        before = rig.owners["prefect"]
        n = submit_steadily(rig, lambda: rig.owners["prefect"] > before + 6, n, 90)
        wait_until(lambda: len(rig.done) == 2 * n, 30, "every call is done")
        rig.close()
    lost = [
        label for k in range(n) for label in (f"flush {k}", f"commit {k}")
        if rig.executed[label] != 1
    ]  # fmt: skip
    assert lost == []
    assert sum(rig.executed.values()) == 2 * n
    tracked = {call.label for call in rig.done if call.owner == "prefect"}
    runs: dict[str, str] = {}

    def recorded() -> bool:
        runs.clear()
        runs.update((run["name"], run["state_type"]) for run in live.task_runs())
        return all(runs.get(label) == "COMPLETED" for label in tracked)

    wait_until(recorded, 40, "each tracked call is a completed task run")
    waits = sorted(rig.waits_seconds)
    print(
        f"\n{n} flushes, {dict(rig.owners)}; P50 {waits[len(waits) // 2] * 1000:.1f} ms, "
        f"P99 {waits[int(0.99 * len(waits))] * 1000:.1f} ms, longest {waits[-1] * 1000:.0f} ms"
    )
    assert waits[-1] < 2.5


def test_a_server_that_is_away_or_killed_costs_no_flush_and_doubles_none(live: Live) -> None:
    outage(live, away_seconds=5.0, generation_seconds=3600.0)


@pytest.mark.slow
def test_a_minute_without_the_server_costs_no_flush_and_doubles_none(
    tmp_path: Path,
) -> None:
    server = Live(tmp_path / "prefect")
    try:
        outage(server, away_seconds=60.0, generation_seconds=8.0)
    finally:
        server.server.stop()


def test_the_ui_is_served_and_asks_the_servers_own_port(live: Live) -> None:
    if not live.server.healthy():
        live.start()
    with urllib.request.urlopen(f"{live.server.ui_url}/ui-settings", timeout=10) as answer:
        assert json.load(answer)["api_url"] == live.url
    with urllib.request.urlopen(live.server.ui_url, timeout=10) as page:
        assert b"<html" in page.read().lower()


def test_ctrl_c_reaches_neither_the_server_nor_its_keeper(live: Live) -> None:
    if not live.server.healthy():
        live.start()
    keeper = live.server.keeper_pid
    assert keeper is not None
    assert len({os.getsid(0), os.getsid(keeper), os.getsid(server_group(live.server))}) == 3


def test_the_server_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from k2i_tasks.local_server import LocalServer
        server = LocalServer(Path({str(tmp_path)!r}), "127.0.0.1", 0)
        server.start()
        print(server.keeper_pid, flush=True)
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    keeper = int(owner.stdout.readline())
    wait_until(lambda: bool(children(keeper)), 10, "the server's process")
    (group,) = children(keeper)
    owner.communicate("go\n", timeout=10)
    assert owner.returncode == -signal.SIGKILL
    wait_until(lambda: not alive(keeper) and not alive(group), 15, "keeper and server are gone")


def test_a_taken_port_is_left_alone(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        server = LocalServer(tmp_path, "127.0.0.1", taken)
        assert f":{taken}" not in server.url
    server.stop()  # never started: nothing to do
