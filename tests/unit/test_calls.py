"""What a call does when another writer was first."""

from __future__ import annotations

import pytest

from k2i_tasks.calls import (
    RACE_WAIT_SECONDS,
    RACE_WAIT_SECONDS_MAX,
    RACES_MAX,
    Call,
    InlineTracker,
    RetryPolicy,
    racing,
)
from k2i_tasks.errors import CommitConflictError, TransientError

#: One try and no more.
ONCE = RetryPolicy(budget_seconds=0.0)


class Table:
    """A table whose head others move while a commit of ours is on its way, so many times."""

    def __init__(self, rivals: int) -> None:
        self.rivals = rivals
        self.landed = 0

    def commit(self) -> None:
        if self.rivals:
            self.rivals -= 1
            raise CommitConflictError("the head moved")
        self.landed += 1


class Waits:
    """Waits that are noted instead of waited; a stop is asked for in the one of that number."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seconds: list[float] = []
        self._stop_at = stop_at

    def __call__(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        return len(self.seconds) == self._stop_at


def test_one_who_loses_many_races_lands_within_one_try_and_never_waits_long() -> None:
    table, waits = Table(RACES_MAX), Waits()
    call = Call("commit", "commit", racing("commit", table.commit, waits), ONCE)
    InlineTracker().run(call)
    assert (call.error, call.attempts, table.landed) == (None, 1, 1)
    assert len(waits.seconds) == RACES_MAX
    assert 0 < min(waits.seconds) < max(waits.seconds) <= RACE_WAIT_SECONDS_MAX
    # One rival is no reason to wait for long: a commit's latency is at stake.
    assert waits.seconds[0] <= RACE_WAIT_SECONDS < max(waits.seconds[5:])


def test_one_who_loses_each_race_fails_as_the_retry_policy_knows_it() -> None:
    table = Table(2 * RACES_MAX)
    with pytest.raises(CommitConflictError):
        racing("commit", table.commit, Waits())()
    assert table.rivals == RACES_MAX - 1


def test_a_stop_ends_a_race_between_two_commits() -> None:
    table = Table(RACES_MAX)
    with pytest.raises(CommitConflictError):
        racing("commit", table.commit, Waits(stop_at=3))()
    assert (table.rivals, table.landed) == (RACES_MAX - 3, 0)


def test_an_outage_is_not_a_race() -> None:
    waits = Waits()

    def away() -> None:
        raise TransientError("no answer")

    with pytest.raises(TransientError):
        racing("commit", away, waits)()
    assert waits.seconds == []
