"""What clients of a running flow wait for, and what ingestion pays for them.

A process holds the rows in memory, answers, and decodes and writes JSON all the while as ingestion
does; this process asks it over loopback. The view is a plain one, with a dictionary for its keys:
it is the doors that are measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from benchmarks import report
from k2i_tasks import client
from k2i_tasks.client import Client
from k2i_tasks.config import demo_config
from k2i_tasks.errors import K2IError
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter
from k2i_tasks.tickets import Rows
from k2i_tasks.types import Offsets, TopicPartition
from k2i_tasks.views import Cut, Part, Tail
from k2i_tasks.wiring_query import QueryService
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.support import event
from tests.unit.codec_batches import batch_of, decoder_of

TABLE = "demo.events"
#: What is to be reached.
TARGETS = {"lookup_p50_ms": 1.0, "stream_mb_per_second": 500.0, "slowdown": 1.2}
#: Records of a batch that is decoded and written.
RECORDS = 20_000
DASHBOARD = (
    "SELECT kind, count(*) AS n, sum(price) AS total FROM events WHERE price > 10 GROUP BY kind"
)
#: A million rows that meet a thousand each, sorted: no end in sight, on all processors.
HEAVY = (
    "SELECT a.user_id, sum(a.price * b.price) AS s FROM events a JOIN events b "
    "ON a.user_id = b.user_id WHERE a.price + b.price > 1 GROUP BY a.user_id, a.kind ORDER BY s"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--lookups", type=int, default=5_000)
    parser.add_argument("--clients", type=int, default=2, help="that ask beside ingestion")
    parser.add_argument("--rounds", type=int, default=5, help="with a heavy query and without")
    parser.add_argument("--round-seconds", type=float, default=4.0)
    parser.add_argument("--nice", type=int, default=None, help="query.nice, if not its default")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures."""
    with tempfile.TemporaryDirectory(prefix="k2i-doors-") as folder:
        where = Path(folder)
        with _serving(where, chosen) as flow:
            found: dict[str, Any] = {"rows": chosen.rows, "targets": TARGETS, **report.machine()}
            found["clients"] = chosen.clients
            found |= _lookups(flow, chosen)
            found |= _streams(flow, chosen.rows)
            found |= _dashboard(flow)
        with _serving(where, chosen, ingests=True) as flow:
            found |= _slowdown(flow, where, chosen)
    _show(found)
    return report.finished(found, chosen.json, equal=True)


