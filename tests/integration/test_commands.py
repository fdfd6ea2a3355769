"""`k2i validate --connect`, `k2i status` and `k2i query` against real services."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.program import Program, finished
from tests.running import Running
from tests.stack.programs import free_port
from tests.support import CatalogAt, create_topic, produce_events

pytestmark = pytest.mark.integration

#: Below a file system that takes no new names, not even from root.
READ_ONLY = "/sys/k2i"
#: A port that is given to nobody, so that nothing ever listens there.
ABSENT = "127.0.0.1:9"
EVENTS = 500


@dataclass(frozen=True)
class Ingested:
    """A program whose table holds all events of its topic, and whose ingest still runs."""

    program: Program
    url: str


@pytest.fixture(scope="module")
def ingested(
    kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ingested]:
    topic = f"commands-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, topic)
    produce_events(kafka_bootstrap, topic, EVENTS)
    folder = tmp_path_factory.mktemp("commands")
    program = Program(folder, kafka_bootstrap, topic, rest_catalog)
    port, log = free_port(), folder / "log.txt"
    with log.open("w", encoding="utf-8") as output:
        process = program.start(stdout=output, environ={"K2I_MONITORING_HEALTH_PORT": str(port)})
    run = Running(process, log, port)
    try:
        run.until(_all_is_well, "healthy with all rows committed")
        yield Ingested(program, f"http://127.0.0.1:{port}")
        run.drain()
    finally:
        run.kill()


def _all_is_well(report: dict[str, Any]) -> bool:
    """Also of what may go wrong while a broker is fresh, and is forgotten after half a minute."""
    committed: int = report["records"]["committed_rows"]
    parts = report["components"].values()
    healthy = all(each["status"] == "healthy" for each in parts)
    return committed == EVENTS and report["lag_total"] == 0 and healthy


def told(program: Program, name: str, *arguments: str) -> tuple[int, str]:
    """Runs one command; exit code and output."""
    found = finished(program.command(name, *arguments))
    assert "Traceback" not in found[1]
    return found


def test_validate_tries_broker_catalog_and_store_and_names_what_fails(
    kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path
) -> None:
    topic = f"validate-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, topic)
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    broker, catalog = ABSENT, f"http://{ABSENT}"
    kafka, rest, store = f"Kafka topic {topic}", "rest catalog", "object store"
    cases: dict[str, tuple[dict[str, str], int, dict[str, tuple[str, ...]]]] = {
        "well": ({}, 0, {}),
        "broker": (
            {"K2I_KAFKA_BOOTSTRAP_SERVERS": broker},
            2,
            {kafka: (broker, "Connection refused", "kafka.bootstrap_servers")},
        ),
        "topic": (
            {"K2I_KAFKA_TOPIC": f"{topic}x"},
            2,
            {f"{kafka}x": (kafka_bootstrap, topic, "Correct kafka.topic")},
        ),
        "catalog": (
            {"K2I_ICEBERG_REST_URI": catalog},
            3,
            {rest: (catalog, "Connection refused", "iceberg.rest_uri"), store: ("not tried",)},
        ),
        "store": (
            {"K2I_ICEBERG_WAREHOUSE_PATH": f"file://{READ_ONLY}"},
            4,
            {store: (READ_ONLY, "Make the place writable", "iceberg.warehouse_path")},
        ),
    }
    # At the same time: an absent broker is waited for.
    started = {
        name: program.command("validate", "--connect", environ=environ)
        for name, (environ, _, _) in cases.items()
    }
    ended = {name: finished(process) for name, process in started.items()}
    for name, (_, code, wrong) in cases.items():
        ended_with, output = ended[name]
        assert ended_with == code, f"{name}: {output}"
        first, *lines = output.splitlines()
        assert first == f"{program.config}: the configuration is valid."
        checks = [kafka + "x" if name == "topic" else kafka, rest, store]
        assert len(lines) == len(checks), f"{name}: {output}"
        for check, line in zip(checks, lines, strict=True):
            if check not in wrong:
                assert line == f"ok      {check}"
                continue
            assert line.startswith(f"failed  {check}: "), f"{name}: {output}"
            for part in wrong[check]:
                assert part in line


def test_status_shows_the_figures_of_a_running_ingest(ingested: Ingested) -> None:
    code, output = told(ingested.program, "status", "--url", ingested.url)
    assert code == 0, output
    program = ingested.program
    assert f"{program.topic} → tests.{program.table}" in output
    shown = {" ".join(line.split()) for line in output.splitlines()}
    assert {f"consumed {EVENTS}", f"rows committed {EVENTS}", "dead letters 0", "lag 0"} <= shown
    assert {"kafka healthy", "catalog healthy", "txlog healthy"} <= shown
    code, output = told(program, "status", "--url", ingested.url, "--json")
    assert code == 0, output
    report = json.loads(output)
    assert report["state"] == "running"
    assert report["records"]["committed_rows"] == EVENTS


def test_status_is_6_with_the_way_out_when_nothing_answers(tmp_path: Path) -> None:
    url = f"http://{ABSENT}"
    code, output = told(Program(tmp_path, ABSENT, "t"), "status", "--url", url)
    assert code == 6, output
    what, remedy = output.splitlines()
    assert what.startswith(f"k2i: Nothing answers at {url}/health")
    assert "k2i ingest" in remedy


def test_query_reads_the_table_of_a_rest_catalog_while_it_is_filled(ingested: Ingested) -> None:
    program = ingested.program
    sql = f"SELECT count(*) AS n, sum(order_id) AS total FROM tests.{program.table}"
    code, output = told(program, "query", sql, "--format", "json")
    assert code == 0, output
    assert json.loads(output) == [{"n": EVENTS, "total": EVENTS * (EVENTS - 1) // 2}]


def test_query_of_a_table_that_is_not_there_ends_with_3(
    rest_catalog: CatalogAt, tmp_path: Path
) -> None:
    program = Program(tmp_path, ABSENT, "no-such-table", rest_catalog)
    code, output = told(program, "query", "SELECT * FROM no_such_table")
    assert code == 3, output
    assert "tests.no_such_table" in output
    assert len(output.splitlines()) == 2, output
