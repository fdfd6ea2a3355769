"""What a flow run offers to calls: a place to be shown in."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from k2i_tasks.tracking.performance import Link, Performance


@dataclass(slots=True)
class Seat:
    """One flow run that calls are shown in, from the moment it is attached until it is left.

    Args:
        number: 1 for the first of this process.
        flow_run_id: the run.
        context: a copy of the flow run's context; entered by copy, so by many threads at once.
        perform: runs one call as a task of that run; raises whatever Prefect raises.
        verdict: set by the observer: "cancelled", or "ended" when somebody else ended the run.
    """

    number: int
    flow_run_id: UUID
    context: contextvars.Context
    perform: Callable[[Performance, Link | None], None]
    attached_at: float = field(default_factory=time.monotonic)
    verdict: str | None = None
    task_runs: int = 0
    _inside: int = 0
    _cond: threading.Condition = field(default_factory=threading.Condition)

    def show(self, performance: Performance, after: Link | None) -> None:
        """Offers one call to Prefect, on this thread. May block as long as Prefect does.

        Raises: whatever Prefect raises; `performance` knows how far it came.
        """
        with self._cond:
            self._inside += 1
            self.task_runs += 1
        linked = after if after is not None and after.flow_run_id == self.flow_run_id else None
        try:
            self.context.copy().run(self.perform, performance, linked)
        finally:
            performance.leave()
            with self._cond:
                self._inside -= 1
                self._cond.notify_all()

    def wait_until_empty(self, timeout_seconds: float) -> bool:
        """Whether every call shown here has ended in time. May block."""
        with self._cond:
            return self._cond.wait_for(lambda: self._inside == 0, timeout_seconds)
