"""Who may commit: the guard of every commit, of one owner and of the members of a group."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from k2i_tasks.errors import FencedError, PartitionsLostError
from k2i_tasks.iceberg.ownership import Claim, admits, must_own
from k2i_tasks.iceberg.state import BATCHES_KEPT, SinkState
from k2i_tasks.types import OffsetRange, TopicPartition

P = [TopicPartition("t", number) for number in range(4)]
A, B = Claim("a", 1, "g"), Claim("b", 2, "g")
START = SinkState(offsets=dict.fromkeys(P, 10), topic_ids={"t": "id"})
#: a owns 0 and 1, b owns 2 and 3.
SHARED = START.claimed_by("a", "g", P[:2]).claimed_by("b", "g", P[2:])


def admitted(
    state: SinkState, me: Claim, *partitions: TopicPartition, start: int = 10, batch: str = "x-1"
) -> bool:
    ranges = dict.fromkeys(partitions, OffsetRange(start, start + 5))
    return admits("db.t", state, me, batch_id=batch, ranges=ranges)


def test_members_commit_what_they_hold_side_by_side() -> None:
    assert admitted(SHARED, A, P[0], P[1])
    landed = SHARED.after("x-1", {P[0]: 15, P[1]: 15})
    assert admitted(landed, B, P[2], batch="y-1")


def test_a_batch_with_one_partition_of_another_member_is_refused_whole() -> None:
    with pytest.raises(PartitionsLostError, match="t:2 by b, epoch 2"):
        admitted(SHARED, A, P[0], P[2])


def test_a_partition_that_nobody_holds_is_refused() -> None:
    state = START.claimed_by("a", "g", P[:1])
    with pytest.raises(PartitionsLostError, match="nobody"):
        admitted(state, A, P[3])


def test_an_older_claim_of_the_same_member_is_refused() -> None:
    again = SHARED.claimed_by("a", "g", P[:1])
    with pytest.raises(PartitionsLostError):
        admitted(again, A, P[0])
    assert admitted(again, replace(A, epoch=3), P[0])


def test_a_claim_gives_up_what_it_does_not_name_and_leaves_the_others_theirs() -> None:
    again = SHARED.claimed_by("a", "g", [P[1], P[2]])
    assert again.holders == {P[1]: ("a", 3), P[2]: ("a", 3), P[3]: ("b", 2)}


def test_a_claim_of_the_whole_table_fences_every_member_for_good() -> None:
    taken = SHARED.claimed_by("c")
    assert (taken.group, taken.holders) == (None, {})
    with pytest.raises(FencedError, match="owned by c") as caught:
        admitted(taken, A, P[0])
    assert not isinstance(caught.value, PartitionsLostError)
    assert admitted(taken, Claim("c", 3), *P)


def test_a_member_of_another_group_fences_the_group() -> None:
    taken = SHARED.claimed_by("c", "other", P)
    with pytest.raises(FencedError, match="group other") as caught:
        must_own("db.t", taken, B, P[2:])
    assert not isinstance(caught.value, PartitionsLostError)


def test_a_group_fences_the_owner_of_the_whole_table() -> None:
    owned = START.claimed_by("c")
    shared = owned.claimed_by("a", "g", P[:1])
    with pytest.raises(FencedError, match="owned by a"):
        admitted(shared, Claim("c", 1), P[3])


def test_a_landed_batch_is_known_by_its_id_whoever_owns_the_table_by_now() -> None:
    landed = SHARED.after("x-1", {P[0]: 15})
    assert not admitted(landed.claimed_by("b", "g", P), A, P[0])
    assert not admitted(landed.claimed_by("c"), A, P[0])


def test_a_landed_batch_is_known_by_its_offsets_when_its_id_is_no_longer_kept() -> None:
    state = SHARED.after("x-1", {P[0]: 15})
    for number in range(BATCHES_KEPT):
        state = state.after(f"y-{number}", {P[2]: 11 + number})
    assert "x-1" not in state.batches
    assert not admitted(state, A, P[0])


@pytest.mark.parametrize("start", [8, 12])
def test_a_batch_from_other_offsets_than_the_tables_is_fenced(start: int) -> None:
    with pytest.raises(FencedError, match="next offset 10 for t:0"):
        admitted(SHARED, A, P[0], start=start)


def test_the_shares_survive_their_record() -> None:
    assert SinkState.from_json(SHARED.to_json(), "here") == SHARED
    body = json.loads(SHARED.to_json())
    assert body["holders"] == {
        "a": {"epoch": 1, "topics": {"t": [0, 1]}},
        "b": {"epoch": 2, "topics": {"t": [2, 3]}},
    }


def test_a_state_without_shares_is_written_as_before() -> None:
    assert not {"group", "holders"} & json.loads(START.to_json()).keys()
