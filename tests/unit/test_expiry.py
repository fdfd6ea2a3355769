"""Expiry on a real SQL catalog and a local disk: which files go, which stay, and in what order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyiceberg.table import Table
from pyiceberg.table.statistics import StatisticsFile
from pyiceberg.table.update import SetPartitionStatisticsUpdate

from k2i_tasks import failpoints
from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    ConfigError,
    ServiceError,
    TransientError,
)
from k2i_tasks.iceberg.catalog import guard_commits
from k2i_tasks.iceberg.maintenance.retention import MAX_AGE, Rules
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.state import recorded, sink_properties
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.support import read_by_metadata
from tests.unit import test_committer as batches
from tests.upkeep import (
    HandClock,
    all_aged,
    assert_exact,
    expiry,
    fresh,
    lose_answer,
    new_table,
    numbers,
    on_disk,
    reached,
    removal,
    rewritten,
    values,
)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Nine snapshots; files of the older ones are not needed for the newest."""
    made = new_table(tmp_path)
    rewritten(made, 2)
    made.append(numbers(7))
    return made


def ids(table: Table) -> list[int]:
    return [one.snapshot_id for one in fresh(table).metadata.snapshots]


def test_what_only_expired_snapshots_reached_is_deleted_and_the_rows_stay(table: Table) -> None:
    before, files = values(table), on_disk(table)
    outside = read_by_metadata(table.metadata_location)
    job = expiry(table.catalog)
    planned = job.plan()
    assert on_disk(table) == files, "a plan deletes nothing"
    done = job.run()
    assert done == planned
    assert done.snapshots == len(table.metadata.snapshots) - 1
    now = fresh(table)
    assert len(ids(table)) == 1
    assert done.files_removed == len(files) - len(on_disk(now)) > 20
    assert_exact(now)
    assert values(now) == before
    read = read_by_metadata(now.metadata_location)
    assert sorted(map(repr, read)) == sorted(map(repr, outside))
    assert job.run().snapshots == job.run().files_removed == 0
    now.append(numbers(8))
    assert values(fresh(table)) == sorted([*before, 8])


def test_offsets_are_the_same_before_and_after(tmp_path: Path) -> None:
    schema = numbers().schema
    create_table(batches.open_catalog(tmp_path), batches.NAME, schema, batches.config(tmp_path))
    by = batches.claimed(tmp_path, "a")
    for number in range(4):
        batches.commit(by, tmp_path, f"a-{number}", number * 5, number * 5 + 5)
    by.look().table.append(numbers(20))
    before = by.look().table
    job = expiry(batches.open_catalog(tmp_path), batches.NAME)
    assert job.run().snapshots > 0
    after = by.look().table
    assert recorded(after.metadata, "main", "main") == recorded(before.metadata, "main", "main")
    assert not recorded(after.metadata, "main", "main").rolled_back
    assert sink_properties(after.metadata, "main") == sink_properties(before.metadata, "main")
    assert after.properties == before.properties
    # Ours with the newest state, and the foreign one on it.
    assert [one.summary for one in after.metadata.snapshots] == [
        one.summary for one in before.metadata.snapshots[-2:]
    ]
    batches.commit(by, tmp_path, "a-4", 20, 25)
    assert batches.values(tmp_path) == sorted([*range(25), 20])


def test_tags_and_branches_keep_their_snapshots_and_files(table: Table) -> None:
    tagged, branched = ids(table)[1], ids(table)[4]
    table.manage_snapshots().create_tag(tagged, "kept").commit()
    table.manage_snapshots().create_branch(branched, "other").commit()
    fresh(table).append(numbers(50), branch="other")
    before = {one: values(fresh(table), one) for one in ids(table)}
    expiry(table.catalog).run()
    now = fresh(table)
    assert set(now.metadata.refs) == {"main", "kept", "other"}
    assert len(ids(table)) == 3
    assert_exact(now)
    assert {one: values(now, one) for one in ids(table)} == {one: before[one] for one in ids(table)}


def test_files_are_kept_for_readers_until_the_grace_is_over(table: Table) -> None:
    clock = HandClock()
    job = expiry(table.catalog, clock=clock, grace_seconds=900)
    files = on_disk(table)
    done = job.run()
    assert (done.snapshots, done.files_removed) == (len(table.metadata.snapshots) - 1, 0)
    assert done.waiting == done.snapshots
    assert on_disk(table) == files
    # One who began before goes on reading.
    assert values(table, table.metadata.snapshots[2].snapshot_id)
    clock.now += 890
    assert job.run().files_removed == 0
    clock.now += 20
    done = job.run()
    assert done.waiting == 0
    assert done.files_removed > 0
    assert_exact(fresh(table))


