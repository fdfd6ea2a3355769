"""What queries of rows in memory take, and what it costs the run to keep them ready.

First a million order events in one buffer, in pieces as polls give them: rows by offset and by key,
scans by polars, and the CPU of the key index beside that of decoding. Then a run against a real
broker and a REST catalog at a steady rate: how long consumed records take until a query finds
them, the same queries meanwhile, and the share of the process's CPU that the index takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import report, writing
from benchmarks import topic as topics
from benchmarks.freshness import PATIENCE_SECONDS, OutsideView, Steady
from benchmarks.health import killed_at_last
from benchmarks.services import services
from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.buffer.upkeep import HotUpkeep
from k2i_tasks.collector import relaxed
from k2i_tasks.hot_view import TableView
from k2i_tasks.types import OffsetRange, SealReason
from tests.program import Program
from tests.support import create_topic

KEY = "event_id"
#: Seconds that the 99th percentile (of lookups, of the wait) or the median (of scans) is to keep.
TARGETS = {"by offset": 0.0002, "by key": 0.0002, "scan": 0.005, "queryable": 0.05}
#: Of the run's CPU, for the index.
INDEX_SHARE_MAX = 0.1
#: What one query is done so often for its percentiles.
OFTEN = 2_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--piece", type=int, default=2_000, help="rows of one poll")
    parser.add_argument("--rate", type=int, default=50_000, help="records a second; 0: no run")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the run")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw them to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if the run's table is not its topic."""
    found: dict[str, Any] = {"targets": TARGETS, "rows": chosen.rows, "piece": chosen.piece}
    with tempfile.TemporaryDirectory(prefix="k2i-hot-") as folder, report.quiet():
        with relaxed():  # as `k2i ingest` does it
            found["memory"] = in_memory(Path(folder), chosen.rows, chosen.piece)
        if chosen.rate:
            found["run"] = _live(Path(folder), chosen.rate, chosen.seconds)
    found.update(report.machine())
    _show(found)
    if chosen.figure:
        from benchmarks.drawing import hot

        hot(found, chosen.figure)
    equal = "run" not in found or found["run"]["table_equals_topic"]
    return report.finished(found, chosen.json, equal=equal)


def in_memory(folder: Path, rows: int, piece: int, often: int = OFTEN) -> dict[str, Any]:
    """Queries of one buffer: its rows not yet committed, then committed and joined."""
    with writing.catalog("sql", folder) as nowhere:
        events = writing.Events(writing.config_of(nowhere, folder, "hot"))
    buffer = HotBuffer(ttl_seconds=3600, bytes_max=1 << 40)
    upkeep = HotUpkeep(buffer, KEY)
    buffer.worker = None  # its work is done here, where it can be timed
    view = TableView("bench.hot", buffer, _NoTable(), upkeep)  # type: ignore[arg-type]
    buffer.begin({writing.P0: 0})
    append_seconds = index_seconds = 0.0
    for first in range(0, rows, piece):
        [*batches] = events.polls(first, min(piece, rows - first))
        began = time.process_time()
        for batch in batches:
            buffer.append(batch)
        appended = time.process_time()
        upkeep.step()
        append_seconds += appended - began
        index_seconds += time.process_time() - appended
    found = {
        "append_cpu_us_per_row": round(1e6 * append_seconds / rows, 4),
        "index_cpu_us_per_row": round(1e6 * index_seconds / rows, 4),
        "index_bytes_per_row": round(upkeep.index.nbytes / rows, 1),
        "not committed": _queries(view, rows, often),
    }
    buffer.seal("b1", SealReason.ROWS, {writing.P0: OffsetRange(0, rows)})
    buffer.release("b1")
    upkeep.step()
    pieces = len(buffer.held().pieces)
    return {**found, "pieces_joined": pieces, "committed": _queries(view, rows, often)}


class _NoTable:
    """Nothing is committed."""

    def load(self) -> None:
        return None


