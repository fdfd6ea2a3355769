"""Hashes of a column's values, the same for equal values whatever the width of their type.

Vectorised by NumPy, and quick for a single value too: a query for one key is one of these calls.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.errors import ConfigError

Words = npt.NDArray[np.uint64]
Column = TypeVar("Column", pa.Array, pa.ChunkedArray)

#: Of longer values the first so many bytes count, the last eight, and the length: values that
#: differ only between share a hash, and are told apart by whoever looks.
BYTES_HASHED = 64
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)
#: By the number of bytes that count of a word.
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)


def hashes(column: pa.ChunkedArray) -> tuple[Words, npt.NDArray[np.int64]]:
    """Hashes of the values that are not null, and where they stand.

    Args:
        column: n values.

    Raises:
        ConfigError: values of this type are no keys.
    """
    column = plain(column)
    valid = np.arange(len(column), dtype=np.int64)
    if column.null_count:
        valid = np.flatnonzero(column.is_valid().to_numpy()).astype(np.int64)
        column = column.drop_null()
    parts = [_hashed(chunk) for chunk in column.chunks if len(chunk)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64), valid


def plain(column: Column) -> Column:
    """The values as bytes, or as 64-bit numbers.

    Raises:
        ConfigError: values of this type are no keys.
    """
    kind = column.type
    if _is_bytes(kind) or pa.types.is_int64(kind) or pa.types.is_uint64(kind):
        return column
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8()).cast(pa.int64())
    if pa.types.is_floating(kind):
        # Minus zero is zero.
        return pc.add(column.cast(pa.float64()), 0.0)
    if pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    if pa.types.is_date(kind):
        return column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    if pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    raise ConfigError(f"Values of type {kind} are no keys.", field="buffer.index_column")


def key_scalar(value: object, kind: pa.DataType) -> pa.Scalar:
    """`value` as the column has it; text is read as the column's type.

    Raises:
        ConfigError: it is not of this type.
    """
    try:
        if isinstance(value, str) and not _is_bytes(kind):
            return pa.scalar(value, pa.string()).cast(kind)
        return pa.scalar(value, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"The key column is {kind}, and {_shown(value)} is none.", field="key"
        ) from error


def key_hash(key: pa.Scalar) -> int:
    """As `hashes` has it."""
    return int(_hashed(plain(pa.array([key.as_py()], key.type)))[0])


def _hashed(array: pa.Array) -> Words:
    if not _is_bytes(array.type):
        return _mixed(np.zeros(len(array), np.uint64), array.to_numpy().view(np.uint64))
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    _valid, ends, data = array.buffers()
    bounds = np.frombuffer(ends, np.int64 if wide else np.int32)
    bounds = bounds[array.offset : array.offset + len(array) + 1].astype(np.int64)
    first, last = int(bounds[0]), int(bounds[-1])
    # Each word is read whole, also where a value ends.
    padded = np.zeros(last - first + 8, np.uint8)
    if last > first:
        padded[:-8] = np.frombuffer(data, np.uint8, last - first, first)
    shape = (last - first + 1,)
    words = cast(Words, np.ndarray(shape, np.dtype("<u8"), padded, 0, (1,)))
    starts, lengths = bounds[:-1] - first, np.diff(bounds)
    hashed = _mixed(lengths.astype(np.uint64), words[np.maximum(starts + lengths - 8, 0)])
    short = lengths < 8
    if short.any():  # their last word would begin in another value
        own = words[starts[short]] & _MASKS[lengths[short]]
        hashed[short] = _mixed(lengths[short].astype(np.uint64), own)
    for at in range(0, min(int(lengths.max()), BYTES_HASHED), 8):
        longer = lengths > at
        rest = np.minimum(lengths - at, 8)
        if longer.all():
            hashed = _mixed(hashed, words[starts + at] & _MASKS[rest])
        else:
            word = words[starts[longer] + at] & _MASKS[rest[longer]]
            hashed[longer] = _mixed(hashed[longer], word)
    return hashed


def _mixed(hashed: Words, word: Words) -> Words:
    mixed = (hashed ^ word) * _PRIME
    mixed ^= mixed >> _SHIFT
    return cast(Words, mixed * _PRIME)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
