"""Wrong logins, absent services, full disks, unsuitable tables: one message, and nothing lost."""

from __future__ import annotations

import os
import resource
import signal
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.config import load_config
from k2i_tasks.iceberg.catalog import open_catalog
from tests.conftest import Stack
from tests.program import Program, finished
from tests.running import Running, running
from tests.stack.programs import free_port
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

#: Below a file system that takes no new names, not even from root.
READ_ONLY = "/sys/k2i"
#: Room for the log's entries of some batches, and for no data file.
ROOM_BYTES = 2_000
#: Far longer than any test: who waits for its end has not been stopped.
ENDLESS = {"K2I_RUN_RETRY_BUDGET_SECONDS": "3600"}
CATALOG = "iceberg-rest"
#: A port that is given to nobody, so that nothing ever listens there.
ABSENT = "http://127.0.0.1:9"
HEADERS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
METADATA_COLUMNS = {
    "_kafka_topic": pa.string(),
    "_kafka_partition": pa.int32(),
    "_kafka_offset": pa.int64(),
    "_kafka_timestamp": pa.timestamp("us", "UTC"),
    "_kafka_key": pa.binary(),
    "_kafka_headers": HEADERS,
}


@pytest.fixture
def topic(kafka_bootstrap: str) -> str:
    name = f"bad-{uuid.uuid4().hex[:8]}"
    create_topic(kafka_bootstrap, name)
    return name


def message(output: str) -> str:
    """The one message of a run that gave up; fails unless it says what to do, in few lines."""
    lines = output.splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith("k2i: ")]
    assert len(begins) == 1, f"{len(begins)} messages:\n{output}"
    what, *after = lines[begins[0] :]
    todo = [line for line in after if line.startswith("     ")]
    assert 1 <= len(todo) <= 2, f"nothing, or a lecture, on what to do:\n{output}"
    return "\n".join((what, *todo))


def refused(
    program: Program, code: int, *arguments: str, environ: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Runs it until it gives up with `code`; its message, and all of its output."""
    ended_with, output = program.run(*arguments, environ=environ)
    assert ended_with == code, output
    if "-v" not in arguments:
        assert "Traceback" not in output
    return message(output), output


def complete(program: Program, written: Mapping[Position, Mapping[str, Any]]) -> str:
    """Runs it to the end of the topic; what it logged, when the table holds each event once."""
    with running(program) as run:
        reach(run, written)
        output = run.drain()
    assert_landed(program, written)
    return output


def reach(run: Running, written: Mapping[Position, Mapping[str, Any]]) -> None:
    """Waits until it has read all that was written."""
    ends: dict[int, int] = {}
    for partition, offset in written:
        ends[partition] = max(ends.get(partition, 0), offset + 1)
    run.until_at(ends)


def assert_landed(program: Program, written: Mapping[Position, Mapping[str, Any]]) -> None:
    """Each event is one row, by an outsider's reading."""
    columns = ("_kafka_partition", "_kafka_offset", "order_id", "customer")
    rows = read_by_metadata(program.metadata_location(), columns)
    assert_exactly_once(
        rows,
        {place: {name: each[name] for name in columns[2:]} for place, each in written.items()},
    )


# Kafka's login.


def login(kafka: Mapping[str, str], **changed: str | None) -> str:
    """`[kafka.security]` for the listener with TLS and login."""
    settings: dict[str, str | None] = {
        "protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": kafka["KAFKA_USER"],
        "sasl_password": kafka["KAFKA_PASSWORD"],
        "ssl_ca_location": kafka["KAFKA_CA"],
        **changed,
    }
    lines = [f'{key} = "{value}"' for key, value in settings.items() if value is not None]
    return "\n".join(("[kafka.security]", *lines))


def test_a_login_over_tls_is_used_from_the_first_record_to_the_last_commit(
    kafka: dict[str, str], rest_catalog: CatalogAt, topic: str, tmp_path: Path
) -> None:
    secured = kafka["KAFKA_BOOTSTRAP_SASL_SSL"]
    program = Program(tmp_path, secured, topic, rest_catalog, extra=login(kafka))
    written = produce_events(kafka["KAFKA_BOOTSTRAP"], topic, 500)
    code, output = program.run("--max-messages", "500")
    assert code == 0, output
    assert kafka["KAFKA_PASSWORD"] not in output
    assert_landed(program, written)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sasl_password": "not-her-word"}, "authentication"),
        ({"ssl_ca_location": None}, "certificate"),
    ],
    ids=["password", "certificate"],
)
def test_a_login_that_kafka_or_we_refuse_ends_with_2(
    changed: dict[str, str | None], said: str, kafka: dict[str, str], topic: str, tmp_path: Path
) -> None:
    secured = kafka["KAFKA_BOOTSTRAP_SASL_SSL"]
    program = Program(tmp_path, secured, topic, extra=login(kafka, **changed))
    told, output = refused(program, 2)
    for part in (secured, topic, said, "[kafka.security]"):
        assert part in told
    assert "not-her-word" not in output


