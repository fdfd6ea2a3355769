"""Iceberg's partition transforms over whole Arrow columns.

A column goes in, one of the same length comes out in Iceberg's internal form: days, months and
hours as int32 since 1970, timestamps as int64 microseconds, dates as int32 days, UUIDs as 16
bytes. PyIceberg needs a native package for this; the scalar transforms it has are the reference in
the tests, and are used here for what has no vector form, once per distinct value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    VoidTransform,
    YearTransform,
)
from pyiceberg.types import (
    BinaryType,
    DateType,
    DecimalType,
    FixedType,
    IcebergType,
    IntegerType,
    LongType,
    StringType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

_MICROS_PER_HOUR = 3_600_000_000
_HASHED_AS_LONG = (IntegerType, LongType, DateType, TimeType, TimestampType, TimestamptzType)
_Time = YearTransform[Any] | MonthTransform[Any] | DayTransform[Any] | HourTransform[Any]


def internal(column: pa.Array) -> pa.Array:
    """`column` with dates, times and timestamps as integers and UUIDs as bytes."""
    if isinstance(column, pa.ExtensionArray):
        return column.storage
    if pa.types.is_date32(column.type):
        return column.view(pa.int32())
    if pa.types.is_timestamp(column.type) or pa.types.is_time64(column.type):
        return column.view(pa.int64())
    return column


def apply_transform(
    transform: Transform[Any, Any], source: IcebergType, column: pa.Array
) -> pa.Array:
    """`transform` over `column`.

    Args:
        transform: one that `can_transform(source)`.
        source: Iceberg type of the column.
        column: Arrow array of n values, of the Arrow type that belongs to `source`.

    Returns:
        n values in internal form, null where the source is null.

    Raises:
        NotImplementedError: a transform that is not in Iceberg's format version 2.
    """
    if isinstance(transform, IdentityTransform):
        return internal(column)
    if isinstance(transform, VoidTransform):
        return pa.nulls(len(column), internal(column[:0]).type)
    if isinstance(transform, (YearTransform, MonthTransform, DayTransform, HourTransform)):
        return _time(transform, source, column)
    if isinstance(transform, TruncateTransform):
        return _truncate(transform, source, column)
    if isinstance(transform, BucketTransform):
        return _bucket(transform, source, column)
    raise NotImplementedError(f"partition transform {transform!r}")


def _time(transform: _Time, source: IcebergType, column: pa.Array) -> pa.Array:
    if isinstance(transform, (YearTransform, MonthTransform)):
        years = pc.subtract(pc.year(column), 1970)
        if isinstance(transform, YearTransform):
            return years.cast(pa.int32())
        months = pc.add(pc.multiply(years, 12), pc.subtract(pc.month(column), 1))
        return months.cast(pa.int32())
    if isinstance(source, DateType):
        return internal(column)
    unit = _MICROS_PER_HOUR * (24 if isinstance(transform, DayTransform) else 1)
    return _over_integers(
        internal(column), lambda micros: np.floor_divide(micros, unit), pa.int32()
    )


def _truncate(transform: TruncateTransform[Any], source: IcebergType, column: pa.Array) -> pa.Array:
    width = transform.width
    if isinstance(source, StringType):
        return pc.utf8_slice_codeunits(column, 0, width)
    if isinstance(source, (BinaryType, FixedType)):
        return pc.binary_slice(column, 0, width)
    if isinstance(source, DecimalType):
        return _per_value(column, transform.transform(source), column.type)
    return _over_integers(column, lambda v: v - np.mod(v, width), column.type)


def _bucket(transform: BucketTransform[Any], source: IcebergType, column: pa.Array) -> pa.Array:
    if isinstance(source, _HASHED_AS_LONG):
        buckets = transform.num_buckets
        longs = internal(column).cast(pa.int64())
        return _over_integers(
            longs, lambda v: (murmur3_longs(v) & np.uint32(0x7FFFFFFF)) % buckets, pa.int32()
        )
    return _per_value(internal(column), transform.transform(source), pa.int32())


def _over_integers(
    column: pa.Array, function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], to: pa.DataType
) -> pa.Array:
    values = column.fill_null(0).to_numpy(zero_copy_only=False)
    mask = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    return pa.array(function(values).astype(to.to_pandas_dtype()), type=to, mask=mask)


def _per_value(column: pa.Array, function: Callable[[Any], Any], to: pa.DataType) -> pa.Array:
    encoded = column.dictionary_encode()
    results = pa.array([function(value) for value in encoded.dictionary.to_pylist()], type=to)
    return results.take(encoded.indices)


def murmur3_longs(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """MurmurHash3 (32 bit, x86, seed 0) of each value as 8 little-endian bytes: Iceberg's hash."""
    words = np.ascontiguousarray(values, dtype="<i8").view("<u4").reshape(-1, 2)
    result = np.zeros(len(words), dtype=np.uint32)
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**32
        for position in (0, 1):
            mixed = words[:, position] * np.uint32(0xCC9E2D51)
            mixed = _rotated(mixed, 15) * np.uint32(0x1B873593)
            result = _rotated(result ^ mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
        result ^= np.uint32(8)
        result = (result ^ (result >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        result = (result ^ (result >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return result ^ (result >> np.uint32(16))


def _rotated(values: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint32]:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))
