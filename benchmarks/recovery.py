"""What a start after a crash takes on a table with a long history: open, claim, recover.

An SQLite catalog and a local warehouse. Each table is filled by real commits of a run that dies
with two batches staged: the next start, in a process of its own, commits the one, and discards the
other, for which it looks through all snapshots. `--snapshots` are those of the table then.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.long_history import started, written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--snapshots", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures."""
    logging.disable(logging.WARNING)
    tables = [
        {"snapshots": number, "left": left, **_measured(number, unfit=unfit)}
        for number in chosen.snapshots
        for left, unfit in (("staged", False), ("staged, and one to discard", True))
    ]
    figures: dict[str, Any] = {"tables": tables, "load_average": os.getloadavg()}
    print(json.dumps(figures, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0


def _measured(snapshots: int, *, unfit: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="k2i-recovery-") as folder:
        written(Path(folder), snapshots - 1, unfit=unfit)  # the claim is one, too
        command = [sys.executable, "-m", "benchmarks.recovery", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _start(folder: Path) -> dict[str, float]:
    """Seconds of the start, and CPU seconds of this process up to its end."""
    logging.disable(logging.WARNING)
    began, cpu = time.monotonic(), time.process_time()
    started(folder)
    return {
        "start_wall_seconds": round(time.monotonic() - began, 3),
        "start_cpu_seconds": round(time.process_time() - cpu, 3),
        "process_cpu_seconds": round(time.process_time(), 3),
    }


if __name__ == "__main__":
    print(json.dumps(_start(Path(sys.argv[1]))))
