"""The engine behind all doors: right rows, on both ways."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2i_tasks.asking.conditions import expression, pushed
from k2i_tasks.asking.engine import Engine
from k2i_tasks.asking.plain import plain_scan
from k2i_tasks.errors import (
    BusyError,
    ConfigError,
    TransientError,
)
from k2i_tasks.sql_guard import check_query
from k2i_tasks.tickets import After, At, Condition, Key, Rows, Sql
from k2i_tasks.views import Cut, Part
from tests.unit.asking_world import (
    becomes,
    limited,
    rows,
)
from tests.unit.views_world import P0, ArrowView, orders, world

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


def test_moments_mean_the_same_on_both_ways_with_a_zone_and_without() -> None:
    whole = orders(0, 100)
    local = pc.cast(whole["at"], pa.timestamp("us"))
    whole = whole.append_column("local", local).append_column("day", pc.cast(local, pa.date32()))
    one = limited({"demo.orders": ArrowView("demo.orders", whole, whole.slice(0, 0))})
    for column, value, count in [
        ("at", "'2026-11-01T12:00:30Z'", 69),
        ("at", "'2026-11-01T12:00:30'", 69),
        ("at", "'2026-11-01T14:00:30+02:00'", 69),
        ("local", "'2026-11-01T12:00:30'", 69),
        ("local", "timestamp '2026-11-01 12:00:30'", 69),
        # Without a zone it is a reading of a clock: one in the text counts for nothing.
        ("local", "'2026-11-01T12:00:30+02:00'", 69),
        ("day", "'2026-10-31'", 100),
        ("day", "date '2026-11-01'", 0),
    ]:
        for what in ("id", "id + 0 AS id"):
            sql = f"SELECT {what} FROM orders WHERE {column} > {value}"
            assert len(rows(one, sql)) == count, sql
    for what in ("id", "id + 0 AS id"):
        sql = f"SELECT {what} FROM orders WHERE day > '2026-10-31T12:00:00'"
        with pytest.raises(ConfigError, match="string value"):
            rows(one, sql)
    with pytest.raises(ConfigError, match="comparison") as caught:
        rows(one, "SELECT id FROM orders WHERE at > timestamp '2026-11-01 12:00:30'")
    assert "with a text, such as '2026-11-01T12:00:00Z'" in caught.value.remedy
    one.close()


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
    moment = pl.Datetime("us", "UTC")
    schema = pl.Schema({"id": pl.Int64(), "city": pl.String(), "at": moment, "day": pl.Date()})
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    predicate = (
        (pl.col("id") > 5)
        & (pl.lit(9) >= pl.col("id"))
        & (pl.col("city").str.len_chars() > 3)
        & ((pl.col("id") == 1) | (pl.col("id") == 7))
        & pl.col("city").is_not_null()
        & (pl.col("city") == 3)
        & (pl.col("none") == 3)
        & (pl.col("at") < noon)
        & (pl.col("at") > noon.replace(tzinfo=None))
        & (pl.col("day") != noon.date())
    )
    assert sorted(pushed(predicate, schema), key=str) == sorted(
        [
            Condition("id", ">", 5),
            Condition("id", "<=", 9),
            Condition("city", "is not null"),
            Condition("at", "<", "2026-11-01T12:00:00+00:00"),
            Condition("day", "!=", "2026-11-01"),
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


@pytest.mark.parametrize("bytes_max", [1, 300, 1_500])
def test_positions_are_those_of_the_rows_that_fit(bytes_max: int) -> None:
    one = limited(world(cold=0, hot=30), bytes_max=bytes_max)
    positions, found, answers = {P0: 0}, [], 0
    while positions[P0] < 30:
        answer = one.answer(After("demo.orders", positions))
        sent = answer.table()
        assert answer.end.cut == ""
        assert sent.num_rows == 1 or sent.nbytes <= bytes_max
        found += sent["id"].to_pylist()
        told = json.loads(sent.schema.metadata[b"k2i.positions"])
        positions, answers = {P0: told["orders"]["0"]}, answers + 1
    assert found == list(range(30))
    assert answers > 1
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
