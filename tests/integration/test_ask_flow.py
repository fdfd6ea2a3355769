"""`k2i query` and the Python client against a flow in another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from k2i_tasks import client
from k2i_tasks.config import demo_config
from k2i_tasks.discovery import NAME
from k2i_tasks.errors import ServiceError
from k2i_tasks.iceberg.catalog import open_catalog
from tests.unit.asking_world import becomes

#: Rows that the table holds, and the flow has in memory.
COMMITTED, HOT = 5, 40


class Flow:
    """A running flow, and the commands that ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        words = [sys.executable, "-m", "tests.asked_flow", str(folder), str(HOT)]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.flight, self.http = json.loads(self.process.stdout.readline())

    def add(self, rows: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{rows}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def words(folder: Path, sql: str, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "k2i_tasks.cli", "query", sql),
        *("--data-dir", str(folder), *more),
    ]


def asked(folder: Path, sql: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words(folder, sql, *more), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo's folder with a few committed rows."""
    path = tmp_path_factory.mktemp("demo")
    catalog = open_catalog(demo_config(path).iceberg, {})
    catalog.create_namespace_if_not_exists("demo")
    rows = pa.table({"id": pa.array(range(COMMITTED), pa.int64())})
    catalog.create_table("demo.orders", schema=rows.schema).append(rows)
    return path


@pytest.fixture
def flow(folder: Path) -> Iterator[Flow]:
    made = Flow(folder)
    yield made
    made.close()


COUNT = "SELECT count(*) AS n FROM demo.orders"


def test_a_running_flow_is_asked_and_else_the_table(folder: Path) -> None:
    flow = Flow(folder)
    try:
        found = asked(folder, COUNT, "--format", "json")
        assert (json.loads(found.stdout), found.stderr) == ([{"n": HOT}], "")
        hot = asked(folder, COUNT, "--format", "json", "--hot-only")
        assert json.loads(hot.stdout) == [{"n": HOT}]
        cold = asked(folder, COUNT, "--format", "json", "--cold-only")
        assert (json.loads(cold.stdout), cold.stderr) == ([{"n": COMMITTED}], "")
    finally:
        flow.close()
    assert (folder / NAME).exists(), "a killed flow leaves its file"
    found = asked(folder, COUNT, "--format", "json")
    assert json.loads(found.stdout) == [{"n": COMMITTED}]
    assert "committed table alone was read" in found.stderr
    refused = asked(folder, COUNT, "--hot-only")
    assert refused.returncode == 6
    assert "No flow runs" in refused.stderr


def test_a_table_that_the_flow_does_not_have_is_read_from_the_catalog(
    folder: Path, flow: Flow
) -> None:
    found = asked(folder, "SELECT count(*) AS n FROM orders__dead_letters")
    assert found.returncode == 3
    assert "does not exist: demo.orders__dead_letters" in found.stderr


def test_formats_and_limits_are_those_of_the_table(
    folder: Path, flow: Flow, tmp_path: Path
) -> None:
    found = asked(folder, "SELECT id FROM orders", "--format", "csv", "--limit", "2")
    assert (found.stdout, found.returncode) == ("id\n0\n1\n", 0)
    assert "--limit" in found.stderr
    path = tmp_path / "out.parquet"
    found = asked(folder, "SELECT id FROM orders", "--format", "parquet", "--output", str(path))
    assert f"{HOT} rows" in found.stderr
    shown = asked(folder, "SELECT id, item FROM orders LIMIT 3")
    assert "3 rows" in shown.stdout


def test_errors_have_the_exit_codes_of_the_table(folder: Path, flow: Flow) -> None:
    for sql in ("SELECT * FROM read_csv('/etc/passwd')", "SELECT nothing FROM orders", "SHOW x"):
        found = asked(folder, sql)
        assert (found.returncode, found.stdout) == (1, "")
        assert "root:" not in found.stderr
        assert "Traceback" not in found.stderr
    both = asked(folder, COUNT, "--hot-only", "--cold-only")
    assert both.returncode == 1


def lines_of(process: subprocess.Popen[str]) -> tuple[list[str], Callable[[], bool]]:
    """What a process prints, as it does, and whether it has printed anything."""
    assert process.stdout is not None
    lines: list[str] = []
    stream = process.stdout

    def read() -> None:
        for line in stream:
            lines.append(line)

    threading.Thread(target=read, daemon=True).start()
    return lines, lambda: bool(lines)


def test_follow_prints_rows_as_they_come_until_ctrl_c(folder: Path, flow: Flow) -> None:
    sql = "SELECT id FROM orders WHERE id >= 42"
    process = subprocess.Popen(
        words(folder, sql, "--follow", "--format", "json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines, any_line = lines_of(process)
    # It says nothing before the first row: rows are added until it has one.
    assert becomes(lambda: flow.add(1) or any_line(), 30)  # type: ignore[func-returns-value]
    flow.add(5)
    assert becomes(lambda: len(lines) >= 6)
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert ids[0] >= 42
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_follow_ends_at_its_limit_and_takes_plain_queries_only(folder: Path, flow: Flow) -> None:
    process = subprocess.Popen(
        words(folder, "SELECT id FROM orders", "--follow", "--format", "csv", "--limit", "7"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert becomes(lambda: flow.add(3) or process.poll() is not None, 30)  # type: ignore[func-returns-value]
    assert process.returncode == 0
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    assert lines[0] == "id"
    assert len(lines) == 8
    for more in (("--format", "parquet"), ("--cold-only",)):
        assert asked(folder, "SELECT id FROM orders", "--follow", *more).returncode == 1
    refused = asked(folder, COUNT, "--follow")
    assert (refused.returncode, "comparisons" in refused.stderr) == (1, True)


def test_the_client_finds_a_flow_by_its_folder(folder: Path, flow: Flow) -> None:
    with client.connect(folder) as asking:
        assert asking.sql(COUNT)["n"][0] == HOT
        assert asking.lookup(7)["id"].to_pylist() == [7]
        rows = asking.tail()
        threading.Timer(0.3, flow.add, (4,)).start()
        assert next(rows).num_rows == 4
    os.kill(flow.process.pid, signal.SIGKILL)
    flow.process.wait()
    with pytest.raises(ServiceError, match="No flow runs"):
        client.connect(folder)


def test_a_flow_that_ends_in_order_takes_its_file_away(folder: Path) -> None:
    flow = Flow(folder)
    assert flow.process.stdin is not None
    assert (folder / NAME).exists()
    flow.process.stdin.close()
    assert flow.process.wait(20) == 0
    assert not (folder / NAME).exists()
