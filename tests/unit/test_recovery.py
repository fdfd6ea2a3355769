"""The recovery table is total, and says what the protocol says."""

import itertools

import pytest

from k2i_tasks.engine.recovery import (
    TABLE,
    Decision,
    LeftBatch,
    Position,
    Progress,
    decide,
    plan,
    position,
)
from k2i_tasks.errors import IntegrityError
from k2i_tasks.types import OffsetRange, TopicPartition

P0 = TopicPartition("t", 0)
P1 = TopicPartition("t", 1)


def test_every_combination_is_decided() -> None:
    assert set(TABLE) == set(itertools.product(Progress, (False, True), Position))


@pytest.mark.parametrize(
    ("progress", "found", "where", "decision"),
    [
        (Progress.SEALED, False, Position.START, Decision.DISCARD),
        (Progress.STAGED, False, Position.START, Decision.COMMIT),
        (Progress.STAGED, False, Position.COVERED, Decision.DISCARD),
        (Progress.STARTED, True, Position.COVERED, Decision.RECORD_LANDED),
        (Progress.STARTED, False, Position.START, Decision.COMMIT),
        (Progress.STARTED, False, Position.COVERED, Decision.ABANDON),
        (Progress.LANDED, False, Position.START, Decision.HALT_ROLLED_BACK),
        (Progress.STAGED, False, Position.INSIDE, Decision.HALT_OVERLAP),
    ],
)
def test_the_protocol_rows(
    progress: Progress, found: bool, where: Position, decision: Decision
) -> None:
    assert decide(progress, found, where) is decision


@pytest.mark.parametrize(
    ("offset", "where"),
    [(9, Position.BEFORE), (10, Position.START), (15, Position.INSIDE), (20, Position.COVERED)],
)
def test_position_of_one_partition(offset: int, where: Position) -> None:
    assert position({P0: OffsetRange(10, 20)}, {P0: offset}) is where


def test_partitions_that_disagree_are_an_overlap() -> None:
    ranges = {P0: OffsetRange(0, 5), P1: OffsetRange(0, 5)}
    assert position(ranges, {P0: 5, P1: 0}) is Position.INSIDE


def test_a_partition_unknown_to_the_table_stands_at_its_beginning() -> None:
    assert position({P0: OffsetRange(0, 5)}, {}) is Position.START
    assert position({P0: OffsetRange(3, 5)}, {}) is Position.BEFORE


def test_staged_batches_follow_one_another_after_a_commit() -> None:
    left = [
        LeftBatch("a", Progress.STARTED, {P0: OffsetRange(0, 5)}),
        LeftBatch("b", Progress.STAGED, {P0: OffsetRange(5, 9)}),
    ]
    decisions = [step.decision for step in plan(left, {P0: 0}, frozenset())]
    assert decisions == [Decision.COMMIT, Decision.COMMIT]


def test_a_batch_behind_one_that_was_given_up_is_given_up_too() -> None:
    left = [
        LeftBatch("a", Progress.SEALED, {P0: OffsetRange(0, 5)}),
        LeftBatch("b", Progress.STAGED, {P0: OffsetRange(5, 9)}),
    ]
    decisions = [step.decision for step in plan(left, {P0: 0}, frozenset())]
    assert decisions == [Decision.DISCARD, Decision.DISCARD]


def test_a_rollback_names_both_sides() -> None:
    left = [LeftBatch("a", Progress.LANDED, {P0: OffsetRange(0, 5)})]
    with pytest.raises(IntegrityError, match=r"0:\[0,5\).*0:3.*rolled back"):
        list(plan(left, {P0: 3}, frozenset()))
