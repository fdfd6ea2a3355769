"""Kafka's coordinates of all rows of one snapshot: two columns of each file, as fast as it gets.

A plain Parquet file is read by its own column ids, a third column, the topic, only where the file's
statistics do not say it all. Files with deletes of other engines, and whatever else is not plain,
go through PyIceberg's scan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table

from k2i_tasks.iceberg.errors import translated

#: Files that are read at the same time; decoding them needs a core each.
READERS = 2
#: Rows of one batch.
BATCH_ROWS = 1 << 18
_FIELD_ID = b"PARQUET:field_id"


@dataclass(frozen=True, slots=True)
class PositionColumns:
    """Names of the columns with partition, offset and, where it is kept, the topic."""

    partition: str
    offset: str
    topic: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.partition, self.offset, self.topic)))


@dataclass(frozen=True, slots=True)
class PositionBatch:
    """Some rows.

    Args:
        partitions, offsets: of the rows of our topic, int32 [n] and int64 [n].
        others: rows of other topics, by name.
        unplaced: rows without partition or offset, or without a topic where it is kept.
    """

    partitions: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    others: dict[str, int]
    unplaced: int


def read_positions(
    table: Table,
    snapshot_id: int | None,
    columns: PositionColumns,
    topic: str,
    only: BooleanExpression | None = None,
) -> tuple[int, Iterator[PositionBatch]]:
    """The positions of all rows as of a snapshot. May block, while it is consumed as well.

    Args:
        table: as loaded.
        snapshot_id: which snapshot; None for a branch that has none.
        columns: where the positions are.
        topic: rows of others are only counted, where the topic is kept.
        only: the condition of the rows that are read; None for all.

    Returns:
        Rows by the files' own account (deletes not counted), and the batches.
    """
    if snapshot_id is None:
        return 0, iter(())
    with translated("reading the manifests of " + ".".join(table.name())):
        scan = table.scan(
            only or AlwaysTrue(), snapshot_id=snapshot_id, selected_fields=columns.names
        )
        tasks = list(scan.plan_files())
    rows = sum(task.file.record_count for task in tasks)
    return rows, _batches(_Reading(table, scan.projection(), columns, topic, only), tasks)


def read_files(
    table: Table,
    schema: Schema,
    columns: PositionColumns,
    topic: str,
    tasks: Iterable[FileScanTask],
) -> Iterator[PositionBatch]:
    """The positions of all rows of some files. May block.

    Args:
        table: as loaded.
        schema: the position columns alone, as of the snapshot.
        columns, topic: as for `read_positions`.
        tasks: the files, with their deletes.
    """
    return _batches(_Reading(table, schema, columns, topic), tasks)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the reading of each file needs; `schema` has the position columns alone."""

    table: Table
    schema: Schema
    columns: PositionColumns
    topic: str
    only: BooleanExpression | None = None


def _batches(reading: _Reading, tasks: Iterable[FileScanTask]) -> Iterator[PositionBatch]:
    """File by file, some read ahead."""

    def read(task: FileScanTask) -> list[PositionBatch]:
        with translated(f"reading {task.file.file_path}"):
            batches = _columns(reading, task)
            return [_positions(batch, reading.columns, reading.topic) for batch in batches]

    waiting: deque[Future[list[PositionBatch]]] = deque()
    with ThreadPoolExecutor(READERS, "k2i-positions") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(read, task))
                if len(waiting) > READERS:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()


def _columns(reading: _Reading, task: FileScanTask) -> Iterator[pa.RecordBatch]:
    """Batches with the columns under their names in the table; the topic only if needed."""
    table, topic = reading.table, reading.columns.topic
    plain = reading.only is None and not task.delete_files
    if plain and task.file.file_format == FileFormat.PARQUET:
        with table.io.new_input(task.file.file_path).open() as stream:
            file = pq.ParquetFile(stream, pre_buffer=True)
            names = _names_by_id(reading.schema, file.schema_arrow)
            if names is not None:
                if topic and _only(file.metadata, names[topic], reading.topic):
                    del names[topic]
                wanted = list(names.values())
                for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
                    arrays = [batch.column(name) for name in wanted]
                    yield pa.RecordBatch.from_arrays(arrays, names=list(names))
                return
    scan = ArrowScan(table.metadata, table.io, reading.schema, reading.only or AlwaysTrue())
    yield from scan.to_record_batches([task])


def _names_by_id(schema: Schema, file: pa.Schema) -> dict[str, str] | None:
    """Name in the table -> name in the file, by the ids; None if the file lacks one."""
    by_id = {int((f.metadata or {}).get(_FIELD_ID, -1)): f.name for f in file}
    if any(field.field_id not in by_id for field in schema.fields):
        return None
    return {field.name: by_id[field.field_id] for field in schema.fields}


def _only(footer: pq.FileMetaData, column: str, value: str) -> bool:
    """Whether the statistics say that a column holds this one value and no null."""
    paths = [footer.schema.column(number).path for number in range(footer.num_columns)]
    number = paths.index(column)
    for group in range(footer.num_row_groups):
        found = footer.row_group(group).column(number).statistics
        if found is None or not (found.has_min_max and found.has_null_count):
            return False
        if found.null_count or (found.min, found.max) != (value, value):
            return False
    return True


def _positions(batch: pa.RecordBatch, columns: PositionColumns, topic: str) -> PositionBatch:
    others: dict[str, int] = {}
    unplaced = 0
    if columns.topic in batch.schema.names:
        batch, others, unplaced = _of_topic(batch, columns.topic, topic)
    partitions, offsets = batch.column(columns.partition), batch.column(columns.offset)
    if partitions.null_count or offsets.null_count:
        there = pc.and_(partitions.is_valid(), offsets.is_valid())
        unplaced += len(there) - int(there.true_count)
        partitions, offsets = partitions.filter(there), offsets.filter(there)
    return PositionBatch(
        partitions.to_numpy().astype(np.int32, copy=False),
        offsets.to_numpy().astype(np.int64, copy=False),
        others,
        unplaced,
    )


def _of_topic(
    batch: pa.RecordBatch, column: str, topic: str
) -> tuple[pa.RecordBatch, dict[str, int], int]:
    names = batch.column(column)
    mine = pc.fill_null(pc.equal(names, topic), False)
    if mine.true_count == len(mine):
        return batch, {}, 0
    counts = {each["values"]: each["counts"] for each in pc.value_counts(names).to_pylist()}
    counts.pop(topic, None)
    return batch.filter(mine), {k: n for k, n in counts.items() if k is not None}, names.null_count
