"""Many topics and tables in one process: each exactly once, whatever becomes of the others."""

from __future__ import annotations

import json
import signal
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.table import Table

from k2i_tasks import secrets
from k2i_tasks.config import load_config
from k2i_tasks.iceberg.catalog import open_catalog
from tests.program import Program, finished
from tests.running import Running, running
from tests.support import (
    CatalogAt,
    Position,
    assert_exactly_once,
    create_topic,
    produce,
    produce_events,
    read_by_metadata,
)

pytestmark = pytest.mark.integration

Row = dict[str, Any]
PARTITIONS = 2


class World:
    """Topics with a prefix of their own, and the program that reads them."""

    def __init__(self, folder: Path, bootstrap: str, rest: CatalogAt) -> None:
        self.prefix = f"r{uuid.uuid4().hex[:8]}"
        self.bootstrap = bootstrap
        self.program = Program(folder, bootstrap, self.prefix, rest)
        self.written: dict[str, dict[Position, Row]] = {}

    def routing(self, text: str) -> None:
        self.program.routing = text.replace("PREFIX", self.prefix)

    def topic(self, name: str) -> str:
        topic = f"{self.prefix}.{name}"
        create_topic(self.bootstrap, topic, PARTITIONS)
        self.written[topic] = {}
        return topic

    def write(self, topic: str, count: int) -> None:
        first = len(self.written[topic])
        self.written[topic] |= produce_events(
            self.bootstrap, topic, count, first=first, partitions=PARTITIONS
        )

    def table(self, name: str) -> Table:
        found = self.program.load_table(name)
        assert found is not None, f"there is no table {name}"
        return found

    def rows(self, name: str) -> list[Row]:
        return read_by_metadata(self.table(name).metadata_location)

    def assert_table(self, topic: str, table: str) -> None:
        """The table holds what was written to the topic, each record once."""
        expected = {
            place: {"order_id": row["order_id"], "_kafka_topic": topic}
            for place, row in self.written[topic].items()
        }
        assert_exactly_once(self.rows(table), expected)

    def total(self) -> int:
        return sum(map(len, self.written.values()))


@pytest.fixture
def world(tmp_path: Path, kafka_bootstrap: str, rest_catalog: CatalogAt) -> World:
    return World(tmp_path, kafka_bootstrap, rest_catalog)


def of(report: Row, topic: str) -> Row:
    """What the health page says of one topic; empty while it says nothing."""
    return next((one for one in report.get("tables", ()) if one["topic"] == topic), {})


def is_read(report: Row) -> bool:
    """Whether a table's run owns it, has consumed something, and has no lag."""
    if not report or not report["epoch"]:
        return False
    return bool(report["lag_total"] == 0 and report["records"]["consumed"] > 0)


def metrics(run: Running) -> str:
    url = next(
        line.rpartition("metrics: ")[2].strip()
        for line in run.output.splitlines()
        if "metrics: " in line
    )
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_topics_by_name_and_by_expression_land_in_tables_of_their_own(world: World) -> None:
    orders, raw, other = world.topic("shop.orders"), world.topic("raw"), world.topic("other")
    world.topic("shop.ignored")
    world.routing(
        r"""
[routing]
topics = ["PREFIX.raw"]
topic_pattern = "PREFIX\\.shop\\.(?P<what>.*)"
exclude_pattern = ".*ignored"
table_name = "PREFIX_{what}"
discovery_seconds = 1

[[routing.tables]]
topic = "PREFIX\\.raw"
table_name = "PREFIX_as_bytes"
settings = { kafka.format.type = "raw", buffer.flush_interval_seconds = 0.5 }

[[routing.tables]]
topic = ".*\\.orders"
table_name = "PREFIX_sales"
[routing.tables.settings.iceberg]
partition_spec = [{ source_field = "customer", transform = "bucket[2]" }]
"""
    )
    for topic in (orders, raw, other):
        world.write(topic, 300)
    with running(world.program) as run:
        run.until(lambda report: report["records"]["committed_rows"] == 600, "both at work")
        # A topic that is made while it runs.
        late = world.topic("shop.late-one")
        world.write(late, 200)
        report = run.until(
            lambda report: report["records"]["committed_rows"] == 800, "reading the new one"
        )
        assert report["status"] == "healthy"
        assert [one["topic"] for one in report["tables"]] == sorted([orders, raw, late])
        assert of(report, late)["table"] == f"tests.{world.prefix}_late-one"
        page = metrics(run)
        line = f'k2i_table_rows_committed{{table="tests.{world.prefix}_sales",topic="{orders}"}}'
        assert f"{line} 300.0" in page
        assert f'k2i_committed_offset{{partition="0",topic="{late}"}}' in page
        run.drain()
    world.assert_table(orders, f"{world.prefix}_sales")
    world.assert_table(late, f"{world.prefix}_late-one")
    assert len(world.table(f"{world.prefix}_sales").spec().fields) == 1
    found = world.rows(f"{world.prefix}_as_bytes")
    assert_exactly_once(found, dict.fromkeys(world.written[raw]))
    assert all(isinstance(row["value"], bytes) for row in found)
    assert world.program.load_table(f"{world.prefix}_ignored") is None


