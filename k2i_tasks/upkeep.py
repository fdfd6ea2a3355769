"""Upkeep within an ingest run: has what is due done on a lane of its own, and says what came of it.

It never holds ingestion up, and its failures never end a run.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from k2i_tasks.calls import Call, Lanes, RetryPolicy, Tracker, figures
from k2i_tasks.clock import Clock
from k2i_tasks.engine.schedule import Schedule
from k2i_tasks.errors import component_of, health_component_of
from k2i_tasks.maintenance import Maintenance
from k2i_tasks.ports import Meter
from k2i_tasks.progress import Progress
from k2i_tasks.types import Job, TopicPartition

log = logging.getLogger(__name__)


class Upkeep:
    """Does what is due, one job at a time. Runner's thread.

    Args:
        maintenance: does the jobs, on the lane's thread.
        schedule: what is due.
        tracker: how a call is run.
        meter, progress: told how each job went.
        policy: when an attempt is followed by another.
        clock: time.
    """

    def __init__(
        self,
        maintenance: Maintenance,
        schedule: Schedule,
        tracker: Tracker,
        meter: Meter,
        progress: Progress,
        policy: RetryPolicy,
        clock: Clock,
    ) -> None:
        self._maintenance = maintenance
        self._schedule = schedule
        self._meter = meter
        self._progress = progress
        self._policy = policy
        self._clock = clock
        self._stop = threading.Event()
        self._over: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._lanes = Lanes(tracker, self._over.put)
        self._under_way: tuple[Job, float] | None = None
        self._leads = False

    def begin(self, partitions: Iterable[TopicPartition]) -> None:
        """This run reads `partitions` now. Of a group, who has the first one does the upkeep."""
        self._leads = any(tp.partition == 0 for tp in partitions)

    def committed(self) -> None:
        """The table has one snapshot more."""
        self._schedule.committed()

    def tick(self) -> None:
        """Takes back a job that is over, and sends the next one off that is due. Does not block."""
        self._take_back()
        if self._under_way is not None:
            return
        now = self._clock.monotonic()
        job = self._schedule.due(now) if self._leads else None
        if job is not None and not self._stop.is_set():
            self._under_way = (job, now)
            self._lanes.submit(self._call(job))

    def stop(self) -> None:
        """Begins no job any more, and has the one under way end early. Idempotent."""
        self._stop.set()
        self._maintenance.stop()

    def close(self, timeout_seconds: float) -> None:
        """Stops, and tells what came of the job that was under way. Blocks for so long at most."""
        self.stop()
        self._lanes.close(timeout_seconds)
        self._take_back()

    def _take_back(self) -> None:
        if self._under_way is None:
            return
        try:
            call = self._over.get_nowait()
        except queue.Empty:
            return
        self._note(call, *self._under_way, self._clock.monotonic())
        self._under_way = None

    def _call(self, job: Job) -> Call:
        summary: dict[str, Any] = {}
        self._maintenance.begin(job)

        def attempt() -> None:
            total: Counter[str] = Counter()
            for done in self._maintenance.run(job):
                total.update(done.figures)
            summary.update(total)

        label = f"{job} {self._progress.table}"
        return Call(job, label, attempt, self._policy, summary=summary, stop=self._stop)

    def _note(self, call: Call, job: Job, began: float, now: float) -> None:
        failed = call.error is not None
        self._schedule.over(job, now, failed=failed)
        self._meter.on_upkeep(job, now - began, {} if failed else call.summary, failed=failed)
        if failed:
            error = call.failure()
            log.warning("%s did not come to its end: %s", call.label, error)
            self._meter.on_error(component_of(error))
            self._progress.note(health_component_of(error), f"{call.label}: {error}")
        else:
            log.info("%s: %s", call.label, figures(call.summary))


#: (tracker, progress) -> what does the upkeep of a run.
UpkeepFactory = Callable[[Tracker, Progress], Upkeep]
