"""Where two Arrow arrays differ: exactly, null is equal to null, nested values included. Pure.

One difference is none: what Kafka holds is empty all the way down (`[]`, `{}`, `[null]`) and the
table has null. Such a value has no type, so it has no column until a record gives it one; the rows
before that record hold null. Those after it hold the empty value, and both are right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bools = npt.NDArray[np.bool_]


def distinct(kafka: pa.Array, table: pa.Array) -> Bools:
    """Whether the table's value is another than Kafka's, row by row.

    Args:
        kafka: n values as decoded from the topic.
        table: n values of the same type as the table has them.

    Returns:
        bool [n].
    """
    kind = table.type
    kafka_there, table_there = _valid(kafka), _valid(table)
    both: Bools = kafka_there & table_there
    if both.all():
        return _inner(kind, kafka, table)
    found: Bools = kafka_there != table_there
    # Only what both have is compared; what lies under a null is anything.
    at = np.flatnonzero(both)
    if len(at):
        found[at] = _inner(kind, kafka.take(pa.array(at)), table.take(pa.array(at)))
    only_kafka = np.flatnonzero(kafka_there & ~table_there)
    if len(only_kafka):
        found[only_kafka] = ~hollow(kafka.take(pa.array(only_kafka)))
    return found


def hollow(array: pa.Array) -> Bools:
    """Whether a value holds nothing: null, or a list or struct of such values. bool [n]."""
    there = _valid(array)
    if pa.types.is_struct(array.type):
        nothing = np.ones(len(array), np.bool_)
        for number in range(array.type.num_fields):
            nothing &= hollow(array.field(number))
        return nothing | ~there
    if _is_list(array.type):
        offsets, values = _entries(array)
        empty: Bools = _any_within(~hollow(values), offsets) == 0
        return empty | ~there
    return ~there


def _valid(array: pa.Array) -> Bools:
    if not array.null_count:
        return np.ones(len(array), np.bool_)
    return _bools(array.is_valid())


def _bools(array: pa.Array) -> Bools:
    found: Bools = np.asarray(array.to_numpy(zero_copy_only=False), np.bool_)
    return found


def _inner(kind: pa.DataType, kafka: pa.Array, table: pa.Array) -> Bools:
    """`distinct` for values that are there on both sides."""
    if pa.types.is_struct(kind):
        found = np.zeros(len(table), np.bool_)
        for number in range(kind.num_fields):
            found |= distinct(kafka.field(number), table.field(number))
        return found
    if _is_list(kind):
        return _lists(kafka, table)
    if pa.types.is_floating(kind):
        return _floats(kafka, table)
    if isinstance(kind, pa.BaseExtensionType):
        kafka, table = kafka.storage, table.storage
    return _bools(pc.not_equal(kafka, table))


def _lists(kafka: pa.Array, table: pa.Array) -> Bools:
    kafka_offsets, kafka_values = _entries(kafka)
    table_offsets, table_values = _entries(table)
    found: Bools = np.diff(kafka_offsets) != np.diff(table_offsets)
    if found.any():
        same = np.flatnonzero(~found)
        if len(same):
            picked = pa.array(same)
            found[same] = _lists(kafka.take(picked), table.take(picked))
        return found
    return np.asarray(_any_within(distinct(kafka_values, table_values), table_offsets) > 0)


def _entries(array: pa.Array) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Offsets from 0 and the values that they span; for a map, its entries as structs.

    A null's own span is left out: Arrow allows it to be anything.
    """
    if array.null_count:
        # `take` builds nulls anew, with empty spans.
        array = array.take(pa.array(np.arange(len(array))))
    offsets = array.offsets.to_numpy().astype(np.int64)
    if pa.types.is_map(array.type):
        values = pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])
    else:
        values = array.values
    return offsets - offsets[0], values.slice(offsets[0], offsets[-1] - offsets[0])


def _any_within(flags: Bools, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many flags are set within each span."""
    sums: npt.NDArray[np.int64] = np.concatenate(([0], np.cumsum(flags, dtype=np.int64)))
    return sums[offsets[1:]] - sums[offsets[:-1]]


def _floats(kafka: pa.Array, table: pa.Array) -> Bools:
    """By their bits, so that 0.0 is not -0.0; any NaN is NaN."""
    ours, theirs = (each.to_numpy(zero_copy_only=False) for each in (kafka, table))
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[ours.dtype.itemsize]
    same = ours.view(bits) == theirs.view(bits)
    found: Bools = ~(same | (np.isnan(ours) & np.isnan(theirs)))
    return found


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind))
