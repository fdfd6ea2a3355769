"""Rows in memory for a client: ours over Arrow Flight, beside K2I's read RPC.

Both programs, one after the other, read the same topic as raw bytes and keep all of it in memory,
not committed. A client on the same machine then asks for all rows, and for the row of one record.
K2I's RPC gives all rows, of which its client takes the one. Both have to give every record once.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog.rest import RestCatalog

from benchmarks import report
from benchmarks import topic as topics
from benchmarks.engines import NAMESPACE, RUST_BINARY, Job, rust_k2i
from benchmarks.health import killed_at_last
from benchmarks.ingested import ENVIRON
from benchmarks.peers.k2i_rpc import RpcClient, RpcError
from benchmarks.services import Services, services
from k2i_tasks import client
from k2i_tasks.errors import K2IError
from k2i_tasks.tickets import Rows
from tests.program import Program
from tests.running import running

#: Longest wait until all rows are in memory, in seconds.
PATIENCE_SECONDS = 120.0
#: All rows stay in memory, and none is committed.
HOLD_SECONDS, HOLD_ROWS, BUFFER_MB = 3_600, 10_000_000, 1_024
#: K2I answers with one frame, of this size at most.
FRAME_BYTES_MAX = 1 << 30

AllRows = Callable[[], pa.Table]
OneRow = Callable[[int, int], pa.Table]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=report.above_zero, default=100_000)
    parser.add_argument("--often", type=report.above_zero, default=20, help="each query")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if a record is missing, 2 without K2I."""
    if not os.environ.get(RUST_BINARY):
        print(f"the variable {RUST_BINARY} has to name K2I's program", file=sys.stderr)
        return 2
    found: dict[str, Any] = {"messages": chosen.messages}
    with tempfile.TemporaryDirectory(prefix="k2i-rpc-") as folder:
        home = Path(folder)
        with services(home) as running_services:
            topic = topics.fill(running_services.bootstrap, chosen.messages)
            with _ours(home / "ours", running_services, topic) as (everything, one):
                found["ours"] = _measured(topic, everything, one, "_kafka_offset", chosen.often)
            with _theirs(home / "theirs", running_services, topic) as (everything, one):
                found["k2i"] = _measured(topic, everything, one, "offset", chosen.often)
    found.update(report.machine())
    _show(found)
    equal = all(found[name]["every_record_once"] for name in ("ours", "k2i"))
    return report.finished(found, chosen.json, equal=equal)


@contextmanager
def _ours(
    folder: Path, running_services: Services, topic: topics.Topic
) -> Iterator[tuple[AllRows, OneRow]]:
    folder.mkdir()
    program = Program(
        folder,
        running_services.bootstrap,
        topic.name,
        running_services.catalog,
        extra="[prefect]\nenabled = false\n",
        environ={
            **ENVIRON,
            "K2I_KAFKA_FORMAT_TYPE": "raw",
            "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": str(HOLD_SECONDS),
            "K2I_BUFFER_FLUSH_BATCH_SIZE": str(HOLD_ROWS),
            "K2I_BUFFER_MAX_SIZE_MB": str(BUFFER_MB),
        },
    )
    table = f"tests.{program.table}"
    with running(program) as run:
        run.until_consumed(topic.messages)
        with client.connect(folder / "wal") as flow:

            def everything() -> pa.Table:
                return flow.answer(Rows(table, part="hot")).table

            def one(partition: int, offset: int) -> pa.Table:
                return flow.at(topic.name, partition, offset)

            _until(everything, topic.messages)
            yield everything, one


@contextmanager
def _theirs(
    folder: Path, running_services: Services, topic: topics.Topic
) -> Iterator[tuple[AllRows, OneRow]]:
    folder.mkdir()
    catalog = running_services.catalog
    rest = RestCatalog("bench", uri=catalog.uri, warehouse=catalog.warehouse)
    job = Job(topic, catalog, "rpc_k2i", folder, HOLD_SECONDS, running_services.kafka, rest)
    path = folder / "k2i.sock"
    rpc = f'[rpc]\nenabled = true\nsocket_path = "{path}"\nmax_frame_bytes = {FRAME_BYTES_MAX}\n'
    started = rust_k2i(job, rows=HOLD_ROWS, buffer_mb=BUFFER_MB, extra=rpc)
    with (folder / "output.log").open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in started.words], stdout=output, stderr=subprocess.STDOUT
        )
    with killed_at_last(process):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "output.log").read_text("utf-8", errors="replace"))
            time.sleep(0.05)
        flow = RpcClient(path, NAMESPACE, job.table)

        def everything() -> pa.Table:
            found = flow.rows()
            return pa.table({}) if found is None else found

        def one(partition: int, offset: int) -> pa.Table:
            rows = everything()
            same = pc.and_(pc.equal(rows["offset"], offset), pc.equal(rows["partition"], partition))
            return rows.filter(same)

        _until(everything, topic.messages)
        yield everything, one
        flow.close()


def _until(everything: AllRows, rows: int) -> None:
    """Waits until so many are in memory."""
    deadline, seen = time.monotonic() + PATIENCE_SECONDS, -1
    while seen < rows and time.monotonic() < deadline:
        try:
            seen = everything().num_rows
        except (K2IError, RpcError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
    if seen != rows:
        raise RuntimeError(f"{seen} rows are in memory, not {rows}")


def _measured(
    topic: topics.Topic, everything: AllRows, one: OneRow, offset: str, often: int
) -> dict[str, Any]:
    chosen = random.Random(7)
    all_seconds, one_seconds = [], []
    rows = everything()
    partition = "_kafka_partition" if "_kafka_partition" in rows.column_names else "partition"
    places = rows[partition].to_numpy().astype(np.int64) << 40 | rows[offset].to_numpy()
    right = len(np.unique(places)) == rows.num_rows == topic.messages
    for _ in range(often):
        began = time.perf_counter()
        everything()
        all_seconds.append(time.perf_counter() - began)
        at = chosen.randrange(topic.messages // topics.PARTITIONS)
        began = time.perf_counter()
        found = one(chosen.randrange(topics.PARTITIONS), at)
        one_seconds.append(time.perf_counter() - began)
        right = right and found.num_rows == 1 and found.column(offset).to_pylist() == [at]
    seconds = report.spread(all_seconds)["median"]
    return {
        "all_rows_ms": round(1e3 * seconds, 1),
        "all_rows_mb": round(rows.nbytes / 1e6, 1),
        "all_rows_mb_per_second": round(rows.nbytes / 1e6 / seconds),
        "one_row_p50_ms": round(1e3 * report.percentile(one_seconds, 50), 2),
        "one_row_p99_ms": round(1e3 * report.percentile(one_seconds, 99), 2),
        "every_record_once": right,
    }


def _show(found: dict[str, Any]) -> None:
    columns = ("", "all rows, ms", "MB", "MB/s", "one row, P50 ms", "P99 ms")
    titles = {"ours": "K2I for Python, Arrow Flight", "k2i": "K2I in Rust, read RPC"}
    names = ("all_rows_ms", "all_rows_mb", "all_rows_mb_per_second", "one_row_p50_ms")
    rows = [
        (title, *(f"{found[name][figure]:,}" for figure in (*names, "one_row_p99_ms")))
        for name, title in titles.items()
    ]
    report.show(f"{found['messages']:,} rows in memory, for a client beside", columns, rows)
