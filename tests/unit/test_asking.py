"""The engine behind all doors: right rows, within limits, and nothing but reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.asking.conditions import expression, pushed
from k2i_tasks.asking.engine import Engine
from k2i_tasks.asking.limits import Limits, Places
from k2i_tasks.asking.plain import plain_scan
from k2i_tasks.errors import (
    BusyError,
    ConfigError,
    K2IError,
    QueryCancelledError,
    QueryLimitError,
    TransientError,
)
from k2i_tasks.sql_guard import check_query
from k2i_tasks.tickets import After, At, Condition, Key, Rows, Sql
from k2i_tasks.views import Cut, Part
from tests.unit.views_world import P0, ArrowView, orders, world

LIMITS = Limits(seconds_max=60.0, memory_bytes_max=512 << 20)
#: Two hundred thousand rows that meet ten thousand each: 2 * 10**9 pairs.
EXPLOSIVE = "SELECT sum(a.v * b.v) AS n FROM big a JOIN big b ON a.k = b.k WHERE a.v + b.v > 1"


def big() -> ArrowView:
    rows = pa.table({"k": [n % 20 for n in range(200_000)], "v": range(200_000)})
    return ArrowView("demo.big", rows.slice(0, 0), rows)


@pytest.fixture(scope="module")
def tables() -> dict[str, ArrowView]:
    return {**world(), "demo.big": big()}


@pytest.fixture(scope="module")
def engine(tables: dict[str, ArrowView]) -> Iterator[Engine]:
    made = Engine(lambda: tables, LIMITS)
    yield made
    made.close()


def limited(views: Mapping[str, ArrowView], **limits: object) -> Engine:
    plain = {"seconds_max": 60.0, "memory_bytes_max": 512 << 20, **limits}
    return Engine(lambda: views, Limits(**plain))  # type: ignore[arg-type]


def rows(engine: Engine, sql: str, part: Part = "all") -> list[dict[str, object]]:
    found: list[dict[str, object]] = engine.answer(Sql(sql, part)).table().to_pylist()
    return found


def children() -> set[int]:
    """Processes of ours that evaluate queries."""
    words = ["ps", "--ppid", str(os.getpid()), "-o", "pid=,stat=,args="]
    lines = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    return {int(line.split()[0]) for line in lines if "asking.worker" in line}


def becomes(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


QUERIES = [
    "SELECT * FROM orders",
    "SELECT id, price FROM demo.orders WHERE id >= 20 AND price < 40.5",
    "SELECT id FROM orders WHERE city = 'Bern' AND 30 < id",
    "SELECT id FROM orders WHERE city IS NULL AND id != 4",
    "SELECT id FROM orders WHERE NOT city = 'Bern' OR id = 3",
    "SELECT city, count(*) AS n, sum(price) AS s FROM orders GROUP BY city ORDER BY n, city",
    "SELECT upper(city) AS u FROM orders WHERE length(city) = 4 ORDER BY id DESC LIMIT 3",
    "SELECT a.id, b.city FROM orders a JOIN other b ON a.id = b.id ORDER BY a.id",
    "SELECT count(*) AS n FROM orders a CROSS JOIN other b",
    "SELECT count(*) AS n FROM orders",
    "SELECT item.sku AS sku FROM orders WHERE item.sku = 's77'",
    "WITH x AS (SELECT id % 7 AS r FROM orders) SELECT r, sum(r) AS n FROM x GROUP BY r ORDER BY r",
    "SELECT id FROM orders WHERE id IN (1, 2, 99) ORDER BY id",
    "SELECT id FROM orders WHERE CAST(at AS date) = date '2026-11-01' AND id < 3",
    "SELECT 1 AS one",
]


@pytest.mark.parametrize("sql", QUERIES)
def test_a_query_gives_what_polars_gives_of_all_rows_at_once(engine: Engine, sql: str) -> None:
    frames = {
        name: pl.from_arrow(rows)
        for name, rows in {"orders": orders(0, 100), "other": orders(0, 3)}.items()
    }
    reference = pl.SQLContext(frames, register_globals=False, eager=True)
    wanted = reference.execute(sql.replace("demo.orders", "orders")).to_dicts()
    assert rows(engine, sql) == wanted


def test_each_part_of_a_table_can_be_asked_alone(engine: Engine) -> None:
    for form in ("SELECT count(*) AS n FROM orders", "SELECT count(id) AS n FROM demo.orders"):
        assert [rows(engine, form, part)[0]["n"] for part in ("all", "hot", "cold")] == [
            100,
            40,
            60,
        ]
    plain = Rows("demo.orders", ("id",), (Condition("id", ">=", 58),), "cold")
    assert engine.answer(plain).table()["id"].to_pylist() == [58, 59]


def test_a_table_that_is_named_twice_is_looked_at_once(engine: Engine) -> None:
    tables = world()
    one = limited(tables)
    sql = "SELECT count(*) AS n FROM orders a JOIN demo.orders b ON a.id = b.id"
    assert rows(one, sql) == [{"n": 100}]
    assert tables["demo.orders"].cuts == ["all"]
    one.close()


COLUMNS = st.sampled_from(["id", "price", "city", "at"])
VALUES = st.sampled_from(["3", "-1", "17.5", "'Bern'", "'it''s'", "'2026-11-01T12:00:30+00:00'"])
CONDITIONS = st.builds(
    lambda column, sign, value: f"{column} {sign} {value}",
    COLUMNS,
    st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]),
    VALUES,
) | st.builds(lambda column, no: f"{column} IS {no} NULL", COLUMNS, st.sampled_from(["", "NOT"]))


@given(st.lists(CONDITIONS, max_size=3), st.none() | st.integers(1, 50))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_plain_scan_gives_what_a_worker_gives(
    engine: Engine, conditions: list[str], limit: int | None
) -> None:
    sql = "SELECT id, city FROM orders"
    sql += f" WHERE {' AND '.join(conditions)}" if conditions else ""
    # One more word, and it is not plain any more.
    by_worker = f"SELECT * FROM ({sql}) x"
    sql += f" LIMIT {limit}" if limit else ""
    by_worker += f" LIMIT {limit}" if limit else ""
    assert plain_scan(check_query(sql, ["orders"]).sql, ["orders"], "all") is not None
    assert plain_scan(check_query(by_worker, ["orders"]).sql, ["orders"], "all") is None
    try:
        wanted = rows(engine, by_worker)
    except ConfigError:
        # A text in place of a number, for one; a text in place of a time is read as one here.
        return
    assert rows(engine, sql) == wanted


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id AS x FROM orders",
        "SELECT id + 1 FROM orders",
        "SELECT DISTINCT id FROM orders",
        "SELECT id FROM orders ORDER BY id",
        "SELECT id FROM orders WHERE id = 1 OR id = 2",
        "SELECT id FROM orders WHERE id = price",
        "SELECT id FROM orders WHERE city LIKE 'B%'",
        "SELECT id FROM orders LIMIT 1 OFFSET 1",
        "SELECT id FROM orders o",
        "SELECT id, id FROM orders",
        "SELECT count(*) FROM orders",
        "SELECT o.id FROM orders",
        "SELECT id FROM orders WHERE at > timestamp '2026-01-01'",
        "SELECT id FROM orders LIMIT 0",
        "SELECT id FROM orders WHERE city = 'a\\d'",
        "SELECT id FROM orders UNION ALL SELECT id FROM orders",
    ],
)
def test_what_is_more_than_a_plain_scan_goes_to_a_worker(sql: str) -> None:
    assert plain_scan(check_query(sql, ["orders"]).sql, ["orders"], "all") is None


def test_only_comparisons_are_pushed_down_and_only_those_that_fit() -> None:
    schema = pl.DataFrame(schema={"id": pl.Int64, "city": pl.String, "at": pl.Datetime}).schema
    predicate = (
        (pl.col("id") > 5)
        & (pl.lit(9) >= pl.col("id"))
        & (pl.col("city").str.len_chars() > 3)
        & ((pl.col("id") == 1) | (pl.col("id") == 7))
        & pl.col("city").is_not_null()
        & (pl.col("city") == 3)
        & (pl.col("none") == 3)
    )
    assert sorted(pushed(predicate, schema), key=str) == sorted(
        [
            Condition("id", ">", 5),
            Condition("id", "<=", 9),
            Condition("city", "is not null"),
        ],
        key=str,
    )
    with pytest.raises(ConfigError, match="not of its type"):
        expression([Condition("id", "=", "x")], schema)


def test_conditions_reach_the_table_that_a_worker_asks_for() -> None:
    seen: list[str] = []

    class Watched(ArrowView):
        def cut(self, part: Part = "all") -> Cut:
            found = super().cut(part)

            def rows(columns: object, predicate: object, *_rest: object) -> Iterator[pl.DataFrame]:
                seen.append(f"{columns} {predicate}")
                yield found.frame.select(columns).collect()  # type: ignore[arg-type]

            from polars.io.plugins import register_io_source

            kinds = found.frame.collect_schema()
            frame = register_io_source(rows, schema=kinds)
            return Cut(frame, found.positions, None, 0)

    whole = orders(0, 10)
    views = {"demo.orders": Watched("demo.orders", whole, whole.slice(0, 0))}
    one = limited(views)
    sql = "SELECT city, count(*) AS n FROM orders WHERE id >= 7 AND length(city) > 0 GROUP BY city"
    one.answer(Sql(sql)).table()
    assert len(seen) == 1
    assert "'price'" not in seen[0]
    assert "7" in seen[0]
    one.close()


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


def _resident_mb() -> float:
    text = Path("/proc/self/status").read_text()
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
    assert becomes(lambda: _cpu_seconds(worker) > 1.5), "it is at work"
    began = time.monotonic()
    gone.set()
    thread.join(10)
    assert time.monotonic() - began < 2
    assert isinstance(ended[0], QueryCancelledError)
    assert one.places.taken == 0
    assert worker not in children()
    one.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_worker_that_is_killed_is_an_error_of_one_query(tables: dict[str, ArrowView]) -> None:
    one = limited(tables)
    rows(one, "SELECT count(*) AS n FROM other")
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(QueryLimitError, match="brought its process down"):
        rows(one, "SELECT count(*) AS n FROM other")
    assert rows(one, "SELECT count(*) AS n FROM other") == [{"n": 3}]
    one.close()


def test_workers_end_with_the_engine_and_with_a_run_that_is_killed(tmp_path: Path) -> None:
    code = """
