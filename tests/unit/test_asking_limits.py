"""What a query may take: rows, bytes, time, memory, places; and what it may reach."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from k2i_tasks.asking.engine import Engine
from k2i_tasks.asking.limits import Limits, Places
from k2i_tasks.asking.process import Worker, Workers
from k2i_tasks.errors import (
    BusyError,
    ConfigError,
    K2IError,
    QueryCancelledError,
    QueryLimitError,
    TransientError,
)
from k2i_tasks.tickets import Sql
from tests.unit.asking_world import (
    EXPLOSIVE,
    becomes,
    children,
    cpu_seconds,
    limited,
    rows,
)
from tests.unit.views_world import ArrowView

EXPLOSIVE_ROWS = "SELECT a.v + b.v AS z FROM big a JOIN big b ON a.k = b.k"


# Limits.


def test_a_result_is_cut_at_its_rows_and_says_so(tables: dict[str, ArrowView]) -> None:
    one = limited(tables, rows_max=10)
    for sql in ("SELECT id FROM orders", "SELECT id + 1 AS n FROM orders"):
        answer = one.answer(Sql(sql))
        assert answer.table().num_rows == 10
        assert answer.end.cut == "rows"
        fewer = one.answer(Sql(sql, limit=3))
        assert (fewer.table().num_rows, fewer.end.cut) == (3, "rows")
    exact = one.answer(Sql("SELECT id FROM orders WHERE id < 10"))
    assert (exact.table().num_rows, exact.end.cut) == (10, "")
    within = one.answer(Sql("SELECT id FROM orders LIMIT 4"))
    assert (within.table().num_rows, within.end.cut) == (4, "")
    one.close()


def test_a_result_is_cut_at_its_bytes_and_says_so(tables: dict[str, ArrowView]) -> None:
    one = limited(tables, bytes_max=100_000)
    for sql in ("SELECT k, v FROM big", "SELECT k, v + 1 AS w FROM big"):
        answer = one.answer(Sql(sql))
        found = answer.table()
        assert answer.end.cut == "bytes"
        assert 0 < found.nbytes <= 100_000
        assert found.num_rows == answer.end.rows
    assert one.places.taken == 0
    one.close()


def test_a_query_ends_at_its_time_and_its_process_with_it(tables: dict[str, ArrowView]) -> None:
    others = children()
    one = limited(tables, seconds_max=3.0)
    rows(one, "SELECT count(*) AS n FROM other")
    began, before = time.monotonic(), children() - others
    assert len(before) == 1
    with pytest.raises(QueryLimitError, match="more than 3 seconds"):
        one.answer(Sql(EXPLOSIVE)).table()
    assert time.monotonic() - began < 5
    assert one.places.taken == 0
    assert not before & children()
    assert rows(one, "SELECT count(*) AS n FROM other") == [{"n": 3}]
    one.close()


def test_a_result_that_nobody_takes_loses_its_place_at_its_time(
    tables: dict[str, ArrowView],
) -> None:
    others = children()
    one = limited(tables, seconds_max=3.0)
    for sql in ("SELECT k, v + 1 AS w FROM big", "SELECT k, v FROM big"):
        answer = one.answer(Sql(sql))
        found = iter(answer)
        next(found)
        assert becomes(lambda: one.places.taken == 0)
        assert becomes(lambda: not children() - others)
        with pytest.raises(QueryLimitError):
            list(found)
        answer.close()
    assert one.places.taken == 0
    one.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.v AS x, b.v AS y, a.v + b.v AS z FROM big a JOIN big b ON a.k = b.k ORDER BY z",
        "SELECT lpad(city, 1000000000, 'x') AS x FROM orders",
        "SELECT count(*) AS n FROM orders WHERE lpad(city, 1000000000, 'x') = 'y'",
        "SELECT a.v AS x, sum(b.v) AS s FROM big a CROSS JOIN big b GROUP BY a.v + b.v, a.v",
    ],
)
def test_what_explodes_takes_its_own_process_down_and_no_other(
    tables: dict[str, ArrowView], sql: str
) -> None:
    one = limited(tables, memory_bytes_max=256 << 20, seconds_max=20.0)
    before = _resident_mb()
    with pytest.raises(K2IError) as caught:
        one.answer(Sql(sql)).table()
    # The last one may be refused by Polars itself: too many rows.
    refused = isinstance(caught.value, ConfigError) and "CROSS" in sql
    assert refused or "needed more memory" in str(caught.value)
    assert _resident_mb() - before < 200
    assert rows(one, "SELECT count(*) AS n FROM orders") == [{"n": 100}]
    one.close()


def test_only_memory_that_is_used_counts() -> None:
    """Polars reserves some gigabytes of addresses to sort a table of many columns."""
    names = [f"c{n}" for n in range(13)]
    column = pa.array([f"{n % 1000} of a thousand" for n in range(200_000)])
    wide = pa.table({"id": range(200_000), **dict.fromkeys(names, column)})
    one = limited(
        {"demo.wide": ArrowView("demo.wide", wide.slice(0, 0), wide)}, memory_bytes_max=768 << 20
    )
    for _ in range(3):
        answer = one.answer(Sql("SELECT * FROM wide ORDER BY id DESC"))
        assert answer.table().num_rows == 200_000
    one.close()


def test_a_process_ends_when_it_takes_more_memory_than_it_may(
    tables: dict[str, ArrowView],
) -> None:
    others, most = children(), 0.0
    one = limited(tables, memory_bytes_max=256 << 20, seconds_max=20.0)
    rows(one, "SELECT count(*) AS n FROM big")
    (worker,) = children() - others
    ended = threading.Event()

    def explode() -> None:
        with pytest.raises(QueryLimitError, match="more memory"):
            one.answer(Sql(f"SELECT * FROM ({EXPLOSIVE_ROWS}) ORDER BY z")).table()
        ended.set()

    threading.Thread(target=explode, daemon=True).start()
    while not ended.wait(0.002):
        with suppress(OSError, IndexError):  # it is gone, or about to be
            most = max(most, _resident_mb(worker))
    assert 200 < most < 700
    one.close()


def test_a_process_that_nobody_needs_ends_without_another_query(
    tables: dict[str, ArrowView],
) -> None:
    others = children()
    workers = Workers(lambda: Worker(256 << 20, 0), idle_seconds_max=0.2)
    first, second = workers.take()[0], workers.take()[0]
    workers.give_back(first)
    workers.give_back(second)
    assert becomes(lambda: not children() - others)
    workers.close()


def _resident_mb(pid: int | str = "self") -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def test_places_are_bounded_and_waiting_for_one_is_too(tables: dict[str, ArrowView]) -> None:
    one = limited(tables, queries_max=1, waiting_max=1, wait_seconds_max=0.3)
    held = one.answer(Sql("SELECT k, v FROM big"))
    with pytest.raises(BusyError, match="1 places"):
        one.answer(Sql("SELECT k, v FROM big"))
    waiting = threading.Thread(target=lambda: _refused(one))
    waiting.start()
    assert becomes(lambda: one.places._waiting == 1)
    began = time.monotonic()
    with pytest.raises(BusyError):
        one.answer(Sql("SELECT k, v FROM big"))
    assert time.monotonic() - began < 0.2, "the second that would wait is refused at once"
    waiting.join()
    held.close()
    assert one.answer(Sql("SELECT id FROM other")).table().num_rows == 3
    one.close()


def _refused(engine: Engine) -> None:
    with pytest.raises(BusyError):
        engine.answer(Sql("SELECT k, v FROM big"))


def test_one_that_waits_gets_the_place_that_becomes_free() -> None:
    places = Places(Limits(queries_max=1, waiting_max=5, wait_seconds_max=30))
    places.take(lambda: True)
    got = threading.Event()

    def wait() -> None:
        places.take(lambda: True)
        got.set()

    threading.Thread(target=wait, daemon=True).start()
    assert becomes(lambda: places._waiting == 1)
    assert not got.is_set()
    places.free()
    assert got.wait(5)


def test_one_that_is_gone_does_not_wait_for_a_place() -> None:
    places = Places(Limits(queries_max=1, waiting_max=5, wait_seconds_max=30))
    places.take(lambda: True)
    with pytest.raises(QueryCancelledError):
        places.take(lambda: False)
    assert places._waiting == 0


def test_a_client_that_is_gone_frees_place_and_processor(tables: dict[str, ArrowView]) -> None:
    others = children()
    one = limited(tables)
    rows(one, "SELECT count(*) AS n FROM other")
    before = children() - others
    gone = threading.Event()
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            one.answer(Sql(EXPLOSIVE), lambda: not gone.is_set()).table()
        except K2IError as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    (worker,) = before
    assert becomes(lambda: cpu_seconds(worker) > 1.5), "it is at work"
    began = time.monotonic()
    gone.set()
    thread.join(10)
    assert time.monotonic() - began < 2
    assert isinstance(ended[0], QueryCancelledError)
    assert one.places.taken == 0
    assert worker not in children()
    one.close()


def test_a_worker_that_was_killed_while_idle_is_nobodys_error(tables: dict[str, ArrowView]) -> None:
    others = children()
    one = limited(tables)
    rows(one, "SELECT count(*) AS n FROM other")
    (worker,) = children() - others
    os.kill(worker, signal.SIGKILL)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    assert rows(one, "SELECT count(*) AS n FROM other") == [{"n": 3}]
    one.close()


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (signal.SIGKILL, TransientError, r"ended from outside \(SIGKILL\)"),
        (signal.SIGTERM, TransientError, r"ended from outside \(SIGTERM\)"),
        (signal.SIGSEGV, K2IError, r"brought its process down \(SIGSEGV\)"),
        # As the allocator ends it where there is no more memory.
        (signal.SIGABRT, QueryLimitError, "needed more memory than 512 MB"),
    ],
)
def test_a_worker_that_ends_in_the_middle_is_an_error_of_its_query_that_says_how(
    tables: dict[str, ArrowView], number: int, kind: type[K2IError], said: str
) -> None:
    others = children()
    one = limited(tables)
    rows(one, "SELECT count(*) AS n FROM other")
    (worker,) = children() - others
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            one.answer(Sql(EXPLOSIVE)).table()
        except K2IError as error:
            ended.append(error)

    before = cpu_seconds(worker)
    thread = threading.Thread(target=ask)
    thread.start()
    assert becomes(lambda: cpu_seconds(worker) > before + 0.3), "it is at work"
    os.kill(worker, number)
    thread.join(10)
    assert type(ended[0]) is kind
    assert re.search(said, str(ended[0]))
    assert one.places.taken == 0
    assert rows(one, "SELECT count(*) AS n FROM other") == [{"n": 3}]
    one.close()


def test_workers_end_with_the_engine_and_with_a_run_that_is_killed(tmp_path: Path) -> None:
    code = """
import os, sys, threading
from k2i_tasks.asking.engine import Engine
from k2i_tasks.asking.limits import Limits
from k2i_tasks.tickets import Sql
from tests.unit.asking_world import EXPLOSIVE, big, children
engine = Engine(lambda: {"demo.big": big()}, Limits())
engine.answer(Sql("SELECT count(*) AS n FROM big")).table()
threading.Thread(target=lambda: engine.answer(Sql(EXPLOSIVE)).table(), daemon=True).start()
print(*children(), flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), 9)
"""
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdin is not None
    assert run.stdout is not None
    pids = [int(one) for one in run.stdout.readline().split()]
    assert pids
    assert becomes(lambda: all(cpu_seconds(pid) > 1 for pid in pids))
    run.stdin.close()
    run.wait(10)
    assert becomes(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
