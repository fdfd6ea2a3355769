"""Another engine rewrites our files while we write or are away: each record stays one row.

The engine is Iceberg's own Java library, in the catalog's process: its readers, its Parquet writer,
its `newRewrite` and its commit, none of which know of us.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from k2i_tasks.failpoints import VARIABLE
from k2i_tasks.iceberg.state import SinkState, recorded
from k2i_tasks.verification.report import Verdict
from k2i_tasks.wal import WalKind
from tests.fault_world import World, world_at
from tests.integration.test_iceberg_world import expire
from tests.integration.test_verify import verified
from tests.running import Running, running
from tests.support import CatalogAt
from tests.unit.wal_disks import open_log

pytestmark = pytest.mark.integration


@pytest.fixture
def world(kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path) -> World:
    settings = {"K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "0.1"}
    return world_at(tmp_path, kafka_bootstrap, rest_catalog, rest_catalog, settings)


def table_of(world: World) -> Table:
    table = world.eyes.load_table()
    assert table is not None
    return table


def full_name(world: World) -> str:
    return f"tests.{world.table}"


def state_of(world: World) -> SinkState:
    state = recorded(table_of(world).metadata, "main", "main").newest
    assert state is not None
    return state


def fill(world: World, run: Running, commits: int = 3) -> None:
    """Has the run commit so many times at least, each with files of its own."""
    for _ in range(commits):
        world.more()
        world.until_landed(run)


def replacement(world: World) -> Snapshot:
    """The only snapshot that replaces files and adds no row."""
    (found,) = (
        each
        for each in table_of(world).snapshots()
        if each.summary is not None and each.summary.operation is Operation.REPLACE
    )
    return found


def assert_proven(world: World) -> None:
    """By DuckDB's reading, value by value, and by `k2i verify`."""
    world.assert_complete()
    report = verified(world.eyes)
    assert report.verdict is Verdict.PROVEN, report
    assert report.totals["compared"] == report.totals["rows"] == len(world.written)


def test_a_run_goes_on_over_files_that_another_engine_rewrites(
    world: World, rest_catalog: CatalogAt
) -> None:
    with running(world.program) as run:
        fill(world, run, 1)
        claimed = state_of(world)
        for _ in range(3):
            fill(world, run)
            before, files = state_of(world), len(table_of(world).inspect.data_files())
            assert rest_catalog.compact(full_name(world)) == files >= 3
            assert len(table_of(world).inspect.data_files()) == 1
            assert state_of(world) == before
        expire(world.eyes)
        fill(world, run, 1)
        run.drain()
    after = state_of(world)
    assert (after.owner, after.epoch) == (claimed.owner, claimed.epoch), "claimed again"
    assert_proven(world)
    rest_catalog.compact(full_name(world))
    expire(world.eyes)
    with running(world.program) as run:
        fill(world, run, 1)
        run.drain()
    assert_proven(world)


def test_files_rewritten_between_an_intent_and_its_commit_are_kept(
    world: World, rest_catalog: CatalogAt
) -> None:
    path = f"/tables/{world.table}$"
    with running(world.program) as run:
        fill(world, run, 2)
        head = table_of(world).metadata.current_snapshot_id
        # Our commit is on its way, its intent in the log, when the catalog lets the engine first.
        rest_catalog.set_fault(method="POST", path=path, compact=full_name(world))
        fill(world, run, 1)
        run.kill()
    replaced = replacement(world)
    assert replaced.parent_snapshot_id == head
    # A slow machine may have made two commits of what was written.
    found = [s for s in table_of(world).snapshots() if s.parent_snapshot_id == replaced.snapshot_id]
    assert len(found) == 1
    (ours,) = found
    assert ours.summary is not None
    with open_log(world.program.folder / "wal") as log:
        intents = [entry.body for entry in log.entries if entry.kind is WalKind.COMMIT_STARTED]
    batch = ours.summary.additional_properties["k2i.batch"]
    parents = [each["parent"] for each in intents if each["batch"] == batch]
    assert parents == [head, replaced.snapshot_id]
    with running(world.program) as run:
        fill(world, run, 1)
        run.drain()
    assert_proven(world)


@pytest.mark.parametrize("place", ["commit.send.before", "commit.answered"])
def test_files_rewritten_after_a_kill_amid_a_commit_are_kept(
    world: World, rest_catalog: CatalogAt, place: str
) -> None:
    with running(world.program) as run:
        fill(world, run)
        run.drain()
    world.more()
    code, output = world.program.run(environ={VARIABLE: f"{place}:2"})  # the first is the claim
    assert code == -signal.SIGKILL, output
    landed = place == "commit.answered"
    assert (world.rows() == len(world.written)) is landed
    # The files that the log names are no part of the table any more, or not yet.
    assert rest_catalog.compact(full_name(world)) >= 3
    expire(world.eyes)
    with running(world.program) as run:
        fill(world, run, 1)
        run.drain()
    assert_proven(world)
