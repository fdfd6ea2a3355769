"""The age of the newest committed row as an outsider sees it, at a steady rate, beside maintenance.

The program runs as a process against a real broker and a REST catalog. The catalog is asked for the
table about 20 times a second; the offsets that its state records say which row is the newest, and
the producer knows each row's timestamp. The maintenance intervals are shortened, so that many jobs
come in between. DuckDB compares the table with the topic in the end.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import tempfile
import threading
import time
import uuid
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from confluent_kafka import Producer

from benchmarks import report
from benchmarks import topic as topics
from benchmarks.health import killed_at_last
from benchmarks.ingest import summary_of
from benchmarks.meter import cpu_seconds
from benchmarks.services import Services, services
from k2i_tasks.config import load_config
from k2i_tasks.iceberg.state import state_key
from k2i_tasks.kafka.orders import OrderPool
from tests.program import Program
from tests.stack.programs import free_port
from tests.support import create_topic

SEED = 7
#: Events are produced in steps of this length, in seconds.
STEP_SECONDS = 0.01
LOOK_SECONDS = 0.05
#: Longest wait for the table to appear, and for its last rows, in seconds.
PATIENCE_SECONDS = 120.0
#: The measurement begins when the table lacks less than so many seconds of the topic.
CAUGHT_UP_SECONDS = 2.0
#: What P99 of the age is to stay below, in seconds.
TARGET_SECONDS = 2.0
#: Each job every few seconds.
ENVIRON = {
    "K2I_BUFFER_FLUSH_BATCH_SIZE": "100000",
    "K2I_KAFKA_BATCH_SIZE": "20000",
    "K2I_MAINTENANCE_COMPACTION_INTERVAL_SECONDS": "5",
    "K2I_MAINTENANCE_SNAPSHOT_EXPIRATION_INTERVAL_SECONDS": "5",
    "K2I_MAINTENANCE_SNAPSHOTS_KEPT": "10",
    "K2I_MAINTENANCE_SNAPSHOT_HISTORY_KEPT": "5",
    "K2I_MAINTENANCE_SNAPSHOT_GRACE_SECONDS": "5",
    "K2I_MAINTENANCE_ORPHAN_CLEANUP_INTERVAL_SECONDS": "10",
}


class StoppedError(Exception):
    """The program ended, or its table does not come to hold the topic."""


@dataclass
class Stamps:
    """The Kafka timestamp in milliseconds of each record, by partition and offset."""

    by_partition: list[array[int]] = field(
        default_factory=lambda: [array("q") for _ in range(topics.PARTITIONS)]
    )

    def newest(self, offsets: dict[int, int]) -> int | None:
        """Of the records below `offsets`, by partition; None when there are none."""
        found = [self.by_partition[p][end - 1] for p, end in offsets.items() if end > 0]
        return max(found, default=None)

    @property
    def ends(self) -> dict[int, int]:
        return {p: len(stamps) for p, stamps in enumerate(self.by_partition) if stamps}


class Steady:
    """Produces order events at a rate from a thread of its own; each knows its timestamp.

    One idempotent producer alone writes the topic, so that the n-th record of a partition has
    offset n.
    """

    def __init__(self, bootstrap: str, topic: str, rate: int) -> None:
        self.stamps = Stamps()
        self.pool = OrderPool(SEED, topics.POOL)
        self.produced = 0
        self._topic, self._rate = topic, rate
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": "lz4",
            }
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._error: Exception | None = None

    def behind(self, offsets: dict[int, int]) -> int:
        """Records produced that are not below `offsets`, by partition; -1 without any offsets."""
        return self.produced - sum(offsets.values()) if offsets else -1

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends; all that was produced is in the topic then."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._producer.flush(60):
            raise StoppedError("the broker did not take all records")

    def _main(self) -> None:
        try:
            began = time.monotonic()
            while not self._stop.wait(STEP_SECONDS):
                wanted = int((time.monotonic() - began) * self._rate)
                self._produce(wanted - self.produced)
        except Exception as error:
            self._error = error

    def _produce(self, count: int) -> None:
        now = time.time()
        stamp = int(now * 1000)
        for key, value in self.pool.events(self.produced, count, now):
            partition = self.produced % topics.PARTITIONS
            self._producer.produce(self._topic, value, key, partition=partition, timestamp=stamp)
            self.stamps.by_partition[partition].append(stamp)
            self.produced += 1
        self._producer.poll(0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--settle", type=float, default=5.0, help="seconds left out once it has caught up"
    )
    parser.add_argument("--rate", type=int, default=5_000, help="records per second")
    parser.add_argument(
        "--interval", type=float, default=1.0, help="seconds between flushes; less compresses time"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(chosen: argparse.Namespace) -> int:
    """Measures, prints and writes the figures; 1 if the table is not the topic."""
    with tempfile.TemporaryDirectory(prefix="k2i-freshness-") as folder:
        home = Path(folder)
        with services(home) as running:
            found = _measured(home, running, chosen)
    _show(found)
    return report.finished(found, chosen.json, equal=found["table_equals_topic"])


def _measured(home: Path, running: Services, chosen: argparse.Namespace) -> dict[str, Any]:
    topic, port = f"fresh-{uuid.uuid4().hex[:8]}", free_port()
    create_topic(running.bootstrap, topic, topics.PARTITIONS)
    program = Program(home, running.bootstrap, topic, running.catalog)
    program.environ = {
        **ENVIRON,
        "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": str(chosen.interval),
        "K2I_MONITORING_METRICS_PORT": str(port),
    }
    producer = Steady(running.bootstrap, topic, chosen.rate)
    with (home / "output.log").open("w", encoding="utf-8") as log:
        process = program.start(stdout=log)
        with killed_at_last(process):
            view = OutsideView(program, topic)
            producer.start()
            # What waited for the program to start, and for its table to be made, is worked off.
            behind = chosen.rate * CAUGHT_UP_SECONDS
            view.until(lambda offsets: 0 < producer.behind(offsets) < behind, process)
            time.sleep(chosen.settle)
            ages, seconds = _ages(view, producer.stamps, chosen.seconds)
            producer.stop()
            view.until(lambda offsets: offsets == producer.stamps.ends, process)
            jobs = _jobs(port)
            cpu = cpu_seconds(process.pid)
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE_SECONDS)
    output = (home / "output.log").read_text("utf-8", errors="replace")
    if code != 0:
        raise StoppedError(f"the program ended with {code}\n{output[-4000:]}")
    sums = topics.sums_of(producer.pool, producer.produced)
    whole = topics.Topic(running.bootstrap, topic, producer.produced, 0.0, sums)
    compared = topics.compared(whole, program.metadata_location(), typed=True)
    return {
        "rate": chosen.rate,
        "interval_seconds": chosen.interval,
        "seconds": round(seconds, 1),
        "records": producer.produced,
        "looks": len(ages),
        "age_p50_seconds": round(report.percentile(ages, 50), 3),
        "age_p99_seconds": round(report.percentile(ages, 99), 3),
        "age_max_seconds": round(max(ages), 3),
        "commits_seen": view.commits,
        "program_cpu_seconds": round(cpu, 1),
        "maintenance_jobs": jobs,
        "program_summary": summary_of(output),
        "table_equals_topic": compared["equals_topic"],
        **report.machine(),
    }


class OutsideView:
    """The table as the REST catalog tells it; nothing of the program takes part in it."""

    def __init__(self, program: Program, topic: str) -> None:
        assert program.rest is not None
        base = program.rest.uri.rstrip("/")
        self._url = f"{base}/v1/namespaces/tests/tables/{program.table}"
        self._topic = topic
        self._session = requests.Session()
        config = load_config(program.config, environ={}, overrides={})
        self._key = state_key(config.iceberg.sink)
        self._seen: dict[int, int] = {}
        self.commits = 0

    def offsets(self) -> dict[int, int]:
        """The next offset of each partition, as the table's state records it."""
        answer = self._session.get(self._url, timeout=30)
        if answer.status_code == 404:
            return {}
        answer.raise_for_status()
        properties = answer.json()["metadata"].get("properties", {})
        state = properties.get(self._key)
        following = json.loads(state)["topics"][self._topic]["next"] if state else {}
        found = {int(partition): end for partition, end in following.items() if end}
        self.commits += found != self._seen
        self._seen = found
        return found

    def until(self, done: Any, process: Any) -> None:
        """Asks until `done` is true of the offsets."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done(self.offsets()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StoppedError(f"the table stays at {self._seen}, exit code {process.poll()}")
            time.sleep(LOOK_SECONDS)


def _ages(view: OutsideView, stamps: Stamps, seconds: float) -> tuple[list[float], float]:
    """The age of the newest row in seconds at each look, and how long it was looked."""
    ages: list[float] = []
    began, view.commits = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        newest = stamps.newest(view.offsets())
        assert newest is not None
        ages.append(time.time() - newest / 1000)
        time.sleep(LOOK_SECONDS)
    return ages, passed


def _jobs(port: int) -> dict[str, int]:
    """How often each maintenance job ended, by `job outcome`, as the program counts it."""
    text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    return jobs_in(text)


def jobs_in(exposition: str) -> dict[str, int]:
    """The counters of maintenance jobs in Prometheus' text format; those at 0 are left out."""
    found = re.findall(
        r'^k2i_maintenance_runs_total\{job="([^"]+)",outcome="([^"]+)"\} (\S+)$', exposition, re.M
    )
    return {f"{job} {outcome}": int(float(value)) for job, outcome, value in found if float(value)}


def _show(found: dict[str, Any]) -> None:
    columns = ("", "P50 s", "P99 s", "most s", "commits", "jobs", "CPU s")
    jobs = found["maintenance_jobs"]
    row = (
        f"{found['rate']:,} records/s, a flush every {found['interval_seconds']:g} s, "
        f"{found['seconds']:.0f} s",
        f"{found['age_p50_seconds']:.2f}",
        f"{found['age_p99_seconds']:.2f}",
        f"{found['age_max_seconds']:.2f}",
        str(found["commits_seen"]),
        str(sum(jobs.values())),
        str(found["program_cpu_seconds"]),
    )
    told = found["program_summary"]
    report.show("Age of the newest committed row, seen from outside", columns, [row])
    print("jobs: " + (", ".join(f"{often} {job}" for job, often in jobs.items()) or "none"))
    print("; ".join(f"{name} {told[name]}" for name in ("flush", "commit") if name in told))
    held = "within" if found["age_p99_seconds"] < TARGET_SECONDS else "above"
    print(f"P99 is {held} the target of {TARGET_SECONDS:g} s")
