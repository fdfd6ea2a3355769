"""One topic into many tables at its limits: many of them, long names, lost records, a full disk."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient

from tests.integration.test_routing import World
from tests.integration.test_routing_faults import BY_KIND, Kinds
from tests.own_disk import OwnDisk
from tests.running import running
from tests.support import CatalogAt, Position, assert_exactly_once, create_topic

pytestmark = pytest.mark.integration

Row = dict[str, Any]
TABLES = 60


@pytest.fixture
def world(tmp_path: Path, kafka_bootstrap: str, rest_catalog: CatalogAt) -> World:
    rest_catalog.clear_faults()
    return World(tmp_path, kafka_bootstrap, rest_catalog)


def table_of(report: Row, name: str) -> Row:
    """What the health page says of one table; empty while it says nothing."""
    found = (one for one in report.get("tables", ()) if one["table"].endswith(f"_{name}"))
    return next(found, {})


def test_sixty_tables_of_one_topic_each_have_their_own_also_after_a_kill(world: World) -> None:
    kinds = Kinds(world, world.topic("events"))
    world.routing(BY_KIND)
    names = [f"k{n:02}" for n in range(TABLES)]
    kinds.write(20 * TABLES, *names)
    with running(world.program) as run:
        run.until_committed(5 * TABLES)
        run.kill()
    kinds.write(20 * TABLES, *names)
    with running(world.program) as run:
        kinds.until_read(run)
        run.drain()
    kinds.check()


@pytest.mark.parametrize("by_field", [True, False])
def test_a_topic_with_the_longest_name_there_is(world: World, by_field: bool) -> None:
    topic = f"{world.prefix}.".ljust(249, "t")
    create_topic(world.bootstrap, topic, 2)
    world.written[topic] = {}
    text = BY_KIND.replace("PREFIX.events", topic)
    if not by_field:
        text = f'[routing]\ntopics = ["{topic}"]\n'
    world.routing(text)
    kinds = Kinds(world, topic)
    for killed in (True, False):
        kinds.write(100, "a", "b")
        with running(world.program) as run:
            run.until_committed(50)
            if killed:
                run.kill()
            elif by_field:
                kinds.until_read(run)
                run.drain()
            else:
                run.until(lambda report: report["lag_total"] == 0, "all read")
                run.drain()
    if by_field:
        kinds.check()
    else:
        rows = {**kinds.expected["a"], **kinds.expected["b"]}
        assert_exactly_once(world.rows(topic.replace(".", "_")[:128]), rows)


SLOW = """
[[routing.tables]]
topic = ".*"
value = "slow"
# It buffers what the other one has long committed.
settings = { buffer.flush_interval_seconds = 600.0, buffer.flush_batch_size = 1000000 }
"""


def lose(world: World, topic: str, below: int) -> None:
    """Has Kafka delete the records below an offset of partition 0."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    [deleted] = admin.delete_records([ClientPartition(topic, 0, below)]).values()
    deleted.result(30)


def left(rows: dict[Position, Row], first: int) -> dict[Position, Row]:
    """What is not below an offset."""
    return {place: row for place, row in rows.items() if place[1] >= first}


def behind(world: World) -> Kinds:
    """A table `slow` that has nothing of 300 records, and `fast` with all of its own."""
    topic = world.topic("events")
    world.routing(BY_KIND + SLOW)
    kinds = Kinds(world, topic, partitions=1)
    kinds.write(300, "fast", "slow")
    with running(world.program) as run:
        run.until_committed(150)
        run.until(lambda report: bool(table_of(report, "slow").get("epoch")), "a slow one")
        run.kill()
    return kinds


def test_records_that_kafka_has_deleted_are_passed_by_the_table_that_lacked_them_alone(
    world: World,
) -> None:
    kinds = behind(world)
    lose(world, kinds.topic, 100)
    environ = {"K2I_KAFKA_ON_GAP": "continue"}
    kinds.write(100, "fast", "slow")
    with running(world.program, environ=environ) as run:
        kinds.until_read(run)
        assert "skipped" in run.output
        run.drain()
    kinds.expected["slow"] = left(kinds.expected["slow"], 100)
    kinds.check()
    # What was passed once is not passed, nor told, again.
    kinds.write(10, "fast", "slow")
    with running(world.program, environ=environ) as run:
        kinds.until_read(run)
        assert "skipped" not in run.drain()
    kinds.check()


def test_records_that_are_deleted_while_it_runs_are_passed_by_a_table_that_stands(
    world: World,
) -> None:
    kinds = behind(world)
    rest = world.program.rest
    assert rest is not None
    environ = {"K2I_KAFKA_ON_GAP": "continue"}
    rest.set_fault(
        path=f".*{world.prefix}_slow.*", method="GET", when="before", status=503, times=100_000
    )
    with running(world.program, environ=environ) as run:
        run.until(lambda report: bool(table_of(report, "fast").get("epoch")), "the fast one")
        kinds.write(200, "fast", "slow")
        run.until_committed(100)
        lose(world, kinds.topic, 400)
        rest.clear_faults()
        kinds.write(100, "fast", "slow")
        kinds.until_read(run)
        assert "skipped" in run.output
        run.drain()
    kinds.expected["slow"] = left(kinds.expected["slow"], 400)
    kinds.check()


