"""Rows of the table against the same records as decoded from Kafka, column by column. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.errors import SchemaConflictError
from k2i_tasks.iceberg.arrow import align_array
from k2i_tasks.verification.distinct import distinct

Ints = npt.NDArray[np.int64]
#: Characters of a value that are shown, when values are to be shown.
SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """One cell that differs: `kafka` and `table` are the values as text, when they may be shown."""

    partition: int
    offset: int
    column: str
    kafka: str | None = None
    table: str | None = None


@dataclass(slots=True)
class Compared:
    """What came of it.

    Args:
        rows: rows that are on both sides, per partition.
        different: those of them with a cell that differs, per partition.
        cells: some of these cells.
        unfit: columns that could not be compared, and why.
    """

    rows: dict[int, int] = field(default_factory=dict)
    different: dict[int, int] = field(default_factory=dict)
    cells: list[ValueDifference] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)


def compare(
    kafka: pa.Table,
    table: pa.Table,
    keys: tuple[str, str],
    *,
    cells_max: int = 20,
    show_values: bool = False,
) -> Compared:
    """Compares what both sides have, each position once; columns that one side lacks are null.

    Args:
        kafka: rows as decoded from the topic.
        table: rows as the table has them; types are the table's, safely promoted on the other side.
        keys: names of the columns with partition and offset.
        cells_max: cells that are named at most.
        show_values: whether to tell their values.
    """
    ours = positions_of(kafka, keys)
    here, there = matches(ours, positions_of(table, keys))
    found = Compared()
    if not len(here):
        return found
    places = ours[here]
    picked_kafka, picked_table = kafka.take(pa.array(here)), table.take(pa.array(there))
    wrong = np.zeros(len(here), np.bool_)
    for name in dict.fromkeys([*table.column_names, *kafka.column_names]):
        if name in keys:
            continue
        pair = _pair(picked_kafka, picked_table, name)
        if isinstance(pair, str):
            found.unfit[name] = pair
            continue
        differs = distinct(*pair)
        if differs.any():
            wrong |= differs
            room = cells_max - len(found.cells)
            at = np.flatnonzero(differs)[: max(0, room)]
            found.cells += _cells(name, places, at.tolist(), pair if show_values else None)
    found.rows = count_by_partition(places)
    found.different = count_by_partition(places[wrong])
    return found


def positions_of(rows: pa.Table, keys: tuple[str, str]) -> Ints:
    """Partition and offset of each row: int64 [n, 2]."""
    columns = [rows.column(name).to_numpy().astype(np.int64) for name in keys]
    return np.stack(columns, axis=1)


def matches(ours: Ints, theirs: Ints) -> tuple[Ints, Ints]:
    """Indices of the positions that both have, in either; doubles count once.

    Args:
        ours, theirs: int64 [n, 2] and [m, 2], as `positions_of` gives them.
    """
    here: list[Ints] = [np.empty(0, np.int64)]
    there: list[Ints] = [np.empty(0, np.int64)]
    for partition in np.unique(ours[:, 0]).tolist():
        mine, his = (np.flatnonzero(side[:, 0] == partition) for side in (ours, theirs))
        _, a, b = np.intersect1d(ours[mine, 1], theirs[his, 1], return_indices=True)
        here.append(mine[a])
        there.append(his[b])
    return np.concatenate(here), np.concatenate(there)


def _pair(kafka: pa.Table, table: pa.Table, name: str) -> tuple[pa.Array, pa.Array] | str:
    """One column of both sides in the table's type; or why that cannot be."""
    if name not in table.column_names:
        ours = _whole(kafka.column(name))
        return ours, pa.nulls(len(ours), ours.type)
    theirs = _plain(_whole(table.column(name)))
    if name not in kafka.column_names:
        return pa.nulls(len(theirs), theirs.type), theirs
    try:
        return align_array(_whole(kafka.column(name)), theirs.type, name), theirs
    except SchemaConflictError as error:
        return error.what


def _plain(array: pa.Array) -> pa.Array:
    """Dictionaries and extension types as the values they stand for."""
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _whole(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


def _cells(
    name: str, places: Ints, at: Sequence[int], pair: tuple[pa.Array, pa.Array] | None
) -> list[ValueDifference]:
    found = []
    for index in at:
        partition, offset = places[index].tolist()
        shown = (None, None) if pair is None else tuple(_shown(side[index]) for side in pair)
        found.append(ValueDifference(partition, offset, name, *shown))
    return found


def _shown(value: pa.Scalar) -> str:
    text = repr(value.as_py())
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def count_by_partition(places: Ints) -> dict[int, int]:
    """How many of the positions each partition has."""
    numbers, counts = np.unique(places[:, 0], return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))
