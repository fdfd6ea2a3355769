"""A table as of one moment: its snapshot, what its sink records there, and its rows by position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
from pyiceberg.expressions import (
    And,
    BooleanExpression,
    EqualTo,
    GreaterThanOrEqual,
    LessThan,
    Or,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.iceberg.arrow import align, arrow_schema
from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.positions import PositionBatch, PositionColumns, read_positions
from k2i_tasks.iceberg.rollback import rolled_back
from k2i_tasks.iceberg.starts import starts
from k2i_tasks.iceberg.state import SinkState, recorded, sink_properties, state_key
from k2i_tasks.no_rows import no_rows
from k2i_tasks.types import OffsetRange

_Compare = Callable[[str, Any], BooleanExpression]
# PyIceberg's types know the form with which its JSON is read, not the one that is for people.
_equal, _at_least, _below = (
    cast(_Compare, each) for each in (EqualTo, GreaterThanOrEqual, LessThan)
)
#: A part of a topic: partition and positions.
Window = tuple[int, OffsetRange]


class FixedTable:
    """Reads of one snapshot. For one thread; reads may block.

    Args:
        table: as loaded.
        branch: whose newest snapshot is read.
        columns: where Kafka's coordinates are.
        topic: the topic whose rows are read.
        only: the condition of the rows that `positions` gives; None for all.
    """

    def __init__(
        self,
        table: Table,
        branch: str,
        columns: PositionColumns,
        topic: str,
        only: BooleanExpression | None = None,
    ) -> None:
        self.table = table
        self._only = only
        self._columns = columns
        self._topic = topic
        found = table.snapshot_by_name(branch)
        self.snapshot_id = None if found is None else found.snapshot_id
        self.committed_at_ms = None if found is None else found.timestamp_ms

    @property
    def schema(self) -> Schema:
        """The columns as of the snapshot; a change that came later is not in it."""
        return self.table.scan(snapshot_id=self.snapshot_id).projection()

    @property
    def name(self) -> str:
        return ".".join(self.table.name())

    def positions(self) -> tuple[int, Iterator[PositionBatch]]:
        """See `read_positions`."""
        return read_positions(self.table, self.snapshot_id, self._columns, self._topic, self._only)

    def rows(self, windows: Sequence[Window], columns: Sequence[str] = ()) -> pa.Table:
        """The rows of our topic at these positions, types as in `arrow_schema`.

        Args:
            windows: at least one.
            columns: which columns; all when empty.
        """
        aligned = arrow_schema(self.schema.select(*columns) if columns else self.schema)
        if self.snapshot_id is None:
            return no_rows(aligned)
        with translated(f"reading table {self.name}"):
            rows = self.table.scan(
                row_filter=self._condition(windows),
                selected_fields=tuple(columns) or ("*",),
                snapshot_id=self.snapshot_id,
            ).to_arrow()
        return align(rows, aligned)

    def _condition(self, windows: Sequence[Window]) -> BooleanExpression:
        partition, offset = self._columns.partition, self._columns.offset
        each = [
            And(
                _equal(partition, number),
                And(_at_least(offset, span.start), _below(offset, span.end)),
            )
            for number, span in windows
        ]
        found = _either(each)
        topic = self._columns.topic
        return And(_equal(topic, self._topic), found) if topic else found


def _either(conditions: Sequence[BooleanExpression]) -> BooleanExpression:
    """Any of them, as a shallow tree: the scan walks it recursively."""
    if len(conditions) == 1:
        return conditions[0]
    middle = len(conditions) // 2
    return Or(_either(conditions[:middle]), _either(conditions[middle:]))


@dataclass(frozen=True, slots=True)
class SinkRecord:
    """What a table records of one sink and topic.

    Args:
        state: the newest state of the sink.
        starts: first offset ever read, per partition; None when the table does not tell.
        other_topics: topics that other sinks, or this one, have in the table.
        rivals: keys of other sinks that have the same topic in the table.
    """

    state: SinkState
    starts: Mapping[int, int] | None
    other_topics: frozenset[str]
    rivals: tuple[str, ...]


def sink_record(table: Table, sink: str, branch: str, topic: str) -> SinkRecord:
    """What the table records of `sink` at the head of `branch`.

    Raises:
        IntegrityError: nothing, something unreadable, or the table was rolled back.
    """
    name = ".".join(table.name())
    found = recorded(table.metadata, sink, branch)
    if found.rolled_back:
        raise rolled_back(name, found)
    state = found.newest
    if state is None or all(tp.topic != topic for tp in state.offsets):
        raise IntegrityError(
            f"Table {name} records no offsets of topic {topic} for sink {sink!r} "
            f"({state_key(sink)}).",
            component=Component.ICEBERG,
            remedy="Check kafka.topic, iceberg.sink and iceberg.branch; a table that was filled by "
            "other means cannot be verified.",
        )
    told = starts(table.metadata, sink).get(topic)
    sinks = {
        key: {tp.topic for tp in SinkState.from_json(text, key).offsets}
        for key, text in sink_properties(table.metadata, branch).items()
    }
    rivals = [key for key, topics in sinks.items() if topic in topics and key != state_key(sink)]
    return SinkRecord(
        state,
        None if told is None else {int(number): offset for number, offset in told.items()},
        frozenset[str]().union(*sinks.values()) - {topic},
        tuple(sorted(rivals)),
    )
