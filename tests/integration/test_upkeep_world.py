"""Expiry and orphan removal on Iceberg's own catalog and a real S3 server that misbehaves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from pyarrow.fs import FileSelector, FileType
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from k2i_tasks import failpoints
from k2i_tasks.errors import CommitConflictError, CommitStateUnknownError, TransientError
from k2i_tasks.iceberg.catalog import guard_commits
from tests.stack.faults import Act, FaultProxy, Rule
from tests.support import CatalogAt, read_by_catalog
from tests.upkeep import (
    DAY,
    HandClock,
    expiry,
    numbers,
    reached,
    removal,
    rewritten,
    values,
)

pytestmark = pytest.mark.integration

OFTEN = 1000


def connected(at: CatalogAt) -> Catalog:
    store = {**at.store, "s3.connect-timeout": "5", "s3.request-timeout": "5"}
    found = RestCatalog("t", uri=at.uri, warehouse=at.warehouse, **store)
    return guard_commits(found)


@dataclass
class World:
    """A table with a history of rewrites.

    Args:
        at: the catalog, nothing in between.
        catalog: as the job under test reaches it.
        identifier: of the table.
    """

    at: CatalogAt
    catalog: Catalog
    identifier: tuple[str, ...]

    def load(self) -> Table:
        return connected(self.at).load_table(self.identifier)

    def outside(self) -> list[int]:
        name = ".".join(self.identifier)
        return sorted(row["n"] for row in read_by_catalog(self.at, name))

    def there(self) -> set[str]:
        """Each file below the table's folder, without scheme, metadata files left out."""
        table = self.load()
        assert isinstance(table.io, PyArrowFileIO)
        scheme, host, path = table.io.parse_location(table.location())
        store = table.io.fs_by_scheme(scheme, host)
        found = store.get_file_info(FileSelector(path, recursive=True))
        # Beside each metadata file on a disk the catalog leaves a hidden one with its checksum.
        return {
            one.path
            for one in found
            if one.type == FileType.File
            and not one.base_name.startswith(".")
            and not one.base_name.endswith(".metadata.json")
        }

    def needed(self) -> set[str]:
        found = {path.removeprefix("s3://") for path in reached(self.load())}
        return {path.removeprefix("file:") for path in found}

    def assert_exact(self) -> None:
        there, needed = self.there(), self.needed()
        assert not there - needed, f"nobody needs {sorted(there - needed)[:5]}"
        assert not needed - there, f"missing: {sorted(needed - there)[:5]}"

    def ids(self) -> list[int]:
        return [one.snapshot_id for one in self.load().metadata.snapshots]


def made(at: CatalogAt, through: CatalogAt) -> World:
    catalog = connected(at)
    catalog.create_namespace_if_not_exists("tests")
    identifier = ("tests", f"upkeep_{uuid.uuid4().hex[:8]}")
    table = catalog.create_table(identifier, numbers().schema)
    rewritten(table, 2)
    table.append(numbers(7))
    return World(at, connected(through), identifier)


@pytest.fixture(params=["disk", "s3"])
def world(request: pytest.FixtureRequest) -> World:
    kind = "rest_catalog" if request.param == "disk" else "rest_catalog_s3"
    at: CatalogAt = request.getfixturevalue(kind)
    return made(at, at)


@pytest.fixture
def proxy(rest_catalog_s3: CatalogAt) -> Iterator[FaultProxy]:
    with FaultProxy(rest_catalog_s3.store["s3.endpoint"]) as between:
        yield between


@pytest.fixture
def behind(rest_catalog_s3: CatalogAt, proxy: FaultProxy) -> Iterator[World]:
    """A table whose store the job under test reaches through the proxy."""
    real = rest_catalog_s3
    store = {**real.store, "s3.endpoint": proxy.url}
    # The catalog tells its clients where the store is.
    with FaultProxy(real.uri, {real.store["s3.endpoint"]: proxy.url}) as catalog:
        yield made(real, replace(real, uri=catalog.url, store=store))


def test_after_expiry_each_file_is_needed_and_each_needed_one_is_there(world: World) -> None:
    table = world.load()
    table.manage_snapshots().create_tag(world.ids()[2], "kept").commit()
    table = world.load()
    table.manage_snapshots().create_branch(world.ids()[5], "other").commit()
    before = {one: values(table, one) for one in world.ids()}
    outside, files = world.outside(), world.there()
    done = expiry(world.catalog, world.identifier).run()
    assert done.snapshots == len(before) - 3
    assert done.files_removed == len(files) - len(world.there()) > 10
    world.assert_exact()
    table = world.load()
    assert {one: values(table, one) for one in world.ids()} == {
        one: before[one] for one in world.ids()
    }
    assert set(table.metadata.refs) == {"main", "kept", "other"}
    assert world.outside() == outside == sorted(outside)
    # Iceberg's own library keeps on working with it.
    world.at.compact(".".join(world.identifier))
    expiry(world.catalog, world.identifier).run()
    world.assert_exact()
    assert world.outside() == outside


