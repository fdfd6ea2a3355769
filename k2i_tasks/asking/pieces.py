"""Rows in pieces of a bounded size, so that few bytes of an answer are under way at a time.

An answer passes several queues, and waits in each of them for a client that reads slowly. They
hold pieces, and a piece of so many rows may be a kilobyte or a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
import pyarrow as pa

#: Text and bytes without views, which any reader knows, and of which a slice is sent alone: views
#: take all that they look at with them.
OLDEST = pl.CompatLevel.oldest()
#: Size of a piece, about.
PIECE_BYTES = 4 << 20
ROWS_MIN, ROWS_MAX = 1_024, 65_536
#: What a value is taken for whose type does not tell its size.
VALUE_BYTES = 48
_FIXED_BYTES = 8


def rows_at_once(schema: Mapping[str, Any]) -> int:
    """How many rows of these columns are about one piece.

    Args:
        schema: Polars type by column.
    """
    loose: int = sum(kind.is_nested() or kind in (pl.String, pl.Binary) for kind in schema.values())
    row_bytes = VALUE_BYTES * loose + _FIXED_BYTES * (len(schema) - loose)
    return max(ROWS_MIN, min(ROWS_MAX, PIECE_BYTES // max(1, row_bytes)))


def pieces(frame: pl.DataFrame, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a frame; each piece is made when it is asked for.

    Args:
        frame: rows.
        schema: of the pieces.
    """
    size = max(1, int(frame.estimated_size()))
    rows = max(1, min(ROWS_MAX, frame.height * PIECE_BYTES // size))
    for part in frame.iter_slices(rows):
        for batch in part.to_arrow(compat_level=OLDEST).to_batches():
            yield batch if batch.schema == schema else batch.cast(schema)
