"""`k2i verify` of a large table: what it takes, and that it proves the table.

Starts broker and catalog itself (the test stack: Java 17 and Maven), produces the events, has the
program ingest them, and runs `k2i verify` as a process of its own. `--folder` says where the data
goes: a table of 10 million rows needs about 4 GB, topic included.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.ingest import PARTITIONS
from benchmarks.meter import peak_mb
from benchmarks.services import services
from tests.program import Program
from tests.support import CatalogAt, create_topic, event, produce

#: Events that are produced at once: what stands where is kept for so many only.
PRODUCED_MAX = 500_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=1, help="verifications of the same table")
    parser.add_argument("--values", choices=["none", "sampled", "full"], default="sampled")
    parser.add_argument("--folder", type=Path, help="where the data goes; the system's when not")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if the table is not proven."""
    with tempfile.TemporaryDirectory(prefix="k2i-bench-", dir=chosen.folder) as folder:
        home = Path(folder)
        with services(home) as running:
            program = _filled(home, running.bootstrap, running.catalog, chosen.rows)
            found = [_verified(program, chosen.values) for _ in range(chosen.runs)]
    figures: dict[str, Any] = {
        "rows": chosen.rows,
        "values": chosen.values,
        "runs": found,
        "load_average": os.getloadavg(),
    }
    print(json.dumps(figures, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    proven = all((one["verdict"], one["rows"]) == ("proven", chosen.rows) for one in found)
    return 0 if proven else 1


def _filled(home: Path, bootstrap: str, catalog: CatalogAt, rows: int) -> Program:
    """A program whose table holds so many events, ingested by itself."""
    topic = f"bench-{int(time.time())}"
    create_topic(bootstrap, topic, PARTITIONS)
    settings = {"linger.ms": 50, "compression.type": "lz4"}
    for first in range(0, rows, PRODUCED_MAX):
        numbers = range(first, min(rows, first + PRODUCED_MAX))
        values = (json.dumps(event(number)).encode() for number in numbers)
        produce(bootstrap, topic, values, config=settings)
    program = Program(home, bootstrap, topic, catalog, extra="[prefect]\nenabled = false")
    program.environ = {
        "K2I_KAFKA_BATCH_SIZE": "20000",
        "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "5",
        "K2I_BUFFER_FLUSH_BATCH_SIZE": "100000",
        "K2I_BUFFER_MAX_SIZE_MB": "256",
    }
    with (home / "ingest.log").open("w", encoding="utf-8") as log:
        code = program.start("--max-messages", str(rows), stdout=log).wait()
    if code:
        raise RuntimeError((home / "ingest.log").read_text(encoding="utf-8")[-4000:])
    return program


def _verified(program: Program, values: str) -> dict[str, Any]:
    """One run of the command, with its default options but for the values."""
    path = program.folder / "report.json"
    words = ["verify", "--values", values, "--output", str(path)]
    began = time.monotonic()
    with (program.folder / "verify.log").open("w", encoding="utf-8") as log:
        process = program.command(*words, stdout=log)
        highest_mb = 0.0
        while True:
            highest_mb = max(highest_mb, peak_mb(process.pid))
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.02)
    wall = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if not path.exists():
        raise RuntimeError((program.folder / "verify.log").read_text(encoding="utf-8")[-4000:])
    report = json.loads(path.read_text(encoding="utf-8"))
    return {
        "verdict": report["verdict"],
        "exit_code": process.returncode,
        "rows": report["totals"]["rows"],
        "compared": report["totals"]["compared"],
        "wall_seconds": round(wall, 2),
        "verification_seconds": report["seconds"],
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_rss_mb": round(highest_mb),
    }
