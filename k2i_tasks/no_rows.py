"""A table without rows."""

from __future__ import annotations

import pyarrow as pa


def no_rows(schema: pa.Schema) -> pa.Table:
    """No rows in the columns of `schema`.

    `pyarrow.Schema.empty_table` cannot make a list, a struct or a map that has a UUID in it.
    """
    return pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)
