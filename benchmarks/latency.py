"""From a sealed batch to its snapshot, flush and commit, and where the time goes.

Order events, decoded beforehand, into a table of a local catalog, one batch after the other. What
waits for the disk is measured in `os.fsync` and `os.fdatasync`, what waits for a REST catalog in
the client's requests. DuckDB compares the tables with what was written.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from benchmarks import report, writing
from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.metrics import Metrics
from k2i_tasks.operations import Operations
from k2i_tasks.types import OffsetRange, SealReason

#: Seconds that P50 and P99 are to stay below.
TARGETS = {"p50_seconds": 0.1, "p99_seconds": 0.3}
#: What a batch's time is made of.
PARTS = ("encode", "sync_files", "sync_commit", "catalog", "commit")


@dataclass
class Waits:
    """Seconds that this thread has waited for the disk, and for the catalog."""

    disk: float = 0.0
    catalog: float = 0.0


@dataclass(slots=True)
class Taken:
    """What one batch took, in seconds; `parts` by the names of `PARTS`, which add up to it."""

    seconds: float
    flush_cpu_seconds: float
    commit_cpu_seconds: float
    parts: dict[str, float] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 3_000_000])
    parser.add_argument("--repetitions", type=int, default=100, help="of the smallest")
    parser.add_argument("--rows-max", type=int, default=30_000_000, help="in all of one size")
    parser.add_argument("--buckets", type=int, default=1, help="partitions of the table")
    parser.add_argument("--catalog", choices=writing.CATALOGS, default="rest")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if a table differs, 2 if misused."""
    if min(chosen.buckets, chosen.repetitions, *chosen.rows) < 1:
        print("--rows, --repetitions, --buckets: all above 0", file=sys.stderr)
        return 2
    sizes = []
    with tempfile.TemporaryDirectory(prefix="k2i-latency-") as folder:
        home = Path(folder)
        with report.quiet(), writing.catalog(chosen.catalog, home) as plain:
            iceberg = {**plain, "partition_spec": _spec(chosen.buckets)}
            for rows in chosen.rows:
                often = min(chosen.repetitions, max(3, chosen.rows_max // rows))
                sizes.append(_measured(iceberg, home / str(rows), rows, often))
    found = {
        "catalog": chosen.catalog,
        "buckets": chosen.buckets,
        "targets": TARGETS,
        **report.machine(),
        "sizes": sizes,
    }
    _show(found)
    equal = all(one["table_equals_written"] for one in sizes)
    return report.finished(found, chosen.json, equal=equal)


def _spec(buckets: int) -> list[dict[str, str]]:
    field = {"source_field": "event_id", "transform": f"bucket[{buckets}]"}
    return [field] if buckets > 1 else []


def _measured(iceberg: Mapping[str, Any], folder: Path, rows: int, often: int) -> dict[str, Any]:
    config = writing.config_of(iceberg, folder, f"latency_{rows}")
    events = writing.Events(config)
    with writing.claimed(config, Metrics(), events.schema) as operations, waits() as waited:
        # The first flush looks at the schema, and connects.
        _one(operations, events, 0, rows, waited)
        taken = [_one(operations, events, turn, rows, waited) for turn in range(1, often + 1)]
    compared = events.compared(config, rows * (often + 1))
    size = compared["rows"] and _file_bytes(config) / compared["rows"]
    return {
        "rows": rows,
        "repetitions": often,
        "file_bytes_per_row": round(size, 1),
        "table_equals_written": compared["equals_topic"],
        "p50_seconds": _p50([one.seconds for one in taken]),
        "p99_seconds": round(report.percentile([one.seconds for one in taken], 99), 4),
        "min_seconds": round(min(one.seconds for one in taken), 4),
        "p50_flush_cpu_seconds": _p50([one.flush_cpu_seconds for one in taken]),
        "p50_commit_cpu_seconds": _p50([one.commit_cpu_seconds for one in taken]),
        "p50_parts": {part: _p50([one.parts[part] for one in taken]) for part in PARTS},
    }


def _p50(seconds: list[float]) -> float:
    return round(report.percentile(seconds, 50), 4)


def _file_bytes(config: Any) -> int:
    snapshot = writing.loaded(config).current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    return int(snapshot.summary.additional_properties["total-files-size"])


def _one(
    operations: Operations, events: writing.Events, turn: int, rows: int, waited: Waits
) -> Taken:
    """Seals, flushes and commits the batch of this turn."""
    buffer, first = HotBuffer(), turn * rows
    _filled(operations, buffer, events, first, rows, f"batch-{turn}")
    ranges = {writing.P0: OffsetRange(first, first + rows)}
    began, cpu = time.perf_counter(), time.process_time()
    sealed = buffer.seal(f"batch-{turn}", SealReason.ROWS, ranges)
    before = Waits(waited.disk, waited.catalog)
    operations.flush(sealed)
    flushed, flush_cpu = time.perf_counter(), time.process_time() - cpu
    between = Waits(waited.disk, waited.catalog)
    operations.commit(sealed)
    ended = time.perf_counter()
    # The schema is looked at in the catalog with the first flush alone: all else is of the commit.
    sync_files, sync_commit = between.disk - before.disk, waited.disk - between.disk
    catalog = waited.catalog - between.catalog
    parts = {
        "encode": flushed - began - sync_files,
        "sync_files": sync_files,
        "sync_commit": sync_commit,
        "catalog": catalog,
        "commit": ended - flushed - sync_commit - catalog,
    }
    commit_cpu = time.process_time() - cpu - flush_cpu
    return Taken(ended - began, flush_cpu, commit_cpu, parts)


def _filled(
    operations: Operations,
    buffer: HotBuffer,
    events: writing.Events,
    first: int,
    rows: int,
    batch_id: str,
) -> None:
    """Fills the buffer as a run does, which has encoded all but the last rows by the seal."""
    limits, waiting = Limits(), 0
    for batch in events.polls(first, rows):
        buffer.append(batch)
        waiting += batch.records
        if waiting >= limits.encode_rows:
            operations.encode(batch_id, buffer.take_new())
            waiting = 0


@contextmanager
def waits() -> Iterator[Waits]:
    """Measures what the calling thread waits for while inside."""
    found, thread = Waits(), threading.get_ident()

    def timed(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(*words, **options)
            finally:
                if threading.get_ident() == thread:
                    took = time.perf_counter() - began
                    setattr(found, name, getattr(found, name) + took)

        return call

    places: tuple[tuple[Any, str, str], ...] = (
        (os, "fsync", "disk"),
        (os, "fdatasync", "disk"),
        (requests.Session, "send", "catalog"),
    )
    plain = [getattr(owner, name) for owner, name, _kind in places]
    for (owner, name, kind), function in zip(places, plain, strict=True):
        setattr(owner, name, timed(kind, function))
    try:
        yield found
    finally:
        for (owner, name, _kind), function in zip(places, plain, strict=True):
            setattr(owner, name, function)


def _show(found: dict[str, Any]) -> None:
    rows = [
        (
            f"{one['rows']:,}",
            str(one["repetitions"]),
            f"{one['p50_seconds'] * 1000:,.0f}",
            f"{one['p99_seconds'] * 1000:,.0f}",
            f"{one['min_seconds'] * 1000:,.0f}",
            f"{one['p50_flush_cpu_seconds'] * 1000:,.0f}",
            f"{one['p50_commit_cpu_seconds'] * 1000:,.0f}",
            *(f"{one['p50_parts'][part] * 1000:,.0f}" for part in PARTS),
        )
        for one in found["sizes"]
    ]
    parts = ("encode", "sync files", "sync commit", "catalog", "commit")
    columns = ("rows", "times", "P50", "P99", "least", "flush CPU", "commit CPU", *parts)
    report.show("From sealed to committed, ms; CPU and parts are medians", columns, rows)
    for one in found["sizes"]:
        missed = [
            f"{name[:3].upper()} {one[name] * 1000:,.0f} ms, above {limit * 1000:.0f}"
            for name, limit in TARGETS.items()
            if one[name] > limit
        ]
        print(f"{one['rows']:,} rows: {'; '.join(missed) or 'within the targets'}")
