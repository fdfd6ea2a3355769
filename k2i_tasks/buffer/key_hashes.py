"""Hashes of a column's values, the same for equal values whatever the width of their type."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.errors import ConfigError

#: Any will do, as long as it stays the same while the process lives.
_SEED = 0x6B3269


def hashes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hashes of the values that are not null, and where they stand.

    Args:
        column: n values of a type that `plain` knows.
    """
    # Only whoever asks by keys has this loaded.
    import polars as pl

    valid = np.arange(len(column), dtype=np.int64)
    if column.null_count:
        valid = np.flatnonzero(column.is_valid().to_numpy()).astype(np.int64)
        column = column.drop_null()
    series = pl.Series(values=pl.from_arrow(plain(column)))
    return series.hash(_SEED).to_numpy(), valid


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values in a type in which equal ones of different width are the same.

    Raises:
        ConfigError: values of this type are no keys.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain(column.cast(kind.value_type))
    if pa.types.is_boolean(kind) or pa.types.is_uint64(kind) or _is_bytes(kind):
        return column
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        return pc.add(column.cast(pa.float64()), 0.0)  # minus zero is zero
    if pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    if pa.types.is_date(kind):
        return column.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    if isinstance(kind, pa.BaseExtensionType):
        return plain(pa.chunked_array([c.storage for c in column.chunks], kind.storage_type))
    if pa.types.is_fixed_size_binary(kind):
        return column.cast(pa.binary())
    raise ConfigError(f"Values of type {kind} are no keys.", field="buffer.index_column")


def key_scalar(value: object, kind: pa.DataType) -> pa.Scalar:
    """`value` as the column has it.

    Raises:
        ConfigError: it is not of this type.
    """
    try:
        if isinstance(value, str) and not _is_text(kind) and not _is_bytes(kind):
            return pa.scalar(value, pa.string()).cast(kind)
        return pa.scalar(value, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"The key column is {kind}, and {type(value).__name__} {_shown(value)} is none.",
            field="key",
        ) from error


def key_hash(key: pa.Scalar) -> int:
    """As `hashes` has it."""
    found, _valid = hashes(pa.chunked_array([pa.array([key.as_py()], key.type)]))
    return int(found[0])


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(_is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
