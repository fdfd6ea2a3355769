"""One ingestion by the program in a process of its own, with clocks in it and looks from outside.

CPU and time go from the call of the Kafka client that gives the first message to the last commit;
start-up is apart.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.health import killed_at_last
from benchmarks.meter import peak_mb
from benchmarks.profiled import STAGES_FILE
from benchmarks.services import Services
from tests.program import Program

#: Longest that one ingestion may take, in seconds.
PATIENCE_SECONDS = 3_600.0
#: Bound of the rows in memory.
BUFFER_MB = 256
#: What the program is run with, unless a benchmark says otherwise.
ENVIRON = {
    "K2I_KAFKA_BATCH_SIZE": "20000",
    "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "5",
    "K2I_BUFFER_FLUSH_BATCH_SIZE": "100000",
    "K2I_BUFFER_MAX_SIZE_MB": str(BUFFER_MB),
}


class EndedError(Exception):
    """The program failed, or did not end in time."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one ingestion took; `stages` as `benchmarks.profiled` writes them."""

    cpu_seconds: float
    wall_seconds: float
    start_cpu_seconds: float
    peak_rss_mb: float
    stages: Mapping[str, float]


def program_of(
    folder: Path,
    running: Services,
    topic: str,
    *,
    table: str,
    environ: Mapping[str, str] | None = None,
    extra: str = "",
    module: str = "benchmarks.profiled",
) -> Program:
    """The program on a topic; `folder` is made for it.

    Args:
        folder: for its files.
        running: broker and catalog.
        topic: name of the topic.
        table: name of the table.
        environ: changes to `ENVIRON`.
        extra: further TOML.
        module: what is run in place of `k2i`.
    """
    folder.mkdir()
    return Program(
        folder,
        running.bootstrap,
        topic,
        running.catalog,
        extra=f"[prefect]\nenabled = false\n{extra}",
        module=module,
        environ={
            **ENVIRON,
            STAGES_FILE: str(folder / "stages.json"),
            "K2I_ICEBERG_TABLE_NAME": table,
            **(environ or {}),
        },
    )


def ingest(
    program: Program,
    messages: int,
    look: Callable[[int], None] = lambda _pid: None,
    every_seconds: float = 0.05,
) -> Cost:
    """Runs the program until so many messages are in its table. May block for an hour.

    Args:
        program: as `program_of` makes it.
        messages: where it ends.
        look: called with the process's id from time to time.
        every_seconds: how often.

    Raises:
        EndedError: it failed, or did not end in time.
    """
    log, peak = program.folder / "output.log", 0.0
    deadline = time.monotonic() + PATIENCE_SECONDS
    with log.open("w", encoding="utf-8") as stream:
        process = program.start("--max-messages", str(messages), stdout=stream)
        with killed_at_last(process):
            while process.poll() is None and time.monotonic() < deadline:
                began = time.monotonic()
                peak = max(peak, peak_mb(process.pid))
                look(process.pid)
                time.sleep(max(0.0, every_seconds - (time.monotonic() - began)))
            code = process.poll()
    stages = program.folder / "stages.json"
    if code != 0 or not stages.exists():
        what = f"ended with {code}" if code is not None else "did not end"
        output = log.read_text("utf-8", errors="replace")
        raise EndedError(f"the program {what} on {program.topic}\n{output[-4000:]}")
    sums = json.loads(stages.read_text("utf-8"))
    return Cost(
        cpu_seconds=sums["process"] - sums["process_before"],
        wall_seconds=sums["wall"] - sums["wall_before"],
        start_cpu_seconds=sums["process_before"],
        peak_rss_mb=peak,
        stages=sums,
    )
