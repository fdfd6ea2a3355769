"""Results of queries: rows, limits, formats, and how they look."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from k2i_tasks.cold_frame import lazy_batches
from k2i_tasks.errors import ConfigError, ServiceError
from k2i_tasks.predicates import Comparison, Predicate
from k2i_tasks.query import Format, QueryResult, Source, run_query, write_file, write_result
from k2i_tasks.table_view import fitting_columns, result_view, short_type

ORDERS = pa.table(
    {
        "id": pa.array([1, 2, 3], pa.int64()),
        "name": ["Zoë", None, 'a,"b"\nc'],
        "price": pa.array([Decimal("1.50"), Decimal("2.25"), None], pa.decimal128(9, 2)),
        "item": [{"sku": "x", "n": 1}, {"sku": "y", "n": 2}, None],
        "tags": [["p", "q"], [], None],
        "at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("us", "UTC")),
        "key": pa.array([b"k1", b"\xff\x00", None], pa.binary()),
        "ok": [True, False, None],
        "weight": [1.5, float("nan"), None],
    }
)


def sources() -> dict[str, Source]:
    return {"orders": lambda: ORDERS, "demo.orders": lambda: ORDERS}


def test_a_query_returns_exact_rows_as_arrow() -> None:
    result = run_query("SELECT id, price FROM demo.orders ORDER BY id", sources(), rows_max=None)
    assert result.table.to_pydict() == {
        "id": [1, 2, 3],
        "price": [Decimal("1.50"), Decimal("2.25"), None],
    }
    assert not result.was_cut


def test_rows_beyond_the_limit_are_cut_and_said_so() -> None:
    result = run_query("SELECT id FROM orders ORDER BY id", sources(), rows_max=2)
    assert (result.table.num_rows, result.was_cut) == (2, True)
    exact = run_query("SELECT id FROM orders", sources(), rows_max=3)
    assert (exact.table.num_rows, exact.was_cut) == (3, False)


def test_only_tables_that_are_named_are_opened() -> None:
    def closed() -> pa.Table:
        raise AssertionError("opened")

    both: dict[str, Source] = {"orders": lambda: ORDERS, "other": closed}
    assert (
        run_query("SELECT count(*) AS n FROM orders", both, rows_max=1).table["n"][0].as_py() == 3
    )


def test_a_lazy_frame_is_a_source_too() -> None:
    lazy: dict[str, Source] = {"t": lambda: pl.LazyFrame({"a": [1, 2]})}
    assert run_query("SELECT sum(a) AS s FROM t", lazy, rows_max=9).table.to_pylist() == [{"s": 3}]


def test_a_wrong_column_is_one_clear_line() -> None:
    with pytest.raises(ConfigError) as caught:
        run_query("SELECT nope FROM orders", sources(), rows_max=1)
    assert "nope" in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.exit_code == 1


def test_json_holds_every_value_and_parses() -> None:
    sink = io.BytesIO()
    write_result(ORDERS, "json", sink)
    rows = json.loads(sink.getvalue())
    assert rows[0] == {
        "id": 1,
        "name": "Zoë",
        "price": "1.50",
        "item": {"sku": "x", "n": 1},
        "tags": ["p", "q"],
        "at": "2026-01-01T00:00:00+00:00",
        "key": "azE=",
        "ok": True,
        "weight": 1.5,
    }
    assert rows[1]["weight"] is None
    assert rows[2]["item"] is None


def test_csv_survives_commas_quotes_line_breaks_and_nesting() -> None:
    sink = io.BytesIO()
    write_result(ORDERS, "csv", sink)
    rows = list(csv.DictReader(io.StringIO(sink.getvalue().decode(), newline="")))
    assert rows[2]["name"] == 'a,"b"\nc'
    assert json.loads(rows[0]["item"]) == {"sku": "x", "n": 1}
    assert (rows[0]["ok"], rows[2]["ok"]) == ("true", "")


def test_an_empty_result_is_valid_in_every_format(tmp_path: Path) -> None:
    empty = ORDERS.slice(0, 0)
    sink = io.BytesIO()
    write_result(empty, "json", sink)
    assert json.loads(sink.getvalue()) == []
    formats: tuple[Format, ...] = ("csv", "arrow", "parquet")
    for format in formats:
        assert write_file(empty, format, tmp_path / "x") > 0


def test_arrow_and_parquet_keep_types_and_values(tmp_path: Path) -> None:
    write_file(ORDERS, "parquet", tmp_path / "o.parquet")
    assert pq.read_table(tmp_path / "o.parquet").drop(["weight"]).equals(ORDERS.drop(["weight"]))
    write_file(ORDERS, "arrow", tmp_path / "o.arrow")
    with pa.ipc.open_stream(tmp_path / "o.arrow") as stream:
        assert stream.read_all().schema == ORDERS.schema


def test_a_file_that_cannot_be_written_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ServiceError) as caught:
        write_file(ORDERS, "csv", tmp_path / "missing" / "x.csv")
    assert caught.value.exit_code == 4
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ServiceError):
        write_file(ORDERS, "csv", folder)
    assert list(tmp_path.iterdir()) == [folder]


def shown(result: QueryResult, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(result_view(result, width))
    return console.export_text()


@pytest.mark.parametrize("width", [20, 40, 80, 120, 300])
def test_a_result_fits_every_width(width: int) -> None:
    text = shown(QueryResult(ORDERS, False, 0.1), width)
    assert max(map(len, text.splitlines())) <= width
    assert "id" in text


def test_a_narrow_terminal_shows_the_ends_and_counts_the_rest() -> None:
    text = shown(QueryResult(ORDERS, True, 0.1), 60)
    assert "…" in text
    assert "of 9 columns" in text
    assert "--limit" in text


def test_control_characters_of_values_never_reach_the_terminal() -> None:
    evil = pa.table({"x": ["\x1b[2Jgone\nline", "[red]plain[/red]"]})
    text = shown(QueryResult(evil, False, 0.0), 80)
    assert "\x1b" not in text
    assert "[red]plain[/red]" in text


def test_columns_are_chosen_from_both_ends() -> None:
    assert fitting_columns([5, 5, 5], 80) == [0, 1, 2]
    assert fitting_columns([10, 10, 10, 10], 34) == [0, 3]
    assert fitting_columns([90, 5], 20) == [0]
    assert fitting_columns([], 20) == []


def test_types_are_named_in_few_letters() -> None:
    assert [short_type(field.type) for field in ORDERS.schema] == [
        "int64", "text", "decimal128(9, 2)", "struct(2)", "list<text>", "timestamp UTC",
        "bytes", "bool", "double",
    ]  # fmt: skip


Asked = tuple[Sequence[str] | None, Predicate, int | None]


class Reads:
    """A table that remembers what was read of it."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def __call__(
        self, columns: Sequence[str] | None, predicate: Predicate, limit: int | None
    ) -> Iterator[pa.Table]:
        self.asked.append((columns, predicate, limit))
        chosen = ORDERS if columns is None else ORDERS.select(list(columns))
        yield chosen if limit is None else chosen.slice(0, limit)


