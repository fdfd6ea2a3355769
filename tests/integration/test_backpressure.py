"""A catalog that is slower than the topic: consumption pauses, memory stays bounded, all lands."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.program import Process, Program
from tests.stack.programs import free_port
from tests.support import CatalogAt, assert_exactly_once, create_topic, produce, read_by_metadata

BUFFER_MB = 16
RECORDS = 100_000
#: Characters beside the number: 150 MB in all, many times the buffer.
PADDING = 1_500
#: What the process needs beside 1.5 times its buffer: libraries, librdkafka's queue, one flush.
REST_OF_THE_PROCESS_MB = 400


@dataclass
class Watched:
    """What was seen of a running process."""

    rss_mb: list[float] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)


def get(port: int, path: str) -> str | None:
    """The page, also one with an error status; None while nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except urllib.error.URLError:
        return None


def rss_mb(process: Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
    return int(found[1]) / 1024 if found else 0.0


def watch(process: Process, port: int, seen: Watched) -> Iterator[dict[str, Any]]:
    """A health report twenty times a second for two minutes at most, while the process lives."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        page = get(port, "/health")
        if page is not None and "buffer" in (report := json.loads(page)):
            seen.rss_mb.append(rss_mb(process))
            seen.reports.append(report)
            yield report
        time.sleep(0.05)


@pytest.mark.integration
def test_a_slow_catalog_pauses_consumption_and_memory_stays_bounded(
    kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path
) -> None:
    topic = f"backlog-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, topic)
    # Not to be compressed: what the client unpacks of a fetch is in no bound of ours.
    draw = random.Random(20260)
    values = (
        b'{"n": %d, "pad": "%s"}' % (n, draw.randbytes(PADDING // 2).hex().encode())
        for n in range(RECORDS)
    )
    written = produce(kafka_bootstrap, topic, values)
    health, metrics = free_port(), free_port()
    # Its memory is measured.
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog, fresh=True)
    program.environ = {
        "K2I_BUFFER_MAX_SIZE_MB": str(BUFFER_MB),
        "K2I_BUFFER_FLUSH_BATCH_SIZE": "1000000",
        "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "60",
        "K2I_MONITORING_HEALTH_PORT": str(health),
        "K2I_MONITORING_METRICS_PORT": str(metrics),
    }
    seen = Watched()
    process = program.start(stdout=subprocess.DEVNULL)
    try:
        rest_catalog.set_fault(
            path=f".*/tables/{program.table}$", method="POST", when="before", delay_ms=700, times=8
        )
        for report in watch(process, health, seen):
            if report["buffer"]["paused"] and report["records"]["snapshots"] >= 3:
                break
        exposition = get(metrics, "/metrics") or ""
        rest_catalog.clear_faults()
        for report in watch(process, health, seen):
            if report["records"]["consumed"] == RECORDS:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        rest_catalog.clear_faults()
        if process.poll() is None:
            process.kill()
            process.wait(30)
    paused = [report for report in seen.reports if report["buffer"]["paused"]]
    assert paused, "consumption was never paused"
    assert {report["state"] for report in paused} == {"paused"}
    assert {report["components"]["buffer"]["status"] for report in paused} == {"degraded"}
    assert seen.reports[-1]["buffer"]["pauses"] >= 2, "it never went on after a pause"
    pauses = re.search(r"^k2i_backpressure_events_total (\S+)$", exposition, re.M)
    assert pauses, exposition
    assert float(pauses[1]) >= 1
    fullest = max(report["buffer"]["bytes"] for report in seen.reports)
    assert fullest <= BUFFER_MB << 20, f"{fullest} bytes in a buffer of {BUFFER_MB} MB"
    assert max(seen.rss_mb) <= REST_OF_THE_PROCESS_MB + 1.5 * BUFFER_MB
    rows = read_by_metadata(program.metadata_location(), ("_kafka_partition", "_kafka_offset", "n"))
    assert_exactly_once(
        rows, {place: {"n": json.loads(v or b"")["n"]} for place, v in written.items()}
    )
    print(f"peak {max(seen.rss_mb):.0f} MB, fullest {fullest} bytes, pauses {pauses[1]}")
