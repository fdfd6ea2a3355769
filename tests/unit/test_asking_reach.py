"""What a query may reach: no files, no secrets, no priority."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from k2i_tasks.asking.engine import Engine
from k2i_tasks.asking.reasons import reason
from k2i_tasks.errors import ConfigError, K2IError
from k2i_tasks.tickets import Sql
from tests.unit.asking_world import children, limited, rows
from tests.unit.views_world import ArrowView


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        'SELECT * FROM "/etc/passwd"',
        "SELECT /* /* */ 1 AS a FROM read_csv('/etc/passwd') /* */ */ FROM orders",
        "SELECT 1 --\n; DROP TABLE orders",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "SELECT " + "(" * 32_000 + "1" + ")" * 32_000,
        "SELECT " + "(" * 65_000,
        "SELECT '" + "x" * 70_000 + "'",
        "SELECT " + "1 + " * 16_000 + "1 AS n FROM orders",
        "SELECT * FROM orders WHERE " + "NOT " * 16_000 + "id = 1",
        "SELECT * FROM nothing",
        "",
    ],
)
def test_hostile_queries_are_refused_or_fail_alone(engine: Engine, sql: str) -> None:
    with pytest.raises(K2IError) as caught:
        engine.answer(Sql(sql)).table()
    assert "root:" not in str(caught.value)
    assert engine.places.taken == 0


def test_a_worker_can_open_no_file_and_knows_no_secret(
    engine: Engine, tables: dict[str, ArrowView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2I_TEST_SECRET", "canary")
    others = children()
    one = limited(tables, nice=7)
    rows(one, "SELECT count(*) AS n FROM other")
    (pid,) = children() - others
    limits = Path(f"/proc/{pid}/limits").read_text()
    opened = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert opened.split()[3:5] == ["0", "0"]
    assert "canary" not in Path(f"/proc/{pid}/environ").read_text()
    priority = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16]
    assert int(priority) == os.getpriority(os.PRIO_PROCESS, 0) + 7
    one.close()


def test_polars_in_the_run_has_a_low_priority_as_a_whole(engine: Engine) -> None:
    code = """
from contextlib import suppress
from pathlib import Path
from k2i_tasks.asking.scans import start_threads
start_threads(15)
for task in Path("/proc/self/task").iterdir():
    with suppress(OSError):  # one that has just ended
        name = (task / "comm").read_text().strip()
        if name.startswith(("polars-0", "polars-1", "async-exec", "tokio")):
            print(name, (task / "stat").read_text().rpartition(")")[2].split()[16])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(found) > 1
    assert {line.split()[1] for line in found} == {"15"}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("CAST(city AS INT)", r"failed in column 'city' for 1 out of 1 values\.$"),
        ("STRPTIME(city, '%Y')", r"failed in column 'city' for 1 out of 1 values\.$"),
        ("CAST(id * 1000 AS TINYINT)", r"failed in column 'id' for 1 out of 1 values\.$"),
    ],
)
def test_values_of_rows_are_in_no_error(engine: Engine, what: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        rows(engine, f"SELECT {what} AS x FROM orders WHERE id + 0 = 78")
    assert "Bern" not in str(caught.value)
    assert "78000" not in str(caught.value)


def test_a_reason_is_one_line_without_what_is_quoted() -> None:
    for text, told in [
        ("failed for 2 out of 9 values: ['a.\n', 'values: [x']", "failed for 2 out of 9 values"),
        ("bad JSON: 'Error at character 17 ('s')'", "bad JSON: 'Error at character 17"),
        ("no such column.\nmore", "no such column"),
        ("", "ValueError"),
    ]:
        assert reason(ValueError(text)) == told