def test_each_table_goes_on_where_it_stopped_itself_after_a_kill(world: World) -> None:
    topics = [world.topic(name) for name in ("a", "b", "c")]
    world.routing(
        """
[routing]
topic_pattern = "PREFIX\\\\..*"
discovery_seconds = 1
[[routing.tables]]
topic = ".*\\\\.b"
# It buffers what the others have long committed.
settings = { buffer.flush_interval_seconds = 600.0, buffer.flush_batch_size = 1000000 }
"""
    )
    for topic in topics:
        world.write(topic, 500)
    for _ in range(3):
        with running(world.program) as run:
            run.until(
                lambda report: all(is_read(of(report, topic)) for topic in topics), "all read"
            )
            run.kill()
        for topic in topics:
            world.write(topic, 100)
    with running(world.program) as run:
        run.until(lambda report: all(is_read(of(report, topic)) for topic in topics), "all read")
        run.drain()
    for topic, name in zip(topics, "abc", strict=True):
        world.assert_table(topic, f"{world.prefix}_{name}")
    assert world.total() == 3 * 800


def test_a_table_that_is_broken_stops_no_other_and_goes_on_once_it_is_mended(
    world: World,
) -> None:
    good, bad = world.topic("good"), world.topic("bad")
    config = load_config(
        Program(world.program.folder, world.bootstrap, world.prefix, world.program.rest).config,
        environ={},
        overrides={},
    )
    catalog = open_catalog(config.iceberg, secrets.resolve_all(config))
    catalog.create_namespace_if_not_exists("tests")
    # A table of somebody else's, without our columns.
    columns = pa.schema([pa.field("order_id", pa.int64())])
    catalog.create_table(("tests", f"{world.prefix}_bad"), columns)
    world.routing(
        """
[routing]
topics = ["PREFIX.good", "PREFIX.bad", "PREFIX.never-made"]
restart_seconds_max = 1
"""
    )
    world.write(good, 300)
    world.write(bad, 300)
    with running(world.program) as run:
        report = run.until(
            lambda report: (
                of(report, good).get("records", {}).get("committed_rows") == 300
                and of(report, bad).get("state") == "failed"
            ),
            "one at work and one broken",
        )
        assert report["status"] == "degraded"
        assert report["ready"] is True
        assert of(report, bad)["ready"] is False
        assert of(report, bad)["status"] == "unhealthy"
        message = report["components"]["schema"]["message"]
        assert message.startswith(f"{bad}: ")
        assert "_kafka_topic" in message
        catalog.drop_table(("tests", f"{world.prefix}_bad"))
        run.until(
            lambda report: of(report, bad).get("records", {}).get("committed_rows") == 300,
            "the broken one at work",
        )
        # One that has failed at the end is told, and does not stop the others' drain.
        world.write(good, 50)
        run.until_logged("never-made failed")
        run.signal(signal.SIGTERM)
        code, output = run.end()
        assert code == 2, output
        assert "never-made" in output
        assert "Traceback" not in output
    world.assert_table(good, f"{world.prefix}_good")
    world.assert_table(bad, f"{world.prefix}_bad")


def test_several_topics_share_a_table_each_with_a_stream_of_its_own(world: World) -> None:
    topics = [world.topic(name) for name in ("x", "y")]
    world.routing(
        """
[routing]
topic_pattern = "PREFIX\\\\..*"
table_name = "PREFIX_all"
"""
    )
    for topic in topics:
        world.write(topic, 200)
    with running(world.program) as run:
        run.until_logged('settings = { iceberg.sink = "{topic}" }')
        run.drain()
    world.routing(
        """
[routing]
topic_pattern = "PREFIX\\\\..*"
[[routing.tables]]
topic = ".*"
table_name = "PREFIX_both"
settings = { iceberg.sink = "{topic}" }
"""
    )
    with running(world.program) as run:
        run.until_committed(400)
        run.drain()
    for topic in topics:
        world.write(topic, 100)
    with running(world.program) as run:
        run.until_committed(200)
        run.drain()
    rows = world.rows(f"{world.prefix}_both")
    for topic in topics:
        mine = [row for row in rows if row["_kafka_topic"] == topic]
        assert_exactly_once(mine, dict.fromkeys(world.written[topic]))
    assert len(rows) == world.total()


