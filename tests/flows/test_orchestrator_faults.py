"""A tracked run whose Prefect server dies, cannot write, or cancels it: the table is the topic."""

from __future__ import annotations

import itertools
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.flows.live import Live, client_environ
from tests.flows.rig import wait_until
from tests.kafka_world import Stream, World
from tests.running import PATIENCE_SECONDS, Running, running
from tests.stack.faults import Act, FaultProxy, Rule
from tests.support import CatalogAt

pytestmark = [pytest.mark.integration, pytest.mark.prefect_server]

#: Commits that must land while the server is of no use; some two a second.
COMMITS = 10
#: Catalog calls are given up soon, so that what is held costs little, and tried again for long.
QUICK = {
    "K2I_ICEBERG_REST_REQUEST_TIMEOUT_SECONDS": "1",
    "K2I_RUN_RETRY_BUDGET_SECONDS": "300",
}
EACH_CALL = re.compile(r"((?:flush \d+ rows|commit events) .*?): (?:reason|rows)=")
ENDED = re.compile(r"ended: (\d+) records consumed, (\d+) rows committed")


@pytest.fixture
def world(live: Live, kafka_bootstrap: str, tmp_path: Path) -> World:
    """A topic and its program, shown by a server that is up."""
    if not live.server.healthy():
        live.start()
    world = World(tmp_path, kafka_bootstrap)
    world.program.tracked = True
    world.program.environ |= client_environ(live) | {"K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "0.5"}
    return world


def flow_runs(live: Live, world: World) -> list[Any]:
    """The flow runs of this world's topic, oldest first."""
    found = live.ask("/flow_runs/filter", {"limit": 200, "sort": "START_TIME_ASC"})
    return [run for run in found if f" {world.topic} " in run["name"]]


def until_shown_from_now(live: Live, world: World) -> None:
    """Waits for a flow run that begins after now, and a commit in it that was completed."""
    now = datetime.now(UTC).isoformat()

    def shown() -> bool:
        later = {run["id"] for run in flow_runs(live, world) if (run["start_time"] or "") > now}
        return any(
            run["flow_run_id"] in later
            and run["name"].startswith("commit ")
            and run["state_type"] == "COMPLETED"
            for run in live.task_runs()
        )

    wait_until(shown, PATIENCE_SECONDS, "a later commit in a later flow run")


def until_more_commits(run: Running, count: int = COMMITS) -> None:
    """Waits until so many more have landed."""
    wanted = run.report()["records"]["snapshots"] + count
    run.until(lambda report: report["records"]["snapshots"] >= wanted, f"{wanted} commits")


def assert_each_call_once(output: str) -> None:
    """All that was consumed was committed, and no flush or commit was done twice."""
    ended = ENDED.search(output)
    assert ended, output
    assert ended[1] == ended[2] != "0"
    calls = Counter(EACH_CALL.findall(output))
    assert calls, output
    assert max(calls.values()) == 1, calls.most_common(3)


def longest_wait_seconds(world: World) -> float:
    """The longest time between two commits."""
    table = world.program.load_table()
    assert table is not None
    stamps = [snapshot.timestamp_ms for snapshot in table.snapshots()]
    return max(after - before for before, after in itertools.pairwise(stamps)) / 1000


# The server is away.


def outage(live: Live, world: World, away_seconds: float) -> None:
    """A run that flushes all through a server's death and return, attached to one flow run."""
    # An answer counts as fresh for 12.5 s: a flow run no older than that may end in the outage.
    world.program.environ["K2I_PREFECT_GENERATION_SECONDS"] = "15"
    # The table is asked for the time of each commit.
    world.program.environ["K2I_MAINTENANCE_SNAPSHOTS_KEPT"] = "1000"
    with running(world.program) as run:
        with Stream(world):
            run.until_logged("shown in Prefect")
            until_more_commits(run, 1)
            live.kill()
            back_at = time.monotonic() + away_seconds
            run.until_logged("; ingestion goes on without it")
            until_more_commits(run)
            while time.monotonic() < back_at:
                until_more_commits(run, 1)
            live.start()
            until_shown_from_now(live, world)
        run.until_at(world.ends())
        output = run.drain()
    world.all_in()
    assert_each_call_once(output)
    assert longest_wait_seconds(world) < 30  # of what Prefect needs its API for, a minute and more
    assert {each["state_name"] for each in flow_runs(live, world)} == {"Completed"}


def test_no_flush_waits_for_a_server_that_is_killed_and_later_ones_are_shown_again(
    live: Live, world: World
) -> None:
    outage(live, world, 0.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minute_without_the_server_leaves_the_table_the_topic(live: Live, world: World) -> None:
    outage(live, world, 60.0)


# The server cannot write.


@contextmanager
def locked(live: Live) -> Iterator[None]:
    """The server's database, held as by a transaction that does not end."""
    database = sqlite3.connect(live.home / "prefect.db", timeout=60, isolation_level=None)
    with closing(database):
        database.execute("BEGIN EXCLUSIVE")
        yield


def test_a_locked_database_of_the_server_holds_up_neither_the_run_nor_its_end(
    live: Live, world: World
) -> None:
    world.program.environ["K2I_PREFECT_GENERATION_SECONDS"] = "3"
    with running(world.program) as run:
        with Stream(world):
            run.until_logged("shown in Prefect")
            with locked(live):
                until_more_commits(run)
            until_shown_from_now(live, world)
        with locked(live):
            world.more(40)
            run.until_at(world.ends())
            output = run.drain()
    world.all_in()
    assert_each_call_once(output)
    last = flow_runs(live, world)[-1]
    untold = f"flow run {last['id']} may stay shown as running" in output
    assert untold or last["state_name"] == "Completed"


# The server cancels.


@pytest.fixture
def proxy(rest_catalog: CatalogAt) -> Iterator[FaultProxy]:
    with FaultProxy(rest_catalog.uri) as between:
        yield between


def cancel(live: Live, world: World) -> str:
    """Cancels the flow run that is going on, as the UI does; its id."""
    (shown,) = [each for each in flow_runs(live, world) if each["state_type"] == "RUNNING"]
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    live.ask(f"/flow_runs/{shown['id']}/set_state", cancelling)
    return str(shown["id"])


def commits(act: Act, world: World) -> Rule:
    """All commits of the program, until the rule is cleared."""
    return Rule("commit", act, "POST", f"/tables/{world.program.table}$", times=1000)


def until_cancelled_in_commit(
    live: Live, world: World, proxy: FaultProxy, run: Running, act: Act
) -> str:
    """Cancels the run's flow run while a commit is held, and waits until it drains; its id."""
    run.until_logged("shown in Prefect")
    proxy.set(commits(act, world))
    proxy.until_done("commit")
    if act is Act.MUTE:  # else the next attempt finds at once that it has landed
        proxy.set(Rule("look", Act.HANG, "GET", "/tables/", times=1000))
    flow_run_id = cancel(live, world)
    run.until(lambda report: report["state"] == "draining", "draining")
    assert "draining: the flow run was cancelled in Prefect" in run.output
    return flow_run_id


def assert_the_next_run_completes(world: World) -> None:
    """What the cancelled run left is the topic up to its offsets; another reads the rest."""
    world.recorded_in()
    with running(world.program) as run:
        run.until_at(world.ends())
        run.drain()
    world.all_in()


@pytest.mark.parametrize("act", [Act.MUTE, Act.LATE], ids=["applied", "held"])
def test_a_run_cancelled_during_a_commit_drains_and_the_next_one_goes_on(
    live: Live, world: World, rest_catalog: CatalogAt, proxy: FaultProxy, act: Act
) -> None:
    world.program.rest = replace(rest_catalog, uri=proxy.url)
    world.program.environ |= QUICK
    with running(world.program) as run:
        with Stream(world):
            flow_run_id = until_cancelled_in_commit(live, world, proxy, run, act)
            landed = proxy.release()
            proxy.clear()
        code, output = run.end()
    assert code == 0, output
    assert live.run(flow_run_id)["state_name"] == "Cancelled"
    assert landed.count(200) == (act is Act.LATE)
    assert_each_call_once(output)
    assert_the_next_run_completes(world)


@pytest.mark.slow
def test_a_cancelled_run_whose_commit_stays_held_ends_in_time_and_may_land_later(
    live: Live, world: World, rest_catalog: CatalogAt, proxy: FaultProxy
) -> None:
    world.program.rest = replace(rest_catalog, uri=proxy.url)
    world.program.environ |= {
        "K2I_ICEBERG_REST_REQUEST_TIMEOUT_SECONDS": "120",
        "K2I_RUN_DRAIN_TIMEOUT_SECONDS": "2",
    }
    with running(world.program) as run:
        with Stream(world):
            flow_run_id = until_cancelled_in_commit(live, world, proxy, run, Act.LATE)
        code, output = run.end()
    assert code == 10, output
    assert "The drain did not end" in output
    assert live.run(flow_run_id)["state_name"] == "Cancelled"
    assert proxy.release() == [200]
    proxy.clear()
    assert_the_next_run_completes(world)
