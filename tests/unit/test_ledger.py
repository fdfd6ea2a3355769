"""The offset ledger accepts contiguous progress and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.engine.ledger import Ledger
from k2i_tasks.errors import IntegrityError
from k2i_tasks.types import OffsetRange, TopicPartition

P0 = TopicPartition("t", 0)
P1 = TopicPartition("t", 1)


def test_a_batch_covers_what_arrived_since_the_last_seal() -> None:
    ledger = Ledger({P0: 10, P1: 0})
    ledger.extend({P0: OffsetRange(10, 15)})
    ledger.extend({P0: OffsetRange(15, 20), P1: OffsetRange(0, 3)})
    assert ledger.seal("a") == {P0: OffsetRange(10, 20), P1: OffsetRange(0, 3)}
    ledger.extend({P1: OffsetRange(3, 9)})
    assert ledger.seal("b") == {P1: OffsetRange(3, 9)}
    ledger.commit("a")
    assert ledger.committed == {P0: 20, P1: 3}
    ledger.commit("b")
    assert ledger.committed == {P0: 20, P1: 9}


@pytest.mark.parametrize("span", [OffsetRange(9, 12), OffsetRange(11, 12)])
def test_an_overlap_or_a_gap_is_refused_and_changes_nothing(span: OffsetRange) -> None:
    ledger = Ledger({P0: 10, P1: 0})
    with pytest.raises(IntegrityError, match="stands at 10"):
        ledger.extend({P1: OffsetRange(0, 5), P0: span})
    assert ledger.buffered == {P0: 10, P1: 0}


def test_an_unassigned_partition_is_refused() -> None:
    with pytest.raises(IntegrityError, match="not assigned"):
        Ledger({P0: 0}).extend({P1: OffsetRange(0, 1)})


def test_batches_commit_in_the_order_they_were_sealed() -> None:
    ledger = Ledger({P0: 0})
    ledger.extend({P0: OffsetRange(0, 1)})
    ledger.seal("a")
    ledger.extend({P0: OffsetRange(1, 2)})
    ledger.seal("b")
    with pytest.raises(IntegrityError, match="out of order"):
        ledger.commit("b")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50), st.booleans()), max_size=60))
def test_every_position_is_in_exactly_one_batch(steps: list[tuple[int, int, bool]]) -> None:
    parts = [TopicPartition("t", p) for p in range(3)]
    ledger = Ledger(dict.fromkeys(parts, 0))
    covered: dict[TopicPartition, list[int]] = {tp: [] for tp in parts}
    for number, (p, length, seals) in enumerate(steps):
        start = ledger.buffered[parts[p]]
        ledger.extend({parts[p]: OffsetRange(start, start + length)})
        if seals:
            for tp, span in ledger.seal(str(number)).items():
                covered[tp].extend(range(span.start, span.end))
    for tp, span in ledger.seal("last").items():
        covered[tp].extend(range(span.start, span.end))
    for tp in parts:
        assert covered[tp] == list(range(ledger.buffered[tp]))
