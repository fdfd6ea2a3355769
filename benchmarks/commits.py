"""What a commit takes, and what is in the metadata folder, the more commits a table has had.

Two tables of one catalog: one whose upkeep a run does as it does by default, on a thread of its
own, and before it one without. Time is compressed: a commit comes every `--pace` seconds and stands
for one every `--every`; the intervals of the upkeep, the age that snapshots reach and their grace
are shortened by the same factor. DuckDB compares both tables with what was written.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import figure, report, writing
from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.calls import InlineTracker
from k2i_tasks.config import Config
from k2i_tasks.iceberg.files import local_path
from k2i_tasks.metrics import Metrics
from k2i_tasks.operations import Operations
from k2i_tasks.progress import Progress
from k2i_tasks.types import OffsetRange, SealReason
from k2i_tasks.upkeep import Upkeep
from k2i_tasks.wiring_upkeep import upkeep_of

#: Commits before the catalog has an old metadata file to delete with each: apart from the others.
FIRST = 10
#: Where the figures are told, and the last commit.
MILESTONES = (FIRST, 60, 100, 1_000, 5_000)
#: Percentiles are of the last commits up to there, so many at most, without the first.
WINDOW = 200
#: What P50 may come to, against that of the first.
FLAT = 1.5
#: The table's property that says how old snapshots get.
SNAPSHOT_AGE = "history.expire.max-snapshot-age-ms"


@dataclass(frozen=True, slots=True)
class Look:
    """The table after so many commits; times in seconds, sizes in bytes."""

    commits: int
    p50_seconds: float
    p99_seconds: float
    p50_cpu_seconds: float
    snapshots: int
    data_files: int
    metadata_files: int
    metadata_bytes: int
    newest_metadata_bytes: int


@dataclass
class Course:
    """What happened to one table: each commit's seconds, looks on the way, jobs that were done."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    jobs: dict[str, int] = field(default_factory=dict)
    job_seconds: dict[str, float] = field(default_factory=dict)
    jobs_failed: int = 0
    table_equals_written: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast time goes: a commit every `pace` seconds stands for one every `every`."""

    pace: float
    every: float

    @property
    def factor(self) -> float:
        return self.every / self.pace

    def monotonic(self) -> float:
        """The clock that the upkeep's intervals are measured by."""
        return time.monotonic() * self.factor

    def unix(self) -> float:
        """Snapshots bear the machine's time, so this is it, too."""
        return time.time()

    def shortened(self, seconds: float) -> float:
        return seconds / self.factor


@dataclass(frozen=True, slots=True)
class Wanted:
    """So many commits of so many rows, or as many as there is time for."""

    commits: int
    rows: int
    seconds_max: float


class _Counted(Metrics):
    """Also keeps what the jobs took."""

    def __init__(self, course: Course, pace: Pace) -> None:
        super().__init__()
        self._course = course
        self._pace = pace

    def on_upkeep(
        self, job: str, seconds: float, figures: Mapping[str, int], *, failed: bool
    ) -> None:
        course, name = self._course, str(job)
        seconds = self._pace.shortened(seconds)  # as the machine's clock had it
        course.jobs[name] = course.jobs.get(name, 0) + 1
        course.job_seconds[name] = round(course.job_seconds.get(name, 0.0) + seconds, 3)
        course.jobs_failed += failed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--commits", type=int, default=5_000, help="to the table with upkeep")
    parser.add_argument("--without", type=int, default=600, help="to the one without; it grows")
    parser.add_argument("--rows", type=int, default=100, help="rows of a commit")
    parser.add_argument("--every", type=float, default=1.0, help="seconds that a commit stands for")
    parser.add_argument("--pace", type=float, default=0.1, help="seconds between two commits")
    parser.add_argument("--minutes", type=float, default=60.0, help="for one table at most")
    parser.add_argument("--catalog", choices=writing.CATALOGS, default="rest")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this file (.svg, .png)")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if a table is not what was written to it."""
    pace = Pace(chosen.pace, chosen.every)
    courses: dict[str, Course] = {}
    with tempfile.TemporaryDirectory(prefix="k2i-commits-") as folder:
        home = Path(folder)
        with report.quiet(), writing.catalog(chosen.catalog, home) as iceberg:
            for name, commits in (("without", chosen.without), ("with", chosen.commits)):
                if commits > 0:
                    config = _config(iceberg, home / name, name, pace)
                    wanted = Wanted(commits, chosen.rows, chosen.minutes * 60)
                    courses[name] = _course(config, wanted, pace)
    found = {
        "rows": chosen.rows,
        "catalog": chosen.catalog,
        "commit_every_seconds": chosen.every,
        "pace_seconds": chosen.pace,
        **report.machine(),
        "tables": {name: {**asdict(one), **_flat(one)} for name, one in courses.items()},
    }
    _show(found)
    if chosen.plot:
        figure.commits(found, chosen.plot)
    equal = all(one.table_equals_written for one in courses.values())
    return report.finished(found, chosen.json, equal=equal)


def _config(iceberg: Mapping[str, Any], folder: Path, name: str, pace: Pace) -> Config:
    """The defaults of [maintenance], but for the grace, which is an age of real files."""
    config = writing.config_of(iceberg, folder, f"commits_{name}")
    grace = round(pace.shortened(config.maintenance.snapshot_grace_seconds))
    changed = {"snapshot_grace_seconds": grace, "in_run": name == "with"}
    return writing.config_of(iceberg, folder, f"commits_{name}", **changed)


