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
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.stack.programs import free_port

FLOW = Path(__file__).resolve().parent.parent / "flows" / "ingest.py"
#: Longest that one start may take, in seconds.
PATIENCE_SECONDS = 120.0


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
        try:
            report = _first_commit(process, port)
            committed = time.time()
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        raise RuntimeError(f"the demo ended with {code}")
    return {
        "first_record_seconds": round(report["first_record_at"] - began, 3),
        "first_commit_seconds": round(committed - began, 3),
    }


def _first_commit(process: subprocess.Popen[bytes], port: int) -> dict[str, Any]:
    """The first health report with a commit in it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                report: dict[str, Any] = json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            report = {}
        if report.get("last_commit"):
            return report
        time.sleep(0.01)
    raise RuntimeError(f"no commit within {PATIENCE_SECONDS:.0f} s, exit code {process.poll()}")
