"""Rows as lines of JSON, without a Python object for each value where their types allow it.

Python's way holds the interpreter for ten seconds per million rows, and ingestion needs it, too.
Polars' takes a fortieth of that and holds nothing; it has no form for bytes, maps and durations.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from k2i_tasks.cells import json_rows


def json_bytes(batch: pa.RecordBatch) -> Iterator[bytes]:
    """The rows, some at a time: bytes as base64, decimals as text, times in ISO form.

    Args:
        batch: rows, in the types that clients get.
    """
    table = pa.Table.from_batches([batch])
    if not all(_is_known(field.type, top=True) for field in batch.schema):
        for lines in json_rows(table):
            yield lines.encode()
        return
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    naive = [
        name
        for name, kind in frame.schema.items()
        if isinstance(kind, pl.Datetime) and kind.time_zone is None
    ]
    sink = io.BytesIO()
    frame.with_columns(pl.col(naive).dt.strftime("%Y-%m-%dT%H:%M:%S%.f")).write_ndjson(sink)
    yield sink.getvalue()


def _is_known(kind: pa.DataType, *, top: bool = False) -> bool:
    """Whether Polars writes values of this type as `cells` does."""
    if pa.types.is_struct(kind):
        return all(_is_known(kind.field(at).type) for at in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_known(kind.value_type)
    if pa.types.is_timestamp(kind):
        return kind.tz == "UTC" or (kind.tz is None and top)
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_decimal(kind)
    )
