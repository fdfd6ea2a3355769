"""The dead-letter table beside the table: raw bytes, coordinates and reason, each once.

Letters are staged as a data file with the batch they belong to and committed before it. Should the
batch then have to be read again, its letters are found by their coordinates and not added twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table

from k2i_tasks.config import Config
from k2i_tasks.failpoints import hit
from k2i_tasks.iceberg.catalog import find_table
from k2i_tasks.iceberg.committer import Committer, Head
from k2i_tasks.iceberg.data_files import data_file, read_staged, why_unusable
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.evolution import evolve
from k2i_tasks.iceberg.schema import create_table
from k2i_tasks.iceberg.writer import DataFileWriter
from k2i_tasks.types import (
    NEWEST_MS,
    OLDEST_MS,
    DeadLetter,
    OffsetRange,
    Ranges,
    StagedFile,
    TopicPartition,
)

HEADER = pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())])

SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("timestamp", pa.timestamp("us", "UTC")),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(HEADER)),
        pa.field("stage", pa.string()),
        pa.field("code", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("failed_at", pa.timestamp("us", "UTC")),
        # Tables of older versions get these with the first letter, or replay.
        pa.field("schema_id", pa.int32()),
        pa.field("replay_id", pa.string()),
        pa.field("replayed_at", pa.timestamp("us", "UTC")),
    ]
)


def as_table(letters: Sequence[DeadLetter], failed_at: float) -> pa.Table:
    """The letters as rows of `SCHEMA`."""
    headers = [
        None if letter.headers is None else [{"key": k, "value": v} for k, v in letter.headers]
        for letter in letters
    ]
    columns = {
        "topic": [letter.topic for letter in letters],
        "partition": [letter.partition for letter in letters],
        "offset": [letter.offset for letter in letters],
        "timestamp": [_micros(letter.timestamp_ms) for letter in letters],
        "key": [letter.key for letter in letters],
        "value": [letter.value for letter in letters],
        "headers": headers,
        "stage": [letter.stage for letter in letters],
        "code": [letter.code for letter in letters],
        "reason": [letter.reason for letter in letters],
        "failed_at": [int(failed_at * 1_000_000)] * len(letters),
        "schema_id": [_signed(letter.schema_id) for letter in letters],
        "replay_id": [None] * len(letters),
        "replayed_at": [None] * len(letters),
    }
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _micros(timestamp_ms: int) -> int | None:
    """As in the table: Kafka's -1 (none) and times that no reader can show are null."""
    shown = OLDEST_MS <= timestamp_ms <= NEWEST_MS and timestamp_ms != -1
    return timestamp_ms * 1000 if shown else None


def _signed(schema_id: int | None) -> int | None:
    """Ids are positive; a frame of garbage may say more than an int holds."""
    return schema_id if schema_id is None or schema_id < 1 << 31 else None


class DeadLetterTable:
    """Stages and commits dead letters. `stage` and `commit` run on one thread each.

    Args:
        stage_catalog: used by the thread that stages.
        committer: for the dead-letter table; used by the thread that commits.
        config: names, location and file settings.
    """

    def __init__(self, stage_catalog: Catalog, committer: Committer, config: Config) -> None:
        self._catalog = stage_catalog
        self._committer = committer
        self._config = _plain(config, committer.identifier[-1])

    def stage(self, letters: Sequence[DeadLetter], batch_id: str) -> list[StagedFile]:
        """Writes the letters as data files of the dead-letter table, created on first use."""
        identifier = self._committer.identifier
        table = find_table(self._catalog, identifier)
        if table is None:
            hit("dead_letters.create.before")
            table = create_table(self._catalog, identifier, SCHEMA, self._config)
            hit("dead_letters.created")
        table = with_all_columns(self._catalog, table)
        rows = as_table(letters, time.time())
        return DataFileWriter(table, self._config).write([rows], batch_id=batch_id)

    def why_unusable(self, staged: Sequence[StagedFile]) -> str:
        """Why staged letters can no longer be committed; empty if they can. May block."""
        if not staged:
            return ""
        table = find_table(self._catalog, self._committer.identifier)
        return "the dead-letter table is gone" if table is None else why_unusable(table, staged)

    def commit(self, batch_id: str, ranges: Ranges, staged: Sequence[StagedFile]) -> None:
        """Adds the staged letters that are not in the table yet. One attempt; idempotent."""

        def files(head: Head) -> Sequence[DataFile]:
            state = head.recorded.newest
            known = {} if state is None else state.offsets
            overlap = {tp: r for tp, r in ranges.items() if known.get(tp, 0) > r.start}
            if not overlap:
                return [data_file(head.table, file) for file in staged]
            rows = pa.concat_tables([read_staged(head.table, file) for file in staged])
            rest = _without(rows, self._present(head, overlap))
            if not rest.num_rows:
                return []
            fresh = DataFileWriter(head.table, self._config).write([rest], batch_id=batch_id)
            return [data_file(head.table, file) for file in fresh]

        end = {tp: span.end for tp, span in ranges.items()}
        self._committer.record(batch_id, end, files)

    def _present(
        self, head: Head, ranges: Mapping[TopicPartition, OffsetRange]
    ) -> set[tuple[str, int, int]]:
        """Coordinates of the letters that the table holds within `ranges`."""
        found: set[tuple[str, int, int]] = set()
        fields = ("topic", "partition", "offset")
        with translated(f"reading table {self._committer.name}"):
            for tp, span in ranges.items():
                where = (
                    f"topic = '{tp.topic}' and partition = {tp.partition} "
                    f"and offset >= {span.start} and offset < {span.end}"
                )
                rows = head.table.scan(row_filter=where, selected_fields=fields).to_arrow()
                found.update(zip(*(rows[name].to_pylist() for name in fields), strict=True))
        return found


def with_all_columns(catalog: Catalog, table: Table) -> Table:
    """A dead-letter table with the columns that an older version did not make. May block."""
    known = {field.name for field in table.schema().fields}
    return table if known.issuperset(SCHEMA.names) else evolve(catalog, table.name(), SCHEMA)


def _without(rows: pa.Table, present: set[tuple[str, int, int]]) -> pa.Table:
    names = ("topic", "partition", "offset")
    keys = zip(*(rows[name].to_pylist() for name in names), strict=True)
    return rows.filter(pc.invert(pa.array([key in present for key in keys], pa.bool_())))


def _plain(config: Config, table_name: str) -> Config:
    """The same catalog and files, without what the main table's columns are meant for."""
    none: dict[str, object] = {"partition_spec": (), "sort_order": (), "identifier_fields": ()}
    iceberg = config.iceberg.model_copy(update={**none, "table_name": table_name})
    return config.model_copy(update={"iceberg": iceberg})