def _queries(view: TableView, rows: int, often: int) -> dict[str, dict[str, float]]:
    import polars as pl

    chosen = random.Random(7)

    def scan() -> object:
        frame = view.cut("hot").frame.filter(pl.col("amount") > 100)
        return frame.select(pl.col("amount").sum(), pl.len()).collect()

    def grouped() -> object:
        frame = view.cut("hot").frame.filter(pl.col("country") == "CH")
        return frame.group_by("event_type").agg(pl.col("amount").sum(), pl.len()).collect()

    def by_offset() -> object:
        return view.at(writing.TOPIC, 0, chosen.randrange(rows))

    def by_key() -> object:
        return view.with_key(chosen.randrange(rows))

    began = time.perf_counter()
    scan()
    first = time.perf_counter() - began
    few = max(20, often // 20)
    assert view.at(writing.TOPIC, 0, rows // 2).num_rows == 1
    assert view.with_key(rows // 2).column(KEY).to_pylist() == [rows // 2]
    return {
        "by offset": timed(by_offset, often),
        "by key": timed(by_key, often),
        "cut": timed(lambda: view.cut("hot"), few),
        "scan": {**timed(scan, few), "first": round(first, 6)},
        "grouped scan": timed(grouped, few),
    }


def timed(query: Callable[[], object], often: int) -> dict[str, float]:
    """Percentiles of its time in seconds, and of this thread's CPU, which other load leaves."""
    query()
    seconds, cpu = [], []
    for _ in range(often):
        began, busy = time.perf_counter(), time.thread_time()
        query()
        cpu.append(time.thread_time() - busy)
        seconds.append(time.perf_counter() - began)
    return {
        "cpu_p99": round(report.percentile(cpu, 99), 6),
        "p50": round(report.percentile(seconds, 50), 6),
        "p99": round(report.percentile(seconds, 99), 6),
        "max": round(max(seconds), 6),
    }


def _live(home: Path, rate: int, seconds: float) -> dict[str, Any]:
    """A run of the program's parts in a process of its own; see `hot_run`."""
    with services(home) as running:
        topic = f"hot-{uuid.uuid4().hex[:8]}"
        create_topic(running.bootstrap, topic, topics.PARTITIONS)
        program = Program(home, running.bootstrap, topic, running.catalog)
        producer = Steady(running.bootstrap, topic, rate)
        out = home / "run.json"
        words = ["--config", str(program.config), "--out", str(out), "--key", KEY]
        with (home / "run.log").open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.hot_run", *words],
                env={**os.environ, **ENVIRON},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
            with killed_at_last(process):
                producer.start()
                time.sleep(seconds)
                producer.stop()
                outside = OutsideView(program, topic)
                outside.until(lambda offsets: offsets == producer.stamps.ends, process)
                process.send_signal(signal.SIGTERM)
                code = process.wait(PATIENCE_SECONDS)
        if code != 0:
            raise RuntimeError((home / "run.log").read_text("utf-8", errors="replace")[-4000:])
        found: dict[str, Any] = json.loads(out.read_text("utf-8"))
        sums = topics.sums_of(producer.pool, producer.produced)
        whole = topics.Topic(running.bootstrap, topic, producer.produced, 0.0, sums)
        compared = topics.compared(whole, program.metadata_location(), typed=True)
    told = {"rate": rate, "produced": producer.produced}
    return {**told, **found, "table_equals_topic": compared["equals_topic"]}


ENVIRON = {
    "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "5",
    "K2I_BUFFER_FLUSH_BATCH_SIZE": "1000000",
    "K2I_BUFFER_ENCODE_ROWS": "65536",
    "K2I_BUFFER_MAX_SIZE_MB": "1000",
    "K2I_BUFFER_INDEX_COLUMN": KEY,
    "K2I_KAFKA_BATCH_SIZE": "20000",
}


def _show(found: dict[str, Any]) -> None:
    rows = []
    parts = [(found["memory"][name], name) for name in ("not committed", "committed")]
    if "run" in found:
        parts.append((found["run"]["queries"], "beside a run"))
    for queries, name in parts:
        for query, figures in queries.items():
            shown = [figures.get(one) for one in ("p50", "p99", "max", "cpu_p99")]
            milliseconds = ["" if one is None else f"{one * 1000:,.3f}" for one in shown]
            rows.append((f"{query}, {name}", *milliseconds))
    columns = ("", "P50", "P99", "most", "CPU P99")
    report.show(f"Queries of {found['rows']:,} rows in memory, ms", columns, rows)
    memory = found["memory"]
    print(
        f"append {memory['append_cpu_us_per_row']} us a row; index "
        f"{memory['index_cpu_us_per_row']} us, {memory['index_bytes_per_row']} bytes a row"
    )
    if "run" in found:
        one = found["run"]
        wait, running = (
            [f"{1000 * one[kind][name]:.1f} ms" for name in ("p50", "p99")]
            for kind in ("queryable", "queryable_running")
        )
        share = f"{100 * one['index_share']:.1f}% of {one['cpu_seconds']:.1f} CPU s"
        print(
            f"{one['rate']:,} records/s: consumed to queryable P50 {wait[0]}, P99 {wait[1]}; "
            f"without waits for a processor {running[0]}, {running[1]}\nindex {share}; "
            f"{one['hot_rows']:,} rows kept at the end, peak {one['peak_rss_mb']:.0f} MB"
        )
