"""The upkeep of a table and of its dead letters: what each job does, one attempt at a time.

Needs no claim and no log: the table is the truth, and what a crash leaves behind is taken away as
orphans later. Used by a lane of the ingest run, by the flow, and by the command line.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from k2i_tasks.errors import K2IError, is_transient
from k2i_tasks.types import Job, Upkept

if TYPE_CHECKING:
    from k2i_tasks.iceberg.maintenance.tables import TableUpkeep

log = logging.getLogger(__name__)


class Maintenance:
    """The jobs of one configuration. One thread at a time, but for `stop`; calls may block.

    Args:
        connect: connects to the catalog, once: gives the table, then its dead letters' table.
            `stopped` is to be asked between two units of work.
    """

    def __init__(self, connect: Callable[[Callable[[], bool]], Sequence[TableUpkeep]]) -> None:
        self._connect = connect
        self._stop = threading.Event()
        #: What the attempts at a job have finished, by table.
        self._done: dict[Job, dict[str, Upkept]] = {}

    @cached_property
    def _tables(self) -> Sequence[TableUpkeep]:
        return self._connect(self._stop.is_set)

    def stop(self) -> None:
        """Has the job that is under way end early, with what it has done. Any thread."""
        self._stop.set()

    def plan(self, job: Job) -> list[Upkept]:
        """What `run` would do on each table that exists; changes nothing.

        Raises:
            K2IError: catalog or store cannot be read.
        """
        return [table.plan(job) for table in self._tables if table.exists()]

    def run(self, job: Job) -> list[Upkept]:
        """One attempt at the job on each table that exists; what it came to.

        A table that it cannot be done on does not keep it from the others. After a passing failure
        the next attempt goes on where this one ended; after another, from the start.

        Raises:
            ServiceError: the job cannot be done on a table, and why.
            TransientError: catalog or store is away.
            CommitStateUnknownError: sent, outcome unknown.
        """
        done = self._done.setdefault(job, {})
        failures: list[K2IError] = []
        for table in self._tables:
            try:
                if table.name not in done and table.exists():
                    done[table.name] = table.run(job)
            except K2IError as error:
                failures.append(error)
        if not failures:
            return list(self._done.pop(job).values())
        found = next(filter(is_transient, failures), failures[0])
        if not is_transient(found):
            self.begin(job)
        for other in failures:
            if other is not found:
                log.warning("%s failed on another table too: %s", job, other)
        raise found

    def begin(self, job: Job) -> None:
        """The next attempt is the first of a new run of the job, on all tables."""
        self._done.pop(job, None)
