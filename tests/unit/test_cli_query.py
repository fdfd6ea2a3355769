"""`k2i query` over a table in a real catalog, on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from k2i_tasks import cli
from k2i_tasks.config import Config, demo_config
from k2i_tasks.iceberg.catalog import open_catalog
from k2i_tasks.iceberg.pinned import Pinned, pinned

ROWS = pa.table(
    {
        "id": pa.array(range(5), pa.int64()),
        "city": ["Bern", "Basel", None, "Chur", "Bern"],
        "item": [{"sku": f"s{n}"} for n in range(5)],
        "headers": pa.array(
            [None, [("a", b"1")], [], None, None], pa.map_(pa.string(), pa.binary())
        ),
    }
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo's folder with five rows in its table, in two commits."""
    path = tmp_path_factory.mktemp("demo")
    catalog = open_catalog(demo_config(path).iceberg, {})
    catalog.create_namespace_if_not_exists("demo")
    table = catalog.create_table("demo.orders", schema=ROWS.schema)
    table.append(ROWS.slice(0, 3))
    table.append(ROWS.slice(3))
    return path


def query(
    folder: Path, sql: str, *words: str, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    code = cli.run(["query", sql, "--data-dir", str(folder), *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_rows_are_read_by_either_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT o.id, city, item.sku AS sku FROM demo.orders o WHERE o.id > 2 ORDER BY o.id"
    for wanted in (sql, sql.replace("demo.orders", "orders")):
        code, out, _ = query(folder, wanted, "--format", "json", capsys=capsys)
        assert code == 0
        assert json.loads(out) == [
            {"id": 3, "city": "Chur", "sku": "s3"},
            {"id": 4, "city": "Bern", "sku": "s4"},
        ]


def test_rows_are_counted_also_where_no_column_is_needed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT count(*) AS n FROM orders a CROSS JOIN demo.orders b"
    _, out, _ = query(folder, sql, "--format", "json", capsys=capsys)
    assert json.loads(out) == [{"n": 25}]


def test_a_table_is_shown_with_types_and_all_columns_without_a_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = query(folder, "SELECT * FROM orders ORDER BY id", capsys=capsys)
    assert code == 0
    assert "5 rows" in out
    assert "struct(1)" in out
    assert "headers" in out
    assert "…" not in out


def test_rows_beyond_the_limit_are_cut_and_said_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--format", "csv", "--limit", "2")
    code, out, err = query(folder, "SELECT id FROM orders ORDER BY id", *words, capsys=capsys)
    assert (code, out) == (0, "id\n0\n1\n")
    assert "--limit" in err


def test_a_file_gets_all_rows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.parquet"
    words = ("--format", "parquet", "--output", str(path))
    code, out, err = query(folder, "SELECT * FROM orders", *words, capsys=capsys)
    assert (code, out) == (0, "")
    assert "5 rows" in err
    assert sorted(pq.read_table(path)["id"].to_pylist()) == [0, 1, 2, 3, 4]


def test_the_dead_letter_table_that_is_not_there_yet_is_a_clear_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = query(folder, "SELECT * FROM orders__dead_letters", capsys=capsys)
    assert code == 3
    assert "orders__dead_letters" in err
    assert "Traceback" not in err


def test_foreign_files_cannot_be_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("canary\ncanary\n")
    code, out, err = query(folder, f"SELECT * FROM read_csv('{foreign}')", capsys=capsys)
    assert (code, out) == (1, "")
    assert "canary" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--output", "x.csv"), "--format"),
        (("--config", "config.toml"), "not both"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    folder: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = query(folder, "SELECT 1", *words, capsys=capsys)
    assert code == 1
    assert said in err


def test_binary_formats_do_not_go_to_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = SimpleNamespace(isatty=lambda: True, write=lambda _text: 0, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert cli.run(["query", "SELECT 1", "--data-dir", str(folder), "--format", "arrow"]) == 1
    assert "--output" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = query(tmp_path / "none", "SELECT 1", capsys=capsys)
    assert code == 1
    assert "There is no folder" in err


def test_files_that_cannot_hold_the_rows_are_not_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = demo_config(tmp_path)
    catalog = open_catalog(config.iceberg, {})
    catalog.create_namespace_if_not_exists("demo")
    table = catalog.create_table("demo.orders", schema=ROWS.schema)
    table.append(ROWS.slice(0, 3))
    table.append(ROWS.slice(3))
    first = next(task.file for task in table.scan(row_filter="id = 0").plan_files())
    Path(first.file_path.removeprefix("file://")).unlink()
    sql = "SELECT id, city FROM orders WHERE id > 2"
    code, out, _ = query(tmp_path, sql, "--format", "csv", capsys=capsys)
    assert (code, out) == (0, "id,city\n3,Chur\n4,Bern\n")
    code, out, err = query(tmp_path, "SELECT id FROM orders", capsys=capsys)
    assert (code, out) == (4, "")
    assert "Traceback" not in err


def test_a_reader_stays_at_its_moment(tmp_path: Path) -> None:
    config: Config = demo_config(tmp_path)
    catalog = open_catalog(config.iceberg, {})
    catalog.create_namespace_if_not_exists("demo")
    table = catalog.create_table("demo.orders", schema=ROWS.schema)

    def rows(moment: Pinned) -> int:
        return sum(part.num_rows for part in moment.read(moment.schema, ["id"], None, None))

    empty = pinned(catalog, ("demo", "orders"), "main")
    table.append(ROWS)
    full = pinned(catalog, ("demo", "orders"), "main")
    table.append(ROWS)
    assert (rows(empty), rows(full)) == (0, 5)
