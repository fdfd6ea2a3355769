"""Which records of a batch are new, and what ranges they cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.kafka.positions import Positions
from k2i_tasks.types import OffsetRange, TopicPartition


def tp(partition: int) -> TopicPartition:
    return TopicPartition("t", partition)


def positions(**starts: int) -> Positions:
    made = Positions("t")
    made.reset({tp(int(name[1:])): start for name, start in starts.items()})
    return made


def fresh(at: Positions, *records: tuple[int, int]) -> tuple[list[tuple[int, int]], dict[int, int]]:
    partitions = np.array([p for p, _ in records], np.int32)
    offsets = np.array([o for _, o in records], np.int64)
    mask, ends = at.fresh(partitions, offsets)
    kept = records if mask is None else [r for r, keep in zip(records, mask, strict=True) if keep]
    return list(kept), ends


def test_rising_records_of_our_partitions_are_all_new_without_a_mask() -> None:
    at = positions(p0=5, p3=0)
    mask, ends = at.fresh(np.array([3, 0, 0, 3], np.int32), np.array([2, 5, 9, 7], np.int64))
    assert mask is None
    assert ends == {0: 10, 3: 8}


def test_records_handed_over_before_are_dropped() -> None:
    kept, ends = fresh(positions(p0=5), (0, 3), (0, 4), (0, 5), (0, 6))
    assert kept == [(0, 5), (0, 6)]
    assert ends == {0: 7}


def test_a_rewind_inside_a_batch_is_dropped() -> None:
    kept, ends = fresh(positions(p0=0, p1=0), (0, 0), (1, 4), (0, 1), (0, 0), (0, 1), (0, 2))
    assert kept == [(0, 0), (1, 4), (0, 1), (0, 2)]
    assert ends == {0: 3, 1: 5}


@pytest.mark.parametrize("foreign", [1, 7, -1])
def test_records_of_partitions_that_are_not_ours_are_dropped(foreign: int) -> None:
    kept, ends = fresh(positions(p0=0, p2=0), (foreign, 8), (0, 0))
    assert kept == [(0, 0)]
    assert ends == {0: 1}


def test_ranges_start_where_the_one_before_ended_whatever_the_first_offset() -> None:
    at = positions(p0=5)
    first = at.passed({0: 9})
    at.move(first)
    assert first == {tp(0): OffsetRange(5, 9)}
    assert at.passed({0: 9}) == {}
    assert at.passed({0: 20}) == {tp(0): OffsetRange(9, 20)}


def test_positions_never_go_back() -> None:
    at = positions(p0=5)
    assert at.passed({0: 3}) == {}
    assert at.offsets() == {tp(0): 5}


def test_added_partitions_leave_the_others_where_they_are() -> None:
    at = positions(p0=5)
    at.add({tp(9): 0})
    assert at.offsets() == {tp(0): 5, tp(9): 0}
    assert tp(9) in at
    assert tp(4) not in at
    assert at.expected(4) == -1


records = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=30)


@given(starts=st.dictionaries(st.integers(0, 3), st.integers(0, 12), min_size=1), batch=records)
def test_the_array_code_agrees_with_the_rule_taken_record_by_record(
    starts: dict[int, int], batch: list[tuple[int, int]]
) -> None:
    at = Positions("t")
    at.reset({tp(n): start for n, start in starts.items()})
    expected, due = dict(starts), []
    for partition, offset in batch:
        if partition in expected and offset >= expected[partition]:
            due.append((partition, offset))
            expected[partition] = offset + 1
    kept, ends = fresh(at, *batch)
    assert kept == due
    assert {**starts, **ends} == expected