import os, sys, threading
from k2i_tasks.asking.engine import Engine
from k2i_tasks.asking.limits import Limits
from k2i_tasks.tickets import Sql
from tests.unit.test_asking import EXPLOSIVE, big, children
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
    assert becomes(lambda: all(_cpu_seconds(pid) > 1 for pid in pids))
    run.stdin.close()
    run.wait(10)
    assert becomes(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


# What a query may reach.


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
    one = limited(tables)
    rows(one, "SELECT count(*) AS n FROM other")
    for pid in children():
        limits = Path(f"/proc/{pid}/limits").read_text()
        opened = next(line for line in limits.splitlines() if line.startswith("Max open files"))
        assert opened.split()[3:5] == ["0", "0"]
        assert "canary" not in Path(f"/proc/{pid}/environ").read_text()
        priority = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16]
        assert int(priority) >= LIMITS.nice
    one.close()


def test_polars_in_the_run_has_a_low_priority_as_a_whole(engine: Engine) -> None:
    code = """
from pathlib import Path
from k2i_tasks.asking.scans import start_threads
from k2i_tasks.asking.limits import Limits
start_threads(15)
for task in Path("/proc/self/task").iterdir():
    name = (task / "comm").read_text().strip()
    if name.startswith(("polars-0", "polars-1", "async-exec", "tokio")):
        print(name, (task / "stat").read_text().rpartition(")")[2].split()[16])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(found) > 1
    assert {line.split()[1] for line in found} == {"15"}


# What is in memory.


def test_rows_in_memory_are_found_by_key_and_by_record(engine: Engine) -> None:
    assert engine.answer(Key("demo.orders", 77)).table()["id"].to_pylist() == [77]
    assert engine.answer(Key("demo.orders", 5)).table().num_rows == 0, "it is committed"
    assert engine.answer(At("orders", "orders", 0, 60)).table()["id"].to_pylist() == [60]
    with pytest.raises(ConfigError, match="no table"):
        engine.answer(Key("", 77))
    with pytest.raises(ConfigError, match="type"):
        engine.answer(Key("orders", "x"))


def test_one_that_follows_gets_each_row_once_as_soon_as_it_comes() -> None:
    views = world()
    one = limited(views)
    view = views["demo.orders"]
    positions = {P0: 100}
    threading.Timer(0.2, view.append, (5,)).start()
    began = time.monotonic()
    found = one.answer(After("demo.orders", positions, wait_seconds=20)).table()
    assert time.monotonic() - began < 5
    assert found["id"].to_pylist() == [100, 101, 102, 103, 104]
    assert found.schema.metadata[b"k2i.positions"] == b'{"orders": {"0": 105}}'
    late = one.answer(After("demo.orders", {P0: 10}, limit=2)).table()
    assert late.schema.metadata[b"k2i.missed"] == b"1"
    assert one.answer(After("demo.orders", {P0: 105})).table().num_rows == 0
    one.close()


def test_followers_are_bounded() -> None:
    views = world()
    one = limited(views, followers_max=1)
    stop = threading.Event()
    waiting = After("demo.orders", {P0: 100}, wait_seconds=30)
    thread = threading.Thread(
        target=lambda: one.answer(waiting, lambda: not stop.is_set()), daemon=True
    )
    thread.start()
    assert becomes(lambda: one._followers._value == 0)
    with pytest.raises(BusyError, match="wait for new rows"):
        one.answer(waiting)
    stop.set()
    thread.join(5)
    one.close()


def test_what_a_table_meets_reaches_whoever_asked() -> None:
    class Away(ArrowView):
        def cut(self, part: Part = "all") -> Cut:
            def rows(*_asked: object) -> Iterator[pl.DataFrame]:
                raise TransientError("The store is away.")

            from polars.io.plugins import register_io_source

            frame = super().cut(part).frame
            source = register_io_source(rows, schema=frame.collect_schema())
            return Cut(source, {}, None, 0)

    whole = orders(0, 10)
    one = limited({"demo.orders": Away("demo.orders", whole, whole)})
    for sql in ("SELECT id FROM orders", "SELECT sum(id) AS n FROM orders"):
        with pytest.raises(TransientError, match="store is away"):
            one.answer(Sql(sql)).table()
    assert one.places.taken == 0
    one.close()


def test_an_engine_at_its_end_refuses(tables: dict[str, ArrowView]) -> None:
    one = limited(tables)
    one.close()
    with pytest.raises(BusyError, match="end"):
        one.answer(Sql("SELECT id FROM orders"))
