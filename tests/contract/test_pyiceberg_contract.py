"""The parts of PyIceberg that are not promised and that we stand on, one test each.

A failure here after an upgrade names the code of ours that has to be looked at again.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyiceberg.io.pyarrow as reader
import pytest
import requests
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.io.pyarrow import (
    PyArrowFile,
    PyArrowFileIO,
    _pyarrow_to_schema_without_ids,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table import Table, Transaction
from pyiceberg.table.locations import load_location_provider
from pyiceberg.types import LongType, NestedField, StringType, StructType

from k2i_tasks.errors import CommitStateUnknownError
from k2i_tasks.iceberg.catalog import TimedRestCatalog
from k2i_tasks.iceberg.reading import NullKeepingProjection
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter
from tests.iceberg_tables import NAME, append, catalog_of, config_at, rows_of

ELEMENT = pa.struct([("n", pa.int64())])
NESTED = pa.schema([("l", pa.list_(ELEMENT)), ("m", pa.map_(pa.string(), ELEMENT))])


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("pyiceberg").startswith("0.12.")


def test_a_table_commits_by_the_catalogs_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`guard_commits` replaces `catalog.commit_table` on the instance."""
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, pa.schema([("id", pa.int64())]), config)
    calls: list[int] = []
    plain = catalog.commit_table

    def counted(*arguments: Any) -> Any:
        calls.append(len(arguments))
        return plain(*arguments)

    monkeypatch.setattr(catalog, "commit_table", counted)
    with table.transaction() as transaction:
        transaction.set_properties({"a": "b"})
    assert calls == [3]


def test_our_exceptions_are_neither_retried_nor_cleaned_up_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, pa.schema([("id", pa.int64())]), config)
    staged = DataFileWriter(table, config).write([pa.table({"id": [1]})], batch_id="b")
    calls = 0

    def fail(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        raise CommitStateUnknownError("lost")

    monkeypatch.setattr(catalog, "commit_table", fail)
    with pytest.raises(CommitStateUnknownError):
        append(table, staged)
    assert calls == 1
    assert len(list((tmp_path / "warehouse").rglob("*.avro"))) == 2


def test_each_rest_session_gets_its_headers_before_it_asks_for_a_token() -> None:
    """`TimedRestCatalog` sets the time-out in `_config_headers`."""
    source = inspect.getsource(RestCatalog._create_session)
    assert source.index("_config_headers(session)") < source.index("auth")
    bare = TimedRestCatalog.__new__(TimedRestCatalog)
    bare.properties = {"k2i.request-timeout-seconds": "7"}
    session = requests.Session()
    bare._config_headers(session)
    assert session.request.keywords == {"timeout": 7.0}  # type: ignore[attr-defined]
    assert "self.request(" in inspect.getsource(requests.Session.post)


def test_arrow_schemas_become_iceberg_schemas_without_ids() -> None:
    given = pa.schema([("a", pa.struct([("b", pa.string())])), ("c", pa.int64())])
    found = assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(given))
    assert found.as_struct() == StructType(
        NestedField(1, "a", StructType(NestedField(3, "b", StringType()))),
        NestedField(2, "c", LongType()),
    )


def test_a_schema_knows_the_parents_of_its_fields() -> None:
    """`split` finds nested source columns by them."""
    inner = StructType(NestedField(2, "b.c", StringType()))
    schema = Schema(NestedField(1, "a", inner))
    assert schema._lazy_id_to_parent == {2: 1}


def test_statistics_come_from_a_footer_and_the_files_own_ids(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    table = create_table(catalog_of(config), NAME, NESTED, config)
    rows = pa.Table.from_pylist([{"l": [{"n": 1}], "m": [("k", {"n": 2})]}], schema=NESTED)
    [staged] = DataFileWriter(table, config).write([rows], batch_id="b")
    footer = pq.read_metadata(staged.path)
    schema = reader.pyarrow_to_schema(footer.schema.to_arrow_schema())
    assert parquet_path_to_id_mapping(schema) == parquet_path_to_id_mapping(table.schema())
    found = data_file_statistics_from_parquet_metadata(
        footer,
        stats_columns=compute_statistics_plan(schema, {}),
        parquet_column_mapping=parquet_path_to_id_mapping(schema),
    ).to_serialized_dict()
    assert {"record_count", "value_counts", "lower_bounds", "split_offsets"} <= found.keys()


def test_location_providers_ask_a_partition_key_for_its_path_alone() -> None:
    """`output._Folder` stands in for PyIceberg's `PartitionKey`."""

    class Key:
        def to_path(self) -> str:
            return "p=1"

    plain = load_location_provider("/t", {})
    assert plain.new_data_location("f", Key()) == "/t/data/p=1/f"  # type: ignore[arg-type]
    hashed = load_location_provider("/t", {"write.object-storage.enabled": "true"})
    assert hashed.new_data_location("f", Key()).endswith("/p=1/f")  # type: ignore[arg-type]


def test_local_files_have_a_path_and_a_file_system() -> None:
    """`DurableFileIO` rebuilds them as files that sync when closed."""
    file = PyArrowFileIO().new_output("/a/b")
    assert isinstance(file, PyArrowFile)
    assert file._path == "/a/b"
    assert file._filesystem is not None


def test_the_reader_looks_its_projection_up_by_name_and_still_loses_nulls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the second half fails, `NullKeepingProjection` can go."""
    config = config_at(tmp_path)
    catalog = catalog_of(config)
    table = create_table(catalog, NAME, NESTED, config)
    rows = pa.Table.from_pylist(
        [{"l": None, "m": None}, {"l": [], "m": []}, {"l": [{"n": 1}], "m": [("k", {"n": 1})]}],
        schema=NESTED,
    )
    append(table, DataFileWriter(table, config).write([rows], batch_id="b"))
    assert reader.ArrowProjectionVisitor is NullKeepingProjection
    assert rows_of(catalog.load_table(NAME).scan().to_arrow()) == rows_of(rows)
    stock = NullKeepingProjection.__mro__[1]
    monkeypatch.setattr(reader, "ArrowProjectionVisitor", stock)
    assert catalog.load_table(NAME).scan().to_arrow()["l"].null_count == 0


def test_a_transaction_collects_updates_as_a_tuple() -> None:
    """`MemoTransaction` keys its memo by the identity of `_updates`."""
    source = inspect.getsource(Transaction)
    assert "self._updates += " in source or "self._updates = self._updates +" in source
    assert isinstance(inspect.getattr_static(Transaction, "table_metadata"), property)


def test_a_snapshot_producer_tells_its_parent_before_it_is_sent(tmp_path: Path) -> None:
    config = config_at(tmp_path)
    table: Table = create_table(catalog_of(config), NAME, NESTED, config)
    producer = table.transaction().update_snapshot().fast_append()
    assert producer._parent_snapshot_id is None
    assert isinstance(producer.snapshot_id, int)
