"""What became of missing positions, against a log of which all is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.types import OffsetRange, RawBatch
from k2i_tasks.verification import gaps
from k2i_tasks.verification.gaps import explain
from k2i_tasks.verification.pages import Ints, joined

END = 60
POSITIONS = st.sets(st.integers(0, END - 1))


class Log:
    """One partition 0 that holds records at `records`, `step` positions a poll."""

    def __init__(self, records: set[int], step: int) -> None:
        self._records = records
        self._step = step
        self._end = 0
        self.reached: dict[int, int] = {}
        self.lows: dict[int, int] = {}
        self.read: list[OffsetRange] = []

    @property
    def busy(self) -> bool:
        return any(at < self._end for at in self.reached.values())

    def begin(self, spans: Mapping[int, OffsetRange]) -> None:
        self.read.append(spans[0])
        self.reached, self._end = {0: spans[0].start}, spans[0].end

    def poll(self) -> RawBatch | None:
        at = self.reached[0]
        end = self.reached[0] = min(self._end, at + self._step)
        found = np.array(sorted(o for o in self._records if at <= o < end), np.int64)
        if not len(found):
            return None
        zeros = np.zeros(len(found), np.int32)
        nothing = [None] * len(found)
        return RawBatch("t", zeros, found, found, nothing, nothing, None, {}, 0)


def missing_of(positions: set[int]) -> Ints:
    single = np.array([[o, o + 1] for o in sorted(positions)], np.int64).reshape(-1, 2)
    return joined(single)


@given(
    POSITIONS.filter(bool),
    POSITIONS,
    st.integers(0, END),
    st.lists(st.tuples(st.integers(0, END), st.integers(0, END)), max_size=2),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_every_missing_position_is_one_of_explained_accepted_lost_gone(
    missing: set[int],
    records: set[int],
    low: int,
    pairs: list[tuple[int, int]],
    step: int,
    join: int,
) -> None:
    accepted = [OffsetRange(min(pair), max(pair)) for pair in pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaps, "JOIN_POSITIONS", join)
        log = Log({o for o in records if o >= low}, step)
        passed: list[int] = []
        found = explain(
            {0: missing_of(missing)},
            {0: low},
            {0: accepted},
            log,
            seconds_max=0,
            on_read=passed.append,
        )[0]
    there = {o for o in missing if o >= low}
    below = missing - there
    known = {o for o in below if any(span.start <= o < span.end for span in accepted)}
    assert found.lost == len(there & records)
    assert found.explained == len(there - records)
    assert found.accepted == len(known)
    assert found.gone == len(below - known)
    assert found.unread == 0
    assert {o for span in found.lost_at for o in range(span.start, span.end)} <= there & records
    assert {o for span in found.gone_at for o in range(span.start, span.end)} <= below - known
    assert sum(passed) == sum(span.end - span.start for span in log.read)
    assert all(a.end < b.start for a, b in zip(log.read, log.read[1:], strict=False))


def test_what_there_was_no_time_for_is_told_as_unread_and_never_as_explained() -> None:
    class Slow(Log):
        def poll(self) -> RawBatch | None:
            return None  # nothing comes

    positions = set(range(10, 30))
    log = Slow(positions, 1)
    found = explain({0: missing_of(positions)}, {0: 0}, {}, log, seconds_max=0.01)[0]
    assert (found.unread, found.explained, found.lost) == (20, 0, 0)