def test_kept_snapshots_name_their_parent_though_it_is_gone(world: World) -> None:
    parent = world.load().metadata.snapshots[-1].parent_snapshot_id
    expiry(world.catalog, world.identifier).run()
    (left,) = world.load().metadata.snapshots
    assert left.parent_snapshot_id == parent is not None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_is_looked_up(world: World, when: str) -> None:
    files, count = world.there(), len(world.ids())
    path = f"/tables/{world.identifier[-1]}$"
    world.at.set_fault(method="POST", path=path, when=when, status=503, times=1)
    job = expiry(world.catalog, world.identifier)
    with pytest.raises(CommitStateUnknownError):
        job.run()
    world.at.clear_faults()
    assert len(world.ids()) == (1 if when == "after" else count)
    assert world.there() == files
    assert job.run().snapshots == count - 1
    world.assert_exact()


def test_a_commit_of_others_in_between_is_kept(world: World) -> None:
    before = world.outside()
    job = expiry(world.catalog, world.identifier)
    with (
        failpoints.armed("expire.send.before", lambda _: world.load().append(numbers(99))),
        pytest.raises(CommitConflictError),
    ):
        job.run()
    assert world.outside() == sorted([*before, 99])
    job.run()
    assert world.outside() == sorted([*before, 99])
    world.assert_exact()


def test_orphans_go_once_they_are_old(world: World) -> None:
    table = world.load()
    before = world.outside()
    lost = [f"{table.location()}/{name}" for name in ("data/x/lost.parquet", "metadata/lost.avro")]
    for path in lost:
        with table.io.new_output(path).create() as stream:
            stream.write(b"0123456789")
    assert removal(world.catalog, world.identifier).run().found == 0
    clock = HandClock()
    clock.now += 2 * DAY
    job = removal(world.catalog, world.identifier, clock=clock)
    planned = job.plan()
    assert (planned.found, planned.bytes) == (2, 20)
    done = job.run()
    assert (done.removed, done.bytes, done.left) == (2, 20, 0)
    world.assert_exact()
    assert world.outside() == before


def test_a_store_that_refuses_to_delete_leaves_files_for_orphan_removal(
    behind: World, proxy: FaultProxy
) -> None:
    before, files = behind.outside(), behind.there()
    proxy.set(Rule("refuse", Act.REFUSE, "DELETE", ".*", times=OFTEN, status=403, body=b""))
    done = expiry(behind.catalog, behind.identifier).run()
    assert done.files_removed == 0
    assert done.left == len(files) - len(behind.needed())
    assert behind.there() == files
    clock = HandClock()
    clock.now += 2 * DAY
    job = removal(behind.catalog, behind.identifier, clock=clock)
    assert job.run().left == done.left
    proxy.clear()
    assert job.run().removed == done.left
    behind.assert_exact()
    assert behind.outside() == before


@pytest.mark.parametrize(
    ("what", "act", "method", "path"),
    [
        ("a list or manifest cut", Act.CUT_ANSWER, "GET", r"/metadata/[^?]*\.avro"),
        ("a page of a gateway's for it", Act.GARBAGE, "GET", r"/metadata/[^?]*\.avro"),
    ],
)
def test_nothing_is_deleted_while_what_stays_cannot_be_read(
    behind: World, proxy: FaultProxy, what: str, act: Act, method: str, path: str
) -> None:
    files = behind.there()
    jobs = (
        expiry(behind.catalog, behind.identifier),
        removal(behind.catalog, behind.identifier),
    )
    for job in jobs:
        for skip in (0, 1):
            proxy.set(Rule(what, act, method, path, times=OFTEN, skip=skip))
            with pytest.raises(TransientError):
                job.run()
            proxy.clear()
    assert behind.there() == files
    jobs[0].run()
    behind.assert_exact()


@pytest.mark.parametrize("skip", [0, 1, 2])
def test_nothing_is_removed_if_the_listing_fails_half_way(
    behind: World, proxy: FaultProxy, skip: int
) -> None:
    table = behind.load()
    for name in ("data/a/lost.parquet", "data/b/lost2.parquet"):
        with table.io.new_output(f"{table.location()}/{name}").create() as stream:
            stream.write(b"x")
    files = behind.there()
    clock = HandClock()
    clock.now += 2 * DAY
    job = removal(behind.catalog, behind.identifier, clock=clock)
    proxy.set(Rule("list", Act.REFUSE, "GET", "list-type=2", times=OFTEN, skip=skip, status=500))
    with pytest.raises(TransientError):
        job.run()
    assert behind.there() == files
    proxy.clear()
    assert job.run().removed == 2
    behind.assert_exact()
