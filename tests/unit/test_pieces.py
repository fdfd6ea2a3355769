"""How much of a large result is in memory while its reader is slow."""

from __future__ import annotations

import threading
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from k2i_tasks.asking.pieces import OLDEST, PIECE_BYTES, pieces, rows_at_once
from k2i_tasks.iceberg.pinned import pinned
from k2i_tasks.tickets import Sql
from tests.iceberg_tables import NAME, catalog_of, config_at
from tests.unit.asking_world import limited
from tests.unit.views_world import ArrowView

#: Rows of 1 KB: 64 MB.
ROWS = 65_536


def wide() -> pa.Table:
    number = pa.array(range(ROWS), pa.int64())
    return pa.table({"id": number, "text": pc.utf8_lpad(pc.cast(number, pa.string()), 1_000, "x")})


@pytest.mark.parametrize("length", [1, 100, 100_000])
def test_pieces_are_all_rows_and_none_is_large(length: int) -> None:
    frame = pl.DataFrame({"id": range(200), "text": [f"{n}" * length for n in range(200)]})
    schema = frame.to_arrow(compat_level=OLDEST).schema
    found = list(pieces(frame, schema))
    assert pl.DataFrame(pa.Table.from_batches(found, schema)).equals(frame)
    assert max(piece.nbytes for piece in found) < 2 * PIECE_BYTES
    assert len(found) == 1 or length == 100_000


def test_rows_at_once_go_by_the_types() -> None:
    narrow, broad = {"n": pl.Int64()}, dict.fromkeys(map(str, range(400)), pl.String())
    assert rows_at_once(narrow) == 65_536
    assert rows_at_once({**narrow, **broad}) == 1_024


@pytest.mark.parametrize("what", ["id, text", "id + 0 AS id, text"])
def test_an_answer_that_is_read_slowly_is_in_memory_in_part_only(what: str) -> None:
    whole = wide()
    one = limited({"demo.wide": ArrowView("demo.wide", whole.slice(0, 0), whole)})
    answer = one.answer(Sql(f"SELECT {what} FROM wide"))
    with answer:
        batches = iter(answer)
        next(batches)
        assert not grows_beyond(5 * PIECE_BYTES, pa.total_allocated_bytes())
        assert sum(batch.num_rows for batch in batches) > ROWS // 2
    one.close()


def test_a_committed_file_is_in_memory_in_part_only(tmp_path: Path) -> None:
    catalog = catalog_of(config_at(tmp_path))
    catalog.create_namespace("db")
    whole = pa.concat_tables([wide()] * 2)
    size = whole.nbytes
    many = {"write.parquet.row-group-limit": "2048"}
    catalog.create_table(NAME, schema=whole.schema, properties=many).append(whole)
    del whole
    before = pa.total_allocated_bytes()
    now = pinned(catalog, NAME, "main")
    parts = now.read(now.schema, None, None, None)
    rows = 0
    for number, part in enumerate(parts):
        rows += part.num_rows
        # Nor is what was read before, as it was stored, at the last of them.
        assert number not in (0, 63) or not grows_beyond(size // 8, before)
    assert rows == 2 * ROWS


def grows_beyond(count: int, before: int) -> bool:
    """Whether Arrow takes so many bytes more, given some time to."""
    for _ in range(50):
        if pa.total_allocated_bytes() - before > count:
            return True
        threading.Event().wait(0.01)
    return False
