"""Dead letters as they are read again: which there are, and in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import (
    AlwaysFalse,
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    In,
    IsNull,
    LessThanOrEqual,
    Not,
    NotNull,
    Or,
)
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import Table

from k2i_tasks.errors import ConfigError, ServiceError
from k2i_tasks.iceberg.arrow import align, arrow_schema
from k2i_tasks.iceberg.catalog import find_table
from k2i_tasks.iceberg.dead_letters import SCHEMA
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.reading import of_file
from k2i_tasks.iceberg.scan import condition
from k2i_tasks.types import OffsetRange, RawBatch, TopicPartition

#: Of one piece.
PIECE_ROWS = 20_000
PIECE_BYTES = 32 << 20
#: What makes a letter one of its topic.
KEYS = ("topic", "partition", "offset")
#: What tables of older versions do not have.
_MARKS = ("replay_id", "replayed_at")

_Compare = Callable[[str, Any], BooleanExpression]
_Test = Callable[[str], BooleanExpression]
# PyIceberg's types know the form with which its JSON is read, not the one that is for people.
equal, among, at_least, at_most = (
    cast(_Compare, each) for each in (EqualTo, In, GreaterThanOrEqual, LessThanOrEqual)
)
is_null, not_null = (cast(_Test, each) for each in (IsNull, NotNull))

#: The three coordinates of a letter.
Key = tuple[str, int, int]


class Letters:
    """The letters of one table as of the moment it was loaded. For one thread; reads may block.

    Args:
        table: the dead-letter table.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        found = table.snapshot_by_name("main")
        self._snapshot_id = None if found is None else found.snapshot_id
        self._known = {field.name for field in table.schema().fields}

    @classmethod
    def load(cls, catalog: Catalog, identifier: tuple[str, ...]) -> Letters:
        """The letters as they are now. May block.

        Raises:
            ServiceError: there is no such table, or no right to read it.
            TransientError: the catalog is away.
        """
        table = find_table(catalog, identifier)
        if table is None:
            raise ServiceError(
                f"There is no table {'.'.join(identifier)}: no record was refused yet, or dead "
                "letters go to a topic alone (dead_letters.to).",
            )
        return cls(table)

    @property
    def name(self) -> str:
        return ".".join(self.table.name())

    @property
    def has_marks(self) -> bool:
        """Whether letters of it can have been replayed: a table of an older version has none."""
        return self._known.issuperset(_MARKS)

    def chosen(self, where: str, *, done: bool) -> BooleanExpression:
        """The condition of those that `where` is about.

        Args:
            where: as PyIceberg parses it; empty for all.
            done: those that were replayed too.

        Raises:
            ConfigError: it cannot be read, or names what is not a column.
        """
        found = condition(where, self.table, self.name)
        if done or not self.has_marks:
            return found
        return And(is_null("replayed_at"), found)

    def still_open(self, chosen: BooleanExpression, landed: Sequence[str]) -> BooleanExpression:
        """Those of `chosen` whose record is no row of the table by a replay.

        Args:
            landed: ids of the replays that the table records.
        """
        return And(not_landed(landed), chosen) if self.has_marks else chosen

    def pieces(self, chosen: BooleanExpression, columns: Sequence[str] = ()) -> Iterator[pa.Table]:
        """The letters of a condition, some at a time. May block.

        Args:
            chosen: on columns that the table has.
            columns: which columns of `SCHEMA`; all when empty. Those that the table lacks are null.

        Yields:
            Tables of at most `PIECE_ROWS` rows and about `PIECE_BYTES`; one letter at least.
        """
        wanted = pa.schema([field for field in SCHEMA if not columns or field.name in columns])
        waiting: list[pa.Table] = []
        rows = size = 0
        for batch in self._batches(chosen, [name for name in wanted.names if name in self._known]):
            batch = _in_columns(batch, wanted)
            step = _rows_at_once(batch)
            for start in range(0, batch.num_rows, step):
                part = batch.slice(start, step)
                part_bytes = part.get_total_buffer_size() * part.num_rows // batch.num_rows
                full = rows + part.num_rows > PIECE_ROWS or size + part_bytes > PIECE_BYTES
                if waiting and full:
                    yield pa.concat_tables(waiting)
                    waiting, rows, size = [], 0, 0
                waiting.append(part)
                rows, size = rows + part.num_rows, size + part_bytes
        if waiting:
            yield pa.concat_tables(waiting)

    def keys(self, chosen: BooleanExpression) -> set[Key]:
        """The coordinates of the letters of a condition."""
        return {key for piece in self.pieces(chosen, KEYS) for key in keys_of(piece)}

    def undone(self) -> set[str]:
        """Ids of replays that have chosen letters and not marked them done."""
        if not self.has_marks:
            return set()
        found: set[str] = set()
        chosen = And(not_null("replay_id"), is_null("replayed_at"))
        for piece in self.pieces(chosen, ("replay_id",)):
            found.update(piece["replay_id"].unique().to_pylist())
        return found

    def _batches(self, chosen: BooleanExpression, names: Sequence[str]) -> Iterator[pa.Table]:
        """File by file, so that no more than one is in memory."""
        if self._snapshot_id is None:
            return
        with translated(f"reading table {self.name}"):
            scan = self.table.scan(
                row_filter=chosen, selected_fields=tuple(names), snapshot_id=self._snapshot_id
            )
            schema, tasks = scan.projection(), list(scan.plan_files())
            read = ArrowScan(self.table.metadata, self.table.io, schema, chosen)
            for task in tasks:
                for batch in of_file(read, task):
                    if batch.num_rows:
                        yield align(pa.Table.from_batches([batch]), arrow_schema(schema))


