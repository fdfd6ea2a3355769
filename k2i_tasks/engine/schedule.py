"""Decides which upkeep of the table is due. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from k2i_tasks.types import Job

#: A run is given this long to get going before its first upkeep, in seconds.
FIRST_SECONDS = 60.0
#: A job that failed is tried again after this time, or after its interval where that is shorter.
AGAIN_SECONDS = 300.0


class Schedule:
    """Which job is due, one at a time.

    Args:
        every_seconds: the jobs that are wanted, and the time between two runs of each.
        commits_max: commits after which snapshots are expired ahead of time.
        now: monotonic time in seconds.
    """

    def __init__(self, every_seconds: Mapping[Job, float], *, commits_max: int, now: float) -> None:
        self._every = dict(every_seconds)
        self._commits_max = commits_max
        self._commits = 0
        self._due_at = {
            job: now + min(FIRST_SECONDS, seconds) for job, seconds in self._every.items()
        }

    def committed(self) -> None:
        """The table has one snapshot more."""
        self._commits += 1

    def due(self, now: float) -> Job | None:
        """The job that has waited longest; None when none is due."""
        if self._commits >= self._commits_max and Job.EXPIRE in self._due_at:
            self._due_at[Job.EXPIRE] = min(self._due_at[Job.EXPIRE], now)
        late = {job: at for job, at in self._due_at.items() if at <= now}
        return min(late, key=late.__getitem__) if late else None

    def over(self, job: Job, now: float, *, failed: bool) -> None:
        """`job` has been done, or has failed for good this time."""
        wait = self._every[job]
        self._due_at[job] = now + (min(wait, AGAIN_SECONDS) if failed else wait)
        if job is Job.EXPIRE:
            self._commits = 0