def test_a_count_of_messages_is_of_one_topic(world: World) -> None:
    world.routing('[routing]\ntopics = ["PREFIX.a"]\n')
    code, output = world.program.run("--max-messages", "5")
    assert code == 1, output
    assert "--max-messages counts the records of one topic" in output


def test_bytes_that_are_no_text_are_counted_in_the_right_table(world: World) -> None:
    topic, clean = world.topic("dirty"), world.topic("clean")
    world.routing('[routing]\ntopic_pattern = "PREFIX\\\\..*"\n')
    produce(world.bootstrap, topic, [b"{", b'{"a":1}'], partition_of=lambda _n: 0)
    produce(world.bootstrap, clean, [b'{"a":1}'], partition_of=lambda _n: 0)
    with running(world.program) as run:
        report = run.until_committed(2)
        assert of(report, topic)["records"]["dead_letters"] == 1
        assert of(report, clean)["records"]["dead_letters"] == 0
        run.drain()
    assert len(world.rows(f"{world.prefix}_dirty__dead_letters")) == 1


def kinds(world: World, topic: str, first: int, count: int) -> dict[str, dict[Position, Row]]:
    """Writes events of several kinds in turn; table -> the events at each position."""
    names = ["click", "view", None, "a b"]
    rows: list[Row] = []
    for n in range(first, first + count):
        name = names[n % 4]
        rows.append({"n": n, "meta": "no object" if name is None else {"kind": name}})
    written = produce(
        world.bootstrap,
        topic,
        [json.dumps(row).encode() for row in rows],
        partition_of=lambda n: n // 3 % PARTITIONS,
    )
    tables = {"click": "click", "view": "view", "a b": "a_b"}
    found: dict[str, dict[Position, Row]] = {}
    for place, value in written.items():
        row = json.loads(value or b"")
        kind = row["meta"]["kind"] if isinstance(row["meta"], dict) else ""
        found.setdefault(tables.get(kind, "rest"), {})[place] = {"n": row["n"]}
    return found


BY_FIELD = """
[routing]
topics = ["PREFIX.events"]
by_field = "meta.kind"
table_name = "PREFIX_{value}"
value_missing = "rest"
restart_seconds_max = 1

[[routing.tables]]
topic = ".*"
value = "view"
# It buffers what the others have long committed.
settings = { buffer.flush_interval_seconds = 600.0, buffer.flush_batch_size = 1000000 }
"""


def test_records_go_to_tables_by_the_value_of_a_field_also_after_kills(world: World) -> None:
    topic = world.topic("events")
    world.routing(BY_FIELD)
    expected: dict[str, dict[Position, Row]] = {}
    for turn in range(4):
        for table, rows in kinds(world, topic, turn * 400, 400).items():
            expected.setdefault(table, {}).update(rows)
        with running(world.program) as run:
            run.until(
                lambda report: (
                    len(report.get("tables", ())) == 4 and all(map(is_read, report["tables"]))
                ),
                "all read",
            )
            if turn < 3:
                run.kill()
            else:
                report = run.report()
                run.drain()
    assert {one["table"] for one in report["tables"]} == {
        f"tests.{world.prefix}_{name}" for name in ("click", "view", "rest", "a_b")
    }
    for table, rows in expected.items():
        assert_exactly_once(world.rows(f"{world.prefix}_{table}"), rows)
    # Each has its own columns: what the others' records look like does not matter.
    names = {field.name for field in world.table(f"{world.prefix}_click").schema().fields}
    assert {"n", "meta"} <= names
    code, output = finished(
        world.program.command(
            *("query", f"SELECT count(*) FROM {world.prefix}_click"),
            *("--set", f"routing.topic={topic}", "--set", "routing.value=click"),
        )
    )
    assert code == 0, output
    assert "400" in output
    code, output = finished(
        world.program.command(
            "verify", "--set", f"routing.topic={topic}", "--set", "routing.value=click"
        )
    )
    assert code == 1, output
    assert "only some records of its topic" in output
