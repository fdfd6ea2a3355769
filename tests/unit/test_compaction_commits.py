"""A compaction among others that write: nothing of theirs is lost, nothing of ours lands twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot

from k2i_tasks.clock import SystemClock
from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    IntegrityError,
    K2IError,
    TransientError,
)
from k2i_tasks.failpoints import armed
from k2i_tasks.iceberg.catalog import guard_commits
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.maintenance import compaction as module
from k2i_tasks.iceberg.maintenance.compaction import Compacted, Compaction, CompactionOptions
from k2i_tasks.iceberg.maintenance.replace import ReplaceFiles
from k2i_tasks.iceberg.references import unreferenced
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.state import recorded
from tests.unit import test_committer as rows
from tests.unit.test_committer import NAME, claimed, commit, open_catalog, values
from tests.unit.test_compaction import ALL, files, totals

BATCHES = 6


def filled(folder: Path) -> Committer:
    """A run of ours that has committed six batches of ten rows."""
    create_table(open_catalog(folder), NAME, pa.schema([("n", pa.int64())]), rows.config(folder))
    found = claimed(folder, "a")
    for number in range(BATCHES):
        commit(found, folder, f"a-{number}", 10 * number, 10 * number + 10)
    return found


@pytest.fixture
def by(tmp_path: Path) -> Committer:
    return filled(tmp_path)


def compaction(
    folder: Path,
    options: CompactionOptions = ALL,
    *,
    catalog: Catalog | None = None,
    branch: str = "main",
    stopping: Callable[[], bool] = lambda: False,
    lane: AbstractContextManager[object] | None = None,
) -> Compaction:
    return Compaction(
        catalog or open_catalog(folder),
        NAME,
        branch=branch,
        options=options,
        lane=lane or nullcontext(),
        stopping=stopping,
        clock=SystemClock(),
    )


def table_at(folder: Path) -> Table:
    return open_catalog(folder).load_table(NAME)


def head(table: Table, branch: str = "main") -> Snapshot:
    found = table.snapshot_by_name(branch)
    assert found is not None
    return found


def replaces(table: Table) -> list[Snapshot]:
    return [
        each
        for each in table.snapshots()
        if each.summary is not None and each.summary.operation is Operation.REPLACE
    ]


def assert_whole(folder: Path, count: int = 10 * BATCHES) -> Table:
    """Each row once, totals true, the run's state carried on, no file of a compaction unused."""
    table = table_at(folder)
    assert values(folder) == list(range(count))
    totals(table)
    found = recorded(table.metadata, "main", "main")
    assert not found.rolled_back
    assert found.summary == found.in_property
    return table


def unused(folder: Path) -> set[str]:
    """Files of compactions that no snapshot refers to."""
    there = {str(each) for each in folder.rglob("compact-*.parquet")}
    free = unreferenced(table_at(folder), [form for each in there for form in forms(each)])
    return {each for each in there if free.issuperset(forms(each))}


def forms(path: str) -> tuple[str, str]:
    """As a table may name it."""
    return path, f"file://{path}"


def test_the_state_of_the_sink_rides_on_and_the_run_goes_on(tmp_path: Path, by: Committer) -> None:
    before = by.look()
    assert compaction(tmp_path).run().files_before == BATCHES
    after = by.look()
    assert after.recorded.summary_snapshot_id == head(after.table).snapshot_id
    assert after.recorded.newest == before.recorded.newest
    assert after.table.properties == before.table.properties
    commit(by, tmp_path, "a-6", 60, 70)
    assert_whole(tmp_path, 70)


def test_joined_files_are_as_old_as_their_rows_and_untouched_manifests_are_carried_on(
    tmp_path: Path, by: Committer
) -> None:
    large = files(table_at(tmp_path))[0].file_size_in_bytes + 100
    commit(by, tmp_path, "a-6", 60, 9_000)
    before = table_at(tmp_path)
    compaction(tmp_path, CompactionOptions(large, 100 * large, min_files=2)).run()
    after = assert_whole(tmp_path, 9_000)
    was = {each.manifest_path: each for each in head(before).manifests(before.io)}
    now = head(after).manifests(after.io)
    carried = [each for each in now if each.manifest_path in was]
    assert [each.added_snapshot_id for each in carried] == [head(before).snapshot_id]
    entries = [e for m in now for e in m.fetch_manifest_entry(after.io, discard_deleted=False)]
    (added,) = [
        each
        for each in entries
        if each.status == ManifestEntryStatus.ADDED and each.snapshot_id == head(after).snapshot_id
    ]
    last = sorted(each.sequence_number for each in before.snapshots() if each.sequence_number)[-2]
    assert added.sequence_number == last, "of the newest file that was joined"
    removed = [each for each in entries if each.status == ManifestEntryStatus.DELETED]
    assert len(removed) == BATCHES
    assert {each.snapshot_id for each in removed} == {head(after).snapshot_id}
    # The next commit has no word of them.
    commit(by, tmp_path, "a-7", 9_000, 9_010)
    table = table_at(tmp_path)
    for manifest in head(table).manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
            assert entry.status != ManifestEntryStatus.DELETED


