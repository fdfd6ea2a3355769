"""Upkeep beside a run and in it: files are joined and removed, each record stays one row."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation

from k2i_tasks.failpoints import VARIABLE
from k2i_tasks.iceberg.state import recorded
from k2i_tasks.verification.report import Verdict
from tests.fault_world import World, world_at
from tests.integration.test_verify import verified
from tests.program import Program, finished
from tests.running import Running, running
from tests.support import CatalogAt

pytestmark = pytest.mark.integration

#: Small commits, and whatever upkeep can be due is due all the time.
EAGER = {
    "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "0.1",
    "K2I_MAINTENANCE_COMPACTION_INTERVAL_SECONDS": "1",
    "K2I_MAINTENANCE_COMPACTION_MIN_FILES": "2",
    "K2I_MAINTENANCE_SNAPSHOT_EXPIRATION_INTERVAL_SECONDS": "1",
    "K2I_MAINTENANCE_SNAPSHOTS_KEPT": "3",
    "K2I_MAINTENANCE_SNAPSHOT_HISTORY_KEPT": "0",
    "K2I_MAINTENANCE_SNAPSHOT_GRACE_SECONDS": "0",
    "K2I_MAINTENANCE_ORPHAN_CLEANUP_INTERVAL_SECONDS": "1",
}
#: A run that leaves its table alone.
IDLE = {"K2I_MAINTENANCE_IN_RUN": "false"}
#: Snapshots that may come between two expiries, above what is kept.
SNAPSHOTS_MAX = 40


@pytest.fixture
def world(kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path) -> World:
    return world_at(tmp_path, kafka_bootstrap, rest_catalog, rest_catalog, EAGER)


def table_of(world: World, name: str | None = None) -> Table:
    table = world.eyes.load_table(name)
    assert table is not None
    return table


def operations_of(table: Table) -> list[Operation]:
    return [each.summary.operation for each in table.snapshots() if each.summary is not None]


def fill(world: World, run: Running, commits: int, *, bad: int = 0) -> None:
    """Has the run commit so many times at least, each with files of its own."""
    for _ in range(commits):
        world.more(bad=bad)
        world.until_landed(run)


def job(program: Program, *words: str, environ: dict[str, str] | None = None) -> tuple[int, str]:
    """`k2i maintenance`, in a process of its own."""
    return finished(program.command("maintenance", *words, environ=environ))


def report_of(output: str) -> dict[str, dict[str, Any]]:
    """Figures of the table itself, by job."""
    return {each["job"]: each["tables"][0] for each in json.loads(output)}


def assert_proven(world: World) -> None:
    """By DuckDB's reading, value by value, and by `k2i verify`."""
    world.assert_complete()
    report = verified(world.eyes)
    assert report.verdict is Verdict.PROVEN, report
    assert report.totals["rows"] == len(world.written)
    assert report.totals["compared"] == len(world.written) + len(world.bad)


def assert_all_readable(table: Table) -> None:
    """Every file of every snapshot that is left is there."""
    for snapshot in table.snapshots():
        scan = table.scan(snapshot_id=snapshot.snapshot_id, selected_fields=("_kafka_offset",))
        assert scan.to_arrow().num_rows == scan.count()


def done(run: Running, name: str) -> int:
    """How often the run has logged the end of this job."""
    return run.output.count(f"{name} tests.")


def test_a_run_keeps_its_table_in_shape_while_it_fills_it(world: World) -> None:
    with running(world.program) as run:
        fill(world, run, 3, bad=1)
        state = recorded(table_of(world).metadata, "main", "main").newest
        assert state is not None
        turns = 0
        while min(done(run, name) for name in ("compact", "expire-snapshots")) < 4:
            fill(world, run, 1, bad=turns % 2)
            turns += 1
        run.until_logged("clean-orphans tests.")
        fill(world, run, 1)
        run.drain()
    table = table_of(world)
    files = table.inspect.data_files()
    assert len(files) < turns, "nothing was joined"
    assert len(table.snapshots()) < min(turns, SNAPSHOTS_MAX)
    assert len(table_of(world, world.letters).snapshots()) < SNAPSHOTS_MAX
    after = recorded(table.metadata, "main", "main")
    assert after.newest is not None
    assert (after.newest.owner, after.newest.epoch) == (state.owner, state.epoch), "claimed again"
    assert not after.rolled_back
    assert_all_readable(table)
    assert_proven(world)


def test_jobs_by_hand_beside_a_run_say_what_they_would_do_and_then_do_it(world: World) -> None:
    world.program.environ |= IDLE
    with running(world.program) as run:
        fill(world, run, 6)
        code, output = job(world.program, "all", "--dry-run", "--json", environ=EAGER)
        assert code == 0, output
        planned = report_of(output)
        files = len(table_of(world).inspect.data_files())
        assert planned["compact"]["files_before"] == files >= 6
        assert planned["expire-snapshots"]["snapshots"] >= 3
        assert Operation.REPLACE not in operations_of(table_of(world))
        code, output = job(world.program, "all", "--json", environ=EAGER)
        assert code == 0, output
        told = report_of(output)
        assert told["compact"]["files_before"] >= files
        assert told["compact"]["files_after"] == 1
        assert told["expire-snapshots"]["files_removed"] > 0
        fill(world, run, 2)
        run.drain()
    assert_all_readable(table_of(world))
    code, output = job(world.program, "all")
    assert code == 0, output
    assert_proven(world)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("compact.staged", "compact"),
        ("compact.send.before", "compact"),
        ("compact.answered", "compact"),
        ("expire.answered", "expire-snapshots"),
        ("expire.file.removed", "expire-snapshots"),
    ],
)
def test_a_job_that_is_killed_beside_a_run_does_no_harm(
    world: World, place: str, name: str
) -> None:
    world.program.environ |= IDLE
    with running(world.program) as run:
        fill(world, run, 6)
        code, output = job(world.program, name, environ={**EAGER, VARIABLE: place})
        assert code == -signal.SIGKILL, output
        fill(world, run, 2)
        assert_all_readable(table_of(world))
        code, output = job(world.program, name, environ=EAGER)
        assert code == 0, output
        fill(world, run, 1)
        run.drain()
    assert_all_readable(table_of(world))
    assert_proven(world)
