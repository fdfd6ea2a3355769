"""`python -m benchmarks.hot_run --config k2i.toml --out run.json`: a run that is queried and timed.

Ends by SIGTERM. What it times: from a poll's return to the moment at which the buffer has its rows,
queries from a thread of their own, and the CPU of the process and of the index.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from k2i_tasks.calls import InlineTracker
from k2i_tasks.collector import relaxed
from k2i_tasks.config import load_config
from k2i_tasks.errors import K2IError
from k2i_tasks.hot_tables import HotTables
from k2i_tasks.metrics import Metrics
from k2i_tasks.views import View
from k2i_tasks.wiring import build_runner

SCHEDULED = Path("/proc/thread-self/schedstat")
#: Time between two rounds of queries, in seconds.
ROUND_SECONDS = 0.1


class Waits:
    """Seconds from a poll's return until its rows can be queried, one for each batch.

    They count from the first poll on that is not full: what was produced before that is worked off
    in polls as large as may be.
    """

    def __init__(self, runner: Any) -> None:
        self.seconds: list[float] = []
        #: Of these, without the time that the thread waited for a processor.
        self.running: list[float] = []
        self.cpu_began: float | None = None
        poll, append = runner._source.poll, runner.buffer.append
        polled = queued = 0.0
        caught_up = False

        def timed_poll(wanted: int, seconds: float) -> Any:
            nonlocal polled, queued, caught_up
            batch = poll(wanted, seconds)
            caught_up = caught_up or (batch is not None and len(batch) < wanted // 2)
            polled, queued = time.perf_counter(), _queued_seconds()
            return batch

        def timed_append(batch: Any) -> None:
            append(batch)
            if batch.records:
                self.cpu_began = self.cpu_began or time.process_time()
            if batch.records and caught_up:
                wait = time.perf_counter() - polled
                self.seconds.append(wait)
                self.running.append(wait - (_queued_seconds() - queued))

        runner._source.poll, runner.buffer.append = timed_poll, timed_append


def _queued_seconds() -> float:
    """How long this thread has waited for a processor so far."""
    return int(SCHEDULED.read_text("ascii").split()[1]) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_run", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--key", required=True)
    chosen = parser.parse_args()
    config = load_config(chosen.config, environ=dict(os.environ), overrides={})
    hot, metrics = HotTables(), Metrics()
    runner = build_runner(
        config, tracker_factory=lambda *_: InlineTracker(), metrics=metrics, hot=hot
    )
    waits = Waits(runner)
    [view] = hot.views().values()
    queries: dict[str, list[float]] = {"by offset": [], "by key": [], "scan": []}
    stop = threading.Event()
    import polars  # noqa: F401 - else the first query's import is in the figures

    asking = threading.Thread(target=_ask, args=(view, stop, queries), daemon=True)

    def end(*_words: object) -> None:
        stop.set()
        runner.request_drain("SIGTERM")

    signal.signal(signal.SIGTERM, end)
    asking.start()
    with relaxed():  # as `k2i ingest` does it
        status = runner.run()
    stop.set()
    asking.join()
    cpu = time.process_time() - (waits.cpu_began or 0.0)
    upkeep: Any = runner.buffer.worker
    found = {
        "queryable": _percentiles(waits.seconds),
        "queryable_running": _percentiles(waits.running),
        "queries": {name: _percentiles(seconds) for name, seconds in queries.items() if seconds},
        "cpu_seconds": round(cpu, 2),
        "index_cpu_seconds": round(upkeep.cpu_seconds, 3),
        "index_share": round(upkeep.cpu_seconds / cpu, 4),
        "hot_rows": runner.buffer.kept[0],
        "hot_bytes": runner.buffer.kept[1],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "age": {
            name: None if one is None else {"p50": one.p50_seconds, "p99": one.p99_seconds}
            for name, one in (("queryable", status.queryable), ("committed", status.committed_age))
        },
    }
    chosen.out.write_text(json.dumps(found), encoding="utf-8")
    hot.close()
    return 0


def _ask(view: View, stop: threading.Event, queries: dict[str, list[float]]) -> None:
    import polars as pl

    chosen = random.Random(7)
    while not stop.wait(ROUND_SECONDS):
        try:
            positions = view.cut("hot").positions
        except K2IError:
            continue  # there is no row yet
        ends = [(tp, end) for tp, end in positions.items() if end]
        if not ends:
            continue
        tp, end = chosen.choice(ends)
        rows = sum(positions.values())

        def scan() -> object:
            frame = view.cut("hot").frame.filter(pl.col("amount") > 100)
            return frame.select(pl.col("amount").sum(), pl.len()).collect()

        for name, query in (
            ("by offset", lambda tp=tp, end=end: view.at(tp.topic, tp.partition, end - 1)),
            ("by key", lambda rows=rows: view.with_key(chosen.randrange(rows))),
            ("scan", scan),
        ):
            began = time.perf_counter()
            query()
            queries[name].append(time.perf_counter() - began)


def _percentiles(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    p50, p99 = (round(report.percentile(seconds, each), 6) for each in (50, 99))
    return {"p50": p50, "p99": p99, "max": round(max(seconds), 6)}


if __name__ == "__main__":
    sys.exit(main())
