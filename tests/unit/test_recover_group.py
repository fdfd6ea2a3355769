"""Recovery of a member of a group: it finishes what is its own, and nothing of the others."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa

from k2i_tasks.engine.recovery import Progress
from k2i_tasks.iceberg.staged import Staged
from k2i_tasks.operations import Operations
from k2i_tasks.types import OffsetRange, Offsets, SealedBatch, SealReason, TopicPartition
from tests.unit.test_recover import ORIGIN, numbers, operations

P0, P1 = TopicPartition("events", 0), TopicPartition("events", 1)
STARTS = {P0: 0, P1: 0}


def member(folder: Path, number: int, owner: str) -> AbstractContextManager[Operations]:
    """One run of a member, each of which has a log of its own."""
    return operations(folder, owner, wal=f"wal{number}", assignment="group")


def given(found: Operations, *mine: TopicPartition) -> Offsets:
    """The run claims these partitions and recovers; the offsets to go on from."""
    state = found.open() or found.create(pa.schema([("n", pa.int64())]))
    found.claim(state, STARTS, frozenset(mine), ORIGIN)
    return found.recover()


def batch(name: str, ranges: dict[TopicPartition, tuple[int, int]]) -> SealedBatch:
    """One row for each offset; of partition 1 they are from 1000 on."""
    spans = {tp: OffsetRange(*span) for tp, span in ranges.items()}
    values = [
        1000 * tp.partition + offset
        for tp, span in spans.items()
        for offset in range(span.start, span.end)
    ]
    rows = pa.table({"n": pa.array(values, pa.int64())})
    return SealedBatch(name, (rows,), (), spans, len(rows), rows.nbytes, SealReason.ROWS, -1)


def there(staged: Staged) -> bool:
    """Whether all its files are there."""
    found = {Path(file.path.removeprefix("file://")).exists() for file in staged.files}
    assert len(found) == 1
    return found.pop()


def test_a_member_commits_what_is_wholly_its_own_and_gives_up_what_others_read_now(
    tmp_path: Path,
) -> None:
    with member(tmp_path, 1, "dead") as dead:
        given(dead, P0, P1)
        own = dead.flush(batch("own", {P0: (0, 10)}))
        both = dead.flush(batch("both", {P0: (10, 20), P1: (0, 10)}))
        moved = dead.flush(batch("moved", {P1: (10, 20)}))
    with member(tmp_path, 2, "other") as other, member(tmp_path, 1, "next") as following:
        given(other, P1)
        assert given(following, P0) == {P0: 10, P1: 0}
        assert (there(own), there(both), there(moved)) == (True, False, False)
        assert not following.unfinished
        theirs = batch("theirs", {P1: (0, 20)})
        other.flush(theirs)
        other.commit(theirs)
    assert sorted(numbers(tmp_path)) == [*range(10), *range(1000, 1020)]


def test_a_batch_that_another_member_has_read_a_part_of_is_given_up(tmp_path: Path) -> None:
    with member(tmp_path, 1, "dead") as dead:
        given(dead, P0, P1)
        left = dead.flush(batch("left", {P0: (0, 10), P1: (0, 10)}))
    with member(tmp_path, 2, "other") as other, member(tmp_path, 1, "next") as following:
        given(other, P1)
        theirs = batch("theirs", {P1: (0, 5)})
        other.flush(theirs)
        other.commit(theirs)
        # For a run of its own the table would contradict the log here.
        assert given(following, P0) == {P0: 0, P1: 5}
        assert not there(left)
    assert sorted(numbers(tmp_path)) == [*range(1000, 1005)]


def test_recovery_leaves_the_files_and_the_intents_of_a_living_member_alone(tmp_path: Path) -> None:
    with member(tmp_path, 2, "living") as living:
        given(living, P1)
        theirs = batch("theirs", {P1: (0, 10)})
        staged = living.flush(theirs)
        with member(tmp_path, 1, "dead") as dead:
            given(dead, P0)
            dead.flush(batch("left", {P0: (0, 10)}))
        with member(tmp_path, 1, "next") as following:
            assert given(following, P0) == {P0: 10, P1: 0}
            assert there(staged)
            left = living._journal.state.batches
            assert {name: each.progress for name, each in left.items()} == {
                "theirs": Progress.STAGED
            }
        living.commit(theirs)
    assert sorted(numbers(tmp_path)) == [*range(10), *range(1000, 1010)]
