"""Upkeep within a run: one job at a time, retried, told of, stopped, and never the end of a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from k2i_tasks.calls import InlineTracker, RetryPolicy
from k2i_tasks.clock import SystemClock
from k2i_tasks.engine.schedule import Schedule
from k2i_tasks.errors import CommitStateUnknownError, Component, ServiceError, TransientError
from k2i_tasks.maintenance import Maintenance
from k2i_tasks.metrics import Metrics
from k2i_tasks.progress import Progress
from k2i_tasks.types import Job, TopicPartition, Upkept
from k2i_tasks.upkeep import Upkeep

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)
WAIT_SECONDS = 30.0


class Table:
    """A table whose jobs do what the script says, in turn."""

    def __init__(self, name: str, *script: Exception | int) -> None:
        self.name = name
        self.there = True
        self.script = list(script)
        self.tries = 0

    def exists(self) -> bool:
        return self.there

    def run(self, job: Job) -> Upkept:
        self.tries += 1
        step = self.script.pop(0) if self.script else 0
        if isinstance(step, Exception):
            raise step
        return Upkept(self.name, {"files": step})

    def plan(self, job: Job) -> Upkept:
        return Upkept(self.name, {"files": len(self.script)})


def maintenance_of(*tables: Any) -> Maintenance:
    return Maintenance(lambda _stopped: tables)


def test_an_attempt_that_failed_half_way_goes_on_where_it_ended() -> None:
    rows, letters = Table("db.t", 3), Table("db.l", TransientError("away"), 4)
    found = maintenance_of(rows, letters)
    with pytest.raises(TransientError):
        found.run(Job.COMPACT)
    assert [each.figures for each in found.run(Job.COMPACT)] == [{"files": 3}, {"files": 4}]
    assert (rows.tries, letters.tries) == (1, 2)
    found.run(Job.COMPACT)
    assert (rows.tries, letters.tries) == (2, 3)


@pytest.mark.parametrize("first", [True, False])
def test_a_table_that_a_job_cannot_be_done_on_keeps_it_from_no_other(first: bool) -> None:
    bad = Table("db.bad", *(ServiceError("it has equality deletes") for _ in range(3)))
    good = Table("db.good")
    found = maintenance_of(*((bad, good) if first else (good, bad)))
    for turn in range(1, 4):
        with pytest.raises(ServiceError):
            found.run(Job.COMPACT)
        assert (bad.tries, good.tries) == (turn, turn)


def test_what_passes_is_tried_again_whatever_else_cannot_be_done() -> None:
    bad = Table("db.bad", *(ServiceError("no right") for _ in range(3)))
    away = Table("db.away", TransientError("away"))
    found = maintenance_of(bad, away)
    with pytest.raises(TransientError):
        found.run(Job.COMPACT)
    with pytest.raises(ServiceError):
        found.run(Job.COMPACT)
    assert away.tries == 2


def test_a_table_that_is_not_there_yet_is_left_out() -> None:
    rows, letters = Table("db.t", 3), Table("db.l", 4)
    letters.there = False
    found = maintenance_of(rows, letters)
    assert [each.table for each in found.run(Job.EXPIRE)] == ["db.t"]
    assert [each.table for each in found.plan(Job.EXPIRE)] == ["db.t"]
    assert letters.tries == 0


class Rig:
    """Upkeep over one table or more, with a job that is always due."""

    def __init__(self, *tables: Any, budget_seconds: float = 30.0) -> None:
        self.progress = Progress("t", "db.t", 1, SystemClock())
        self.metrics = Metrics()
        self.stopped: list[Callable[[], bool]] = []
        policy = RetryPolicy(initial_seconds=0.001, budget_seconds=budget_seconds)

        def connect(stopped: Callable[[], bool]) -> Sequence[Any]:
            self.stopped.append(stopped)
            return tables

        self.upkeep = Upkeep(
            Maintenance(connect),
            Schedule({Job.COMPACT: 1e-9}, commits_max=1, now=0.0),
            InlineTracker(),
            self.metrics,
            self.progress,
            policy,
            SystemClock(),
        )

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def until(self, done: Callable[[], bool]) -> None:
        """Ticks as the runner does."""
        waiting, deadline = threading.Event(), SystemClock().monotonic() + WAIT_SECONDS
        while not done():
            assert SystemClock().monotonic() < deadline
            self.upkeep.tick()
            waiting.wait(0.001)

    def runs(self, outcome: str) -> float:
        return self.metric("k2i_maintenance_runs_total", job="compact", outcome=outcome)


def test_a_job_is_tried_again_over_passing_faults_and_counted() -> None:
    table = Table("db.t", TransientError("away"), CommitStateUnknownError("lost"), 7)
    rig = Rig(table)
    rig.upkeep.begin([P0, P1])
    rig.until(lambda: rig.runs("ok") >= 1)
    assert rig.metric("k2i_maintenance_done_total", job="compact", figure="files") == 7
    assert rig.runs("failed") == 0
    rig.upkeep.close(WAIT_SECONDS)


def test_a_job_that_fails_for_good_is_told_of_and_does_not_end_anything() -> None:
    refused = ServiceError("no right to delete", component=Component.STORAGE)
    rig = Rig(Table("db.t", refused))
    rig.upkeep.begin([P0])
    rig.until(lambda: rig.runs("failed") >= 1)
    (note,) = rig.progress.status().last_errors
    assert note.component == "storage"
    assert note.message == "compact db.t: no right to delete"
    rig.until(lambda: rig.runs("ok") >= 1)
    rig.upkeep.close(WAIT_SECONDS)


def test_only_who_reads_the_first_partition_does_the_upkeep() -> None:
    table = Table("db.t")
    rig = Rig(table)
    rig.upkeep.begin([P1])
    for _ in range(3):
        rig.upkeep.tick()
    rig.upkeep.close(WAIT_SECONDS)
    assert table.tries == 0
    rig.upkeep.tick()
    assert table.tries == 0


def test_a_drain_ends_the_job_under_way_and_begins_no_other() -> None:
    rig: Rig

    class Slow(Table):
        begun = threading.Event()

        def run(self, job: Job) -> Upkept:
            self.begun.set()
            stopped = rig.stopped[0]
            waiting = threading.Event()
            while not stopped():
                waiting.wait(0.001)
            return super().run(job)

    table = Slow("db.t")
    rig = Rig(table)
    rig.upkeep.begin([P0])
    rig.upkeep.tick()
    assert table.begun.wait(WAIT_SECONDS)
    rig.upkeep.stop()
    rig.until(lambda: rig.runs("ok") == 1)
    rig.upkeep.tick()
    rig.upkeep.close(WAIT_SECONDS)
    assert table.tries == 1


def test_a_table_that_never_comes_to_its_end_does_not_keep_the_other_from_later_runs() -> None:
    good = Table("db.t")
    bad = Table("db.l", *(TransientError("a file is damaged") for _ in range(1000)))
    rig = Rig(good, bad, budget_seconds=0.0)
    rig.upkeep.begin([P0])
    rig.until(lambda: rig.runs("failed") >= 3)
    rig.upkeep.close(WAIT_SECONDS)
    assert good.tries >= 3


def test_a_job_that_ends_with_the_run_is_counted() -> None:
    rig = Rig(Table("db.t", 7))
    rig.upkeep.begin([P0])
    rig.upkeep.tick()
    rig.upkeep.close(WAIT_SECONDS)
    assert rig.metric("k2i_maintenance_done_total", job="compact", figure="files") == 7
