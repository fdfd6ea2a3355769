"""Which of some records are rows of a table: positions are read of the files that may hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import NestedField, PrimitiveType

from k2i_tasks.iceberg.errors import translated
from k2i_tasks.iceberg.letters import Key, at_least, at_most
from k2i_tasks.iceberg.positions import PositionColumns, read_files

Ints = npt.NDArray[np.int64]


def rows_at(table: Table, branch: str, columns: PositionColumns, keys: Sequence[Key]) -> set[Key]:
    """Those of `keys` that are the coordinates of a row. May block.

    Args:
        table: as loaded.
        branch: whose newest snapshot is read.
        columns: where Kafka's coordinates are.
        keys: of one topic, one at least.

    Raises:
        ServiceError: a file cannot be read.
        TransientError: the store is away.
    """
    snapshot = table.snapshot_by_name(branch)
    if snapshot is None:
        return set()
    topic = keys[0][0]
    places = np.array([(partition, offset) for _, partition, offset in keys], np.int64)
    offsets = np.sort(places[:, 1])
    low, high = int(offsets[0]), int(offsets[-1])
    with translated("reading the manifests of " + ".".join(table.name())):
        scan = table.scan(
            at_least(columns.offset, low) & at_most(columns.offset, high),
            snapshot_id=snapshot.snapshot_id,
            selected_fields=columns.names,
        )
        may_hold = _bounded(scan.projection(), columns.offset, offsets)
        tasks = [task for task in scan.plan_files() if may_hold(task.file)]
    found: set[Key] = set()
    for batch in read_files(table, scan.projection(), columns, topic, tasks):
        for number in np.unique(batch.partitions).tolist():
            wanted = places[places[:, 0] == number, 1]
            here = batch.offsets[batch.partitions == number]
            found.update((topic, number, at) for at in here[np.isin(here, wanted)].tolist())
    return found


def _bounded(schema: Schema, column: str, wanted: Ints) -> Callable[[DataFile], bool]:
    """Whether a file may hold one of the sorted values, by the bounds of its column."""
    field: NestedField = schema.find_field(column)
    kind = field.field_type
    assert isinstance(kind, PrimitiveType)

    def may_hold(file: DataFile) -> bool:
        lower = (file.lower_bounds or {}).get(field.field_id)
        upper = (file.upper_bounds or {}).get(field.field_id)
        if lower is None or upper is None:
            return True
        first = int(np.searchsorted(wanted, from_bytes(kind, lower), "left"))
        return first < len(wanted) and bool(wanted[first] <= from_bytes(kind, upper))

    return may_hold
