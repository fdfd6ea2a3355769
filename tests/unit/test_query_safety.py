"""No query reads anything but the tables it may read, and ordinary queries pass."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2i_tasks.errors import ConfigError
from k2i_tasks.sql_guard import check_query, tokenize
from k2i_tasks.sql_words import FORBIDDEN, FUNCTIONS

TABLES = ("orders", "demo.orders", "orders__dead_letters")
CANARY = "canary_of_a_foreign_file"


def frame() -> pl.LazyFrame:
    return pl.LazyFrame(
        {
            "id": [1, 2, 3],
            "name": ["a", "b", None],
            "price": [1.5, 2.5, 3.5],
            "item": [{"sku": "x"}, {"sku": "y"}, {"sku": "z"}],
            "tags": [["p", "q"], ["r"], []],
            "at": ["2026-01-01", "2026-01-02", "2026-01-03"],
        }
    )


def run(sql: str) -> pl.DataFrame:
    checked = check_query(sql, TABLES)
    frames = dict.fromkeys(TABLES, frame())
    return pl.SQLContext(frames, eager=False).execute(checked.sql).collect()


READS = [
    "SELECT * FROM orders",
    "select count(*) as n from demo.orders;",
    'SELECT "id", o."name" FROM "orders" AS o WHERE o.name IS NOT NULL',
    'SELECT * FROM "demo"."orders" LIMIT 1',
    "SELECT * FROM Orders -- a remark\n WHERE id > 1",
    "SELECT /* first */ id FROM orders /* 'second' */ ORDER BY id DESC",
    "SELECT name, sum(price) AS total FROM orders GROUP BY name HAVING sum(price) > 1",
    "SELECT o.id, d.id FROM orders o JOIN orders__dead_letters d ON o.id = d.id AND d.id IN (1,2)",
    "SELECT a.id FROM orders a, demo.orders b WHERE a.id = b.id",
    "SELECT * FROM (SELECT id FROM (SELECT * FROM orders) x) y",
    "SELECT * FROM (orders)",
    "WITH a AS (SELECT * FROM orders), b AS (SELECT id FROM a) SELECT * FROM b",
    "WITH orders AS (SELECT * FROM orders WHERE id = 1) SELECT * FROM orders",
    "SELECT id FROM orders UNION ALL SELECT id FROM demo.orders ORDER BY id",
    "SELECT id, row_number() OVER (PARTITION BY name ORDER BY id) AS r FROM orders",
    "SELECT EXTRACT(year FROM CAST(at AS date)) AS y FROM orders",
    "SELECT trim(both 'a' FROM name) AS t, substring(name FROM 1 FOR 1) AS s FROM orders",
    "SELECT id IS DISTINCT FROM 1 AS d, id IS NOT DISTINCT FROM 2 AS e FROM orders",
    "SELECT item.sku, orders.item.sku AS again FROM orders",
    "SELECT item->>'sku' AS sku, tags[1] AS first FROM orders",
    "SELECT CASE WHEN id = 1 THEN 'it''s' ELSE 'drop table x' END AS c FROM orders",
    "SELECT * FROM orders WHERE name LIKE '%a%' AND id BETWEEN 1 AND 2",
    "SELECT * FROM orders WHERE id IN (SELECT max(id) FROM demo.orders)",
    "SELECT CAST(price AS decimal(10,2)) AS d, price::text AS t FROM orders",
    "SELECT DISTINCT name FROM orders ORDER BY name NULLS LAST LIMIT 2 OFFSET 1",
    "SELECT id, -1.5e3 AS x, .5 AS y, id % 2 AS m FROM orders",
    "SELECT truncate(price, 1) AS t, replace(name, 'a', '\\d') AS r FROM orders",
    "SELECT 1 AS one",
    "SELECT * FROM (WITH a AS (SELECT id FROM orders) SELECT * FROM a) b, orders o",
    "SELECT price / 2 AS half, price*2 AS double FROM orders",
    "SELECT timestamp '2026-01-01 00:00:00' AS t, DATE'2026-01-01' AS d",
]


@pytest.mark.parametrize("sql", READS)
def test_ordinary_reads_run(sql: str) -> None:
    assert run(sql).width >= 1


def test_a_checked_query_names_the_tables_it_reads() -> None:
    sql = "SELECT * FROM Demo.Orders o JOIN orders__dead_letters USING (id)"
    assert check_query(sql, TABLES).tables == {"demo.orders", "orders__dead_letters"}
    assert check_query("SELECT 1", TABLES).tables == frozenset()


def test_comments_do_not_reach_the_engine() -> None:
    checked = check_query("SELECT/*x*/id--y\nFROM orders /* z */", TABLES)
    assert checked.sql == "SELECT id FROM orders"


#: F stands for a call that reads a foreign file.
ATTACKS = [
    "SELECT * FROM F",
    "select * from /**/ F",
    "SELECT * FROM (F)",
    "SELECT * FROM ((F))",
    "SELECT * FROM orders, F",
    "SELECT * FROM orders o, F x",
    "SELECT * FROM orders CROSS JOIN F",
    "SELECT * FROM orders JOIN F ON 1 = 1",
    "SELECT * FROM orders WHERE id IN (SELECT 1 FROM F)",
    "SELECT * FROM orders WHERE EXISTS (SELECT 1 FROM F)",
    "SELECT (SELECT count(*) FROM F) AS n FROM orders",
    "SELECT id FROM orders UNION ALL SELECT * FROM F",
    "WITH x AS (SELECT * FROM F) SELECT * FROM x",
    "WITH x AS (FROM F) SELECT * FROM x",
    "WITH read_csv AS (SELECT 1) SELECT * FROM F",
    "SELECT * FROM orders -- '\n, F",
    "SELECT '/*' AS a FROM F -- */",
    "SELECT '--' AS a FROM F",
    "SELECT 'a\\' AS x FROM orders, F --'",
    "SELECT 'a\\\\' AS x FROM orders, F",
    "SELECT E'a\\' FROM F --' FROM orders",
    'SELECT "a\\" FROM F --" FROM orders',
    "SELECT /* /* */ 1 AS a FROM F /* */ */ FROM orders",
    "SELECT trim(both 'a' FROM name) FROM F",
    "SELECT DISTINCT FROM F",
    "SELECT id IS DISTINCT FROM 1 FROM F",
    "SELECT extract(year FROM at), * FROM F",
    "SELECT extract(year FROM (SELECT max(at) FROM F)) FROM orders",
    "FROM F",
    "FROM F SELECT *",
    "SELECT 1; SELECT * FROM F",
    "EXPLAIN SELECT * FROM F",
    "CREATE TABLE x AS SELECT * FROM F",
    "SELECT $$a$$ FROM F",
    "SELECT * FROM orders ORDER BY (SELECT 1 FROM F)",
    "SELECT * FROM orders LIMIT (SELECT 1 FROM F)",
]
CALLS = [
    "read_csv('{path}')",
    "READ_CSV('{path}')",
    "Read_Csv /* x */ ('{path}')",
    "read_csv\n--\n('{path}')",
    "\"read_csv\"('{path}')",
    "`read_csv`('{path}')",
    "'read_csv'('{path}')",
    "[read_csv]('{path}')",
    "main.read_csv('{path}')",
    "read_parquet('{path}')",
    "read_ipc('{path}')",
    "read_json('{path}')",
    "read_ndjson('{path}')",
    "scan_csv('{path}')",
    "'{path}'",
    '"{path}"',
    "TABLE(read_csv('{path}'))",
    "LATERAL read_csv('{path}')",
    "unnest([1, 2])",
    "r\u00e9ad_csv('{path}')",
    "read_csv\u00a0('{path}')",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_way_to_a_foreign_file(attack: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign.csv"
    path.write_text(f"{CANARY}\n{CANARY}\n")
    for call in CALLS:
        sql = attack.replace("F", "\0").replace("\0ROM", "FROM").replace("\0OR", "FOR")
        sql = sql.replace("\0", call.format(path=path))
        with pytest.raises(ConfigError) as caught:
            run(sql)
        assert CANARY not in str(caught.value)


def test_the_attack_does_work_without_the_guard(tmp_path: Path) -> None:
    path = tmp_path / "foreign.csv"
    path.write_text(f"{CANARY}\n1\n")
    context = pl.SQLContext({"orders": frame()}, eager=False)
    read = context.execute(f"SELECT * FROM read_csv('{path}')").collect()
    assert read.columns == [CANARY]


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM orders",
        "DROP TABLE orders",
        "TRUNCATE TABLE orders",
        "INSERT INTO orders VALUES (1)",
        "UPDATE orders SET id = 1",
        "SHOW TABLES",
        "EXPLAIN SELECT * FROM orders",
        "COPY orders TO 'x'",
        "TABLE orders",
        "VALUES (1)",
        "SELECT id INTO x FROM orders",
        "WITH x AS (DELETE FROM orders) SELECT 1",
        "WITH x AS (SELECT 1) DELETE FROM orders",
        "SELECT 1; DELETE FROM orders",
        "SELECT 1; SELECT 2",
        "SELECT * FROM nothing",
        "SELECT * FROM other.orders",
        "SELECT * FROM orders.demo",
        "SELECT * FROM",
        "SELECT * FROM orders,",
        "SELECT (1",
        "SELECT 1)",
        "SELECT * FROM (SELECT 1",
        "",
        "   -- nothing\n",
        "SELECT 'open",
        'SELECT "" FROM orders',
        "SELECT /* open FROM orders",
        "SELECT id(1) FROM orders",
        "SELECT \x00 FROM orders",
        "SELECT " + "(" * 70 + "1" + ")" * 70,
        "SELECT '" + "x" * 70_000 + "'",
    ],
)
def test_all_that_is_not_one_read_of_known_tables_is_refused(sql: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_query(sql, TABLES)
    assert caught.value.exit_code == 1


def test_a_refusal_says_where_and_what_there_is() -> None:
    absent = r"There is no table nothing; there are: demo.orders"
    with pytest.raises(ConfigError, match=absent) as caught:
        check_query("SELECT * FROM nothing", TABLES)
    assert "Name one of these" in caught.value.remedy
    with pytest.raises(ConfigError, match=r"column 15"):
        check_query("SELECT * FROM read_csv('x')", TABLES)


def test_words_that_are_forbidden_can_be_columns_in_quotes_or_after_a_dot() -> None:
    checked = check_query('SELECT "table", o.update FROM orders o', TABLES)
    assert checked.tables == {"orders"}


def test_no_function_that_reads_files_is_on_the_list() -> None:
    assert not [name for name in FUNCTIONS if name.startswith(("read", "scan", "glob", "load"))]
    assert sorted(FUNCTIONS & FORBIDDEN) == ["truncate"]


_SQL = """select from with as ( ) , . * orders demo 'x' "read_csv" read_csv join where union all in
exists extract trim distinct is lateral table [ ] -- /* */ ' " \\ ; 1 x on values"""
_PIECES = st.sampled_from([*_SQL.split(), "\n"])


@given(st.lists(_PIECES, max_size=25), st.sampled_from(["", " "]))
@settings(max_examples=400, deadline=None)
def test_whatever_passes_the_guard_touches_no_file(pieces: list[str], glue: str) -> None:
    sql = "select " + (glue or " ").join(pieces)
    try:
        checked = check_query(sql, TABLES)
    except ConfigError:
        return
    tokens = tokenize(checked.sql)
    for token, following in pairwise(tokens):
        if token.name.startswith("read_"):
            assert following.text != "("
    assert [token.text for token in tokens] == [token.text for token in tokenize(sql)]


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_either_tokens_or_a_clear_error(text: str) -> None:
    try:
        tokens = tokenize(text)
    except ConfigError:
        return
    assert all(token.text.isprintable() or token.kind in ("string", "quoted") for token in tokens)