def test_a_commit_that_would_lose_a_file_is_not_sent(
    tmp_path: Path, by: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = files(table_at(tmp_path))[0].file_size_in_bytes + 100
    commit(by, tmp_path, "a-6", 60, 9_000)
    before = head(table_at(tmp_path))
    monkeypatch.setattr(ReplaceFiles, "_existing_manifests", lambda _self: [])
    with pytest.raises(IntegrityError, match="would turn 7 files with 9000 rows into 1 with 60"):
        compaction(tmp_path, CompactionOptions(large, 100 * large, min_files=2)).run()
    assert head(assert_whole(tmp_path, 9_000)) == before
    assert unused(tmp_path) == set()


@pytest.mark.parametrize("place", ["compact.file.written", "compact.staged", "compact.send.before"])
def test_commits_of_a_run_come_first_and_the_files_are_written_once(
    tmp_path: Path, by: Committer, place: str
) -> None:
    end = 10 * BATCHES

    def one_more(_name: str) -> None:
        commit(by, tmp_path, "a-more", end, end + 10)

    with armed(place, one_more):
        done = compaction(tmp_path).run()
    assert (done.files_before, done.commits, done.given_up) == (BATCHES, 1, 0)
    assert_whole(tmp_path, end + 10)
    assert len(list(tmp_path.rglob("compact-*.parquet"))) == 1


def test_a_run_that_is_always_faster_is_told_and_the_next_attempt_writes_nothing_anew(
    tmp_path: Path, by: Committer
) -> None:
    catalog, end = open_catalog(tmp_path), 10 * BATCHES
    plain = catalog.commit_table

    def always_late(*arguments: Any, **named: Any) -> Any:
        nonlocal end
        commit(by, tmp_path, f"a-{end}", end, end + 1)
        end += 1
        return plain(*arguments, **named)

    catalog.commit_table = always_late  # type: ignore[method-assign]
    job = compaction(tmp_path, catalog=guard_commits(catalog))
    with pytest.raises(CommitConflictError):
        job.run()
    assert end == 10 * BATCHES + module._CONFLICTS_MAX
    catalog.commit_table = plain  # type: ignore[method-assign]
    assert (job.run().files_before, job.run().commits) == (BATCHES, 1)
    assert_whole(tmp_path, end)
    assert len(list(tmp_path.rglob("compact-*.parquet"))) == 1


@pytest.mark.parametrize(
    "error",
    [ConnectionError("lost"), CommitFailedException("conflict, says the proxy")],
    ids=["unknown", "conflict"],
)
@pytest.mark.parametrize("lands", [True, False])
def test_a_false_answer_is_looked_up_before_the_commit_is_sent_again(
    tmp_path: Path, by: Committer, error: Exception, lands: bool
) -> None:
    catalog = open_catalog(tmp_path)
    plain = SqlCatalog.commit_table.__get__(catalog)
    answers = 0

    def falsely(*arguments: Any, **named: Any) -> Any:
        nonlocal answers
        answers += 1
        if answers > 1:
            return plain(*arguments, **named)
        if lands:
            plain(*arguments, **named)
        raise error

    catalog.commit_table = falsely  # type: ignore[method-assign]
    job = compaction(tmp_path, catalog=guard_commits(catalog))
    if isinstance(error, ConnectionError):
        with pytest.raises(CommitStateUnknownError):
            job.run()
    done = job.run()
    assert (done.files_before, done.files_after, done.commits, done.rows) == (BATCHES, 1, 1, 60)
    assert answers == (1 if lands else 2)
    assert len(replaces(assert_whole(tmp_path))) == 1
    assert unused(tmp_path) == set()


def test_a_commit_that_landed_and_was_expired_since_is_known_by_its_files(
    tmp_path: Path, by: Committer
) -> None:
    catalog = open_catalog(tmp_path)
    rows.lands_and_then(_with(by, catalog), ConnectionError("lost"))
    job = compaction(tmp_path, catalog=catalog)
    with pytest.raises(CommitStateUnknownError):
        job.run()
    commit(_with(by, open_catalog(tmp_path)), tmp_path, "a-6", 60, 70)
    table = table_at(tmp_path)
    ids = [each.snapshot_id for each in table.snapshots()[:-1]]
    table.maintenance.expire_snapshots().by_ids(ids).commit()
    assert job.run().files_before == BATCHES
    assert_whole(tmp_path, 70)
    assert unused(tmp_path) == set()


def _with(by: Committer, catalog: Catalog) -> Committer:
    by.catalog = catalog
    return by


def test_a_commit_that_lands_late_leaves_one_of_two_attempts(tmp_path: Path, by: Committer) -> None:
    catalog = open_catalog(tmp_path)
    plain = SqlCatalog.commit_table.__get__(catalog)
    held: list[tuple[Any, ...]] = []

    def late(*arguments: Any) -> Any:
        if not held:
            held.append(arguments)
            raise ConnectionError("on its way")
        first = held.pop()
        held.append(())
        plain(*first)  # lands when the next one is about to
        return plain(*arguments)

    catalog.commit_table = late  # type: ignore[method-assign, assignment]
    job = compaction(tmp_path, catalog=guard_commits(catalog))
    with pytest.raises(CommitStateUnknownError):
        job.run()
    done = job.run()
    assert (done.files_before, done.commits) == (BATCHES, 1)
    assert len(replaces(assert_whole(tmp_path))) == 1
    assert unused(tmp_path) == set()


@pytest.mark.parametrize("place", ["compact.file.written", "compact.staged", "compact.send.before"])
def test_of_two_compactions_at_once_one_gives_up(tmp_path: Path, by: Committer, place: str) -> None:
    first: list[Compacted] = []
    with armed(place, lambda _name: first.append(compaction(tmp_path).run())):
        second = compaction(tmp_path).run()
    assert (first[0].files_before, first[0].given_up) == (BATCHES, 0)
    assert (second.files_before, second.commits, second.given_up) == (0, 0, 1)
    assert len(replaces(assert_whole(tmp_path))) == 1
    assert unused(tmp_path) == set(), "what was certainly not committed is removed"


def test_files_stay_when_nobody_can_say_whether_their_commit_will_land(
    tmp_path: Path, by: Committer
) -> None:
    """Sent with an unknown outcome, then a rollback took the sources away: it might land yet."""
    catalog = open_catalog(tmp_path)
    rows.lands_and_then(_with(by, catalog), ConnectionError("lost"))
    job = compaction(tmp_path, catalog=catalog)
    with pytest.raises(CommitStateUnknownError):
        job.run()
    landed = head(table_at(tmp_path)).snapshot_id
    first = table_at(tmp_path).snapshots()[1].snapshot_id
    table_at(tmp_path).manage_snapshots().rollback_to_snapshot(first).commit()
    catalog.commit_table = open_catalog(tmp_path).commit_table  # type: ignore[method-assign]
    done = job.run()
    assert (done.commits, done.given_up) == (0, 1)
    # The snapshot is there and can be gone back to.
    assert unused(tmp_path) == set()
    table_at(tmp_path).manage_snapshots().set_current_snapshot(landed).commit()
    assert values(tmp_path) == list(range(60))


def test_a_branch_is_compacted_apart(tmp_path: Path, by: Committer) -> None:
    table = table_at(tmp_path)
    table.manage_snapshots().create_branch(head(table).snapshot_id, "audit").commit()
    done = compaction(tmp_path, branch="audit").run()
    assert done.files_before == BATCHES
    after = assert_whole(tmp_path)
    assert head(after).snapshot_id == head(table).snapshot_id
    assert head(after, "audit").parent_snapshot_id == head(table).snapshot_id
    found = after.scan(snapshot_id=head(after, "audit").snapshot_id).to_arrow()
    assert sorted(found["n"].to_pylist()) == list(range(60))


def test_a_table_that_is_made_again_is_not_compacted(tmp_path: Path, by: Committer) -> None:
    def again(_name: str) -> None:
        catalog = open_catalog(tmp_path)
        catalog.drop_table(NAME)
        create_table(catalog, NAME, pa.schema([("n", pa.int64())]), rows.config(tmp_path))

    with armed("compact.staged", again), pytest.raises(IntegrityError, match="created again"):
        compaction(tmp_path).run()
    assert values(tmp_path) == []


def test_a_new_spec_amid_a_compaction_ends_it_with_what_was_written(
    tmp_path: Path, by: Committer
) -> None:
    def partition(_name: str) -> None:
        with table_at(tmp_path).update_spec() as update:
            update.add_identity("n")

    size = max(each.file_size_in_bytes for each in files(table_at(tmp_path)))
    options = CompactionOptions(2 * size, 2 * size + 1, min_files=2, group_bytes_max=1)
    with armed("compact.staged", partition):
        done = compaction(tmp_path, options).run()
    assert (done.files_before, done.commits, done.given_up) == (2, 1, 2)
    assert_whole(tmp_path)


def test_it_ends_early_with_what_is_written(tmp_path: Path, by: Committer) -> None:
    stop = threading.Event()
    size = max(each.file_size_in_bytes for each in files(table_at(tmp_path)))
    options = CompactionOptions(2 * size, 2 * size + 1, min_files=2)
    job = compaction(tmp_path, options, stopping=stop.is_set)
    with armed("compact.file.written", lambda _name: stop.set()):
        assert (job.run().files_before, job.run().commits) == (2, 1)
    assert_whole(tmp_path)
    assert unused(tmp_path) == set()
    assert compaction(tmp_path, stopping=stop.is_set).run() == Compacted()


def test_files_of_a_job_that_is_abandoned_are_removed(tmp_path: Path, by: Committer) -> None:
    job = compaction(tmp_path)

    def fail(_name: str) -> None:
        raise TransientError("the store is away")

    with armed("compact.staged", fail), pytest.raises(K2IError):
        job.run()
    assert len(unused(tmp_path)) == 1
    job.abandon()
    assert unused(tmp_path) == set()
    assert job.run() == Compacted()
