"""The guarded commit, on a real SQL catalog: claims, fencing, unknown outcomes, rollback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from k2i_tasks import failpoints
from k2i_tasks.config import demo_config
from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    FencedError,
    IntegrityError,
    K2IError,
)
from k2i_tasks.iceberg.catalog import guard_commits
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.data_files import data_file
from k2i_tasks.iceberg.dead_letters import DeadLetterTable
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.state import SinkState, state_key
from k2i_tasks.iceberg.writer import DataFileWriter
from k2i_tasks.types import DeadLetter, OffsetRange, TopicPartition

P0 = TopicPartition("t", 0)
NAME = ("tests", "rows")
LETTERS = ("tests", "rows__dead_letters")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def open_catalog(folder: Path) -> Catalog:
    uri = f"sqlite:///{folder}/catalog.db"
    return guard_commits(SqlCatalog("t", uri=uri, warehouse=f"file://{folder}/warehouse"))


def config(folder: Path) -> Any:
    base = demo_config(folder)
    return base.model_copy(
        update={"iceberg": base.iceberg.model_copy(update={"partition_spec": ()})}
    )


@pytest.fixture
def table(folder: Path) -> pa.Schema:
    schema = pa.schema([("n", pa.int64())])
    create_table(open_catalog(folder), NAME, schema, config(folder))
    return schema


def committer(folder: Path, owner: str) -> Committer:
    return Committer(open_catalog(folder), NAME, sink="main", branch="main", owner=owner)


def claimed(folder: Path, owner: str) -> Committer:
    found = committer(folder, owner)
    state = found.look().recorded.newest or SinkState()
    found.claim(state, {} if state.offsets else {P0: 0})
    return found


def commit(by: Committer, folder: Path, batch_id: str, start: int, end: int) -> int:
    table = by.catalog.load_table(NAME)
    rows = pa.table({"n": pa.array(range(start, end), pa.int64())})
    staged = DataFileWriter(table, config(folder)).write([rows], batch_id=batch_id)
    return by.commit(
        batch_id,
        {P0: OffsetRange(start, end)},
        lambda loaded: [data_file(loaded, one) for one in staged],
        summary={},
        intent=lambda _snapshot, _parent: None,
    )


def values(folder: Path) -> list[int]:
    return sorted(open_catalog(folder).load_table(NAME).scan().to_arrow()["n"].to_pylist())


def test_rows_and_offsets_land_in_one_snapshot(folder: Path, table: pa.Schema) -> None:
    by = claimed(folder, "a")
    commit(by, folder, "a-1", 0, 5)
    head = by.look()
    assert values(folder) == list(range(5))
    assert head.recorded.summary == head.recorded.in_property
    assert head.recorded.newest is not None
    assert head.recorded.newest.offsets == {P0: 5}


def test_a_repeated_commit_of_a_batch_that_landed_does_nothing(
    folder: Path, table: pa.Schema
) -> None:
    by = claimed(folder, "a")
    commit(by, folder, "a-1", 0, 5)
    commit(by, folder, "a-1", 0, 5)
    assert values(folder) == list(range(5))


def test_a_zombie_is_fenced_by_the_epoch(folder: Path, table: pa.Schema) -> None:
    zombie = claimed(folder, "a")
    claimed(folder, "b")
    with pytest.raises(FencedError, match="owned by b"):
        commit(zombie, folder, "a-1", 0, 5)
    assert values(folder) == []


def test_a_commit_between_look_and_claim_is_what_the_claim_goes_on_from(
    folder: Path, table: pa.Schema
) -> None:
    before = claimed(folder, "a")
    after = committer(folder, "b")
    seen = after.look().recorded.newest
    assert seen is not None
    commit(before, folder, "a-1", 0, 5)
    state = after.claim(seen, {P0: 0})
    assert (state.epoch, state.offsets) == (2, {P0: 5})
    commit(after, folder, "b-1", 5, 7)
    assert values(folder) == list(range(7))


def test_a_claim_never_lowers_an_offset(folder: Path, table: pa.Schema) -> None:
    before = claimed(folder, "a")
    commit(before, folder, "a-1", 0, 5)
    after = committer(folder, "b")
    seen = after.look().recorded.newest
    assert seen is not None
    # The caller chose its start when there was no table yet; a partition may be new to the table.
    new = TopicPartition("t", 1)
    assert after.claim(seen, {P0: 0, new: 8}).offsets == {P0: 5, new: 8}


def test_a_claim_between_look_and_claim_fences(folder: Path, table: pa.Schema) -> None:
    claimed(folder, "a")
    late = committer(folder, "b")
    seen = late.look().recorded.newest
    assert seen is not None
    claimed(folder, "c")
    with pytest.raises(FencedError, match="claimed by c"):
        late.claim(seen, {P0: 0})


def test_a_batch_that_does_not_start_where_the_table_ends_is_fenced(
    folder: Path, table: pa.Schema
) -> None:
    by = claimed(folder, "a")
    commit(by, folder, "a-1", 0, 5)
    for start in (3, 6):
        with pytest.raises(FencedError, match="next offset 5"):
            commit(by, folder, f"a-{start}", start, 9)
    assert values(folder) == list(range(5))


@pytest.mark.parametrize("start", [0, 3])
def test_a_partition_that_was_added_since_the_claim_starts_at_zero(
    folder: Path, table: pa.Schema, start: int
) -> None:
    by, added = claimed(folder, "a"), TopicPartition("t", 1)

    def commit_added() -> int:
        ranges = {added: OffsetRange(start, 7)}
        return by.commit("a-1", ranges, lambda _table: (), summary={}, intent=lambda *_ids: None)

    if start:
        with pytest.raises(FencedError, match="next offset None for t:1"):
            commit_added()
    else:
        commit_added()
    state = by.look().recorded.newest
    assert state is not None
    assert state.offsets == ({P0: 0} if start else {P0: 0, added: 7})


def lands_and_then(by: Committer, error: Exception) -> None:
    """From now on each commit is done, and answered by `error`."""
    plain = SqlCatalog.commit_table.__get__(by.catalog)

    def commit_table(*arguments: Any, **named: Any) -> None:
        plain(*arguments, **named)
        raise error

    by.catalog.commit_table = commit_table  # type: ignore[method-assign, assignment]
    guard_commits(by.catalog)


def test_a_lost_answer_is_looked_up_before_the_commit_is_sent_again(
    folder: Path, table: pa.Schema
) -> None:
    by = claimed(folder, "a")
    lands_and_then(by, ConnectionError("the answer was lost"))
    with pytest.raises(CommitStateUnknownError):
        commit(by, folder, "a-1", 0, 5)
    by.catalog = open_catalog(folder)
    commit(by, folder, "a-1", 0, 5)
    assert values(folder) == list(range(5))


def test_a_refused_commit_that_had_landed_leaves_the_table_readable(
    folder: Path, table: pa.Schema
) -> None:
    from pyiceberg.exceptions import CommitFailedException

    by = claimed(folder, "a")
    lands_and_then(by, CommitFailedException("conflict, says the proxy"))
    with pytest.raises(K2IError):
        commit(by, folder, "a-1", 0, 5)
    by.catalog = open_catalog(folder)
    commit(by, folder, "a-1", 0, 5)
    assert values(folder) == list(range(5))


def test_commits_of_others_in_between_do_no_harm(folder: Path, table: pa.Schema) -> None:
    by = claimed(folder, "a")
    commit(by, folder, "a-1", 0, 5)
    open_catalog(folder).load_table(NAME).append(pa.table({"n": pa.array([99], pa.int64())}))
    commit(by, folder, "a-2", 5, 7)
    assert values(folder) == [0, 1, 2, 3, 4, 5, 6, 99]


def test_a_rollback_is_noticed_and_both_sides_are_named(folder: Path, table: pa.Schema) -> None:
    by = claimed(folder, "a")
    first = commit(by, folder, "a-1", 0, 5)
    commit(by, folder, "a-2", 5, 9)
    other = open_catalog(folder).load_table(NAME)
    other.manage_snapshots().rollback_to_snapshot(first).commit()
    with pytest.raises(IntegrityError, match=r"rolled back.*t:0=5.*t:0=9"):
        commit(by, folder, "a-3", 9, 12)


def test_offsets_outlive_the_expiry_of_all_our_snapshots(folder: Path, table: pa.Schema) -> None:
    by = claimed(folder, "a")
    commit(by, folder, "a-1", 0, 5)
    other = open_catalog(folder).load_table(NAME)
    other.append(pa.table({"n": pa.array([99], pa.int64())}))
    ids = [s.snapshot_id for s in other.metadata.snapshots[:-1]]
    other.maintenance.expire_snapshots().by_ids(ids).commit()
    head = by.look()
    assert head.recorded.summary is None
    assert head.recorded.newest is not None
    assert head.recorded.newest.offsets == {P0: 5}
    commit(by, folder, "a-2", 5, 6)


def test_a_property_that_was_removed_is_restored_by_the_next_commit(
    folder: Path, table: pa.Schema
) -> None:
    by = claimed(folder, "a")
    commit(by, folder, "a-1", 0, 5)
    other = open_catalog(folder).load_table(NAME)
    with other.transaction() as transaction:
        transaction.remove_properties(state_key("main"))
    commit(by, folder, "a-2", 5, 6)
    assert by.look().recorded.in_property == by.look().recorded.summary


def test_a_table_created_again_is_not_the_one_that_was_claimed(
    folder: Path, table: pa.Schema
) -> None:
    by = claimed(folder, "a")
    catalog = open_catalog(folder)
    catalog.drop_table(NAME)
    create_table(catalog, NAME, table, config(folder))
    with pytest.raises(IntegrityError, match="created again"):
        commit(by, folder, "a-1", 0, 5)


def letter(offset: int) -> DeadLetter:
    return DeadLetter("t", 0, offset, 1000, b"k", b"bad", [("h", b"1")], "decode", "x", "bad")


def test_dead_letters_of_a_batch_that_is_read_again_are_not_doubled(
    folder: Path, table: pa.Schema
) -> None:
    catalog = open_catalog(folder)
    by = Committer(catalog, LETTERS, sink="main", branch="main", owner="a")
    store = DeadLetterTable(open_catalog(folder), by, config(folder))
    staged = store.stage([letter(1), letter(3)], "a-1")
    store.commit("a-1", {P0: OffsetRange(0, 5)}, staged)
    store.commit("a-1", {P0: OffsetRange(0, 5)}, staged)
    # After a crash the same records come in a batch with other bounds.
    staged = store.stage([letter(3), letter(6)], "b-1")
    store.commit("b-1", {P0: OffsetRange(2, 9)}, staged)
    rows = open_catalog(folder).load_table(LETTERS).scan().to_arrow().sort_by("offset")
    assert rows["offset"].to_pylist() == [1, 3, 6]
    assert rows["headers"].to_pylist()[0] == [{"key": "h", "value": b"1"}]


def test_the_intent_is_told_when_the_commit_is_built_and_before_it_is_sent(
    folder: Path, table: pa.Schema
) -> None:
    by = claimed(folder, "a")
    told: list[Any] = []
    plain = by.catalog.commit_table

    def sent(*arguments: Any, **named: Any) -> Any:
        told.append("sent")
        return plain(*arguments, **named)

    by.catalog.commit_table = sent  # type: ignore[method-assign]

    def intent(snapshot: int, parent: int | None) -> None:
        told.append((snapshot, parent))

    head = by.look().table.metadata.current_snapshot_id
    ranges = {P0: OffsetRange(0, 5)}
    landed = by.commit("a-1", ranges, lambda _table: (), summary={}, intent=intent)
    assert told == [(landed, head), "sent"]


def test_the_ids_of_topic_and_cluster_are_recorded_with_every_commit(
    folder: Path, table: pa.Schema
) -> None:
    by = committer(folder, "a")
    by.claim(SinkState(topic_ids={"t": "topic-id"}, cluster_id="cluster-id"), {P0: 0})
    commit(by, folder, "a-1", 0, 5)
    for state in (by.look().recorded.summary, by.look().recorded.in_property):
        assert state is not None
        assert (state.topic_ids, state.cluster_id) == ({"t": "topic-id"}, "cluster-id")


def test_a_commit_carries_the_states_of_other_sinks_forward(folder: Path, table: pa.Schema) -> None:
    one = claimed(folder, "a")
    commit(one, folder, "a-1", 0, 5)
    two = Committer(open_catalog(folder), NAME, sink="other", branch="main", owner="b")
    two.claim(SinkState(), {P0: 0})
    head = open_catalog(folder).load_table(NAME)
    ids = [s.snapshot_id for s in head.metadata.snapshots[:-1]]
    head.maintenance.expire_snapshots().by_ids(ids).commit()
    found = one.look().recorded
    assert found.summary == found.in_property
    assert found.summary is not None
    assert found.summary.offsets == {P0: 5}
    commit(one, folder, "a-2", 5, 6)


def test_a_claim_whose_answer_was_lost_is_not_made_twice(folder: Path, table: pa.Schema) -> None:
    by = committer(folder, "a")
    claimed(folder, "a")  # the attempt that landed; `by` never heard of it
    state = by.claim(SinkState(), {P0: 0})
    assert (state.epoch, by.epoch) == (1, 1)
    commit(by, folder, "a-1", 0, 5)


BUILDING = ["commit.manifests.before", "commit.intent.before", "commit.send.before"]


@pytest.mark.parametrize("place", BUILDING)
def test_rows_that_others_commit_while_an_attempt_is_built_are_kept(
    folder: Path, table: pa.Schema, place: str
) -> None:
    by = claimed(folder, "a")

    def foreign(_place: str) -> None:
        open_catalog(folder).load_table(NAME).append(pa.table({"n": pa.array([99], pa.int64())}))

    with failpoints.armed(place, foreign), pytest.raises(CommitConflictError):
        commit(by, folder, "a-1", 0, 5)
    assert values(folder) == [99]
    commit(by, folder, "a-1", 0, 5)
    assert values(folder) == [0, 1, 2, 3, 4, 99]


@pytest.mark.parametrize("place", BUILDING)
def test_a_claim_fences_a_commit_that_has_looked_and_is_about_to_be_sent(
    folder: Path, table: pa.Schema, place: str
) -> None:
    zombie = claimed(folder, "a")

    def rival(_place: str) -> None:
        if zombie.look().recorded.newest == first:
            claimed(folder, "b")

    first = zombie.look().recorded.newest
    with failpoints.armed(place, rival), pytest.raises(CommitConflictError):
        commit(zombie, folder, "a-1", 0, 5)
    assert values(folder) == []
    with pytest.raises(FencedError):
        commit(zombie, folder, "a-1", 0, 5)
