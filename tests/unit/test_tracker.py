"""The tracker's ways around a Prefect that is late, stuck or raises. No Prefect in here."""

from __future__ import annotations

import contextvars
import logging
import subprocess
import sys
import threading
import time
import uuid

import pytest

from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.companion import Companion, ShowOptions
from k2i_tasks.status import RunState
from k2i_tasks.tracking.performance import Link, Performance
from k2i_tasks.tracking.report import Tally, artifact_key, quantile
from k2i_tasks.tracking.seat import Seat
from k2i_tasks.tracking.tracker import THREADS_MAX, PrefectTracker
from tests.unit.samples import sample_status

POLICY = RetryPolicy(0.01, 0.05, 5.0)


class Engine:
    """Stands in for Prefect's task engine: begins a call when `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.before: BaseException | None = None
        self.afterwards: BaseException | None = None
        self.seen: list[Link | None] = []

    def perform(self, performance: Performance, after: Link | None) -> None:
        self.seen.append(after)
        if self.before is not None:
            raise self.before
        assert self.gate.wait(20)
        if performance.begin(Link(RUN, uuid.uuid4())):
            performance.attempt()
        if self.afterwards is not None:
            raise self.afterwards


RUN = uuid.uuid4()


def attached(engine: Engine, timeout_seconds: float = 0.1) -> tuple[PrefectTracker, Seat]:
    tracker = PrefectTracker(timeout_seconds)
    seat = Seat(1, RUN, contextvars.copy_context(), engine.perform)
    tracker.attach(seat)
    return tracker, seat


def counted(label: str = "flush") -> tuple[Call, list[str]]:
    runs: list[str] = []
    return Call("flush", label, lambda: runs.append(label), POLICY), runs


def test_a_call_is_inline_while_no_flow_run_is_attached() -> None:
    call, runs = counted()
    PrefectTracker(1.0).run(call)
    assert (call.owner, len(runs)) == ("inline", 1)


def test_a_call_goes_to_the_attached_flow_run() -> None:
    engine = Engine()
    engine.gate.set()
    tracker, seat = attached(engine)
    call, runs = counted()
    tracker.run(call)
    assert (call.owner, len(runs), seat.task_runs) == ("prefect", 1, 1)


def test_prefect_that_raises_before_it_begins_costs_nothing() -> None:
    for error in (RuntimeError("engine"), SystemExit(1), KeyboardInterrupt()):
        engine = Engine()
        engine.before = error
        tracker, _ = attached(engine, timeout_seconds=30.0)
        call, runs = counted()
        tracker.run(call)
        assert (call.owner, call.error, len(runs)) == ("inline", None, 1)


def test_prefect_that_raises_after_the_call_worked_changes_nothing() -> None:
    engine = Engine()
    engine.gate.set()
    engine.afterwards = RuntimeError("could not report")
    tracker, _ = attached(engine)
    call, runs = counted()
    tracker.run(call)
    assert (call.owner, call.error, len(runs)) == ("prefect", None, 1)


def test_prefect_that_is_stuck_delays_one_call_and_not_the_next() -> None:
    engine = Engine()
    tracker, _ = attached(engine, timeout_seconds=0.2)
    first, runs = counted()
    tracker.run(first)
    began = time.monotonic()
    for _ in range(50):
        call, _ = counted()
        tracker.run(call)
        assert call.owner == "inline"
    assert time.monotonic() - began < 0.2
    engine.gate.set()
    assert runs == ["flush"]


def test_more_stuck_threads_than_the_pool_has_make_calls_inline() -> None:
    engine = Engine()
    tracker, seat = attached(engine, timeout_seconds=0.01)
    for _ in range(THREADS_MAX + 3):
        tracker.attach(seat)  # forgets that Prefect was late
        call, runs = counted()
        tracker.run(call)
        assert (call.owner, len(runs)) == ("inline", 1)
    assert len(engine.seen) <= THREADS_MAX
    engine.gate.set()
    assert seat.wait_until_empty(10)


def test_an_arrow_is_drawn_within_a_flow_run_only() -> None:
    engine = Engine()
    engine.gate.set()
    tracker, _ = attached(engine)
    flush, _ = counted()
    tracker.run(flush)
    tracker.run(Call("commit", "commit", lambda: None, POLICY, after=flush))
    assert engine.seen[-1] == flush.tracking
    later = Seat(2, uuid.uuid4(), contextvars.copy_context(), engine.perform)
    tracker.attach(later)
    tracker.run(Call("commit", "commit", lambda: None, POLICY, after=flush))
    assert engine.seen[-1] is None


def test_nothing_of_prefect_is_imported_to_make_a_tracker() -> None:
    code = (
        "import sys, k2i_tasks.tracking_choice, k2i_tasks.companion;"
        "sys.exit('prefect' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tally_is_bounded_and_counts_ways() -> None:
    tally = Tally()
    for i in range(5000):
        tally.record("flush", seconds=i, tracked=None if i % 2 else True, attempts=2, failed=False)
    assert len(tally.seconds()["flush"]) == 2000
    assert tally.counts()["tracked"] == tally.counts()["inline"] == 2500
    assert tally.counts()["retries"] == 5000


def test_artifact_keys_hold_what_prefect_allows() -> None:
    assert artifact_key("Demo.Orders_v2") == "k2i-ingest-demo-orders-v2"
    assert len(artifact_key("x" * 1000)) <= 255


def test_quantiles_are_samples() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0], 0.99) == 1.0
    assert quantile([], 0.5) is None


def test_a_run_that_ends_before_prefect_is_ready_says_that_it_is_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    waiting = sample_status(state=RunState.STARTING, first_record_at=None)
    options = ShowOptions("t", "d.t", start_wait_seconds=600.0, api_url="http://127.0.0.1:9/api")
    companion = Companion(options, lambda: waiting, lambda _reason: None)
    companion.start()
    with caplog.at_level(logging.WARNING):
        companion.tracker.close(5.0)
    assert "ended before Prefect was ready" in caplog.text
