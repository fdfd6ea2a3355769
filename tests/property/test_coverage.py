"""Coverage against a dictionary that counts every position, with pages of a few positions."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.verification.coverage import EXAMPLES_MAX, Coverage
from k2i_tasks.verification.pages import Pages, joined

ENDS = {0: 40, 1: 7, 2: 0}
#: Partition 3 is one that the table records nothing of.
RECORDS = st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 45)), max_size=60)
BATCHES = st.lists(st.tuples(st.booleans(), RECORDS), max_size=6)


def ranges_of(positions: list[int]) -> list[list[int]]:
    """Rising positions as ranges `[first, last + 1)`."""
    found: list[list[int]] = []
    for position in positions:
        if found and found[-1][1] == position:
            found[-1][1] += 1
        else:
            found.append([position, position + 1])
    return found


@given(BATCHES, st.integers(1, 9), st.integers(0, 50))
def test_coverage_counts_as_a_dictionary_does(
    batches: list[tuple[bool, list[tuple[int, int]]]], page_positions: int, start: int
) -> None:
    coverage = Coverage(ENDS, page_positions)
    seen: Counter[tuple[int, int]] = Counter()
    rows: Counter[int] = Counter()
    letters: Counter[int] = Counter()
    surplus: Counter[int] = Counter()
    for are_rows, records in batches:
        partitions = np.array([p for p, _ in records], np.int32)
        offsets = np.array([o for _, o in records], np.int64)
        (coverage.add_rows if are_rows else coverage.add_letters)(partitions, offsets)
        for partition, offset in records:
            inside = 0 <= offset < ENDS.get(partition, 0)
            rows[partition] += are_rows
            letters[partition] += inside and not are_rows
            surplus[partition] += are_rows and not inside
            if inside:
                seen[partition, offset] += 1
    for partition, tally in coverage.tallies.items():
        mine = {o: n for (p, o), n in seen.items() if p == partition}
        again = {o for o, n in mine.items() if n > 1}
        assert tally.rows == rows[partition]
        assert tally.letters == letters[partition]
        assert tally.surplus == surplus[partition]
        assert tally.doubled == sum(n - 1 for n in mine.values())
        assert set(tally.doubled_at) <= again
        assert len(tally.doubled_at) == min(len(again), EXAMPLES_MAX)
    for partition, end in ENDS.items():
        taken = {o for p, o in seen if p == partition}
        missing = [o for o in range(start, end) if o not in taken]
        assert coverage.missing(partition, start).tolist() == ranges_of(missing)
        assert coverage.lowest(partition) == min(taken, default=None)
        assert coverage.below(partition, start) == len([o for o in taken if o < start])


@given(
    st.lists(st.integers(0, 199), max_size=80),
    st.integers(1, 16),
    st.integers(1, 3),
)
def test_pages_that_were_put_away_are_the_same_when_they_come_back(
    positions: list[int], page_positions: int, hot_max: int
) -> None:
    pages = Pages(page_positions, hot_max)
    doubled: list[int] = []
    for position in positions:
        doubled += pages.add(np.array([position], np.int64)).tolist()
    assert len(pages) == len(set(positions))
    assert sorted(doubled) == sorted((Counter(positions) - Counter(set(positions))).elements())
    missing = [o for o in range(200) if o not in set(positions)]
    assert pages.missing(0, 200).tolist() == ranges_of(missing)


def test_a_partition_that_is_complete_keeps_no_bits() -> None:
    pages = Pages(1000)
    for first in range(0, 10_000, 500):
        assert not len(pages.add(np.arange(first, first + 500)))
    assert not pages._hot
    assert not pages._cold
    assert pages.missing(0, 10_000).tolist() == []
    assert pages.add(np.array([77], np.int64)).tolist() == [77]


@given(st.lists(st.integers(0, 30), unique=True))
def test_joined_ranges_hold_the_same_positions(positions: list[int]) -> None:
    single = np.array([[o, o + 1] for o in sorted(positions)], np.int64).reshape(-1, 2)
    assert joined(single).tolist() == ranges_of(sorted(positions))
