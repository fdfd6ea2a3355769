"""Where the CPU of an ingestion goes: each stage, per million rows, in one run.

The program itself, on a real broker and a REST catalog, with a clock around each stage. What a
thread does between two stages, and the threads of views and metrics, is "the rest". Start-up is
apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import figure
from benchmarks import topic as topics
from benchmarks.profiled import STAGES_FILE
from benchmarks.services import Services, services
from tests.program import Program, finished

FORMATS = ("json", "raw")
#: Stage, in order, and what is done in it.
STAGES = {
    "client": "Kafka client's threads: fetch, unpack, check",
    "consume": "one Python object per message",
    "columns": "messages to columns",
    "decode": "payloads and coordinates to Arrow",
    "write": "Parquet files",
    "commit": "Iceberg commits",
    "rest": "the rest",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw them into this file (.svg, .png)")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if a run fails."""
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMATS}
    with tempfile.TemporaryDirectory(prefix="k2i-bench-") as folder:
        home = Path(folder)
        with services(home) as running:
            topic = topics.fill(running.bootstrap, chosen.messages)
            for turn in range(chosen.runs):
                for form in FORMATS:
                    figures = _profiled(home / f"{form}-{turn}", topic, running, form)
                    if figures is None:
                        return 1
                    found[form].append(figures)
    report = {
        "messages": topic.messages,
        "bytes_per_message": round(topic.message_bytes, 1),
        "load_average": os.getloadavg(),
        "cpu_seconds_per_million_rows": {
            form: {stage: _middle(runs, stage) for stage in ("start", *STAGES)}
            for form, runs in found.items()
        },
        "runs": found,
    }
    _show(report)
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if chosen.figure:
        figure.profiled(report, STAGES, chosen.figure)
    return 0


def _profiled(
    folder: Path, topic: topics.Topic, running: Services, form: str
) -> dict[str, float] | None:
    """CPU seconds per million rows by stage, and those of the start; None if the run failed."""
    folder.mkdir()
    stages = folder / "stages.json"
    program = Program(
        folder,
        topic.bootstrap,
        topic.name,
        running.catalog,
        extra="[prefect]\nenabled = false",
        module="benchmarks.profiled",
        environ={
            STAGES_FILE: str(stages),
            "K2I_ICEBERG_TABLE_NAME": folder.name.replace("-", "_"),
            "K2I_KAFKA_FORMAT_TYPE": form,
            "K2I_KAFKA_BATCH_SIZE": "20000",
            "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "5",
            "K2I_BUFFER_FLUSH_BATCH_SIZE": "100000",
            "K2I_BUFFER_MAX_SIZE_MB": "256",
        },
    )
    code, output = finished(program.start("--max-messages", str(topic.messages)))
    if code or not stages.exists():
        print(f"{form} ended with {code}\n{output[-4000:]}", file=sys.stderr)
        return None
    return _per_million(json.loads(stages.read_text("utf-8")), topic.messages)


def _per_million(sums: Mapping[str, float], messages: int) -> dict[str, float]:
    seconds = {stage: sums.get(stage, 0.0) for stage in ("consume", "decode", "write", "commit")}
    seconds["client"] = sums["client"] - sums["client_before"]
    seconds["columns"] = sums["poll"] - sums["consume"]
    seconds["rest"] = sums["process"] - sums["process_before"] - sum(seconds.values())
    found = {stage: round(seconds[stage] / messages * 1e6, 3) for stage in STAGES}
    return {"start": round(sums["process_before"], 3), **found}


def _middle(runs: list[dict[str, float]], stage: str) -> float:
    return round(statistics.median(figures[stage] for figures in runs), 3)


def _show(report: Mapping[str, Any]) -> None:
    table = Table(title=f"{report['messages']:,} events of {report['bytes_per_message']} bytes")
    table.add_column("CPU s per million rows")
    for form in FORMATS:
        table.add_column(form, justify="right")
    found = report["cpu_seconds_per_million_rows"]
    for stage, title in STAGES.items():
        table.add_row(title, *(f"{found[form][stage]:.2f}" for form in FORMATS))
    table.add_section()
    sums = [sum(found[form][stage] for stage in STAGES) for form in FORMATS]
    table.add_row("all", *(f"{total:.2f}" for total in sums))
    table.add_row("start-up, once", *(f"{found[form]['start']:.2f}" for form in FORMATS))
    Console().print(table)