def test_what_one_who_still_reads_needs_outlives_older_snapshots(tmp_path: Path) -> None:
    clock = HandClock()
    table = new_table(tmp_path)
    table.append(numbers(1))
    table.append(numbers(2))
    table.delete("n < 3")
    first, second, third = table.metadata.snapshots
    job = expiry(table.catalog, clock=clock, grace_seconds=900)
    assert job.run().waiting == 2
    clock.now = second.timestamp_ms / 1000 + 900.001
    done = job.run()
    assert (done.files_removed, done.waiting) == (1, 1), "more than the first's list"
    assert values(table, second.snapshot_id) == [1, 2]
    clock.now = third.timestamp_ms / 1000 + 900.001
    job.run()
    assert_exact(fresh(table))
    assert first.snapshot_id not in ids(table)


def test_a_lost_answer_is_looked_up_and_the_deletion_goes_on(table: Table) -> None:
    catalog, files = table.catalog, on_disk(table)
    lose_answer(catalog, lands=True)
    job = expiry(guard_commits(catalog))
    with pytest.raises(CommitStateUnknownError):
        job.run()
    assert len(ids(table)) == 1
    assert on_disk(table) == files
    metadata = fresh(table).metadata_location
    assert job.run().snapshots == len(table.metadata.snapshots) - 1
    assert fresh(table).metadata_location == metadata, "sent again"
    assert_exact(fresh(table))


def test_a_commit_that_did_not_land_is_sent_again(table: Table) -> None:
    catalog, files = table.catalog, on_disk(table)
    lose_answer(catalog, lands=False)
    job = expiry(guard_commits(catalog))
    with pytest.raises(CommitStateUnknownError):
        job.run()
    assert on_disk(table) == files
    assert job.run().snapshots == len(table.metadata.snapshots) - 1
    assert_exact(fresh(table))


def test_a_commit_of_others_between_our_look_and_ours_is_kept(table: Table, tmp_path: Path) -> None:
    other = catalog_of(config_at(tmp_path)).load_table(NAME)
    files, before = on_disk(table), values(table)
    job = expiry(table.catalog)
    with (
        failpoints.armed("expire.send.before", lambda _: other.append(numbers(99))),
        pytest.raises(CommitConflictError),
    ):
        job.run()
    assert on_disk(table) >= files
    job.run()
    assert values(fresh(table)) == sorted([*before, 99])
    assert_exact(fresh(table))


def test_a_branch_that_is_set_back_meanwhile_keeps_its_head(table: Table, tmp_path: Path) -> None:
    other = catalog_of(config_at(tmp_path)).load_table(NAME)
    target = ids(table)[3]
    before = values(table, target)

    def roll_back(_: str) -> None:
        other.manage_snapshots().rollback_to_snapshot(target).commit()

    job = expiry(table.catalog)
    with (
        failpoints.armed("expire.send.before", roll_back),
        pytest.raises(CommitConflictError),
    ):
        job.run()
    assert values(fresh(table)) == before
    job.run()
    assert values(fresh(table)) == before
    assert_exact(fresh(table))


def test_what_is_committed_between_commit_and_deletion_is_kept(
    table: Table, tmp_path: Path
) -> None:
    other = catalog_of(config_at(tmp_path)).load_table(NAME)

    def commit(_: str) -> None:
        other.refresh()
        rewritten(other)

    with failpoints.armed("expire.answered", commit):
        expiry(table.catalog).run()
    now = fresh(table)
    assert on_disk(now) == reached(now)
    for one in ids(now):
        assert values(now, one) is not None


def test_what_a_kill_leaves_is_taken_by_orphan_removal(table: Table) -> None:
    class Killed(BaseException):
        pass

    def kill(_: str) -> None:
        raise Killed

    for place, nth in (("expire.answered", 1), ("expire.file.removed", 3)):
        with failpoints.armed(place, kill, nth=nth), pytest.raises(Killed):
            expiry(table.catalog).run()
        rewritten(fresh(table))
    expiry(table.catalog).run()
    now = fresh(table)
    assert on_disk(now) - reached(now)
    all_aged(now)
    removal(table.catalog).run()
    assert_exact(now)
    assert values(fresh(table)) is not None


@pytest.mark.parametrize("kind", ["list", "manifest"])
def test_nothing_is_deleted_while_what_stays_cannot_be_read_whole(table: Table, kind: str) -> None:
    head = table.metadata.snapshots[-1]
    path = head.manifest_list
    if kind == "manifest":
        path = head.manifests(table.io)[0].manifest_path
    file = Path(path.removeprefix("file://"))
    whole = file.read_bytes()
    job = expiry(table.catalog)
    file.write_bytes(whole[: random.Random(1).randrange(len(whole))])
    files = on_disk(table)
    with pytest.raises(TransientError):
        job.run()
    assert on_disk(table) == files
    file.unlink()
    with pytest.raises(ServiceError, match="FileNotFoundError"):
        job.run()
    assert on_disk(table) == files - {str(file)}
    file.write_bytes(whole)
    job.run()
    assert_exact(fresh(table))


