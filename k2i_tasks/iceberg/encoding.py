"""How the columns of a Parquet file are encoded: which get a dictionary, which are compressed.

A dictionary of values that hardly repeat costs most of the time of writing a file: each value is
hashed, until the dictionary outgrows its page and the writer falls back to plain values. In a file
of few rows it is larger than the values, too. And a call of zstd takes some 30 microseconds for its
context alone, most of it for the CPUID instruction, which a virtual machine has to ask its host
for: a table of 256 partitions and 20 columns makes 10,000 such calls for each flush. So a sample of
the rows decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

#: Rows that are looked at, in so many slices: what comes first may be of one Kafka partition.
SAMPLE_ROWS, SLICES = 16_384, 16
#: Share of distinct values above which a dictionary does not pay.
DISTINCT_MAX = 0.5
#: Columns with a dictionary that are expected to take so few bytes are not compressed.
SMALL_BYTES = 1_024
#: Bits that tell where a value stands: one of a list or a struct, and one among nulls.
_NESTED_BITS, _NULLS_BITS = 4, 1


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A primitive column of the sample; what is null in it does not count.

    Args:
        path: Parquet's.
        values: how many there are.
        distinct: how many different ones.
        value_bytes: of one, in Arrow's form.
        level_bytes: of what tells where the values stand, as much as that may take.
    """

    path: str
    values: int
    distinct: int
    value_bytes: float
    level_bytes: float

    def bytes(self, share: float) -> float:
        """As it is expected to be stored with a dictionary, not compressed.

        Args:
            share: rows of the file, in those of the sample.
        """
        bits = max(0, self.distinct - 1).bit_length()
        indices = self.values * bits / 8 + self.level_bytes
        return share * indices + self.distinct * self.value_bytes


class Encoding:
    """What a sample tells of files with rows like its own. Thread-safe; looks when first asked.

    Args:
        rows: those of the file, or others like them; some are looked at.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._sample = _some(rows)

    def options(self, rows: int, codec: str) -> dict[str, Any]:
        """For `pyarrow.parquet.ParquetWriter`.

        Args:
            rows: how many the file will have, as far as that is known.
            codec: for the columns that are compressed.
        """
        share = rows / max(1, self._sample.num_rows)
        # Of many rows, no more is known than what the sample has of them.
        known = min(1.0, share)
        repeat = [
            each for each in self._leaves if each.distinct <= DISTINCT_MAX * each.values * known
        ]
        small = {each.path for each in repeat if each.bytes(share) <= SMALL_BYTES}
        chosen = [each.path for each in repeat if each.values]
        codecs = {leaf.path: "none" if leaf.path in small else codec for leaf in self._leaves}
        return {"use_dictionary": chosen, "compression": codecs if small else codec}

    @cached_property
    def _leaves(self) -> list[_Leaf]:
        sample = self._sample.combine_chunks()
        return [
            _leaf(path, values, sample.num_rows, is_nested=path != name)
            for name in sample.schema.names
            for path, values in _primitive(name, sample.column(name).combine_chunks())
        ]


def _some(rows: pa.Table) -> pa.Table:
    if rows.num_rows <= SAMPLE_ROWS:
        return rows
    size = SAMPLE_ROWS // SLICES
    starts = [(rows.num_rows - size) * number // (SLICES - 1) for number in range(SLICES)]
    return pa.concat_tables([rows.slice(start, size) for start in starts])


def _leaf(path: str, values: pa.Array, rows: int, *, is_nested: bool) -> _Leaf:
    count = len(values) - values.null_count
    distinct = pc.count_distinct(values).as_py() if count else 0
    if is_nested:
        bits = _NESTED_BITS * max(rows, len(values))
    else:
        bits = _NULLS_BITS * rows if 0 < count < rows else 0
    return _Leaf(path, count, distinct, values.nbytes / max(1, len(values)), bits / 8)


def _primitive(path: str, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Parquet's path of each primitive column in `values`, and its values."""
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.chunks else pa.array([], values.type)
    if isinstance(values, pa.ExtensionArray):  # a UUID's, whose values Arrow does not compare
        values = values.storage
    kind = values.type
    if pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _primitive(f"{path}.{kind.field(index).name}", values.field(index))
    elif pa.types.is_map(kind):
        yield from _primitive(f"{path}.key_value.key", values.keys)
        yield from _primitive(f"{path}.key_value.value", values.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _primitive(f"{path}.list.element", values.flatten())
    else:
        yield path, values
