"""Each view of a table is exact while it is filled, flushed, committed, compacted and evicted.

Twenty seconds for every change; ten minutes with `K2I_TEST_SCALE=1`, as in `make torture`. The
records of each partition are dense, so that counts and sums of offsets have a closed form.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from k2i_tasks.errors import CommitStateUnknownError, K2IError, TransientError
from tests.fault_world import World, world_at
from tests.integration.test_own_compaction import compaction
from tests.scale import times
from tests.support import CatalogAt, event

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = times(20, 600)
RATE = 4_000
#: Small, so that rows are evicted before their time is over, and flushes overlap with commits.
SETTINGS = {
    "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "0.2",
    "K2I_BUFFER_FLUSH_BATCH_SIZE": "3000",
    "K2I_BUFFER_TTL_SECONDS": "2",
    "K2I_BUFFER_MAX_SIZE_MB": "8",
    "K2I_BUFFER_INDEX_COLUMN": "name",
    "K2I_MAINTENANCE_SNAPSHOTS_KEPT": "30",
    "K2I_MAINTENANCE_SNAPSHOT_EXPIRATION_INTERVAL_SECONDS": "20",
}


class Load:
    """Produces records into all partitions in turn, each partition's offsets dense."""

    def __init__(self, bootstrap: str, topic: str, partitions: int = 4) -> None:
        self.sent = 0
        self._topic, self._partitions = topic, partitions
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._producer.flush(60) == 0

    def _main(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(0.02):
            wanted = int((time.monotonic() - began) * RATE)
            for number in range(self.sent, wanted):
                value = json.dumps({**event(number), "name": f"name-{number % 997}"}).encode()
                self._producer.produce(self._topic, value, partition=number % self._partitions)
            self.sent = max(self.sent, wanted)
            self._producer.poll(0)


class Watched:
    """One process of `tests.torture.watched`."""

    def __init__(self, world: World, out: Path) -> None:
        self.out = out
        self._log = out.with_suffix(".log").open("a", encoding="utf-8")
        words = ["--config", str(world.program.config), "--out", str(out)]
        # Others of that name are settings of the tests.
        plain = {name: text for name, text in os.environ.items() if not name.startswith("K2I_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.watched", *words],
            cwd=ROOT,
            env={**plain, **world.program.environ},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def views(self) -> list[dict[str, Any]]:
        """Those that were taken so far by all processes."""
        if not self.out.exists():
            return []
        lines = self.out.read_text(encoding="utf-8").splitlines()
        # The last one may be half written, by a process that was killed.
        return [json.loads(line) for line in lines if line.endswith("}")]

    def until_views(self, count: int) -> None:
        """Waits until so many more were taken."""
        deadline = time.monotonic() + 90
        wanted = len(self.views()) + count
        while len(self.views()) < wanted:
            assert self.process.poll() is None, self._told()
            assert time.monotonic() < deadline, self._told()
            time.sleep(0.05)

    def end(self, number: int, code: int) -> None:
        self.process.send_signal(number)
        assert self.process.wait(120) == code, self._told()
        self._log.close()

    def _told(self) -> str:
        log = self.out.with_suffix(".log").read_text(encoding="utf-8")
        return f"{self.views()[-3:]}\n{log[-6000:]}"


@contextmanager
def compacting(world: World) -> Iterator[list[int]]:
    """Joins the table's small files, and moves its head, again and again from outside."""
    stop, done = threading.Event(), [0]

    def main() -> None:
        while not stop.wait(1.0):
            try:
                done[0] += compaction(world).run().commits
            except (TransientError, CommitStateUnknownError, K2IError):
                continue  # the run was first, or there is no table yet

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


@pytest.mark.timeout(300 + 2 * SECONDS)
def test_every_view_of_a_table_that_is_filled_is_exact(
    kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path
) -> None:
    world = world_at(tmp_path, kafka_bootstrap, rest_catalog, rest_catalog, SETTINGS)
    out = tmp_path / "views.jsonl"
    deadline = time.monotonic() + SECONDS
    path = f"/tables/{world.table}$"
    kills = 0
    with Load(kafka_bootstrap, world.program.topic) as load, compacting(world) as joined:
        while True:
            run = Watched(world, out)
            run.until_views(15)
            # The run cannot know whether this commit has landed; views go on meanwhile.
            rest_catalog.set_fault(method="POST", path=path, status=503, when="after", times=1)
            run.until_views(15)
            # However slow the machine is, one run is killed and another goes on.
            if kills and time.monotonic() >= deadline:
                break
            run.end(signal.SIGKILL, -signal.SIGKILL)
            kills += 1
        rest_catalog.clear_faults()
    run.end(signal.SIGTERM, 0)
    views = run.views()
    assert not [each for each in views if "wrong" in each]
    assert views[-1]["rows"] <= load.sent
    assert views[-1]["rows"] == world.rows(), "drained: all that was consumed is committed"
    assert kills >= 1
    assert joined[0] >= 1
    taken = [each for each in views if "rows" in each]
    assert len({each["snapshot"] for each in taken}) > 10
    print(f"{len(taken)} views, {kills} kills, {joined[0]} compactions, {load.sent} records")
    assert any(each["hot_rows"] for each in taken)
