"""Kafka's coordinates of a record as Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.errors import ConfigError
from k2i_tasks.types import NEWEST_MS, OLDEST_MS, Headers, RawBatch

TIMESTAMP = pa.timestamp("us", "UTC")

# A list, not a map: Kafka allows a header name twice, and Iceberg's map keys must be unique.
HEADERS = pa.list_(pa.field("element", pa.struct([("key", pa.string()), ("value", pa.binary())])))

_TYPES = {
    "topic": pa.string(),
    "partition": pa.int32(),
    "offset": pa.int64(),
    "timestamp": TIMESTAMP,
    "key": pa.binary(),
    "headers": HEADERS,
}


@dataclass(frozen=True, slots=True)
class MetadataColumns:
    """Names of the metadata columns; an empty name leaves the column out.

    Raises:
        ConfigError: partition or offset have no name (exactly-once is checked by them), or two
            names are equal when case is ignored.
    """

    topic: str = "_kafka_topic"
    partition: str = "_kafka_partition"
    offset: str = "_kafka_offset"
    timestamp: str = "_kafka_timestamp"
    key: str = "_kafka_key"
    headers: str = "_kafka_headers"
    #: Of the column with decoded keys, which another decoder fills; empty for none.
    decoded_key: str = ""

    def __post_init__(self) -> None:
        for part in ("partition", "offset"):
            if not getattr(self, part):
                field = f"iceberg.metadata_columns.{part}"
                raise ConfigError(f"{field} may not be empty.", field=field)
        names = [name.lower() for name in (*self.names().values(), self.decoded_key) if name]
        if len(set(names)) != len(names):
            what = "Two names in iceberg.metadata_columns are equal (case is ignored)."
            raise ConfigError(what, field="iceberg.metadata_columns")

    def names(self) -> dict[str, str]:
        """Part ("topic", "offset", ...) -> column name, for the columns that are kept, in order."""
        return {part: name for part in _TYPES if (name := str(getattr(self, part)))}

    def reserved(self) -> frozenset[str]:
        """Lower-case names that no payload field may have."""
        names = (*self.names().values(), self.decoded_key)
        return frozenset(name.lower() for name in names if name)

    def schema(self) -> pa.Schema:
        """The metadata columns, in order."""
        return pa.schema([(name, _TYPES[part]) for part, name in self.names().items()])

    def without(self, schema: pa.Schema) -> pa.Schema:
        """`schema` without the metadata columns and decoded keys."""
        reserved = self.reserved()
        return pa.schema([field for field in schema if field.name.lower() not in reserved])


def metadata_arrays(
    raw: RawBatch, columns: MetadataColumns, kept: npt.NDArray[np.int64] | None
) -> list[pa.Array]:
    """Columns of `columns.schema()` for the records `kept` (indices, rising; None for all)."""
    rows = len(raw) if kept is None else len(kept)

    def picked(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values if kept is None else values[kept]

    arrays = []
    for part in columns.names():
        if part == "topic":
            arrays.append(pa.repeat(pa.scalar(raw.topic), rows))
        elif part == "partition":
            arrays.append(pa.array(picked(raw.partitions).astype(np.int32, copy=False)))
        elif part == "offset":
            arrays.append(pa.array(picked(raw.offsets).astype(np.int64, copy=False)))
        elif part == "timestamp":
            arrays.append(_timestamps(picked(raw.timestamps_ms)))
        elif part == "key":
            keys = raw.keys if kept is None else [raw.keys[i] for i in kept]
            arrays.append(pa.array(keys, type=pa.binary()))
        else:
            arrays.append(_headers(raw.headers, rows, kept))
    return arrays


def _timestamps(milliseconds: npt.NDArray[np.int64]) -> pa.Array:
    """Kafka's -1 (none) and times that no reader can show become null."""
    absent = (milliseconds == -1) | (milliseconds < OLDEST_MS) | (milliseconds > NEWEST_MS)
    micros = np.where(absent, 0, milliseconds).astype(np.int64) * 1000
    return pa.array(micros, mask=absent if absent.any() else None).view(TIMESTAMP)


def _headers(
    headers: Sequence[Headers | None] | None, rows: int, kept: npt.NDArray[np.int64] | None
) -> pa.Array:
    if headers is None:
        return pa.nulls(rows, HEADERS)
    chosen = list(headers) if kept is None else [headers[i] for i in kept]
    absent = np.fromiter((item is None for item in chosen), bool, rows)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.fromiter((len(item or ()) for item in chosen), np.int64, rows), out=offsets[1:])
    flat = list(chain.from_iterable(item or () for item in chosen))
    names = pa.array([_text(name) for name, _ in flat], type=pa.string())
    values = pa.array([value for _, value in flat], type=pa.binary())
    entries = pa.StructArray.from_arrays([names, values], fields=list(HEADERS.value_type))
    mask = pa.array(absent) if absent.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), entries, type=HEADERS, mask=mask)


def _text(name: str) -> str:
    """A header name that is not UTF-8 stays visible, its odd bytes escaped."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")
