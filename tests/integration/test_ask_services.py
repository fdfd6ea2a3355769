"""Queries of runs over real services: of many tables, of members of a group, without a catalog."""

from __future__ import annotations

import json
import signal
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from k2i_tasks import client
from k2i_tasks.client import Client
from k2i_tasks.discovery import running as found_in
from k2i_tasks.errors import TransientError
from tests.group_world import member, until_shared
from tests.integration.test_routing import World, is_read, of
from tests.kafka_world import World as Group
from tests.program import Program
from tests.running import PATIENCE_SECONDS, Running, at, running
from tests.support import CatalogAt, create_topic, produce_events

pytestmark = pytest.mark.integration

#: Rows stay in memory, committed or not.
KEPT = {"K2I_BUFFER_TTL_SECONDS": "600"}
#: Nothing is committed.
HELD = {
    **KEPT,
    "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "600",
    "K2I_BUFFER_FLUSH_BATCH_SIZE": "1000000",
}


def asking(folder: Path) -> Client:
    """A connection to the run with this folder, once it answers."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while found_in(folder) is None:
        assert time.monotonic() < deadline, "it answers no queries"
        time.sleep(0.05)
    return client.connect(folder)


def posted(folder: Path, sql: str, part: str = "all") -> tuple[int, list[dict[str, Any]]]:
    """Status and lines of what HTTP answers."""
    found = found_in(folder)
    assert found is not None
    request = urllib.request.Request(
        f"{found.http}/query",
        json.dumps({"sql": sql, "part": part}).encode(),
        {"Authorization": f"Bearer {found.token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, [json.loads(line) for line in answer]
    except urllib.error.HTTPError as error:
        return error.code, [json.loads(error.read())]


def counted(flow: Client, table: str, part: Any = "all") -> int:
    return int(flow.sql(f"SELECT count(*) AS n FROM {table}", part=part)["n"][0])


def test_the_tables_of_a_fleet_are_asked_together_and_apart(
    tmp_path: Path, kafka_bootstrap: str, rest_catalog: CatalogAt
) -> None:
    rest_catalog.clear_faults()
    world = World(tmp_path, kafka_bootstrap, rest_catalog)
    topics = [world.topic("orders"), world.topic("returns")]
    silent = world.topic("silent")
    world.routing("""
[routing]
topics = ["PREFIX.orders", "PREFIX.returns", "PREFIX.silent"]
table_name = "{topic}"
""")
    for topic, count in zip(topics, (300, 200), strict=True):
        world.write(topic, count)
    wal = tmp_path / "wal"
    with running(world.program, environ=KEPT) as run:
        run.until(lambda report: all(is_read(of(report, topic)) for topic in topics), "read")
        with asking(wal) as flow:
            tables = flow.tables()
            names = {topic: f"tests.{topic.replace('.', '_')}" for topic in (*topics, silent)}
            assert set(tables) == set(names.values())
            assert "order_id" in tables[names[topics[0]]].names
            assert [counted(flow, names[topic]) for topic in topics] == [300, 200]
            both = " UNION ALL ".join(f"SELECT order_id FROM {names[topic]}" for topic in topics)
            status, lines = posted(wal, f"SELECT count(*) AS n FROM ({both}) x")
            assert (status, lines) == (200, [{"n": 500}])
            world.write(topics[1], 100)
            run.until(lambda report: of(report, topics[1])["records"]["consumed"] == 300, "read")
            assert [counted(flow, names[topic]) for topic in topics] == [300, 300]
        run.drain()
    for topic in topics:
        world.assert_table(topic, names[topic].removeprefix("tests."))


def test_without_the_catalog_memory_is_asked_and_all_else_says_who_is_away(
    tmp_path: Path, kafka_bootstrap: str, rest_catalog: CatalogAt
) -> None:
    rest_catalog.clear_faults()
    topic = f"away-{tmp_path.name[-12:].strip('_')}-{time.time_ns() % 10**9}"
    create_topic(kafka_bootstrap, topic, 2)
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    table, wal = f"tests.{program.table}", tmp_path / "wal"
    count = f"SELECT count(*) AS n FROM {table}"
    produce_events(kafka_bootstrap, topic, 200, first=0, partitions=2)
    with running(program, environ={**KEPT, "K2I_RUN_RETRY_BUDGET_SECONDS": "300"}) as run:
        run.until_committed(200)
        with asking(wal) as flow:
            assert counted(flow, table, "cold") == 200
            path = f"/tables/{program.table}"
            rest_catalog.set_fault(path=path, status=503, when="before", times=1_000_000)
            try:
                produce_events(kafka_bootstrap, topic, 100, first=200, partitions=2)
                run.until_consumed(300)
                assert counted(flow, table, "hot") == 300
                assert list(flow.tables()) == [table]
                for part in ("all", "cold"):
                    with pytest.raises(TransientError):
                        counted(flow, table, part)
                    status, [told] = posted(wal, count, part)
                    assert (status, set(told)) == (502, {"error", "remedy"})
                assert posted(wal, count, "hot") == (200, [{"n": 300}])
            finally:
                rest_catalog.clear_faults()
            assert counted(flow, table) == 300
            run.until_committed(300)
            assert counted(flow, table, "cold") == 300
        run.drain()


def test_each_member_of_a_group_has_its_share_in_memory_and_all_that_is_committed(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    world = Group(tmp_path, kafka_bootstrap, partitions=4)
    world.more(400)
    table = f"tests.{world.program.table}"
    shares = f"SELECT _kafka_partition AS p, count(*) AS n FROM {table} GROUP BY 1"
    with ExitStack() as stack:
        runs: list[Running] = []
        for number in (1, 2):
            runs.append(stack.enter_context(running(member(world, number), environ=HELD)))
            until_shared(world, *runs)
        for run in runs:
            run.until(lambda report: sum(at(report).values()) == 200, "at the end of its share")
        folders = [world.program.folder / f"wal{number}" for number in (1, 2)]
        flows = [stack.enter_context(asking(folder)) for folder in folders]
        seen = [dict(flow.sql(shares).iter_rows()) for flow in flows]
        assert [set(part) for part in seen] == [set(at(run.report())) for run in runs]
        assert sorted(n for part in seen for n in part.values()) == [100] * 4
        assert posted(folders[0], shares, "cold") == (200, [])
        # The other member's rows are seen as soon as they are committed, and once.
        runs[1].signal(signal.SIGTERM)
        assert runs[1].end()[0] == 0
        assert counted(flows[0], table) == 400
        assert counted(flows[0], table, "cold") == 200
        # It gives up what it has, to read the whole topic: a drain amid that commits nothing of it.
        runs[0].until(lambda report: sum(at(report).values()) == 400, "at the end of all")
        runs[0].drain()
    world.all_in()
