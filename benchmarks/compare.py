"""Ours and others on the same topic, one after the other, in one run.

Each engine ingests the whole topic into a table of one REST catalog and commits at the same
interval; an engine's time goes from the first bytes of the topic to the commit that completes the
table. DuckDB then compares the table with the topic. With several runs the engines take turns, so
that a slow moment of the machine meets them all. Broker and catalog are warm before the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table.snapshots import Snapshot
from rich.console import Console
from rich.table import Table

from benchmarks import figure
from benchmarks import topic as topics
from benchmarks.engines import ENGINES, Engine, Job, can_run
from benchmarks.meter import Meter, NoDataError
from benchmarks.services import Services, services

#: What fills a table from the topic before the first turn, for nothing.
WARM_UP = "k2i"
#: Longest that a table may go without growing, in seconds.
PATIENCE_SECONDS = 240.0
#: Between two looks at a table, in seconds.
LOOK_SECONDS = 0.5
#: Figures of a run, of which median, least and most are told.
FIGURES = (
    "cpu_seconds_per_million_rows",
    "services_cpu_seconds_per_million_rows",
    "rows_per_second",
    "peak_rss_mb",
    "start_cpu_seconds",
)


class StalledError(Exception):
    """An engine ended early, or its table stopped growing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of one engine; CPU and time are those after the first bytes."""

    cpu_seconds_per_million_rows: float
    services_cpu_seconds_per_million_rows: float
    rows_per_second: int
    peak_rss_mb: int
    start_cpu_seconds: float
    rows: int
    distinct: int
    wrong_columns: list[str]
    table_equals_topic: bool
    snapshots: int
    table_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = ",".join(name for name in ENGINES if name != "k2i")
    parser.add_argument("--peers", default="drain,plain", help=f"of {known}")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between commits")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw them into this file (.svg, .png)")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if a table differs, 2 if an engine cannot run."""
    peers = [name for name in chosen.peers.split(",") if name]
    names = list(dict.fromkeys(["k2i", *peers]))
    if chosen.messages < 1 or chosen.runs < 1 or not chosen.interval > 0:
        print("--messages, --runs and --interval have to be above 0", file=sys.stderr)
        return 2
    for name in names:
        why = can_run(name) if name in ENGINES else f"there is none; known: {', '.join(ENGINES)}"
        if why:
            print(f"{name}: {why}", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="k2i-bench-") as folder:
        home = Path(folder)
        with services(home) as running:
            topic = topics.fill(running.bootstrap, chosen.messages)
            try:
                outcomes = _in_turn(names, chosen.runs, topic, running, home, chosen.interval)
            except (NoDataError, StalledError) as error:
                print(error, file=sys.stderr)
                return 2
    report = {
        "messages": topic.messages,
        "bytes_per_message": round(topic.message_bytes, 1),
        "partitions": topics.PARTITIONS,
        "commit_interval_seconds": chosen.interval,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
        "engines": {name: _summed_up(ENGINES[name], found) for name, found in outcomes.items()},
    }
    _show(report)
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if chosen.figure:
        figure.compared(report, chosen.figure)
    held = all(one.table_equals_topic for found in outcomes.values() for one in found)
    return 0 if held else 1


def _in_turn(
    names: list[str],
    runs: int,
    topic: topics.Topic,
    running: Services,
    home: Path,
    interval: float,
) -> dict[str, list[Outcome]]:
    def outcome(name: str, turn: str) -> Outcome:
        folder = home / f"{name}-{turn}"
        folder.mkdir()
        table = f"{name.replace('-', '_')}_{turn}"
        catalog = running.catalog
        rest = RestCatalog("bench", uri=catalog.uri, warehouse=catalog.warehouse)
        job = Job(topic, catalog, table, folder, interval, running.kafka, rest, running.pids)
        return _measured(ENGINES[name], job)

    # Broker and catalog are compiled while they run: else the first engine would pay for it.
    print(f"== {WARM_UP}, to warm up", file=sys.stderr, flush=True)
    outcome(WARM_UP, "warm")
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    for turn in range(runs):
        for name in names:
            print(f"== {name}, run {turn + 1} of {runs}", file=sys.stderr, flush=True)
            outcomes[name].append(outcome(name, str(turn)))
    return outcomes


