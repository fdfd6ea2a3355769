"""Resident memory of the program while it works off a large backlog, beside what it may take.

Many Kafka partitions, a table of many partitions, a small buffer. The process's memory is looked at
20 times a second, and its own peak is told. DuckDB compares the table with the topic. Linux.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import drawing, report
from benchmarks import topic as topics
from benchmarks.ingested import EndedError, ingest, program_of
from benchmarks.meter import resident_mb
from benchmarks.scaling import bucketed
from benchmarks.services import Services, services

#: What the process may take: this, and so many times the buffer, in MB.
BASE_MB, PER_BUFFER_MB = 400, 1.5
#: Most looks that are kept, each the largest of its time.
LOOKS_MAX = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--partitions", type=int, default=64, help="of the topic")
    parser.add_argument("--buckets", type=int, default=256, help="partitions of the table")
    parser.add_argument("--buffer-mb", type=int, default=100, help="buffer.max_size_mb")
    parser.add_argument("--folder", type=Path, help="where the data goes; the system's when not")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="draw them into this file (.svg, .png)")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if the table differs, 2 if the run fails."""
    if min(chosen.messages, chosen.partitions, chosen.buckets, chosen.buffer_mb) < 1:
        print("--messages, --partitions, --buckets, --buffer-mb: all above 0", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="k2i-memory-", dir=chosen.folder) as folder:
        home = Path(folder)
        with services(home) as running:
            topic = topics.fill(running.bootstrap, chosen.messages, partitions=chosen.partitions)
            try:
                found = _measured(home / "run", running, topic, chosen)
            except EndedError as error:
                print(error, file=sys.stderr)
                return 2
    _show(found)
    if chosen.figure:
        drawing.memory(found, chosen.figure)
    return report.finished(found, chosen.json, equal=found["table_equals_topic"])


def _measured(
    folder: Path, running: Services, topic: topics.Topic, chosen: argparse.Namespace
) -> dict[str, Any]:
    program = program_of(
        folder,
        running,
        topic.name,
        table="memory",
        environ={"K2I_BUFFER_MAX_SIZE_MB": str(chosen.buffer_mb)},
        extra=bucketed(chosen.buckets),
    )
    began, looks = time.monotonic(), list[tuple[float, float]]()

    def look(pid: int) -> None:
        resident = resident_mb(pid)
        if resident:
            looks.append((time.monotonic() - began, resident))

    cost = ingest(program, topic.messages, look)
    compared = topics.compared(topic, program.metadata_location("memory"), typed=True)
    kept = thinned(looks, LOOKS_MAX)
    return {
        "messages": topic.messages,
        "bytes_per_message": round(topic.message_bytes, 1),
        "partitions": chosen.partitions,
        "table_partitions": chosen.buckets,
        "buffer_mb": chosen.buffer_mb,
        "bound_mb": BASE_MB + PER_BUFFER_MB * chosen.buffer_mb,
        "peak_rss_mb": round(cost.peak_rss_mb, 1),
        "rows_per_second": round(topic.messages / cost.wall_seconds),
        "cpu_seconds_per_million_rows": round(cost.cpu_seconds / topic.messages * 1e6, 2),
        "seconds": [round(at, 2) for at, _resident in kept],
        "rss_mb": [round(resident, 1) for _at, resident in kept],
        "table_equals_topic": bool(compared["equals_topic"]),
        **report.machine(),
    }


def thinned(looks: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most so many looks (when, how much): the largest of as many parts of nearly one length."""
    count = min(most, len(looks))
    ends = [len(looks) * number // count for number in range(1, count + 1)] if count else []
    starts = [0, *ends]
    return [
        max(looks[start:end], key=lambda look: look[1])
        for start, end in zip(starts, ends, strict=False)
    ]


def _show(found: Mapping[str, Any]) -> None:
    columns = ("", "peak MB", "bound MB", "rows/s", "CPU s per million")
    what = f"{found['messages']:,} events, {found['partitions']} to {found['table_partitions']}"
    row = (
        f"{what} partitions",
        f"{found['peak_rss_mb']:,.0f}",
        f"{found['bound_mb']:,.0f}",
        f"{found['rows_per_second']:,}",
        f"{found['cpu_seconds_per_million_rows']:.1f}",
    )
    report.show(f"Memory with a buffer of {found['buffer_mb']} MB", columns, [row])
    held = "within" if found["peak_rss_mb"] <= found["bound_mb"] else "above"
    base, times = BASE_MB, PER_BUFFER_MB
    print(f"the peak is {held} the bound of {base} MB + {times:g} x buffer.max_size_mb")
