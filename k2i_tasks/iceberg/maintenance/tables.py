"""The jobs on one table, built from the configuration; each keeps what its attempts have done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol

from pyiceberg.catalog import Catalog

from k2i_tasks.clock import Clock
from k2i_tasks.config import Config
from k2i_tasks.errors import CommitStateUnknownError, Component, ServiceError, TransientError
from k2i_tasks.iceberg.catalog import find_table
from k2i_tasks.iceberg.maintenance.compaction import Compaction, CompactionOptions, Group
from k2i_tasks.iceberg.maintenance.expiry import Expiry
from k2i_tasks.iceberg.maintenance.orphans import OrphanRemoval
from k2i_tasks.iceberg.maintenance.retention import Rules
from k2i_tasks.types import Job, Upkept


class _Worker(Protocol):
    """One job on one table."""

    def plan(self) -> Any: ...
    def run(self) -> Any: ...


class TableUpkeep:
    """Does the jobs on one table. One thread at a time; calls may block.

    Args:
        catalog: guarded; used by this object's thread only.
        identifier: namespace and table name.
        branch: branch whose files are compacted.
        config: the whole configuration.
        lane: held while a commit is built and sent.
        stopping: whether to end early.
        clock: time.
    """

    def __init__(
        self,
        catalog: Catalog,
        identifier: tuple[str, ...],
        *,
        branch: str,
        config: Config,
        lane: AbstractContextManager[Any],
        stopping: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._identifier = identifier
        self._branch = branch
        self._config = config
        self._lane = lane
        self._stopping = stopping
        self._clock = clock
        self._workers: dict[Job, _Worker] = {}

    @property
    def name(self) -> str:
        return ".".join(self._identifier)

    def exists(self) -> bool:
        """Whether there is such a table now."""
        return find_table(self._catalog, self._identifier) is not None

    def plan(self, job: Job) -> Upkept:
        """What `run` would do; changes nothing."""
        if job is Job.COMPACT:
            return Upkept(self.name, _planned(self._compaction().plan()))
        return Upkept(self.name, _figures(self._made(job).plan()))

    def run(self, job: Job) -> Upkept:
        """One attempt; after a transient failure the next goes on where it ended.

        Raises:
            ServiceError: the job cannot be done on this table, and why.
            TransientError: catalog or store is away.
            CommitStateUnknownError: sent, outcome unknown.
        """
        if job not in self._workers:
            self._workers[job] = self._made(job)
        try:
            done = Upkept(self.name, _figures(self._workers[job].run()))
        except (TransientError, CommitStateUnknownError):
            raise
        except BaseException:
            self._over(job)
            raise
        self._over(job)
        return done

    def _over(self, job: Job) -> None:
        """The next run of `job` begins anew; only expiry knows of files that are to go later."""
        if job is not Job.EXPIRE:
            del self._workers[job]

    def _made(self, job: Job) -> _Worker:
        if job is Job.COMPACT:
            return self._compaction()
        if self._config.iceberg.catalog_type == "nessie":
            raise ServiceError(
                f"{job} cannot be done on Nessie: other branches may need the files of "
                f"{self.name}, and a client does not see them.",
                component=Component.ICEBERG,
                remedy="Use Nessie's own garbage collector.",
            )
        return self._expiry() if job is Job.EXPIRE else self._orphans()

    def _compaction(self) -> Compaction:
        upkeep = self._config.maintenance
        options = CompactionOptions(
            small_bytes=upkeep.compaction_threshold_bytes,
            target_bytes=upkeep.compaction_target_bytes,
            min_files=upkeep.compaction_min_files,
            group_bytes_max=upkeep.compaction_commit_bytes,
            codec=self._config.iceberg.compression,
        )
        return Compaction(
            self._catalog,
            self._identifier,
            branch=self._branch,
            options=options,
            lane=self._lane,
            stopping=self._stopping,
            clock=self._clock,
        )

    def _expiry(self) -> Expiry:
        upkeep = self._config.maintenance
        rules = Rules(
            retention_seconds=upkeep.snapshot_retention_seconds,
            keep_newest=upkeep.snapshots_kept,
            keep_history=upkeep.snapshot_history_kept,
        )
        return Expiry(
            self._catalog,
            self._identifier,
            rules=rules,
            lane=self._lane,
            stopping=self._stopping,
            clock=self._clock,
            grace_seconds=upkeep.snapshot_grace_seconds,
        )

    def _orphans(self) -> OrphanRemoval:
        return OrphanRemoval(
            self._catalog,
            self._identifier,
            older_than_seconds=self._config.maintenance.orphan_age_seconds,
            stopping=self._stopping,
            clock=self._clock,
        )


def _planned(groups: Sequence[Group]) -> dict[str, int]:
    """Figures of a compaction that was not done."""
    joins = [join for group in groups for join in group.joins]
    return {
        "files_before": sum(len(join.sources) for join in joins),
        "files_after": len(joins),
        "bytes_before": sum(join.size_bytes for join in joins),
        "commits": len(groups),
    }


def _figures(result: Any) -> dict[str, int]:
    return {name: value for name, value in asdict(result).items() if type(value) is int}