def test_files_of_expired_snapshots_that_are_gone_already_do_no_harm(table: Table) -> None:
    kept = {one.manifest_path for one in table.metadata.snapshots[-1].manifests(table.io)}
    old = {
        one.manifest_path for each in table.metadata.snapshots for one in each.manifests(table.io)
    }
    for path in (table.metadata.snapshots[0].manifest_list, min(old - kept)):
        Path(path.removeprefix("file://")).unlink()
    expiry(table.catalog).run()
    now = fresh(table)
    assert reached(now) <= on_disk(now)
    assert values(now)


def test_a_run_that_is_asked_to_stop_leaves_the_rest(table: Table) -> None:
    files = on_disk(table)
    assert expiry(table.catalog, stopping=lambda: True).run().snapshots == 0
    assert len(ids(table)) == len(table.metadata.snapshots)
    stop = False
    job = expiry(table.catalog, stopping=lambda: stop)

    def set_stop(_: str) -> None:
        nonlocal stop
        stop = True

    with failpoints.armed("expire.answered", set_stop):
        done = job.run()
    assert done.snapshots
    assert (done.files_removed, done.waiting) == (0, done.snapshots)
    assert on_disk(table) == files
    stop = False
    with failpoints.armed("expire.file.removed", set_stop, nth=3):
        done = job.run()
    assert done.files_removed == 3
    assert done.left == len(files) - 3 - len(reached(fresh(table)))


def test_each_manifest_is_read_once_and_none_that_no_file_depends_on(tmp_path: Path) -> None:
    table = new_table(tmp_path)
    for number in range(20):
        table.append(numbers(number))
    rules = Rules(retention_seconds=10_000, keep_newest=5, keep_history=0)
    clock = HandClock()
    clock.now += 1_000
    job = expiry(table.catalog, rules=rules, clock=clock)
    job.run()
    reads = job._memory.reads
    assert reads == 20, "the lists alone: no manifest of an append is free"
    table.append(numbers(20))
    job.run()
    assert job._memory.reads == reads + 1
    table.overwrite(numbers(1, 2))
    for number in range(5):
        table.append(numbers(30 + number))
    job.run()
    job.run()
    lists = 26 + 1
    assert job._memory.reads - lists <= 21 + 21 + 1 + 5
    assert_exact(fresh(table))


def test_statistics_of_expired_snapshots_go_with_them(table: Table, tmp_path: Path) -> None:
    first, last = ids(table)[0], ids(table)[-1]
    paths = {}
    for number in (first, last):
        for kind in ("stats", "partitions"):
            paths[number, kind] = tmp_path / "warehouse/db/events/metadata" / f"{number}.{kind}"
            paths[number, kind].write_bytes(b"x")
    for number in (first, last):
        with table.update_statistics() as update:
            update.set_statistics(statistics(number, paths[number, "stats"]))
        with table.transaction() as transaction:
            listed = {
                "snapshot-id": number,
                "statistics-path": str(paths[number, "partitions"]),
                "file-size-in-bytes": 1,
            }
            change = {"action": "set-partition-statistics", "partition-statistics": listed}
            transaction._apply((SetPartitionStatisticsUpdate.model_validate(change),))
    expiry(table.catalog).run()
    now = fresh(table)
    assert {path.exists() for (number, _), path in paths.items() if number == first} == {False}
    assert {path.exists() for (number, _), path in paths.items() if number == last} == {True}
    assert_exact(now)
    assert [one.snapshot_id for one in now.metadata.partition_statistics] == [last]


def statistics(number: int, path: Path) -> StatisticsFile:
    return StatisticsFile.model_validate(
        {
            "snapshot-id": number,
            "statistics-path": str(path),
            "file-size-in-bytes": 1,
            "file-footer-size-in-bytes": 1,
            "blob-metadata": [],
        }
    )


def test_a_table_made_again_under_the_name_keeps_its_files(table: Table, tmp_path: Path) -> None:
    clock = HandClock()
    job = expiry(table.catalog, clock=clock, grace_seconds=900)
    assert job.run().waiting
    table.catalog.drop_table(NAME)
    again = new_table(tmp_path)
    again.append(numbers(1, 2))
    clock.now += 1000
    done = job.run()
    assert (done.files_removed, done.waiting) == (0, 0)
    assert values(fresh(again)) == [1, 2]


def test_a_property_of_the_table_that_is_no_number_stops_expiry(table: Table) -> None:
    with table.transaction() as transaction:
        transaction.set_properties({MAX_AGE: "soon"})
    with pytest.raises(ConfigError, match=MAX_AGE):
        expiry(table.catalog).run()
    assert len(ids(table)) == len(table.metadata.snapshots)
