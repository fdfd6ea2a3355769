"""Events of a real broker land in tables of real catalogs, each once, every value equal."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.program import Process, Program
from tests.running import running
from tests.support import (
    CatalogAt,
    Position,
    assert_exactly_once,
    create_topic,
    produce,
    produce_events,
    read_by_metadata,
)


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def as_row(event: dict[str, Any]) -> dict[str, Any]:
    """The event as DuckDB shows its row."""
    created = event["created_at"].replace("Z", "+00:00")
    return {**event, "created_at": datetime.fromisoformat(created)}


def landed(program: Program) -> list[dict[str, Any]]:
    store = program.rest.store if program.rest is not None else None
    rows = read_by_metadata(program.metadata_location(), store=store)
    for row in rows:
        for name, value in row.items():
            if isinstance(value, datetime):
                row[name] = value.astimezone(UTC)
    return rows


def expected(written: dict[Position, dict[str, Any]]) -> dict[Position, dict[str, Any] | None]:
    return {place: as_row(event) for place, event in written.items()}


@pytest.fixture
def topic(kafka_bootstrap: str) -> str:
    name = unique("events")
    create_topic(kafka_bootstrap, name)
    return name


@pytest.mark.integration
def test_events_land_in_a_rest_catalog_and_a_restart_goes_on(
    kafka_bootstrap: str, rest_catalog: CatalogAt, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    written = produce_events(kafka_bootstrap, topic, 20_000)
    code, output = program.run("--max-messages", "20000")
    assert code == 0, output
    assert_exactly_once(landed(program), expected(written))
    written |= produce_events(kafka_bootstrap, topic, 5_000, first=20_000)
    code, output = program.run("--max-messages", "5000")
    assert code == 0, output
    assert_exactly_once(landed(program), expected(written))


@pytest.mark.integration
def test_the_flows_script_does_the_same_with_a_configuration_file(
    kafka_bootstrap: str, rest_catalog: CatalogAt, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    written = produce_events(kafka_bootstrap, topic, 3_000)
    script = Path(__file__).resolve().parents[2] / "flows" / "ingest.py"
    words = ["--config", str(program.config), "--no-prefect", "--max-messages", "3000"]
    done = subprocess.run(
        [sys.executable, str(script), *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert_exactly_once(landed(program), expected(written))


@pytest.mark.integration
def test_the_warehouse_may_be_on_s3(
    kafka_bootstrap: str, rest_catalog_s3: CatalogAt, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog_s3)
    written = produce_events(kafka_bootstrap, topic, 3_000)
    code, output = program.run("--max-messages", "3000")
    assert code == 0, output
    assert_exactly_once(landed(program), expected(written))


@pytest.mark.integration
def test_a_bad_record_becomes_a_dead_letter_and_its_neighbours_rows(
    kafka_bootstrap: str, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic)
    values: list[bytes | None] = [json.dumps({"n": n}).encode() for n in range(1000)]
    values[10], values[999] = b"not json", None
    written = produce(kafka_bootstrap, topic, values)
    code, output = program.run("--max-messages", "1000")
    assert code == 0, output
    # Now the table says what `n` is.
    written |= produce(kafka_bootstrap, topic, [b'{"n": 1000}', b'{"n": "text"}', b'{"n": 1002}'])
    code, output = program.run("--max-messages", "3")
    assert code == 0, output
    rows = landed(program)
    bad = {place: v for place, v in written.items() if v in (b"not json", b'{"n": "text"}')}
    good = {p: json.loads(v or b'{"n": null}') for p, v in written.items() if p not in bad}
    assert_exactly_once(rows, good)
    letters = read_by_metadata(program.metadata_location(f"{program.table}__dead_letters"))
    found = {(one["partition"], one["offset"]): bytes(one["value"]) for one in letters}
    assert found == bad
    assert len(letters) == 2
    assert {one["code"] for one in letters} == {"json.syntax", "json.type_mismatch"}


@pytest.mark.integration
def test_sigterm_commits_what_was_consumed_and_ends_with_0(
    kafka_bootstrap: str, topic: str, tmp_path: Path
) -> None:
    extra = ""
    program = Program(tmp_path, kafka_bootstrap, topic, extra=extra)
    written = produce_events(kafka_bootstrap, topic, 2_000)
    process = program.start()
    wait_for_snapshot(program, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    code, output = program.run("--duration", "2")
    assert code == 0, output
    assert_exactly_once(landed(program), expected(written))


@pytest.mark.integration
def test_the_rest_of_a_backlog_does_not_wait_for_the_interval(
    kafka_bootstrap: str, rest_catalog: CatalogAt, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    written = produce_events(kafka_bootstrap, topic, 2_500)
    environ = {
        "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "3600",
        "K2I_BUFFER_FLUSH_BATCH_SIZE": "1000",
        "K2I_KAFKA_BATCH_SIZE": "1000",
    }
    process = program.start(environ=environ)
    wait_for(process, lambda: total_rows(program) >= len(written), f"{len(written)} rows")
    process.kill()
    process.communicate()
    assert_exactly_once(landed(program), expected(written))


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_five_kills_on_the_way_lose_and_double_nothing(
    kafka_bootstrap: str, rest_catalog: CatalogAt, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    written: dict[Position, dict[str, Any]] = {}
    for kill in range(5):
        written |= produce_events(kafka_bootstrap, topic, 8_000, first=kill * 8_000)
        before = snapshots(program)
        process = program.start()
        wait_for_snapshot(program, process, more_than=before)
        process.kill()
        process.communicate()
    rest = len(written)
    code, output = program.run("--duration", "4")
    assert code == 0, output
    assert rest == 40_000
    assert_exactly_once(landed(program), expected(written))


@pytest.mark.integration
def test_an_unknown_topic_is_named_and_ends_with_2(kafka_bootstrap: str, tmp_path: Path) -> None:
    code, output = Program(tmp_path, kafka_bootstrap, "no-such-topic").run()
    assert code == 2, output
    assert "no-such-topic" in output
    assert "Traceback" not in output


@pytest.mark.integration
def test_an_absent_broker_is_named_and_ends_with_2(tmp_path: Path) -> None:
    code, output = Program(tmp_path, "127.0.0.1:9", "events").run()
    assert code == 2, output
    assert "127.0.0.1:9" in output
    assert "Traceback" not in output


@pytest.mark.integration
def test_a_second_flow_on_the_same_log_folder_is_refused(
    kafka_bootstrap: str, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic)
    produce_events(kafka_bootstrap, topic, 100)
    first = program.start()
    try:
        wait_for_snapshot(program, first)
        code, output = program.run()
        assert code == 5, output
        assert str(first.pid) in output
    finally:
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
    assert first.returncode == 0


@pytest.mark.integration
def test_a_second_run_with_its_own_log_fences_the_first(
    kafka_bootstrap: str, topic: str, tmp_path: Path
) -> None:
    first = Program(tmp_path, kafka_bootstrap, topic)
    written = produce_events(kafka_bootstrap, topic, 1_000)
    zombie = first.start()
    try:
        wait_for_snapshot(first, zombie)
        other = Program(tmp_path, kafka_bootstrap, topic)
        other.environ = {"K2I_TRANSACTION_LOG_LOG_DIR": str(tmp_path / "wal2")}
        written |= produce_events(kafka_bootstrap, topic, 1_000, first=1_000)
        code, output = other.run("--duration", "3")
        assert code == 0, output
        # The first finds out with its next commit.
        written |= produce_events(kafka_bootstrap, topic, 1_000, first=2_000)
        output, _ = zombie.communicate(timeout=60)
        assert zombie.returncode == 3, output
        assert "fenced" in output
    finally:
        if zombie.poll() is None:
            zombie.kill()
            zombie.wait(30)
    with running(other) as run:
        run.until(lambda _report: total_rows(other) >= len(written), "all rows in the table")
        run.drain()
    assert_exactly_once(landed(other), expected(written))


def total_rows(program: Program) -> int:
    """Rows of the table, as its newest snapshot says."""
    table = program.load_table()
    snapshot = table.current_snapshot() if table is not None else None
    if snapshot is None or snapshot.summary is None:
        return 0
    return int(snapshot.summary.additional_properties["total-records"])


def snapshots(program: Program) -> int:
    """Commits with rows that the table holds; 0 while there is no table."""
    table = program.load_table()
    if table is None:
        return 0
    summaries = [s.summary.additional_properties for s in table.metadata.snapshots if s.summary]
    return sum("added-records" in summary for summary in summaries)


def wait_for_snapshot(program: Program, process: Process, *, more_than: int = 0) -> None:
    """Waits until the table has a new commit with rows; fails with the output if the run ends."""
    wait_for(process, lambda: snapshots(program) > more_than, "commit")


def wait_for(process: Process, condition: Callable[[], bool], what: str) -> None:
    """Waits until `condition` holds; fails with the output if the run ends before."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return
        time.sleep(0.05)
    process.kill()
    output, _ = process.communicate()
    raise AssertionError(f"no {what} within 60 s, exit code {process.returncode}:\n{output}")