def test_records_that_kafka_has_deleted_stop_the_table_that_lacks_them_and_no_other(
    world: World,
) -> None:
    kinds = behind(world)
    lose(world, kinds.topic, 100)
    kinds.write(100, "fast", "slow")
    with running(world.program) as run:
        run.until(lambda report: table_of(report, "slow").get("state") == "failed", "stopped")
        run.until(
            lambda report: table_of(report, "fast").get("records", {}).get("committed_rows") == 50,
            "the other at work",
        )
        assert "kafka.on_gap" in run.output
        run.signal(signal.SIGTERM)
        code, output = run.end()
        assert code != 0, output
        assert "Traceback" not in output
    slow = kinds.expected.pop("slow")
    kinds.check()
    kinds.expected["slow"] = left(slow, 100)
    with running(world.program, environ={"K2I_KAFKA_ON_GAP": "continue"}) as run:
        kinds.until_read(run)
        run.drain()
    kinds.check()


class SmallDisk(OwnDisk):
    """A disk that is soon full."""

    _mount = 'mount -t tmpfs -o size=8m none "$1"'

    def fill(self) -> None:
        """Leaves no room."""
        self._run('dd if=/dev/zero of="$1/filler" bs=4k')

    def room(self) -> None:
        """Takes away what filled it."""
        self._must('rm "$1/filler"')


def test_a_full_disk_stops_the_tables_and_new_ones_and_loses_nothing(
    world: World, tmp_path: Path
) -> None:
    kinds = Kinds(world, world.topic("events"))
    world.routing(BY_KIND)
    kinds.write(100, "a", "b")
    with SmallDisk(tmp_path / "wal") as disk:
        world.program.prefix = disk.prefix
        with running(world.program) as run:
            kinds.until_read(run)
            disk.fill()
            kinds.write(100, "a", "new", "b")
            report = run.until(
                lambda report: "No space left on device" in json.dumps(report), "told"
            )
            assert report["status"] != "healthy"
            disk.room()
            # It goes on by itself, the new table too.
            kinds.until_read(run)
            kinds.write(50, "new", "a")
            kinds.until_read(run)
            run.drain()
        kinds.check()
        # Full from the start, and killed while it is.
        disk.fill()
        kinds.write(50, "newer", "a")
        with running(world.program) as run:
            run.until_logged("No space left on device")
            run.kill()
        disk.room()
        with running(world.program) as run:
            kinds.until_read(run)
            run.drain()
    kinds.check()


def test_a_second_process_in_the_same_folder_is_told_who_has_it(world: World) -> None:
    kinds = Kinds(world, world.topic("events"))
    world.routing(BY_KIND)
    kinds.write(100, "a", "b")
    with running(world.program) as run:
        kinds.until_read(run)
        with running(world.program) as second:
            report = second.until(lambda report: "dealt out by" in json.dumps(report), "told")
            told = report["components"]["schema"]["message"]
            assert f"process {run.process.pid}" in told
            assert not report.get("tables")
            kinds.write(20, "a", "new")
            kinds.until_read(run)
            run.drain()
            # It takes over as soon as the first is gone.
            kinds.write(20, "a", "b")
            kinds.until_read(second)
            second.drain()
    kinds.check()


@pytest.mark.parametrize("fault", [{"status": 503}, {"delay_ms": 600_000}])
def test_the_drain_of_all_is_bounded_while_the_catalog_is_away_or_hangs(
    world: World, fault: Row
) -> None:
    kinds = Kinds(world, world.topic("events"))
    world.routing(BY_KIND)
    kinds.write(200, "a", "b", "c", "d")
    rest = world.program.rest
    assert rest is not None
    environ = {"K2I_RUN_DRAIN_TIMEOUT_SECONDS": "5", "K2I_RUN_RETRY_BUDGET_SECONDS": "300"}
    with running(world.program, environ=environ) as run:
        kinds.until_read(run)
        rest.set_fault(path=".*", when="before", times=100_000, **fault)
        kinds.write(300, "a", "new", "b", "newer")
        run.until(lambda report: len(report.get("tables", ())) == 6, "new ones")
        began = time.monotonic()
        run.signal(signal.SIGTERM)
        code, output = run.end()
        took = time.monotonic() - began
    rest.clear_faults()
    # The time-out, what ends calls that are under way, and the end of the process.
    assert took < 5 + 10 + 10, output
    assert code != 0, output
    assert "did not end within 5 s" in output
    assert "Traceback" not in output
    with running(world.program) as run:
        kinds.until_read(run)
        run.drain()
    kinds.check()
