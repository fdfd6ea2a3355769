"""Runs of many tables side by side: what becomes of one that fails, and how all are shown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Set
from typing import Any

import pytest

from k2i_tasks import fleet as fleets
from k2i_tasks.calls import InlineTracker, RetryPolicy, Tracker
from k2i_tasks.clock import SystemClock
from k2i_tasks.config.plans import Plan
from k2i_tasks.config.routes import Route
from k2i_tasks.errors import Component, FencedError, K2IError, ServiceError
from k2i_tasks.fleet import Fleet
from k2i_tasks.fleet_status import combined
from k2i_tasks.progress import Progress
from k2i_tasks.serving.health import health_report, not_ready_because, overall_health
from k2i_tasks.status import ComponentHealth, Health, Refusal, RunState, Status
from k2i_tasks.types import TopicPartition
from tests.unit.samples import sample_status
from tests.unit.test_routing import config_of

PATIENCE_SECONDS = 20.0
FAST = RetryPolicy(initial_seconds=0.001, max_wait_seconds=0.002)


class FakeRunner:
    """Stands for one run of a table: goes on until it is drained, or ends with an error."""

    def __init__(self, topic: str, error: Exception | None) -> None:
        self.progress = Progress(topic, f"d.{topic}", 1, SystemClock())
        self.sizes: list[int] = []
        #: Set by a test: the drain is not heard.
        self.stuck = False
        self._error = error
        self._drain = threading.Event()

    def run(self) -> Status:
        if self._error is not None:
            self.progress.state = RunState.FAILED
            raise self._error
        self.progress.state = RunState.RUNNING
        assert self._drain.wait(PATIENCE_SECONDS)
        self.progress.state = RunState.STOPPED
        return self.status()

    def status(self) -> Status:
        return self.progress.status()

    def request_drain(self, _reason: str) -> None:
        if not self.stuck:
            self._drain.set()

    def resize(self, buffer_bytes: int) -> None:
        self.sizes.append(buffer_bytes)


class Rig:
    """A fleet on a thread, with a plan and errors that can be changed meanwhile."""

    def __init__(self, *topics: str) -> None:
        self.topics = list(topics)
        self.refused: dict[str, str] = {}
        #: Topic -> errors of its runs, first to last; then it goes on.
        self.errors: dict[str, list[Exception]] = {}
        self.unplanned: K2IError | None = None
        self.built: dict[str, list[FakeRunner]] = {}
        self.outcome: Status | Exception | None = None
        self.gone: list[str] = []
        self.fleet = Fleet(
            plan=self._plan,
            build=self._build,  # type: ignore[arg-type]
            tracker_factory=lambda _status, _drain: InlineTracker(),
            clock=SystemClock(),
            buffer_bytes_max=1_200,
            discovery_seconds=0.005,
            policy=FAST,
            on_gone=lambda route: self.gone.append(route.topic),
            drain_seconds=0.1,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _plan(self, _running: Set[str]) -> Plan:
        if self.unplanned is not None:
            raise self.unplanned
        config = config_of(topic_pattern=".*")
        return Plan(tuple(Route(topic, config) for topic in self.topics), self.refused)

    def _build(self, route: Route, _tracker: Tracker, size: int, _tables: int) -> FakeRunner:
        errors = self.errors.get(route.topic, [])
        runner = FakeRunner(route.topic, errors.pop(0) if errors else None)
        runner.resize(size)
        self.built.setdefault(route.topic, []).append(runner)
        return runner

    def _run(self) -> None:
        try:
            self.outcome = self.fleet.run()
        except Exception as error:
            self.outcome = error

    def __enter__(self) -> Rig:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.request_drain("the test is over")
        self._thread.join(PATIENCE_SECONDS)

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.001)

    def states(self) -> dict[str, RunState]:
        return {one.topic: one.state for one in self.fleet.status().tables}

    def until_states(self, **wanted: RunState) -> None:
        self.until(lambda: self.states() == wanted)

    def end(self) -> Status | Exception | None:
        self.__exit__()
        return self.outcome


RUNNING, FAILED = RunState.RUNNING, RunState.FAILED


def test_topics_that_come_share_the_buffer_and_those_that_are_gone_are_let_go() -> None:
    with Rig("a") as rig:
        rig.until_states(a=RUNNING)
        rig.topics += ["b", "c"]
        rig.until_states(a=RUNNING, b=RUNNING, c=RUNNING)
        assert rig.built["a"][0].sizes[-1] == rig.built["c"][0].sizes[-1] == 400
        # Gone from Kafka: its run ends, and is not missed.
        rig.topics.remove("b")
        rig.until_states(a=RUNNING, c=RUNNING)
        assert rig.gone == ["b"]
        outcome = rig.end()
    assert isinstance(outcome, Status)
    assert {one.state for one in outcome.tables} == {RunState.STOPPED}


def test_a_run_that_fails_is_tried_again_while_the_others_go_on() -> None:
    rig = Rig("good", "bad")
    error = ServiceError("Away.", component=Component.ICEBERG)
    rig.errors["bad"] = [error, RuntimeError("a bug"), error]
    with rig:
        rig.until_states(good=RUNNING, bad=RUNNING)
        assert len(rig.built["bad"]) == 4
        assert len(rig.built["good"]) == 1
        assert isinstance(rig.end(), Status)


def test_a_run_that_has_failed_at_the_end_is_told_and_stops_no_drain() -> None:
    rig = Rig("good", "bad")
    rig.errors["bad"] = [ServiceError("Away.", component=Component.ICEBERG)] * 10_000
    with rig:
        rig.until(lambda: len(rig.built.get("bad", ())) > 3 and "good" in rig.built)
        outcome = rig.end()
    assert isinstance(outcome, ServiceError)
    assert rig.built["good"][0].progress.state is RunState.STOPPED


def test_the_drain_of_all_has_one_bound_and_names_what_did_not_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fleets, "END_SECONDS", 0.2)
    monkeypatch.setattr(fleets, "TOLD_SECONDS", 0.05)
    with Rig("good", "stuck", "too") as rig:
        rig.until_states(good=RUNNING, stuck=RUNNING, too=RUNNING)
        stuck = [rig.built[name][0] for name in ("stuck", "too")]
        for one in stuck:
            one.stuck = True
        began = time.monotonic()
        outcome = rig.end()
        assert time.monotonic() - began < PATIENCE_SECONDS / 2
        assert isinstance(outcome, K2IError)
        assert "stuck, too did not" in str(outcome)
        assert rig.built["good"][0].progress.state is RunState.STOPPED
        assert "for stuck, too" in caplog.text
        assert rig.fleet.status().state is RunState.FAILED
        for one in stuck:
            one.stuck = False
            one.request_drain("")


def test_a_run_that_fails_for_a_topic_that_is_gone_is_let_go_and_its_share_with_it() -> None:
    rig = Rig("good", "gone")
    rig.errors["gone"] = [ServiceError("No such topic.", component=Component.KAFKA)] * 10_000
    with rig:
        rig.until(lambda: len(rig.built.get("gone", ())) > 3 and "good" in rig.built)
        rig.topics.remove("gone")
        rig.until_states(good=RUNNING)
        rig.until(lambda: rig.built["good"][0].sizes[-1] == 1_200)
        assert isinstance(rig.end(), Status)


def test_a_table_that_another_run_has_taken_is_not_taken_back() -> None:
    rig = Rig("good", "taken")
    rig.errors["taken"] = [FencedError("Another run owns it.")]
    with rig:
        rig.until_states(good=RUNNING, taken=FAILED)
        rig.topics.append("later")
        rig.until_states(good=RUNNING, taken=FAILED, later=RUNNING)
        assert len(rig.built["taken"]) == 1
        assert isinstance(rig.end(), FencedError)


def test_kafka_that_cannot_be_asked_ends_the_start_and_nothing_later() -> None:
    rig = Rig("a")
    rig.unplanned = ServiceError("Nothing answers.", component=Component.KAFKA)
    with rig:
        rig.until(lambda: rig.outcome)
    assert rig.outcome is rig.unplanned
    rig = Rig("a")
    with rig:
        rig.until_states(a=RUNNING)
        rig.unplanned = ServiceError("Nothing answers.", component=Component.KAFKA)
        rig.until(lambda: overall_health(rig.fleet.status()) is Health.DEGRADED)
        assert rig.states() == {"a": RUNNING}
        assert isinstance(rig.end(), Status)


def test_a_topic_without_a_table_is_told_on_the_health_page() -> None:
    rig = Rig("a")
    rig.refused["b"] = "It has no name."
    with rig:
        rig.until_states(a=RUNNING)
        schema = rig.fleet.status().components["schema"]
        assert schema.message == "Topic b is not read: It has no name."
        assert not_ready_because(rig.fleet.status()) == ""


def own() -> Status:
    progress = Progress("", "", 1_000, SystemClock())
    progress.state = RUNNING
    return progress.status()


def table(topic: str, **changes: Any) -> Status:
    return sample_status(topic=topic, table=f"d.{topic}", **changes)


def test_many_tables_are_shown_as_their_sum() -> None:
    first, second = table("a"), table("b")
    both = combined(own(), [first, second], draining=False)
    assert both.records_consumed == 2 * first.records_consumed
    assert (both.topic, both.table) == ("2 topics", "2 tables")
    assert both.buffer_bytes_max == 1_000
    report = health_report(both)
    assert [one["topic"] for one in report["tables"]] == ["a", "b"]
    assert report["tables"][0]["records"] == health_report(first)["records"]
    position = {TopicPartition("b", 0): 5}
    moved = combined(own(), [first, table("b", positions=position)], draining=False)
    assert moved.positions == {**first.positions, **position}
    tp = TopicPartition("a", 0)
    stands = {10: table("a", positions={tp: 10}, committed={tp: 9}, lag={tp: 0})}
    stands[4] = table("a", positions={tp: 4}, committed={tp: 2}, lag={tp: 6})
    for tables in ([stands[10], stands[4]], [stands[4], stands[10]]):
        shared = combined(own(), tables, draining=False)
        assert (shared.positions, shared.committed, shared.lag) == ({tp: 4}, {tp: 2}, {tp: 6})


@pytest.mark.parametrize(
    ("states", "state", "health", "ready"),
    [
        ([RUNNING, RUNNING], RUNNING, Health.HEALTHY, True),
        ([RUNNING, FAILED], RUNNING, Health.DEGRADED, True),
        ([RunState.STARTING, FAILED], RunState.STARTING, Health.DEGRADED, False),
        ([FAILED, FAILED], FAILED, Health.UNHEALTHY, False),
    ],
)
def test_one_table_that_fails_does_not_make_the_process_unhealthy(
    states: list[RunState], state: RunState, health: Health, ready: bool
) -> None:
    broken = {"schema": ComponentHealth(Health.UNHEALTHY, "It does not fit.")}
    well = {"schema": ComponentHealth(Health.HEALTHY)}
    tables = [
        table(f"t{n}", state=one, components=broken if one is FAILED else well)
        for n, one in enumerate(states)
    ]
    both = combined(own(), tables, draining=False)
    assert both.state is state
    assert overall_health(both) is health
    assert bool(not_ready_because(both)) is not ready
    if FAILED in states:
        name = f"t{states.index(FAILED)}"
        assert both.components["schema"].message == f"{name}: It does not fit."
    assert combined(own(), tables[:1], draining=True).state is RunState.DRAINING


def test_dead_letters_of_many_tables_are_counted_by_kind() -> None:
    def refusal(letters: int, at: float, place: str, code: str = "json.syntax") -> Refusal:
        return Refusal("decode", code, letters, at - 5, at, place, f"reason of {place}")

    shown = combined(
        own(),
        [
            table("a", refusals=(refusal(3, 20.0, "a/0/1"),)),
            table(
                "b", refusals=(refusal(1, 9.0, "b/0/2", "json.empty"), refusal(4, 10.0, "b/0/1"))
            ),
        ],
        draining=False,
    )
    syntax, empty = shown.refusals
    assert (syntax.letters, syntax.first_at, syntax.last_at) == (7, 5.0, 20.0)
    assert (syntax.place, syntax.reason) == ("a/0/1", "reason of a/0/1")
    assert (empty.letters, empty.code) == (1, "json.empty")
