"""Which columns of a Parquet file get a dictionary.

A dictionary of values that hardly repeat costs most of the time of writing a file: each value is
hashed, until the dictionary outgrows its page and the writer falls back to plain values. So a
sample of the rows decides.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

#: Rows that are looked at.
SAMPLE_ROWS = 16_384
#: Fewer rows than that are written with dictionaries, whatever is in them.
ROWS_MIN = 1_024
#: Share of distinct values in the sample above which a dictionary does not pay.
DISTINCT_MAX = 0.5


def dictionary_columns(rows: pa.Table) -> list[str] | bool:
    """Parquet paths of the columns whose values repeat, or True for all of them.

    Args:
        rows: what is to be written, n rows.
    """
    if rows.num_rows < ROWS_MIN:
        return True
    sample = rows.slice(0, SAMPLE_ROWS).combine_chunks()
    leaves = [
        leaf
        for name in sample.schema.names
        for leaf in _leaves(name, sample.column(name).combine_chunks())
    ]
    return [path for path, values in leaves if _repeats(values)]


def _repeats(values: pa.Array) -> bool:
    size = len(values) - values.null_count
    if size < ROWS_MIN:
        return True
    return bool(pc.count_distinct(values).as_py() <= DISTINCT_MAX * size)


def _leaves(path: str, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Parquet's path of each primitive column in `values`, and its values."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.chunks else pa.array([], values.type)
    kind = values.type
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _leaves(f"{path}.{kind.field(index).name}", values.field(index))
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", values.keys)
        yield from _leaves(f"{path}.key_value.value", values.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _leaves(f"{path}.list.element", values.flatten())
    else:
        yield path, values
