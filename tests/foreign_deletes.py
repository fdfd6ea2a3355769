"""Delete files as other engines write them: PyIceberg reads some and writes none."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import (
    POSITIONAL_DELETE_SCHEMA,
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table, Transaction
from pyiceberg.table.delete_file_index import PATH_FIELD_ID
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles


class _DeleteManifestWriter(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _AppendDeletes(_FastAppendFiles):
    deletes: Sequence[DataFile]

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        writer = _DeleteManifestWriter(
            self._transaction.table_metadata.spec(),
            self.schema(),
            self.new_manifest_output(),
            self._snapshot_id,
            self._compression,
        )
        with writer:
            for file in self.deletes:
                entry = ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id, data_file=file
                )
                writer.add(entry)
        return [writer.to_manifest_file(), *manifests]


def _commit(table: Table, deletes: Sequence[DataFile]) -> None:
    transaction = Transaction(table)
    update = _AppendDeletes(Operation.APPEND, transaction, table.io)
    update.deletes = deletes
    update.commit()
    transaction.commit_transaction()


def _file(table: Table, rows: pa.Table, data: DataFile, **entries: Any) -> DataFile:
    location = f"{table.location()}/data/deletes-{uuid.uuid4().hex}.parquet"
    with table.io.new_output(location).create() as stream:
        pq.write_table(rows, stream)
    found = DataFile.from_args(
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=data.partition,
        record_count=rows.num_rows,
        file_size_in_bytes=len(table.io.new_input(location)),
        **entries,
    )
    found.spec_id = data.spec_id
    return found


def delete_positions(
    table: Table, data: DataFile, positions: Sequence[int], *, exact: bool
) -> None:
    """Deletes rows of one data file by their numbers, as merge-on-read does.

    Args:
        table: as just loaded.
        data: the file.
        positions: numbers of the rows.
        exact: whether the entry says by its bounds which file it is about.
    """
    schema = schema_to_pyarrow(POSITIONAL_DELETE_SCHEMA)
    rows = pa.table(
        [pa.array([data.file_path] * len(positions)), pa.array(positions, pa.int64())],
        schema=pa.schema([schema.field(0).with_type(pa.string()), schema.field(1)]),
    )
    bounds = {PATH_FIELD_ID: data.file_path.encode()} if exact else None
    kind = DataFileContent.POSITION_DELETES
    file = _file(table, rows, data, content=kind, lower_bounds=bounds, upper_bounds=bounds)
    _commit(table, [file])


def delete_equal(table: Table, data: DataFile, column: str, values: Sequence[int]) -> None:
    """Deletes the rows whose column has one of these values, as streaming upserts do."""
    field = table.schema().find_field(column)
    metadata = {"PARQUET:field_id": str(field.field_id)}
    rows = pa.table(
        [pa.array(values, pa.int64())],
        schema=pa.schema([pa.field(column, pa.int64(), True, metadata)]),
    )
    kind = DataFileContent.EQUALITY_DELETES
    _commit(table, [_file(table, rows, data, content=kind, equality_ids=[field.field_id])])
