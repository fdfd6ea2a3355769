"""How long `k2i ingest --no-prefect` takes to its first record on a table that exists, and why.

A real broker and a REST catalog. The clock starts before the process does; the time of the first
record is the process's own, as its health page tells it. Then `import k2i_tasks` in a fresh
interpreter, and which packages the imports of a start go to (`-X importtime`, which makes them
slower: shares, not seconds to be added up). DuckDB compares the table with the topic in the end.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.health import PATIENCE_SECONDS, awaited, killed_at_last
from benchmarks.meter import cpu_seconds
from benchmarks.services import services
from tests.program import Program
from tests.stack.programs import free_port
from tests.support import create_topic, outsider, produce_events

#: Records that are there for each start.
RECORDS = 1_000
#: Seconds that the medians are to stay below.
FIRST_RECORD_TARGET, IMPORT_TARGET = 2.0, 0.3
#: Packages that are told.
MOST = 10
IMPORTED = """
import time
began = time.perf_counter()
import k2i_tasks
print(time.perf_counter() - began)
"""
_LINE = re.compile(r"^import time:\s+(\d+) \|\s+(\d+) \| +(\S+)$")


@dataclass(frozen=True, slots=True)
class Share:
    """Seconds that the imports of one package took by themselves, and how many modules it has."""

    package: str
    seconds: float
    modules: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if the table is not the topic."""
    with tempfile.TemporaryDirectory(prefix="k2i-start-") as folder:
        home = Path(folder)
        with services(home) as running:
            topic = f"start-{int(time.time())}"
            create_topic(running.bootstrap, topic)
            program = Program(home, running.bootstrap, topic, running.catalog)
            _more(program, 0)
            code, output = program.run("--max-messages", str(RECORDS))
            if code:
                raise RuntimeError(output[-4000:])
            starts = [_one(program, turn, home) for turn in range(1, chosen.runs + 1)]
            shares = _imports(program, chosen.runs + 1, home)
            equal = _equal(program, RECORDS * (chosen.runs + 2))
    found: dict[str, Any] = {
        "runs": chosen.runs,
        "first_record_seconds": report.spread([one["first_record_seconds"] for one in starts]),
        "first_record_cpu_seconds": report.spread([one["cpu_seconds"] for one in starts]),
        "import_seconds": report.spread([_import() for _ in range(chosen.runs)]),
        "bare_interpreter_seconds": report.spread([_timed("pass") for _ in range(chosen.runs)]),
        "import_process_seconds": report.spread(
            [_timed("import k2i_tasks") for _ in range(chosen.runs)]
        ),
        "imports": [
            {"package": one.package, "seconds": one.seconds, "modules": one.modules}
            for one in shares[:MOST]
        ],
        "imports_seconds": round(sum(one.seconds for one in shares), 3),
        "table_equals_topic": equal,
        **report.machine(),
    }
    _show(found)
    return report.finished(found, chosen.json, equal=equal)


def _more(program: Program, turn: int) -> None:
    produce_events(program.bootstrap, program.topic, RECORDS, first=turn * RECORDS)


def _one(program: Program, turn: int, home: Path, **environ: str) -> dict[str, float]:
    """One start, with records that wait for it, until they are in the table."""
    _more(program, turn)
    port, log = free_port(), home / "output.log"
    ports = {"K2I_MONITORING_HEALTH_PORT": str(port)}
    with log.open("w", encoding="utf-8") as stream:
        began = time.time()
        process = program.start(stdout=stream, environ={**ports, **environ})
        with killed_at_last(process):
            told = awaited(process, port, _has_consumed_all, "record")
            cpu = cpu_seconds(process.pid)
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE_SECONDS)
    if code:
        raise RuntimeError(log.read_text("utf-8", errors="replace")[-4000:])
    return {"first_record_seconds": float(told["first_record_at"]) - began, "cpu_seconds": cpu}


def _has_consumed_all(report: dict[str, Any]) -> bool:
    """Whether all records of this start are consumed; the first was at `first_record_at`."""
    return bool(report.get("records", {}).get("consumed", 0) >= RECORDS)


def _import() -> float:
    words = [sys.executable, "-c", IMPORTED]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def _timed(code: str) -> float:
    """Seconds of a whole process of the interpreter."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def _imports(program: Program, turn: int, home: Path) -> list[Share]:
    _one(program, turn, home, PYTHONPROFILEIMPORTTIME="1")
    return shares_of((home / "output.log").read_text("utf-8", errors="replace").splitlines())


def shares_of(lines: Iterable[str]) -> list[Share]:
    """What `-X importtime` has written, by package, the most expensive first.

    Args:
        lines: of the process's output; others are left out.
    """
    seconds: dict[str, float] = {}
    modules: dict[str, int] = {}
    for line in lines:
        if (match := _LINE.match(line)) is not None:
            package = match[3].partition(".")[0]
            seconds[package] = seconds.get(package, 0.0) + int(match[1]) / 1e6
            modules[package] = modules.get(package, 0) + 1
    ordered = sorted(seconds, key=seconds.__getitem__, reverse=True)
    return [Share(name, round(seconds[name], 4), modules[name]) for name in ordered]


def _equal(program: Program, records: int) -> bool:
    query = f"""
        SELECT count(*), count(DISTINCT order_id), min(order_id), max(order_id)
        FROM iceberg_scan('{program.metadata_location()}')"""
    with outsider() as connection:
        row = connection.execute(query).fetchone()
    return row == (records, records, 0, records - 1)


def _show(found: dict[str, Any]) -> None:
    rows = [
        (text, *(f"{found[name][part]:.3f}" for part in ("median", "min", "max")), target)
        for name, text, target in (
            ("first_record_seconds", "process start to first record", f"{FIRST_RECORD_TARGET:g}"),
            ("first_record_cpu_seconds", "CPU of that", ""),
            ("import_seconds", "import k2i_tasks", f"{IMPORT_TARGET:g}"),
            ("import_process_seconds", "process that imports it", ""),
            ("bare_interpreter_seconds", "process that imports nothing", ""),
        )
    ]
    columns = ("seconds", "median", "least", "most", "target")
    report.show(f"{found['runs']} starts of k2i ingest --no-prefect", columns, rows)
    whole = found["imports_seconds"]
    report.show(
        f"Imports of a start, {whole:.2f} s under -X importtime",
        ("package", "seconds", "share", "modules"),
        [
            (
                one["package"],
                f"{one['seconds']:.3f}",
                f"{one['seconds'] / whole:.0%}",
                str(one["modules"]),
            )
            for one in found["imports"]
        ],
    )
