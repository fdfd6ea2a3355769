"""How the columns of a Parquet file are encoded: which get a dictionary, which are compressed.

A dictionary of values that hardly repeat costs most of the time of writing a file: each value is
hashed, until the dictionary outgrows its page and the writer falls back to plain values. In a file
of few rows it is larger than the values, too. And a call of zstd takes some 30 microseconds for its
context alone, most of it for the CPUID instruction, which a virtual machine has to ask its host
for: a table of 256 partitions and 20 columns makes 10,000 such calls for each flush. So a sample of
the rows decides; what is not compressed is looked at in all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

#: Rows that are looked at, in so many slices: what comes first may be of one Kafka partition.
SAMPLE_ROWS, SLICES = 16_384, 16
#: Fewer are, where they are large.
SAMPLE_BYTES = 8 << 20
#: Share of distinct values above which a dictionary does not pay.
DISTINCT_MAX = 0.5
#: Columns with a dictionary that are expected to take so few bytes are not compressed, ...
SMALL_BYTES = 1_024
#: ... unless they are more than that in Arrow's form, if the sample was of other rows than it told.
SMALL_ARROW_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A primitive column of the sample; what is null in it does not count.

    Args:
        column: which it is part of.
        path: Parquet's.
        values: how many there are.
        distinct: how many different ones.
        value_bytes: of one, in Arrow's form.
        has_nulls: whether some are null, not all.
    """

    column: str
    path: str
    values: int
    distinct: int
    value_bytes: float
    has_nulls: bool

    def repeats(self, share: float) -> bool:
        """Whether a dictionary pays in a file that has that share of the sample's rows."""
        return self.distinct <= DISTINCT_MAX * self.values * share

    def is_small(self, share: float, rows: pa.Table) -> bool:
        """Whether it has so little in these rows of a file that it is not worth a compression."""
        column = rows.column(self.column)
        if column.null_count == len(column):
            return True
        if self.path != self.column or not self.repeats(share):
            return False
        bits = max(0, self.distinct - 1).bit_length()
        indices = self.values * share * bits / 8 + self.has_nulls * len(column) / 8
        expected = indices + self.distinct * self.value_bytes
        return bool(expected <= SMALL_BYTES and column.nbytes <= SMALL_ARROW_BYTES)


class Encoding:
    """What a sample tells of files with rows like its own. Thread-safe; looks when first asked.

    Args:
        rows: those of the file, or others like them; some are looked at.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._slices = _some(rows)
        self._rows = sum(each.num_rows for each in self._slices)
        self._found: list[_Leaf] | None = None
        self._lock = Lock()

    def options(self, rows: pa.Table, codec: str, *, is_whole: bool) -> dict[str, Any]:
        """For `pyarrow.parquet.ParquetWriter`.

        Args:
            rows: those of the file, in the sample's columns.
            codec: for the columns that are compressed.
            is_whole: whether these are all; else more may come, and other ones.
        """
        leaves = self._leaves()
        # Of many rows, no more is known than what the sample has of them.
        share = min(1.0, rows.num_rows / max(1, self._rows))
        chosen = [
            each.path for each in leaves if each.repeats(share) and (each.values or not is_whole)
        ]
        if not is_whole or rows.num_rows > SAMPLE_ROWS:
            return {"use_dictionary": chosen, "compression": codec}
        codecs = {each.path: "none" if each.is_small(share, rows) else codec for each in leaves}
        return {"use_dictionary": chosen, "compression": codecs}

    def _leaves(self) -> list[_Leaf]:
        with self._lock:
            if self._found is None:
                self._found = list(_looked_at(self._slices))
                self._slices = []  # they would keep all rows in memory
            return self._found


def _some(rows: pa.Table) -> list[pa.Table]:
    count = rows.num_rows
    most = int(SAMPLE_BYTES * count / max(1, rows.nbytes))
    size = min(SAMPLE_ROWS, max(most, SLICES)) // SLICES
    if count <= size * SLICES:
        return [rows]
    starts = [(count - size) * number // (SLICES - 1) for number in range(SLICES)]
    return [rows.slice(start, size) for start in starts]


def _looked_at(slices: list[pa.Table]) -> Iterator[_Leaf]:
    for column in slices[0].schema.names:
        chunks = [chunk for each in slices for chunk in each.column(column).chunks]
        if not chunks:
            chunks = [pa.nulls(0, slices[0].schema.field(column).type)]
        for path, values in _primitive(column, pa.concat_arrays(chunks)):
            count = len(values) - values.null_count
            distinct = pc.count_distinct(values).as_py() if count else 0
            size = values.nbytes / max(1, len(values))
            yield _Leaf(column, path, count, distinct, size, 0 < count < len(values))


def _primitive(path: str, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Parquet's path of each primitive column in `values`, and its values."""
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
        first, last = values.offsets[0].as_py(), values.offsets[-1].as_py()
        yield from _primitive(f"{path}.list.element", values.values[first:last])
    else:
        yield path, values
