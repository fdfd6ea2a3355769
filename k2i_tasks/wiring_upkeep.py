"""Builds what does the table's upkeep: for an ingest run, and for jobs outside of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from k2i_tasks import secrets
from k2i_tasks.calls import RetryPolicy, Tracker
from k2i_tasks.clock import Clock, SystemClock
from k2i_tasks.config import Config
from k2i_tasks.engine.schedule import Schedule
from k2i_tasks.iceberg.catalog import guard_commits, open_catalog
from k2i_tasks.maintenance import Maintenance
from k2i_tasks.ports import Meter
from k2i_tasks.progress import Progress
from k2i_tasks.types import Job
from k2i_tasks.upkeep import Upkeep, UpkeepFactory

if TYPE_CHECKING:
    from k2i_tasks.iceberg.maintenance.tables import TableUpkeep

#: Time after which a passing fault ends a job: the next run of it is soon enough.
RETRY_SECONDS = 300.0


def upkeep_of(
    config: Config,
    resolved: Mapping[str, str],
    lane: AbstractContextManager[Any],
    meter: Meter,
    clock: Clock,
) -> UpkeepFactory:
    """Makes what does the upkeep of an ingest run.

    Args:
        config: the whole configuration.
        resolved: plain secrets by the dotted name of their key.
        lane: held while a commit of this process is built and sent.
        meter: told how each job went.
        clock: time.
    """

    def upkeep(tracker: Tracker, progress: Progress) -> Upkeep:
        budget_seconds = min(RETRY_SECONDS, config.run.retry_budget_seconds)
        return Upkeep(
            _maintenance(config, resolved, lane, clock),
            _schedule(config, clock.monotonic()),
            tracker,
            meter,
            progress,
            RetryPolicy(budget_seconds=budget_seconds),
            clock,
        )

    return upkeep


def possible_jobs(config: Config) -> list[Job]:
    """The jobs that can be done on the configured catalog."""
    # Only Nessie's own GC knows what other branches need.
    return [Job.COMPACT] if config.iceberg.catalog_type == "nessie" else list(Job)


def wanted_jobs(config: Config) -> dict[Job, float]:
    """The jobs that the configuration enables and that can be done, and seconds between two."""
    upkeep = config.maintenance
    every = {
        Job.COMPACT: (upkeep.compaction_enabled, upkeep.compaction_interval_seconds),
        Job.EXPIRE: (
            upkeep.snapshot_expiration_enabled,
            upkeep.snapshot_expiration_interval_seconds,
        ),
        Job.ORPHANS: (upkeep.orphan_cleanup_enabled, upkeep.orphan_cleanup_interval_seconds),
    }
    return {job: float(every[job][1]) for job in possible_jobs(config) if every[job][0]}


def _schedule(config: Config, now: float) -> Schedule:
    """What of the upkeep an ingest run does, and how often."""
    upkeep = config.maintenance
    wanted = wanted_jobs(config) if upkeep.in_run else {}
    return Schedule(wanted, commits_max=upkeep.snapshots_kept, now=now)


def build_maintenance(config: Config, clock: Clock | None = None) -> Maintenance:
    """What does the jobs on the configured table, outside of an ingest run. Reaches no service yet.

    Args:
        config: the whole configuration.
        clock: time; the machine's when None.

    Raises:
        ConfigError: a secret cannot be read.
    """
    return _maintenance(config, secrets.opened(config), nullcontext(), clock or SystemClock())


def _maintenance(
    config: Config, resolved: Mapping[str, str], lane: AbstractContextManager[Any], clock: Clock
) -> Maintenance:
    """A catalog of its own: the jobs run on a thread of their own."""
    iceberg = config.iceberg

    def connect(stopped: Callable[[], bool]) -> list[TableUpkeep]:
        # The first job comes a minute after a start, which does not wait for this.
        from k2i_tasks.iceberg.maintenance.tables import TableUpkeep

        tables = (
            (iceberg.identifier, iceberg.branch),
            (iceberg.dead_letter_identifier, "main"),
        )
        catalog = guard_commits(open_catalog(iceberg, resolved))
        return [
            TableUpkeep(
                catalog,
                name,
                branch=branch,
                config=config,
                lane=lane,
                stopping=stopped,
                clock=clock,
            )
            for name, branch in tables
        ]

    return Maintenance(connect)