# The catalog.


def test_a_catalog_that_is_away_is_waited_for_as_long_as_the_budget_says(
    kafka_bootstrap: str, rest_catalog: CatalogAt, stack: Stack, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    written = produce_events(kafka_bootstrap, topic, 500)
    stack.kill(CATALOG)
    try:
        told, output = refused(program, 3, environ={"K2I_RUN_RETRY_BUDGET_SECONDS": "1"})
        for part in (rest_catalog.uri, "Connection refused", "iceberg.rest_uri"):
            assert part in told
        assert "trying again" in output
        with running(program, environ=ENDLESS) as run:
            run.until(
                lambda report: report["components"]["catalog"]["status"] == "degraded",
                "told of the catalog",
            )
            stack.restart(CATALOG)
            reach(run, written)
            output = run.drain()
    finally:
        if stack.services[CATALOG].pid() is None:
            stack.restart(CATALOG)
    assert "trying again" in output
    assert "Traceback" not in output
    assert_landed(program, written)


def test_a_stop_while_the_catalog_is_away_ends_the_run_between_two_tries(
    kafka_bootstrap: str, rest_catalog: CatalogAt, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    settings = {**ENDLESS, "K2I_ICEBERG_REST_URI": ABSENT}
    with running(program, environ=settings) as run:
        run.until_logged("trying again")
        run.signal(signal.SIGTERM)
        code, output = run.end()
    assert code == 3, output
    assert "draining: SIGTERM received" in output
    assert "Connection refused" in message(output)


def test_a_catalog_that_is_not_ready_yet_is_asked_again(
    kafka_bootstrap: str, rest_catalog: CatalogAt, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    written = produce_events(kafka_bootstrap, topic, 100)
    rest_catalog.set_fault(path="^/v1/config$", status=503, times=3)
    try:
        code, output = program.run("--max-messages", "100", environ=ENDLESS)
    finally:
        rest_catalog.clear_faults()
    assert code == 0, output
    assert output.count("trying again") == 3
    assert_landed(program, written)


@pytest.mark.parametrize(
    ("status", "path", "arguments"),
    [(401, "^/v1/config$", ()), (403, "/tables/{table}$", ("-v",))],
    ids=["login", "rights"],
)
def test_a_login_that_the_catalog_refuses_ends_with_3_at_once(
    status: int,
    path: str,
    arguments: tuple[str, ...],
    kafka_bootstrap: str,
    rest_catalog: CatalogAt,
    topic: str,
    tmp_path: Path,
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    rest_catalog.set_fault(path=path.format(table=program.table), status=status, times=1000)
    try:
        told, output = refused(program, 3, *arguments)
    finally:
        rest_catalog.clear_faults()
    assert "Check the catalog's login and its rights" in told
    assert "trying again" not in output
    assert ("Traceback" in output) is bool(arguments), "tracebacks are for -v"


# Disks.


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("transaction_log.log_dir", READ_ONLY, 5),
        ("iceberg.warehouse_path", f"file://{READ_ONLY}", 4),
    ],
    ids=["log", "warehouse"],
)
def test_a_folder_that_cannot_be_written_is_named(
    setting: str, value: str, code: int, kafka_bootstrap: str, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic)
    produce_events(kafka_bootstrap, topic, 10)
    variable = f"K2I_{setting.replace('.', '_').upper()}"
    told, output = refused(program, code, environ={variable: value})
    for part in (READ_ONLY, "this user", setting):
        assert part in told
    assert "trying again" not in output


@pytest.mark.parametrize(
    ("code", "room_bytes", "said"),
    [(5, 0, "/wal/"), (4, ROOM_BYTES, ".parquet")],
    ids=["log", "warehouse"],
)
def test_a_disk_that_fills_up_ends_the_run_and_the_next_one_completes(
    code: int,
    room_bytes: int,
    said: str,
    kafka_bootstrap: str,
    rest_catalog: CatalogAt,
    topic: str,
    tmp_path: Path,
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    written = produce_events(kafka_bootstrap, topic, 2_000)
    port = free_port()
    process = program.start(environ={"K2I_MONITORING_HEALTH_PORT": str(port)})
    try:
        Running(process, Path(os.devnull), port).until_committed(2_000)
        # No file may grow beyond this. The output does not count: it goes through a pipe.
        limit = newest_segment_bytes(program) + room_bytes
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, most))
        written |= produce_events(kafka_bootstrap, topic, 2_000, first=2_000)
        ended_with, output = finished(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
    assert ended_with == code, output
    told = message(output)
    assert said in told
    assert "Free" in told
    assert "Traceback" not in output
    complete(program, written)


def newest_segment_bytes(program: Program) -> int:
    return max((program.folder / "wal").glob("*.log")).stat().st_size


# Tables and ports that somebody else has made.


def make_table(program: Program, columns: Mapping[str, pa.DataType]) -> None:
    """Makes the program's table as another tool would, with these columns."""
    config = load_config(program.config, environ={}, overrides={})
    catalog = open_catalog(config.iceberg, {})
    catalog.create_namespace_if_not_exists("tests")
    catalog.create_table(("tests", program.table), pa.schema(list(columns.items())))


@pytest.mark.parametrize(
    ("columns", "format", "parts"),
    [
        (
            {**METADATA_COLUMNS, "_kafka_offset": pa.string()},
            "json",
            ("'_kafka_offset' is string, needed is long", "iceberg.metadata_columns"),
        ),
        (
            {**METADATA_COLUMNS, "value": pa.string()},
            "raw",
            ("'value' of the table is string", "kafka.format.type"),
        ),
    ],
    ids=["metadata", "data"],
)
def test_a_table_with_a_column_of_another_type_ends_with_3(
    columns: dict[str, pa.DataType],
    format: str,
    parts: tuple[str, ...],
    kafka_bootstrap: str,
    rest_catalog: CatalogAt,
    topic: str,
    tmp_path: Path,
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    make_table(program, columns)
    produce_events(kafka_bootstrap, topic, 10)
    before = program.metadata_location()
    told, _ = refused(program, 3, environ={"K2I_KAFKA_FORMAT_TYPE": format})
    for part in parts:
        assert part in told
    assert program.metadata_location() == before, "the table was changed"


def test_a_table_that_suits_is_filled_and_what_does_not_fit_its_columns_is_a_dead_letter(
    kafka_bootstrap: str, rest_catalog: CatalogAt, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic, rest_catalog)
    make_table(program, {**METADATA_COLUMNS, "n": pa.int64(), "note": pa.string()})
    values: list[bytes | None] = [b'{"n": 1}', b'{"n": "text"}', b'{"n": 3, "more": true}']
    written = produce(kafka_bootstrap, topic, values)
    code, output = program.run("--max-messages", "3")
    assert code == 0, output
    first, bad, last = sorted(written)
    rows = read_by_metadata(program.metadata_location())
    none = {"note": None, "more": None}
    assert_exactly_once(rows, {first: {**none, "n": 1}, last: {**none, "n": 3, "more": True}})
    letters = read_by_metadata(program.metadata_location(f"{program.table}__dead_letters"))
    assert [(each["partition"], each["offset"]) for each in letters] == [bad]
    assert letters[0]["code"] == "json.type_mismatch"
    assert "Field n" in letters[0]["reason"]


def test_a_health_port_that_is_taken_ends_with_6(
    kafka_bootstrap: str, topic: str, tmp_path: Path
) -> None:
    program = Program(tmp_path, kafka_bootstrap, topic)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told, _ = refused(program, 6, environ={"K2I_MONITORING_HEALTH_PORT": port})
    assert port in told
    assert "monitoring.health_port" in told