def _measured(engine: Engine, job: Job) -> Outcome:
    started = engine.prepare(job)
    port = int(job.topic.bootstrap.rpartition(":")[2])
    with (job.folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in started.words],
            env={**os.environ, **started.environ},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        with Meter(process.pid, port, job.services) as meter:
            end = _completed(engine, job, process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    first, last = meter.first_data(), meter.at(end)
    found = _found(engine, job)
    millions = job.topic.messages / 1e6
    return Outcome(
        cpu_seconds_per_million_rows=round((last.cpu_seconds - first.cpu_seconds) / millions, 2),
        services_cpu_seconds_per_million_rows=round(
            (last.services_seconds - first.services_seconds) / millions, 2
        ),
        rows_per_second=round(job.topic.messages / (end - first.at)),
        peak_rss_mb=round(meter.peak_rss_mb),
        start_cpu_seconds=round(first.cpu_seconds, 2),
        **found,
    )


def _completed(engine: Engine, job: Job, process: subprocess.Popen[bytes]) -> float:
    """Waits until the table holds all rows, or an engine without one has ended; when that was."""
    rows, grown = 0, time.monotonic()
    while True:
        code, now = process.poll(), time.monotonic()
        if not engine.table and code == 0:
            return now
        if engine.table:
            seen, committed_at = _newest(job)
            if seen >= job.topic.messages:
                return time.monotonic() - max(0.0, time.time() - committed_at)
            if seen > rows:
                rows, grown = seen, now
        if code is not None or now - grown > PATIENCE_SECONDS:
            log = (job.folder / "output.log").read_text("utf-8", errors="replace")
            what = "does not go on" if code is None else f"ended with {code}"
            raise StalledError(f"{engine.title} {what} at {rows} rows\n{log[-4000:]}")
        # Each look costs the catalog something; its snapshots say when they were made.
        time.sleep(LOOK_SECONDS)


def _found(engine: Engine, job: Job) -> dict[str, Any]:
    if engine.files:
        found = topics.compared_files(job.topic, job.folder)
        found["table_equals_topic"] = found.pop("equals_topic")
        size = sum(file.stat().st_size for file in job.folder.glob("*.parquet"))
        return {**found, "snapshots": 0, "table_mb": round(size / 1e6, 1)}
    if not engine.table:
        messages = job.topic.messages
        return {
            "rows": messages,
            "distinct": messages,
            "wrong_columns": [],
            "table_equals_topic": True,
            "snapshots": 0,
            "table_mb": 0.0,
        }
    table = job.rest.load_table(job.identifier)
    if engine.by_name:
        folder = f"{urlsplit(job.catalog.warehouse).path}/data/{job.identifier.replace('.', '/')}"
        found = topics.compared_names(job.topic, folder, engine.coordinates)
    else:
        found = topics.compared(
            job.topic, table.metadata_location, typed=engine.typed, coordinates=engine.coordinates
        )
    found["table_equals_topic"] = found.pop("equals_topic")
    size = _total(table.current_snapshot(), "total-files-size")
    return {**found, "snapshots": len(table.snapshots()), "table_mb": round(size / 1e6, 1)}


def _newest(job: Job) -> tuple[int, float]:
    """Rows of the table by its newest snapshot, and when that was made, unix seconds; 0: none."""
    try:
        snapshot = job.rest.load_table(job.identifier).current_snapshot()
    except NoSuchTableError:
        return 0, 0.0
    made_at = snapshot.timestamp_ms / 1000 if snapshot is not None else 0.0
    return _total(snapshot, "total-records"), made_at


def _total(snapshot: Snapshot | None, name: str) -> int:
    """A figure of a snapshot's summary; 0 where it has none."""
    if snapshot is None or snapshot.summary is None:
        return 0
    return int(snapshot.summary.additional_properties.get(name, 0))


def _summed_up(engine: Engine, found: list[Outcome]) -> dict[str, Any]:
    """The last run's outcome, with the median in place of each figure, and all runs beside it."""
    summed = {"title": engine.title, "typed": engine.typed, **asdict(found[-1])}
    summed["table_equals_topic"] = all(one.table_equals_topic for one in found)
    for name in FIGURES:
        summed[name] = statistics.median(getattr(one, name) for one in found)
    return {**summed, "runs": [asdict(one) for one in found]}


def limit(engine: Mapping[str, float], processors: int) -> float:
    """Rows/s if the engine, the broker and the catalog kept all processors busy all the time."""
    engine_seconds = engine["cpu_seconds_per_million_rows"]
    return processors * 1e6 / (engine_seconds + engine["services_cpu_seconds_per_million_rows"])


def _show(report: dict[str, Any]) -> None:
    table = Table(title=f"{report['messages']:,} events of {report['bytes_per_message']} bytes")
    figures = ("CPU s per million", "services CPU", "rows/s", "limit")
    for column in ("engine", *figures, "peak MB", "start, CPU s", "table"):
        table.add_column(column, justify="left" if column in ("engine", "table") else "right")
    for each in report["engines"].values():
        spread = [one["cpu_seconds_per_million_rows"] for one in each["runs"]]
        cpu = f"{each['cpu_seconds_per_million_rows']:.2f}"
        table.add_row(
            each["title"],
            cpu if len(spread) == 1 else f"{cpu} ({min(spread):.2f} to {max(spread):.2f})",
            f"{each['services_cpu_seconds_per_million_rows']:.2f}",
            f"{each['rows_per_second']:,.0f}",
            f"{limit(each, report['cpus']):,.0f}",
            f"{each['peak_rss_mb']:,.0f}",
            f"{each['start_cpu_seconds']:.1f}",
            "equals the topic" if each["table_equals_topic"] else "DIFFERS",
        )
    Console().print(table)
