"""Members of a group on one table: their claims and commits, in a real catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.errors import CommitConflictError, PartitionsLostError
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.types import OffsetRange, TopicPartition
from tests.unit.test_committer import NAME, config, open_catalog

P = [TopicPartition("t", number) for number in range(4)]
STARTS = {tp: 100 * tp.partition for tp in P}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_table(open_catalog(tmp_path), NAME, pa.schema([("n", pa.int64())]), config(tmp_path))
    return tmp_path


def member(folder: Path, owner: str) -> Committer:
    catalog = open_catalog(folder)
    return Committer(catalog, NAME, sink="main", branch="main", owner=owner, group="g")


def claim(by: Committer, *numbers: int) -> SinkState:
    state = by.look().recorded.newest or SinkState()
    return by.claim(state, STARTS, {P[number] for number in numbers})


def commit(by: Committer, batch_id: str, number: int, rows: int = 5, **hooks: Any) -> None:
    start = by.own().offsets[P[number]]
    ranges = {P[number]: OffsetRange(start, start + rows)}
    hooks.setdefault("intent", lambda _snapshot, _parent: None)
    by.commit(batch_id, ranges, lambda _table: (), summary={}, **hooks)


def test_the_first_claim_settles_where_every_partition_starts(folder: Path) -> None:
    first, second = member(folder, "a"), member(folder, "b")
    assert claim(first, 0, 1).offsets == STARTS
    commit(first, "a-1", 1)
    late = dict.fromkeys(P, 999)  # it looked later, when there was more in the topic
    state = second.claim(second.look().recorded.newest or SinkState(), late, {P[2], P[3]})
    assert state.offsets == {**STARTS, P[1]: 105}


def test_members_that_claimed_since_we_looked_are_left_their_shares(folder: Path) -> None:
    first, second = member(folder, "a"), member(folder, "b")
    seen = SinkState()
    claim(first, 0, 1)
    commit(first, "a-1", 0)
    state = second.claim(seen, STARTS, {P[2], P[3]})
    assert state.holders[P[0]] == ("a", 1)
    assert state.offsets[P[0]] == 5
    commit(first, "a-2", 1)
    commit(second, "b-1", 3)


def test_after_a_claim_nothing_of_the_old_holder_lands_even_if_it_was_on_its_way(
    folder: Path,
) -> None:
    first, second = member(folder, "a"), member(folder, "b")
    claim(first, 0, 1)
    with pytest.raises(CommitConflictError):
        commit(first, "a-1", 0, intent=lambda *_ids: claim(second, 0))
    with pytest.raises(PartitionsLostError):
        commit(first, "a-1", 0)
    assert second.own().offsets[P[0]] == 0


def test_a_claim_of_the_same_partitions_again_lets_nothing_before_it_land(folder: Path) -> None:
    first = member(folder, "a")
    claim(first, 0, 1)
    same = member(folder, "a")
    same.me, same.claimed = first.me, first.claimed
    with pytest.raises(CommitConflictError):
        commit(same, "a-1", 0, intent=lambda *_ids: claim(first, 0, 1))
    assert first.epoch == 2
    assert first.own().offsets[P[0]] == 0


def test_a_claim_whose_answer_was_lost_is_not_made_twice(folder: Path) -> None:
    first = member(folder, "a")
    claim(first, 0)
    landed = member(folder, "a")
    landed.me = first.me
    claim(landed, 1, 2)  # the attempt that landed; `first` never heard of it
    state = claim(first, 1, 2)
    assert (first.epoch, state.seq) == (2, 2)
    commit(first, "a-1", 2)