def _course(config: Config, wanted: Wanted, pace: Pace) -> Course:
    course = Course()
    metrics, events = _Counted(course, pace), writing.Events(config)
    with writing.claimed(config, metrics, events.schema) as operations:
        age = pace.shortened(config.maintenance.snapshot_retention_seconds)
        with writing.loaded(config).transaction() as transaction:
            transaction.set_properties({SNAPSHOT_AGE: str(int(age * 1000))})
        factory = upkeep_of(config, {}, operations.lane, metrics, pace)
        upkeep = factory(InlineTracker(), Progress(writing.TOPIC, "bench", 1, pace))
        upkeep.begin([writing.P0])
        try:
            _commit_all(config, operations, upkeep, events, course, wanted, pace)
        finally:
            upkeep.close(60.0)
    found = events.compared(config, len(course.seconds) * wanted.rows)
    course.table_equals_written = bool(found["equals_topic"])
    return course


def _commit_all(
    config: Config,
    operations: Operations,
    upkeep: Upkeep,
    events: writing.Events,
    course: Course,
    wanted: Wanted,
    pace: Pace,
) -> None:
    buffer, rows, looks = HotBuffer(), wanted.rows, looks_at(wanted.commits)
    due = time.monotonic()
    end = due + wanted.seconds_max
    for number in range(wanted.commits):
        time.sleep(max(0.0, due - time.monotonic()))
        due = time.monotonic() + pace.pace
        first, name = number * rows, f"batch-{number}"
        for batch in events.polls(first, rows):
            buffer.append(batch)
        ranges = {writing.P0: OffsetRange(first, first + rows)}
        sealed = buffer.seal(name, SealReason.TIME, ranges)
        operations.flush(sealed)
        cpu = time.thread_time()
        course.seconds.append(operations.commit(sealed).seconds)
        course.cpu_seconds.append(time.thread_time() - cpu)
        buffer.release(name)
        upkeep.committed()
        over = time.monotonic() > end
        if number + 1 in looks or over:
            course.looks.append(_look(config, course))
        upkeep.tick()
        if over:
            return


def looks_at(commits: int) -> frozenset[int]:
    """After how many commits the table is looked at: at the milestones, on the way, at the end."""
    step = max(10, commits // 100)
    milestones = (one for one in MILESTONES if one <= commits)
    return frozenset({*range(step, commits + 1, step), *milestones, commits})


def _look(config: Config, course: Course) -> Look:
    table = writing.loaded(config)
    folder, newest = local_path(table.location()), local_path(table.metadata_location)
    assert folder is not None
    assert newest is not None
    sizes = []
    for entry in os.scandir(folder / "metadata"):
        try:
            sizes.append(entry.stat().st_size)
        except FileNotFoundError:
            continue  # the upkeep deletes meanwhile
    snapshot = table.current_snapshot()
    summary = snapshot.summary if snapshot is not None else None
    files = int(summary.additional_properties["total-data-files"]) if summary else 0
    return Look(
        commits=len(course.seconds),
        p50_seconds=round(report.percentile(_window(course.seconds), 50), 5),
        p99_seconds=round(report.percentile(_window(course.seconds), 99), 5),
        p50_cpu_seconds=round(report.percentile(_window(course.cpu_seconds), 50), 5),
        snapshots=len(table.snapshots()),
        data_files=files,
        metadata_files=len(sizes),
        metadata_bytes=sum(sizes),
        newest_metadata_bytes=newest.stat().st_size,
    )


def _window(seconds: Sequence[float]) -> Sequence[float]:
    """Of the last commits; the first are told alone."""
    return seconds[FIRST:][-WINDOW:] or seconds


def _flat(course: Course) -> dict[str, float]:
    """P50 of the last commits over that of the first, by the clock and by CPU; and of the next."""
    first, last = course.looks[0], course.looks[-1]
    after = next((look for look in course.looks if look.commits >= MILESTONES[1]), last)
    return {
        "growth": round(last.p50_seconds / first.p50_seconds, 2),
        "growth_cpu": round(last.p50_cpu_seconds / first.p50_cpu_seconds, 2),
        "growth_after_first": round(last.p50_seconds / after.p50_seconds, 2),
    }


def _show(found: dict[str, Any]) -> None:
    rows = []
    for name, table in found["tables"].items():
        last = table["looks"][-1]["commits"]
        for look in table["looks"]:
            if look["commits"] in (*MILESTONES, last):
                rows.append(
                    (
                        f"{name} upkeep",
                        f"{look['commits']:,}",
                        f"{look['p50_seconds'] * 1000:.0f}",
                        f"{look['p99_seconds'] * 1000:.0f}",
                        f"{look['p50_cpu_seconds'] * 1000:.0f}",
                        f"{look['snapshots']:,}",
                        f"{look['data_files']:,}",
                        f"{look['metadata_files']:,}",
                        f"{look['metadata_bytes'] / 1e6:.1f}",
                        f"{look['newest_metadata_bytes'] / 1e3:.0f}",
                    )
                )
    report.show(
        f"Commits of {found['rows']} rows, one every {found['commit_every_seconds']:g} s",
        (
            "table",
            "commits",
            "P50 ms",
            "P99 ms",
            "CPU ms",
            "snapshots",
            "data files",
            "metadata files",
            "MB",
            "newest KB",
        ),
        rows,
    )
    for name, table in found["tables"].items():
        jobs = ", ".join(f"{often} {job}" for job, often in table["jobs"].items()) or "no job"
        # By the clock alone, other work on the machine would decide.
        flat = max(table["growth"], table["growth_cpu"]) <= FLAT
        verdict = "flat" if flat else "not flat"
        print(
            f"{name} upkeep: P50 grew {table['growth']} times, its CPU {table['growth_cpu']} times "
            f"({verdict}: the target is {FLAT}), and {table['growth_after_first']} times from the "
            f"commits after the first {FIRST}; {jobs}, {table['jobs_failed']} failed"
        )
