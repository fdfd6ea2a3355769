"""Our compaction on real catalogs and stores, beside runs that write: read by others, proven.

The readers are DuckDB and, through the catalog's process, Iceberg's Java library, which reads our
joined files and rewrites them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from pyiceberg.table.snapshots import Operation

from k2i_tasks import secrets
from k2i_tasks.clock import SystemClock
from k2i_tasks.config import load_config
from k2i_tasks.errors import CommitStateUnknownError, TransientError
from k2i_tasks.iceberg.catalog import guard_commits, open_catalog
from k2i_tasks.iceberg.maintenance.compaction import Compacted, Compaction, CompactionOptions
from tests.fault_world import World, world_at
from tests.integration.test_compaction import assert_proven, fill, full_name, state_of, table_of
from tests.integration.test_iceberg_world import expire
from tests.running import running
from tests.support import CatalogAt

pytestmark = pytest.mark.integration

ALL = CompactionOptions(small_bytes=64 << 20, target_bytes=64 << 20, min_files=2)
#: How often others may be faster before a test gives up.
ATTEMPTS = 20
SETTINGS = {"K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "0.1"}


@pytest.fixture(params=["folder", "s3"])
def catalog(request: pytest.FixtureRequest) -> CatalogAt:
    name = {"folder": "rest_catalog", "s3": "rest_catalog_s3"}[request.param]
    found: CatalogAt = request.getfixturevalue(name)
    return found


@pytest.fixture
def world(kafka_bootstrap: str, catalog: CatalogAt, tmp_path: Path) -> Iterator[World]:
    yield world_at(tmp_path, kafka_bootstrap, catalog, catalog, SETTINGS)
    catalog.clear_faults()


def compaction(world: World) -> Compaction:
    """As a process of its own would have it, past the proxies."""
    config = load_config(world.eyes.config, environ={}, overrides={})
    return Compaction(
        guard_commits(open_catalog(config.iceberg, secrets.resolve_all(config))),
        ("tests", world.table),
        branch="main",
        options=ALL,
        lane=nullcontext(),
        stopping=lambda: False,
        clock=SystemClock(),
    )


def to_its_end(job: Compaction) -> Compacted:
    for _ in range(ATTEMPTS):
        try:
            return job.run()
        except (TransientError, CommitStateUnknownError):
            continue
    raise AssertionError(f"{ATTEMPTS} attempts were not enough")


def test_a_run_goes_on_while_its_files_are_joined_again_and_again(
    world: World, catalog: CatalogAt
) -> None:
    with running(world.program) as run:
        fill(world, run, 1)
        claimed = state_of(world)
        for _ in range(3):
            fill(world, run, 3)
            world.more()  # may be on its way while the files are joined
            done = to_its_end(compaction(world))
            assert done.files_before >= 3
            assert (done.files_after, done.commits, done.given_up) == (1, 1, 0)
        run.drain()
    world.assert_complete()
    assert (state_of(world).owner, state_of(world).epoch) == (claimed.owner, claimed.epoch)
    table = table_of(world)
    replaced = [
        each
        for each in table.snapshots()
        if each.summary and each.summary.operation == Operation.REPLACE
    ]
    assert len(replaced) == 3
    for each in replaced:
        assert each.summary is not None
        told = each.summary.additional_properties
        assert told["added-records"] == told["deleted-records"]
    to_its_end(compaction(world))
    assert_proven(world)
    # Java reads what was joined, by our manifests, and joins it again with what came since.
    with running(world.program) as run:
        fill(world, run, 2)
        assert catalog.compact(full_name(world)) >= 2
        fill(world, run, 2)
        assert to_its_end(compaction(world)).files_before >= 3
        expire(world.eyes)
        run.drain()
    assert_proven(world)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("status", [409, 500, 503, 504])
def test_whatever_the_catalog_answers_files_are_replaced_once(
    kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path, when: str, status: int
) -> None:
    world = world_at(tmp_path, kafka_bootstrap, rest_catalog, rest_catalog, SETTINGS)
    with running(world.program) as run:
        fill(world, run, 3)
        run.drain()
    path = f"/tables/{world.table}$"
    rest_catalog.set_fault(method="POST", path=path, status=status, when=when, times=1)
    try:
        done = to_its_end(compaction(world))
    finally:
        rest_catalog.clear_faults()
    assert (done.files_after, done.commits) == (1, 1)
    assert len(table_of(world).inspect.data_files()) == 1
    assert_proven(world)


def test_files_that_java_replaces_meanwhile_are_given_up(
    kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path
) -> None:
    world = world_at(tmp_path, kafka_bootstrap, rest_catalog, rest_catalog, SETTINGS)
    with running(world.program) as run:
        fill(world, run, 3)
        run.drain()
    path = f"/tables/{world.table}$"
    # Our commit is on its way when the catalog lets the other engine first.
    rest_catalog.set_fault(method="POST", path=path, compact=full_name(world))
    done = to_its_end(compaction(world))
    assert done == Compacted(given_up=1)
    assert len(table_of(world).inspect.data_files()) == 1
    assert_proven(world)
