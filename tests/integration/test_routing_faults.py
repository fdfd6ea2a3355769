"""One topic into many tables while things break: catalogs, rules, files, topics."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from tests.integration.test_routing import World, is_read
from tests.program import finished
from tests.running import Running, running
from tests.support import CatalogAt, Position, assert_exactly_once, await_leaders, produce

pytestmark = pytest.mark.integration

Row = dict[str, Any]
#: Lag is looked at twice a second.
STEADY_SECONDS = 2.0
BY_KIND = """
[routing]
topics = ["PREFIX.events"]
by_field = "kind"
table_name = "PREFIX_{value}"
value_missing = "rest"
restart_seconds_max = 1
discovery_seconds = 1
"""


@pytest.fixture
def world(tmp_path: Path, kafka_bootstrap: str, rest_catalog: CatalogAt) -> World:
    rest_catalog.clear_faults()
    return World(tmp_path, kafka_bootstrap, rest_catalog)


def test_a_configuration_without_one_table_can_be_tried(world: World) -> None:
    world.topic("events")
    world.routing(BY_KIND)
    code, output = finished(world.program.command("validate", "--connect"))
    assert code == 0, output
    assert "failed" not in output


class Kinds:
    """Events of some kinds in a topic: what each table has to hold."""

    def __init__(self, world: World, topic: str, partitions: int = 2) -> None:
        self.world, self.topic, self.partitions = world, topic, partitions
        self.expected: dict[str, dict[Position, Row]] = {}
        self._count = 0

    def write(self, count: int, *kinds: str, table: str = "{}") -> None:
        rows = [{"n": self._count + n, "kind": kinds[n % len(kinds)]} for n in range(count)]
        self._count += count
        written = produce(
            self.world.bootstrap,
            self.topic,
            [json.dumps(row).encode() for row in rows],
            partition_of=lambda n: n // len(kinds) % self.partitions,
        )
        for place, value in written.items():
            row = json.loads(value or b"")
            name = table.format(row["kind"])
            self.expected.setdefault(name, {})[place] = {"n": row["n"]}

    def until_read(self, run: Running) -> Row:
        """Waits until each table owns what it has, and none lags, for longer than one look."""
        since: list[float] = []

        def read(report: Row) -> bool:
            tables = {one["table"].rpartition("_")[2]: one for one in report.get("tables", ())}
            mine = [tables.get(name) for name in self.expected]
            if not all(one and one["epoch"] and not one["lag_total"] for one in mine):
                since.clear()
                return False
            since.append(time.monotonic())
            return since[-1] - since[0] > STEADY_SECONDS

        return run.until(read, "all read")

    def check(self) -> None:
        for name, rows in self.expected.items():
            assert_exactly_once(self.world.rows(f"{self.world.prefix}_{name}"), rows)


def held(run: Running) -> tuple[int, int]:
    """Threads and open files of a process."""
    at = Path(f"/proc/{run.process.pid}")
    threads = re.search(r"Threads:\s*(\d+)", (at / "status").read_text())
    assert threads is not None
    return int(threads[1]), len(os.listdir(at / "fd"))


def failed(run: Running, times: int, _report: Row) -> bool:
    return run.output.count("failed, again") >= times


def test_a_catalog_that_refuses_a_new_table_stops_no_other(world: World) -> None:
    kinds = Kinds(world, world.topic("events"))
    world.routing(BY_KIND)
    kinds.write(200, "a", "b")
    rest = world.program.rest
    assert rest is not None
    with running(world.program) as run:
        run.until_committed(200)
        rest.set_fault(path=f".*{world.prefix}_new.*", when="before", status=500, times=100_000)
        kinds.write(300, "a", "new", "b")
        run.until(
            lambda report: (
                sum(
                    one["records"]["committed_rows"]
                    for one in report["tables"]
                    if not one["table"].endswith("new")
                )
                == 400
            ),
            "the others at work",
        )
        rest.clear_faults()
        kinds.until_read(run)
        run.drain()
    kinds.check()


def test_the_end_is_bounded_while_the_catalog_is_away(world: World) -> None:
    kinds = Kinds(world, world.topic("events"))
    world.routing(BY_KIND)
    kinds.write(200, "a", "b")
    rest = world.program.rest
    assert rest is not None
    with running(world.program) as run:
        run.until_committed(200)
        rest.set_fault(path=".*", when="before", status=503, times=100_000)
        kinds.write(300, "a", "new", "b")
        run.until(lambda r: len(r.get("tables", ())) == 3, "a new one")
        began = time.monotonic()
        run.signal(signal.SIGTERM)
        code, output = run.end()
        took = time.monotonic() - began
    rest.clear_faults()
    print("took", took, "code", code)
    assert took < 75
    assert "Traceback" not in output
    with running(world.program) as run:
        kinds.until_read(run)
        run.drain()
    kinds.check()


def test_rules_that_name_tables_anew_lose_and_double_nothing(world: World) -> None:
    kinds = Kinds(world, world.topic("events"))
    world.routing(BY_KIND)
    kinds.write(300, "a", "b", "c")
    with running(world.program) as run:
        kinds.until_read(run)
        time.sleep(1)
        run.drain()
    world.routing(BY_KIND.replace("PREFIX_{value}", "PREFIX_x-{value}"))
    kinds.write(300, "a", "b", "d", table="x-{}")
    for rows in (300, 0):
        with running(world.program) as run:
            run.until_committed(rows)
            run.drain()
    kinds.check()


def test_a_lost_file_is_made_again(world: World) -> None:
    topic = world.topic("events")
    kinds = Kinds(world, topic)
    world.routing(BY_KIND)
    kinds.write(300, "a", "b", "c")
    with running(world.program) as run:
        kinds.until_read(run)
        run.kill()
    file = world.program.folder / "wal" / "topics" / topic / "routing" / "tables.json"
    text = file.read_text()
    file.write_text(text[:-5])
    with running(world.program) as run:
        report = run.until(lambda r: "tables.json" in json.dumps(r["components"]), "told")
        assert report["status"] != "healthy"
        run.signal(signal.SIGTERM)
        code, output = run.end()
        print(code, output[-500:])
    file.unlink()
    kinds.write(300, "a", "b", "d")
    with running(world.program) as run:
        kinds.until_read(run)
        run.drain()
    shutil.rmtree(world.program.folder / "wal")
    kinds.write(300, "a", "b", "e")
    with running(world.program) as run:
        kinds.until_read(run)
        run.drain()
    kinds.check()


def test_partitions_that_are_added_and_a_topic_that_is_made_again(world: World) -> None:
    topic = world.topic("events")
    kinds = Kinds(world, topic)
    world.routing(BY_KIND)
    kinds.write(300, "a", "b", "c")
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    with running(world.program) as run:
        kinds.until_read(run)
        admin.create_partitions([NewPartitions(topic, 4)])[topic].result(30)
        await_leaders(admin, topic, 4)
        kinds.partitions = 4
        kinds.write(400, "a", "b", "d", "e")
        run.until(lambda r: r["records"]["committed_rows"] == 700, "new partitions")
        run.kill()
    with running(world.program) as run:
        kinds.until_read(run)
        admin.delete_topics([topic])[topic].result(30)
        run.until(lambda r: r["status"] == "degraded", "told")
        world.topic("events")
        produce(world.bootstrap, topic, [b'{"n": 1, "kind": "a"}'] * 10, partition_of=lambda n: 0)
        run.until_logged("created again")
        run.signal(signal.SIGTERM)
        code, output = run.end()
        assert code == 2, output
        assert "Traceback" not in output
    kinds.check()


def test_transactions_by_header(world: World) -> None:
    topic = world.topic("events")
    world.routing(BY_KIND.replace('by_field = "kind"', 'by_header = "kind"'))
    producer = Producer({"bootstrap.servers": world.bootstrap, "transactional.id": topic})
    producer.init_transactions(30)
    expected: dict[str, set[int]] = {}
    n = 0
    for turn in range(40):
        producer.begin_transaction()
        for _ in range(5):
            kind = ["a", "b" * 300, "ü/\n", "c"][n % 4]
            n += 1
            value = json.dumps({"n": n}).encode()
            producer.produce(topic, value, headers=[("kind", kind.encode())], partition=n % 2)
            if turn % 3:
                name = {"a": "a", "c": "c", "ü/\n": "_"}.get(kind, "rest")
                expected.setdefault(name, set()).add(n)
        if turn % 3:
            producer.commit_transaction(30)
        else:
            producer.flush(30)
            producer.abort_transaction(30)
    with running(world.program) as run:
        run.until(
            lambda r: len(r.get("tables", ())) == 4 and all(map(is_read, r.get("tables", ()))),
            "all read",
        )
        run.drain()
    for name, numbers in expected.items():
        rows = world.rows(f"{world.prefix}_{name}")
        assert sorted(row["n"] for row in rows) == sorted(numbers)


def test_runs_that_fail_over_and_over_keep_nothing(world: World) -> None:
    topic = world.topic("events")
    kinds = Kinds(world, topic)
    world.routing(
        BY_KIND
        + """
[[routing.tables]]
topic = ".*"
value = "b"
settings = { iceberg.identifier_fields = ["nope"] }
"""
    )
    kinds.write(300, "a", "b", "c")
    wal = world.program.folder / "wal" / "topics" / topic / f"tests.{world.prefix}_c"
    wal.parent.mkdir(parents=True)
    wal.write_text("no folder")
    seen: list[tuple[int, int]] = []
    with running(world.program) as run:
        for failures in (12, 42):
            run.until(partial(failed, run, failures), "failing")
            seen.append(held(run))
        run.signal(signal.SIGTERM)
        run.end()
    (threads, files), (last_threads, last_files) = seen
    assert last_threads <= threads + 8, seen
    assert last_files <= files + 8, seen
