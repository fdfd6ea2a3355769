"""How long a newcomer waits: from `python flows/ingest.py` to the first record and the first rows.

The demo, each time in a fresh folder: embedded broker, SQLite catalog, and Prefect with a server of
its own unless `--no-prefect`. The clock starts before the process does; the first record's time is
the process's own, the first commit's is when the health page shows it (looked at 100 times a
second).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.health import PATIENCE_SECONDS, awaited, killed_at_last
from tests.stack.programs import free_port

FLOW = Path(__file__).resolve().parent.parent / "flows" / "ingest.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-prefect", action="store_true", help="do not show the runs in Prefect")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; fails if a run does not start or does not drain."""
    words = ["--no-prefect"] if chosen.no_prefect else []
    found = [_one(words) for _ in range(chosen.runs)]
    figures: dict[str, Any] = {"runs": chosen.runs, "load_average": os.getloadavg()}
    for name in ("first_record_seconds", "first_commit_seconds"):
        seconds = sorted(one[name] for one in found)
        low, high = seconds[0], seconds[-1]
        figures[name] = {"min": low, "median": statistics.median(seconds), "max": high}
    print(json.dumps(figures, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0


def _one(words: list[str]) -> dict[str, float]:
    port = free_port()
    ports = {"K2I_MONITORING_HEALTH_PORT": str(port), "K2I_MONITORING_METRICS_PORT": "0"}
    with tempfile.TemporaryDirectory(prefix="k2i-start-") as folder:
        command = [sys.executable, str(FLOW), "--data-dir", folder, "--plain", *words]
        began = time.time()
        process = subprocess.Popen(
            command,
            env={**os.environ, **ports},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with killed_at_last(process):
            report = awaited(process, port, lambda told: told.get("last_commit"), "commit")
            committed = time.time()
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE_SECONDS)
    if code != 0:
        raise RuntimeError(f"the demo ended with {code}")
    return {
        "first_record_seconds": round(report["first_record_at"] - began, 3),
        "first_commit_seconds": round(committed - began, 3),
    }
