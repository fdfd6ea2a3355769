"""A stand-in for the engine: submits calls to real lanes and counts how often each was run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from k2i_tasks.calls import Call, Lanes, RetryPolicy, Tracker
from k2i_tasks.status import RunState, Status

QUICK = RetryPolicy(initial_seconds=0.05, max_wait_seconds=0.2, budget_seconds=20.0)


def status(**changes: object) -> Status:
    """A status of a run that has begun."""
    base = Status(
        state=RunState.RUNNING,
        started_at=time.time(),
        now=time.time(),
        topic="orders",
        table="demo.orders",
        epoch=1,
        records_consumed=0,
        records_per_second=0.0,
        rows_committed=0,
        snapshots_committed=0,
        dead_letters=0,
        flushes=0,
        positions={},
        committed={},
        lag={},
        buffer_rows=0,
        buffer_bytes=0,
        buffer_bytes_max=1,
        batches_in_flight=0,
        paused=False,
        pauses=0,
        wal_bytes=0,
        first_record_at=time.time(),
        newest_committed_timestamp_ms=None,
        last_commit=None,
        last_errors=(),
        components={},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Returns as soon as `condition` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Rig:
    """Flushes and commits on two lanes.

    Args:
        tracker: how calls are run.
        flaky: label -> errors to raise, first to last, before the call works.
    """

    def __init__(
        self, tracker: Tracker, flaky: dict[str, list[BaseException]] | None = None
    ) -> None:
        self.executed: Counter[str] = Counter()
        self.owners: Counter[str] = Counter()
        self.done: list[Call] = []
        self.waits_seconds: list[float] = []
        self._flaky = flaky or {}
        self._submitted_at: dict[int, float] = {}
        self._lock = threading.Lock()
        self._lanes = Lanes(tracker, self._on_done)
        self._then: dict[int, Call] = {}

    def call(self, kind: str, label: str, **more: object) -> Call:
        """A call that counts itself."""

        def attempt() -> None:
            with self._lock:
                errors = self._flaky.get(label)
                if errors:
                    raise errors.pop(0)
                self.executed[label] += 1

        policy = more.pop("policy", QUICK)
        assert isinstance(policy, RetryPolicy)
        return Call(kind, label, attempt, policy, summary={"rows": 10}, **more)  # type: ignore[arg-type]

    def flush_and_commit(self, name: str) -> None:
        """Submits a flush, and its commit once the flush is done."""
        flush = self.call("flush", f"flush {name}")
        self._then[id(flush)] = self.call("commit", f"commit {name}", after=flush)
        self.submit(flush)

    def submit(self, call: Call) -> None:
        self._submitted_at[id(call)] = time.monotonic()
        self._lanes.submit(call)

    def _on_done(self, call: Call) -> None:
        with self._lock:
            self.waits_seconds.append(time.monotonic() - self._submitted_at.pop(id(call)))
            self.owners[str(call.owner)] += 1
            self.done.append(call)
            then = self._then.pop(id(call), None)
        if then is not None and call.error is None:
            self.submit(then)

    def close(self) -> None:
        assert self._lanes.close(30.0)
