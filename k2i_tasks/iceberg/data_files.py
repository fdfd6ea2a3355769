"""Data files for a commit: Iceberg's entry for a file that lies there, made from its footer."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import (
    StatisticsCollector,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
    pyarrow_to_schema,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.files import remove
from k2i_tasks.iceberg.split import partition_record
from k2i_tasks.types import StagedFile

#: Key in the footer that tells which sort order the rows are in.
SORT_ORDER_KEY = b"k2i.sort-order-id"
#: Key in the footer that tells which batch the rows are of.
BATCH_KEY = b"k2i.batch-id"
#: Age from which files are looked for again before they are committed, in seconds. Orphan removal
#: takes none of less than a day.
STAGED_SECONDS_MAX = 3600.0
_FOOTERS_MAX = 1024
#: What the names of the table's properties about statistics begin with.
_METRICS = "write.metadata.metrics."


@dataclass(frozen=True, slots=True)
class Footer:
    """A file's Parquet footer, and the Arrow schema with field ids that it was written by.

    The footer would give the schema, too, but then the two hold each other, and each stays in
    memory until the garbage collector comes: with hundreds of files a second that is megabytes.
    """

    metadata: pq.FileMetaData
    schema: pa.Schema


class Footers:
    """Footers of files written by this process, so that a commit does not read them back.

    Bounded; the oldest go first. Thread-safe.
    """

    def __init__(self, most: int = _FOOTERS_MAX) -> None:
        self._most = most
        self._found: OrderedDict[str, Footer] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, path: str, footer: Footer) -> None:
        with self._lock:
            self._found[path] = footer
            while len(self._found) > self._most:
                self._found.popitem(last=False)

    def find(self, path: str) -> Footer | None:
        with self._lock:
            return self._found.get(path)

    def forget(self, path: str) -> None:
        with self._lock:
            self._found.pop(path, None)


FRESH = Footers()


def data_file(table: Table, staged: StagedFile) -> DataFile:
    """Iceberg's entry for a staged file: statistics, bounds, partition, sort order.

    The same for a file just written and for one that an earlier process left. May block.

    Args:
        table: as loaded for the commit.
        staged: the file. Its footer is the one kept from writing, else it is read.

    Raises:
        IntegrityError: the file is not there, or is not the one that was staged.
        TransientError: the store is away.
    """
    spec = table.specs().get(staged.spec_id)
    if spec is None:
        raise _damaged(staged, f"was staged for partition spec {staged.spec_id}, which is gone")
    kept = FRESH.find(staged.path)
    footer = kept.metadata if kept else read_footer(table.io, staged)
    if footer.num_rows != staged.rows:
        raise _damaged(staged, f"holds {footer.num_rows} rows, staged were {staged.rows}")
    # By the file's own schema: the table's may have changed since the file was written.
    schema = (kept.schema if kept else footer.schema.to_arrow_schema()).remove_metadata()
    metrics = tuple(
        item for item in sorted(table.properties.items()) if item[0].startswith(_METRICS)
    )
    # As bytes: Arrow's own comparison leaves field ids out.
    columns, places = _plan(schema.serialize().to_pybytes(), metrics)
    statistics = data_file_statistics_from_parquet_metadata(
        footer, stats_columns=columns, parquet_column_mapping=places
    )
    order = (footer.metadata or {}).get(SORT_ORDER_KEY)
    found = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=staged.path,
        file_format=FileFormat.PARQUET,
        partition=partition_record(spec, spec.partition_type(table.schema()), staged.partition),
        file_size_in_bytes=staged.size_bytes,
        sort_order_id=int(order) if order is not None else None,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
    found.spec_id = staged.spec_id
    return found


@lru_cache(maxsize=64)
def _plan(
    schema: bytes, metrics: tuple[tuple[str, str], ...]
) -> tuple[dict[int, StatisticsCollector], dict[str, int]]:
    """What is kept of each column's statistics, and which Parquet column it is.

    Takes several milliseconds, and is the same for all files of a schema.

    Args:
        schema: an Arrow schema with field ids, serialised.
        metrics: the table's properties about statistics.
    """
    found = pyarrow_to_schema(pa.ipc.read_schema(pa.py_buffer(schema)))
    return compute_statistics_plan(found, dict(metrics)), parquet_path_to_id_mapping(found)


def look_again(staged: Iterable[StagedFile]) -> None:
    """Has `data_file` read the footers from storage, and so notice files that are gone."""
    for file in staged:
        FRESH.forget(file.path)


def read_footer(io: FileIO, staged: StagedFile) -> pq.FileMetaData:
    """The footer of a staged file, read from storage. May block.

    Raises:
        IntegrityError: the file is not there, has another size, or is no Parquet file.
    """
    try:
        with translated(f"reading {staged.path}"):
            file = io.new_input(staged.path)
            size = len(file)
            if size != staged.size_bytes:
                raise _damaged(staged, f"has {size} bytes, staged were {staged.size_bytes}")
            with file.open() as stream:
                return pq.read_metadata(stream)
    except Exception as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError):
            raise _damaged(staged, "is not there any more") from cause
        if isinstance(cause, pa.ArrowInvalid):
            raise _damaged(staged, "is not a readable Parquet file") from cause
        raise


def why_unusable(table: Table, staged: Iterable[StagedFile]) -> str:
    """Why staged files can no longer be committed to `table`, one sentence; empty if they can.

    Reads the footer of each. May block.

    Raises:
        TransientError: the store is away.
    """
    spec_id = table.metadata.default_spec_id
    for file in staged:
        if file.spec_id != spec_id:
            return (
                f"{file.path} was written with partition spec {file.spec_id}, now it is {spec_id}."
            )
        try:
            read_footer(table.io, file)
        except IntegrityError as error:
            return str(error)
    return ""


def _damaged(staged: StagedFile, what: str) -> IntegrityError:
    return IntegrityError(
        f"Staged file {staged.path} {what}.",
        component=Component.STORAGE,
        remedy="Restart: its rows are read from Kafka again.",
    )


def read_staged(table: Table, staged: StagedFile) -> pa.Table:
    """The rows of a staged file, with the columns that it was written with. May block.

    Raises:
        IntegrityError: the file is not there, or is not the one that was staged.
    """
    read_footer(table.io, staged)
    with translated(f"reading {staged.path}"), table.io.new_input(staged.path).open() as stream:
        rows = pq.ParquetFile(stream).read()
    return rows.cast(pa.schema([_bare(field) for field in rows.schema]))


def _bare(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _bare_type(field.type), field.nullable)


def _bare_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([_bare(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_bare(kind.value_field))
    if pa.types.is_map(kind):
        return pa.map_(_bare(kind.key_field), _bare(kind.item_field))
    return kind


def discard(io: FileIO, staged: Iterable[StagedFile]) -> None:
    """Deletes files that no table refers to; those that are gone already do no harm. May block.

    Raises:
        ServiceError: the store refused.
        TransientError: the store is away.
    """
    for file in staged:
        FRESH.forget(file.path)
        with translated(f"deleting {file.path}"):
            remove(io, file.path)
