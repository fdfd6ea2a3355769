"""What a forked process of the torture does: an ingest run, or upkeep, and what happens to it."""

from __future__ import annotations

import logging
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from pyiceberg import exceptions as ice
from pyiceberg.catalog.sql import SqlCatalog

from k2i_tasks import failpoints, logs
from k2i_tasks.calls import Call, InlineTracker, RetryPolicy
from k2i_tasks.clock import SystemClock
from k2i_tasks.config import Config
from k2i_tasks.errors import K2IError
from k2i_tasks.maintenance import Maintenance
from k2i_tasks.metrics import Metrics
from k2i_tasks.runner import Runner
from k2i_tasks.types import Job
from k2i_tasks.wiring import build_runner
from k2i_tasks.wiring_upkeep import build_maintenance

#: So far ahead of time is the clock of who removes orphans: none of them is on its way any more.
LATER_SECONDS = 4 * 86_400.0
#: Where a lying catalog notes its lies, in the world's folder.
LIES = "lies.txt"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a process.

    Args:
        place: a failpoint, and `nth` time by at which it acts.
        stop: freeze (SIGSTOP) there instead of dying.
        kill_after: die after so many seconds, wherever that is.
        commits: seed of a catalog that answers falsely, late, or not at all.
        file_bytes_max: no file can grow beyond this: the disk is full.
    """

    place: str | None = None
    nth: int = 1
    stop: bool = False
    kill_after: float | None = None
    commits: int | None = None
    file_bytes_max: int | None = None


NONE = Fault()


def maintain(config: Config, jobs: Sequence[Job], fault: Fault, folder: Path) -> int:
    """Does these jobs in this process; its exit code."""
    _prepare(fault, folder)
    maintenance = build_maintenance(config)
    later = build_maintenance(config, _Later())
    for job in jobs:
        work = later if job is Job.ORPHANS else maintenance

        def attempt(work: Maintenance = work, job: Job = job) -> None:
            work.run(job)

        call = Call(job, str(job), attempt, RetryPolicy(0.01, 0.1, 60.0))
        call.run_with_retries()
        if call.error is not None:
            print(f"ended: {job}: {call.failure()}", flush=True)
            return call.failure().exit_code
    return 0


class _Later(SystemClock):
    def unix(self) -> float:
        return super().unix() + LATER_SECONDS


def _prepare(fault: Fault, folder: Path) -> None:
    logs.configure("info", "text", None)
    logging.getLogger("pyiceberg").setLevel(logging.ERROR)
    if fault.place is not None:
        act = _freeze if fault.stop else failpoints.kill_self
        failpoints.arm(fault.place, act, nth=fault.nth)
    if fault.commits is not None:
        _lie(random.Random(fault.commits), folder / LIES)
    if fault.file_bytes_max is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_bytes_max, fault.file_bytes_max))


def ingest(config: Config, ends: dict[int, int], fault: Fault, folder: Path) -> int:
    """Ingests up to `ends` in this process; its exit code."""
    _prepare(fault, folder)
    try:
        runner = build_runner(
            config,
            tracker_factory=lambda _status, _drain: InlineTracker(),
            metrics=Metrics(),
        )
        threading.Thread(target=_drain_at, args=(runner, ends), daemon=True).start()
        runner.run()
    except K2IError as error:
        print(f"ended: {error}", flush=True)
        return error.exit_code
    return 0


def _drain_at(runner: Runner, ends: dict[int, int]) -> None:
    while True:
        at = {tp.partition: offset for tp, offset in runner.status().positions.items()}
        if all(at.get(partition, 0) >= end for partition, end in ends.items()):
            runner.request_drain("all is consumed")
            return
        time.sleep(0.01)


def _freeze(_name: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _lie(draw: random.Random, notes: Path) -> None:
    """Five of eight commits are answered with what is not, or not yet, so; noted, line by line."""
    plain = SqlCatalog.commit_table
    lies: list[tuple[str, type[Exception]]] = [
        ("503, and nothing was done", ice.ServiceUnavailableError),
        ("504, and nothing was done", ice.CommitStateUnknownException),
        ("done, and the answer was lost", requests.Timeout),
        ("409, though it was done", ice.CommitFailedException),
        ("it lands later, if it can", requests.Timeout),
    ]

    def commit_table(self: SqlCatalog, *what: Any) -> Any:
        chance = draw.randrange(8)
        if chance >= len(lies):
            return plain(self, *what)
        words, error = lies[chance]
        with notes.open("a", encoding="utf-8") as file:
            file.write(words + "\n")
        if "nothing" not in words and "later" not in words:
            plain(self, *what)
        if "later" in words:
            late = threading.Timer(draw.uniform(0.05, 0.6), _quietly, (plain, self, *what))
            late.daemon = True
            late.start()
        raise error(words)

    setattr(SqlCatalog, "commit_table", commit_table)  # noqa: B010  # another signature


def _quietly(plain: Callable[..., Any], *what: Any) -> None:
    try:
        plain(*what)
    except Exception as error:
        print(f"the late commit was refused: {type(error).__name__}", flush=True)