def _lookups(flow: Client, chosen: argparse.Namespace) -> dict[str, Any]:
    keys = np.random.default_rng(1).integers(0, chosen.rows, chosen.lookups).tolist()
    by_key = [_timed(lambda key=key: flow.lookup(key)) for key in keys]  # type: ignore[misc]
    by_offset = [
        _timed(lambda at=at: flow.at("events", 0, at))  # type: ignore[misc]
        for at in keys[: max(1, len(keys) // 5)]
    ]
    return {**_percentiles("lookup", by_key), **_percentiles("offset", by_offset)}


def _streams(flow: Client, rows: int) -> dict[str, Any]:
    rates = []
    for _ in range(7):
        answer = flow.answer(Rows(TABLE))
        assert answer.table.num_rows == rows
        rates.append(answer.table.nbytes / answer.seconds / 1e6)
    return {
        "stream_mb": round(answer.table.nbytes / 1e6, 1),
        "stream_mb_per_second": round(statistics.median(rates)),
        "stream_mb_per_second_max": round(max(rates)),
    }


def _dashboard(flow: Client) -> dict[str, Any]:
    flow.sql(DASHBOARD)
    return _percentiles("dashboard", [_timed(lambda: flow.sql(DASHBOARD)) for _ in range(100)])


def _slowdown(flow: Client, where: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Decoding and writing alone, and beside heavy queries, in turn."""
    flow.sql(DASHBOARD)
    alone, beside, dashboard = [], [], []
    for _ in range(chosen.rounds):
        alone.append(_rate(where, chosen.round_seconds))
        with _asking(where, HEAVY, chosen):
            beside.append(_rate(where, chosen.round_seconds))
        with _asking(where, DASHBOARD, chosen, every_seconds=0.1):
            dashboard.append(_rate(where, chosen.round_seconds))
    return {
        "ingest_rows_per_second": round(statistics.median(alone)),
        "beside_heavy": round(statistics.median(beside)),
        "beside_dashboard": round(statistics.median(dashboard)),
        "slowdown": round(statistics.median(alone) / statistics.median(beside), 3),
        "slowdown_best": round(max(alone) / max(beside), 3),
        "slowdown_dashboard": round(statistics.median(alone) / statistics.median(dashboard), 3),
    }


@contextmanager
def _asking(
    where: Path, sql: str, chosen: argparse.Namespace, every_seconds: float = 0.0
) -> Iterator[None]:
    """Clients that ask this again and again, each in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.doors", "ask", str(where), sql]
    words += [str(chosen.round_seconds * 3), str(every_seconds)]
    clients = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(chosen.clients)]
    try:
        # Not in the figures: the start of clients, and of the processes that evaluate.
        for one in clients:
            assert one.stdout is not None
            one.stdout.readline()
        yield
    finally:
        for one in clients:
            one.kill()
            one.communicate()


def _rate(where: Path, seconds: float) -> float:
    """Records that were decoded and written meanwhile, a second."""
    counter = where / "records"
    began, first = time.monotonic(), int(counter.read_text() or 0)
    time.sleep(seconds)
    return (int(counter.read_text() or 0) - first) / (time.monotonic() - began)


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    return {
        f"{name}_p{percent}_ms": round(report.percentile(seconds, percent) * 1_000, 3)
        for percent in (50, 99)
    }


def _show(found: dict[str, Any]) -> None:
    rows = [
        (name, f"{found[f'{key}_p50_ms']:.2f}", f"{found[f'{key}_p99_ms']:.2f}")
        for name, key in (
            ("a key", "lookup"),
            ("an offset", "offset"),
            ("sums of one column by another", "dashboard"),
        )
    ]
    title = f"Over Flight on loopback, {found['rows']:,} rows in memory, ms"
    report.show(title, ("asked for", "P50", "P99"), rows)
    print(f"all rows: {found['stream_mb_per_second']:,} MB/s of {found['stream_mb']} MB")
    print(
        f"decoded and written: {found['ingest_rows_per_second']:,} rows/s alone, "
        f"{found['beside_heavy']:,} beside {found['clients']} heavy queries "
        f"({found['slowdown']}), {found['beside_dashboard']:,} beside as many dashboards "
        f"({found['slowdown_dashboard']})"
    )


# The other processes.


@contextmanager
def _serving(where: Path, chosen: argparse.Namespace, *, ingests: bool = False) -> Iterator[Client]:
    words = [sys.executable, "-m", "benchmarks.doors", "serve", str(where), str(chosen.rows)]
    words += [str(int(ingests)), "" if chosen.nice is None else str(chosen.nice)]
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    try:
        with client.connect(where) as flow:
            yield flow
    finally:
        server.kill()
        server.communicate()


class _View:
    """So many rows, all of them in memory."""

    key_column: str | None = "id"
    name = TABLE

    def __init__(self, rows: int) -> None:
        dice = np.random.default_rng(1)
        kinds = np.array(["view", "cart", "purchase"])
        self._rows = pa.table(
            {
                "id": np.arange(rows),
                "user_id": dice.integers(0, max(1, rows // 1_000), rows),
                "price": dice.random(rows) * 100,
                "kind": kinds[dice.integers(0, 3, rows)],
                "note": [f"{'note ' * 8}{number}" for number in range(rows)],
                "at": pa.array(np.arange(rows) * 1_000 + 1_790_000_000_000_000, pa.timestamp("us")),
                "_offset": np.arange(rows),
            }
        )
        self._index = {key: key for key in range(rows)}
        frame = pl.from_arrow(self._rows)
        assert isinstance(frame, pl.DataFrame)
        self._frame = frame.lazy()
        self._positions: Offsets = {TopicPartition("events", 0): rows}

    def cut(self, part: Part = "all") -> Cut:
        return Cut(self._frame, self._positions, None, self._rows.num_rows)

    def at(self, topic: str, partition: int, offset: int) -> pa.Table:
        return self._rows.slice(offset, 1)

    def with_key(self, value: object) -> pa.Table:
        assert isinstance(value, int)
        return self._rows.slice(self._index[value], 1)

    def after(self, positions: Offsets | None, rows_max: int) -> Tail:
        return Tail(self._rows.slice(0, 0), self._positions, False)


def _serve(where: Path, rows: int, ingests: bool, nice: str) -> None:
    view = _View(rows)
    config = demo_config(where)
    if nice:
        query = config.query.model_copy(update={"nice": int(nice)})
        config = config.model_copy(update={"query": query})
    (where / "records").write_text("0")
    with QueryService(config, lambda: {view.name: view}) as service:
        service.settled.wait()
        if ingests:
            threading.Thread(target=_ingest, args=(where,), daemon=True).start()
        print("serves", flush=True)
        sys.stdin.read()


def _ingest(where: Path) -> None:
    """Decodes and writes the same batch without an end, and counts."""
    decoder = decoder_of()
    raw = batch_of([json.dumps(event(number)).encode() for number in range(RECORDS)])
    schema = decoder.decode(raw).table.schema
    with tempfile.TemporaryDirectory(prefix="k2i-doors-table-") as folder:
        config = config_at(Path(folder, "table"))
        Path(folder, "table").mkdir()
        writer = DataFileWriter(create_table(catalog_of(config), NAME, schema, config), config)
        done = 0
        while True:
            table = decoder.decode(raw).table
            for file in writer.write([table], batch_id=f"batch-{done}"):
                Path(str(file.path).removeprefix("file://")).unlink(missing_ok=True)
            done += RECORDS
            fresh = where / "records.new"
            fresh.write_text(str(done))
            fresh.replace(where / "records")


def _ask(where: Path, sql: str, seconds: float, every_seconds: float) -> None:
    with client.connect(where) as flow:
        flow.sql(DASHBOARD)
        print("asks", flush=True)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            began = time.monotonic()
            with suppress(K2IError):  # it meets its limits: that is what it is for
                flow.sql(sql)
            time.sleep(max(0.0, every_seconds - (time.monotonic() - began)))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1", sys.argv[5])
    else:
        _ask(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5]))