def _in_columns(batch: pa.Table, wanted: pa.Schema) -> pa.Table:
    columns = [
        batch[field.name].cast(field.type)
        if field.name in batch.column_names
        else pa.chunked_array([pa.nulls(batch.num_rows, field.type)])
        for field in wanted
    ]
    return pa.Table.from_arrays(columns, schema=wanted)


def _rows_at_once(batch: pa.Table) -> int:
    per_row: int = max(1, batch.nbytes // max(1, batch.num_rows))
    return max(1, min(PIECE_ROWS, PIECE_BYTES // per_row))


def keys_of(letters: pa.Table) -> list[Key]:
    """The coordinates of each letter."""
    return list(zip(*(letters[name].to_pylist() for name in KEYS), strict=True))


def at(topic: str, partition: int, offset: int) -> BooleanExpression:
    """The condition of one letter."""
    here = And(equal("partition", partition), equal("offset", offset))
    return And(equal("topic", topic), here)


def of_topic(topic: str, chosen: BooleanExpression) -> BooleanExpression:
    """Those of `chosen` that are of this topic."""
    return And(equal("topic", topic), chosen)


def of_replay(replay_id: str) -> BooleanExpression:
    """The condition of the letters that a step of a replay has chosen."""
    return equal("replay_id", replay_id)


def around(keys: Sequence[Key]) -> BooleanExpression:
    """A condition that holds for these letters of one topic and for few others; for pruning."""
    spans: dict[int, tuple[int, int]] = {}
    for _, partition, offset in keys:
        low, high = spans.get(partition, (offset, offset))
        spans[partition] = (min(low, offset), max(high, offset))
    found: BooleanExpression = AlwaysFalse()
    for partition, (low, high) in sorted(spans.items()):
        span = And(at_least("offset", low), at_most("offset", high))
        found = Or(found, And(equal("partition", partition), span))
    return of_topic(keys[0][0], found)


def not_landed(landed: Sequence[str]) -> BooleanExpression:
    """The condition of letters whose record is no row of the table.

    Args:
        landed: ids of the replays that the table records.
    """
    kept = Or(is_null("replay_id"), Not(among("replay_id", landed))) if landed else AlwaysTrue()
    return And(is_null("replayed_at"), kept)


def place_of(text: str) -> Key:
    """`TOPIC/PARTITION/OFFSET`.

    Raises:
        ConfigError: it is something else.
    """
    topic, _, rest = text.partition("/")
    partition, _, offset = rest.partition("/")
    if not topic or not (partition.isdecimal() and offset.isdecimal()):
        raise ConfigError(
            f"{text!r} is not TOPIC/PARTITION/OFFSET, such as orders/3/4711.", field="letter"
        )
    return topic, int(partition), int(offset)


def raw_batch(letters: pa.Table) -> RawBatch:
    """Letters of one topic as the records that they were.

    Args:
        letters: n letters with the columns of `dead_letters.SCHEMA`, sorted by partition and
            offset.
    """
    partitions = letters["partition"].to_numpy().astype(np.int32)
    offsets = letters["offset"].to_numpy().astype(np.int64)
    micros = letters["timestamp"].cast(pa.int64())
    stamps = [-1 if one is None else one // 1000 for one in micros.to_pylist()]
    keys, values = letters["key"].to_pylist(), letters["value"].to_pylist()
    headers = [_headers(one) for one in letters["headers"].to_pylist()]
    topic = letters["topic"][0].as_py()
    ranges: Mapping[TopicPartition, OffsetRange] = {
        TopicPartition(topic, int(number)): OffsetRange(
            int(offsets[partitions == number].min()), int(offsets[partitions == number].max()) + 1
        )
        for number in np.unique(partitions)
    }
    return RawBatch(
        topic=topic,
        partitions=partitions,
        offsets=offsets,
        timestamps_ms=np.array(stamps, np.int64),
        keys=keys,
        values=values,
        headers=headers if any(one is not None for one in headers) else None,
        ranges=ranges,
        payload_bytes=sum(len(one) for one in (*keys, *values) if one),
    )


def _headers(one: list[dict[str, bytes]] | None) -> list[tuple[str, bytes | None]] | None:
    return None if one is None else [(str(pair["key"]), pair["value"]) for pair in one]
