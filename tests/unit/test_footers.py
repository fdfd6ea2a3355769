"""Footers of written files are at hand for their commit, and do not stay in memory."""

from __future__ import annotations

import gc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from k2i_tasks.iceberg import data_files
from k2i_tasks.iceberg.data_files import FRESH, data_file
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter
from tests.iceberg_tables import NAME, catalog_of, config_at

TABLE = pa.table({"id": [1, 2], "name": ["a", None]})


def test_footers_kept_in_memory_are_bounded() -> None:
    footers = data_files.Footers(most=2)
    sink = pa.BufferOutputStream()
    pq.write_table(TABLE, sink)
    footer = data_files.Footer(pq.read_metadata(pa.BufferReader(sink.getvalue())), TABLE.schema)
    for name in ("a", "b", "c"):
        footers.keep(name, footer)
    assert [footers.find(name) is None for name in ("a", "b", "c")] == [True, False, False]


def test_a_footer_leaves_memory_without_the_garbage_collector(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, TABLE.schema, config)
    gc.collect()
    gc.disable()
    try:
        before = _footers_there()
        for staged in DataFileWriter(table, config).write([TABLE], batch_id="b1"):
            data_file(table, staged)
            FRESH.forget(staged.path)
        assert _footers_there() == before
    finally:
        gc.enable()


def _footers_there() -> int:
    return sum(isinstance(found, pq.FileMetaData) for found in gc.get_objects())
