"""Exactly one of Prefect and the lane runs a call, whatever Prefect does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.errors import IntegrityError, TransientError
from k2i_tasks.tracking.performance import Performance, Phase, delays_seconds

POLICY = RetryPolicy(initial_seconds=0.01, max_wait_seconds=0.05, budget_seconds=5.0)
GRACE_SECONDS = 0.1


class Work:
    """Counts tries; fails with the given errors first."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.worked = 0

    def __call__(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.worked += 1


def offered(work: Callable[[], None], stop: threading.Event | None = None) -> Performance:
    return Performance(Call("flush", "flush 1", work, POLICY, stop=stop), GRACE_SECONDS)


def attempt(performance: Performance) -> BaseException | None:
    try:
        performance.attempt()
    except BaseException as error:
        return error
    return None


def test_a_call_that_prefect_never_begins_runs_inline_once() -> None:
    work = Work()
    performance = offered(work)
    assert not performance.finish()
    assert performance.call.owner == "inline"
    assert not performance.begin(None)
    assert work.worked == 1


def test_a_call_that_prefect_gives_up_unbegun_runs_inline_without_a_wait() -> None:
    performance = Performance(Call("flush", "flush 1", Work(), POLICY), 60.0)
    performance.leave()
    began = time.monotonic()
    assert not performance.finish()
    assert time.monotonic() - began < 5
    assert performance.call.error is None


def test_the_lane_returns_when_the_call_works_though_prefect_has_not_come_back() -> None:
    work = Work()
    performance = offered(work)
    assert performance.begin(None)
    assert attempt(performance) is None
    assert performance.finish()
    assert performance.call.owner == "prefect"
    assert work.worked == 1


def test_the_lane_waits_while_prefect_tries_however_long() -> None:
    release, inside = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        assert release.wait(10)

    performance = offered(slow)
    prefect = threading.Thread(target=lambda: performance.begin(None) and attempt(performance))
    prefect.start()
    assert inside.wait(10)
    threading.Timer(GRACE_SECONDS * 4, release.set).start()
    assert performance.finish()
    prefect.join()
    assert performance.call.attempts == 1


def test_a_retry_that_prefect_does_not_begin_in_time_is_made_by_the_lane_and_only_by_it() -> None:
    work = Work(TransientError("away"))
    performance = offered(work)
    assert performance.begin(None)
    assert isinstance(attempt(performance), TransientError)
    assert performance.may_retry()
    assert not performance.finish()
    assert performance.call.error is None
    assert not performance.begin(None)
    assert work.worked == 1


def test_an_error_that_is_not_transient_is_final_and_not_retried() -> None:
    performance = offered(Work(IntegrityError("bad")))
    performance.begin(None)
    assert isinstance(attempt(performance), IntegrityError)
    assert not performance.may_retry()
    assert performance.finish()
    assert isinstance(performance.call.error, IntegrityError)


def test_a_base_exception_in_the_call_is_final_and_kept() -> None:
    performance = offered(Work(SystemExit(3)))
    performance.begin(None)
    assert isinstance(attempt(performance), SystemExit)
    assert performance.finish()
    assert isinstance(performance.call.error, SystemExit)


def test_the_budget_ends_prefects_retries() -> None:
    policy = RetryPolicy(initial_seconds=0.01, max_wait_seconds=0.01, budget_seconds=0.0)
    performance = Performance(Call("flush", "f", Work(TransientError("x")), policy), GRACE_SECONDS)
    performance.begin(None)
    attempt(performance)
    assert performance.phase is Phase.OVER
    assert not performance.may_retry()


def test_a_stop_between_two_tries_ends_the_call_with_its_last_error() -> None:
    stop = threading.Event()
    work = Work(TransientError("away"))
    performance = Performance(
        Call("commit", "c", work, RetryPolicy(30.0, 30.0, 600.0), stop=stop), GRACE_SECONDS
    )
    performance.begin(None)
    attempt(performance)
    stop.set()
    began = time.monotonic()
    assert not performance.finish()
    assert time.monotonic() - began < 5
    assert isinstance(performance.call.error, TransientError)
    assert not performance.begin(None)
    assert work.worked == 0


@pytest.mark.parametrize("seed", range(20))
def test_prefect_and_the_lane_racing_for_a_call_run_it_once(seed: int) -> None:
    work = Work()
    performance = Performance(Call("flush", "f", work, POLICY), 0.001 * (seed % 3))
    prefect = threading.Thread(target=lambda: performance.begin(None) and attempt(performance))
    prefect.start()
    performance.finish()
    prefect.join()
    assert work.worked == 1


def test_delays_grow_to_the_longest_wait_and_no_further() -> None:
    delays = delays_seconds(RetryPolicy(0.2, 10.0, 600.0))
    assert delays[:3] == [0.2, 0.4, 0.8]
    assert delays[-1] == 10.0
    assert len(delays) <= 50  # as many as Prefect takes
