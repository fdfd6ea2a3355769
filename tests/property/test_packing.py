"""Joining small files: what each list is, and that it comes to rest."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.iceberg.maintenance.packing import pack

TARGET = 1000
SIZES = st.lists(st.integers(1, TARGET + 200), max_size=120)
MIN_FILES = st.integers(2, 12)


def packed(sizes: list[int], min_files: int) -> list[list[int]]:
    return pack(sizes, target_bytes=TARGET, min_files=min_files)


@given(SIZES, MIN_FILES)
def test_every_file_is_in_one_list_at_most_and_each_list_is_worth_it(
    sizes: list[int], min_files: int
) -> None:
    lists = packed(sizes, min_files)
    members = [position for each in lists for position in each]
    assert len(members) == len(set(members))
    assert set(members) <= set(range(len(sizes)))
    for each in lists:
        total, largest = (what(sizes[position] for position in each) for what in (sum, max))
        assert len(each) >= 2
        assert each == sorted(each), "the order of age"
        assert total <= TARGET
        assert len(each) >= min_files or total >= TARGET * 3 / 4
        assert total - largest >= largest / 3, "a large file is rewritten for a little"


def after_joining(sizes: list[int], lists: list[list[int]], share: float) -> list[int]:
    """The sizes as they are then; a joined file stands where its first one stood."""
    first = {each[0]: sum(sizes[position] for position in each) for each in lists}
    gone = {position for each in lists for position in each}
    return [
        max(1, int(first[position] * share)) if position in first else size
        for position, size in enumerate(sizes)
        if position in first or position not in gone
    ]


@given(SIZES, MIN_FILES, st.sampled_from([0.5, 0.9, 1.0, 1.1]))
def test_joining_what_was_joined_comes_to_rest(
    sizes: list[int], min_files: int, share: float
) -> None:
    rounds = 0
    while lists := packed(sizes, min_files):
        fewer = after_joining(sizes, lists, share)
        assert len(fewer) < len(sizes)
        sizes, rounds = fewer, rounds + 1
    assert rounds <= 40


@given(st.lists(st.integers(1, 50), min_size=1, max_size=400), MIN_FILES)
def test_a_byte_is_rewritten_a_few_times_however_often_small_files_come(
    coming: list[int], min_files: int
) -> None:
    sizes: list[int] = []
    rewritten = 0
    for size in coming:
        sizes.append(size)
        lists = packed(sizes, min_files)
        rewritten += sum(sizes[position] for each in lists for position in each)
        sizes = after_joining(sizes, lists, 1.0)
    assert sum(sizes) == sum(coming)
    assert rewritten <= sum(coming) * (math.log(TARGET, 4 / 3) + 1)
    assert len(sizes) <= sum(coming) / TARGET * 4 + min_files * (math.log(TARGET, 4 / 3) + 1)


def test_files_of_one_time_stay_together() -> None:
    assert packed([100] * 30, 5) == [list(range(at, at + 10)) for at in (0, 10, 20)]


def test_few_files_are_left_alone_unless_they_fill_a_target_file() -> None:
    assert packed([100] * 4, 5) == []
    assert packed([100] * 5, 5) == [[0, 1, 2, 3, 4]]
    assert packed([400, 400], 5) == [[0, 1]]
    assert packed([700, 60], 2) == [], "the large one would be rewritten for a little"
    assert packed([700, 10, 10, 10], 2) == [[1, 2, 3]]