def lazily(sql: str) -> tuple[list[dict[str, Any]], Asked]:
    reads = Reads()
    table: dict[str, Source] = {"orders": lambda: lazy_batches(ORDERS.schema, reads)}
    rows = run_query(sql, table, rows_max=10).table.to_pylist()
    [asked] = reads.asked
    return rows, asked


def test_a_query_reads_only_the_columns_that_it_names() -> None:
    rows, asked = lazily("SELECT sum(id) AS s FROM orders WHERE name IS NULL")
    assert rows == [{"s": 2}]
    assert set(asked[0] or ()) == {"id", "name"}
    assert asked[1] == Comparison("name", "is null")


def test_counting_reads_one_column() -> None:
    rows, asked = lazily("SELECT count(*) AS n FROM orders")
    assert rows == [{"n": 3}]
    assert len(asked[0] or ()) == 1


def test_a_limit_reaches_the_table_unless_rows_are_filtered() -> None:
    rows, asked = lazily("SELECT id FROM orders LIMIT 2")
    assert rows == [{"id": 1}, {"id": 2}]
    assert asked == (["id"], None, 2)
    rows, asked = lazily("SELECT id FROM orders WHERE id >= 2 LIMIT 1")
    assert rows == [{"id": 2}]
    assert asked[1:] == (Comparison("id", ">=", 2), None)


def test_what_reading_raises_leaves_the_query_unchanged() -> None:
    def broken(*_asked: object) -> Iterator[pa.Table]:
        raise ServiceError("The store is away.")

    table: dict[str, Source] = {"orders": lambda: lazy_batches(ORDERS.schema, broken)}
    with pytest.raises(ServiceError, match=r"The store is away\."):
        run_query("SELECT id FROM orders", table, rows_max=1)
