"""Whatever the topic, the windows lie in it, do not overlap, and have both ends among them."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.types import OffsetRange
from k2i_tasks.verification.sampling import WINDOW_POSITIONS, sample_rounds

SPANS = st.dictionaries(
    st.integers(0, 20),
    st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)).map(
        lambda pair: OffsetRange(pair[0], sum(pair))
    ),
    max_size=8,
)


@given(SPANS, st.integers(1, 5000), st.integers())
def test_windows_lie_in_the_spans_apart_from_each_other_with_both_ends(
    spans: dict[int, OffsetRange], rows: int, seed: int
) -> None:
    rounds = sample_rounds(spans, rows, seed)
    total = 0
    for number, span in spans.items():
        mine = [turn[number] for turn in rounds if number in turn]
        assert all(window.end > window.start for window in mine)
        assert all(a.end <= b.start for a, b in itertools.pairwise(mine))
        if span.end == span.start:
            assert not mine
            continue
        assert (mine[0].start, mine[-1].end) == (span.start, span.end)
        total += sum(window.end - window.start for window in mine)
    least = 2 * len([s for s in spans.values() if s.end > s.start])
    assert total <= max(rows, least)
    assert rounds == sample_rounds(spans, rows, seed)


def test_about_as_many_rows_as_asked_for_are_chosen_and_another_seed_chooses_others() -> None:
    spans = {number: OffsetRange(5, 1_000_005) for number in range(4)}
    rounds = sample_rounds(spans, 10_000, 1)
    assert sum(w.end - w.start for turn in rounds for w in turn.values()) == 10_000
    assert len(rounds) == 10_000 // (4 * WINDOW_POSITIONS)
    assert rounds != sample_rounds(spans, 10_000, 2)


def test_a_small_topic_is_taken_whole() -> None:
    spans = {0: OffsetRange(3, 50), 1: OffsetRange(0, 0)}
    assert sample_rounds(spans, 100, 7) == [{0: OffsetRange(3, 50)}]
