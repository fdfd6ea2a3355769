"""Avro's binary encoding to Arrow, column by column.

Source: the Apache Avro 1.12 specification, section "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.avro_readers import RecordReader, reader_of
from k2i_tasks.codecs.avro_rows import Failures, Rows
from k2i_tasks.codecs.avro_schema import parse_schema
from k2i_tasks.codecs.avro_types import row_schema
from k2i_tasks.codecs.payloads import DecodedPayloads, Payloads
from k2i_tasks.codecs.vector import Positions, Source
from k2i_tasks.errors import DecodeError

#: Payloads read at once: many enough that a step's fixed cost does not count, few enough that
#: their bytes stay in the processor's cache from field to field.
CHUNK_ROWS = 16_384
CHUNK_BYTES = 1 << 26


class AvroDecoder:
    """Decodes payloads that were written with one schema, without a Python object per value.

    The columns are the fields of the schema's record, or one called `value` for any other type;
    `k2i_tasks.codecs.avro_types.column_type` tells their types. A payload must be one value, whole,
    with nothing behind it.

    Args:
        schema: the writer's, JSON text.
        references: JSON texts of schemas whose named types it uses, in any order.

    Raises:
        DecodeError: the schema is none, or no table's columns can hold it: says what and
            where.
    """

    def __init__(self, schema: str, references: Mapping[str, str] | Sequence[str] = ()) -> None:
        kind = parse_schema(schema, references)
        self._schema = row_schema(kind)
        self._reader = reader_of(kind, "")

    @property
    def schema(self) -> pa.Schema:
        """Columns of every table that `decode` gives, all of them optional."""
        return self._schema

    def decode(self, payloads: Payloads) -> DecodedPayloads:
        """One row or one error for each payload; never raises for a bad payload. Does not block.

        The codes of errors are avro.truncated, .number, .length, .boolean, .encoding, .enum,
        .union, .decimal, .uuid, .range, .items and .trailing.
        """
        tables: list[pa.Table] = []
        errors: dict[int, DecodeError] = {}
        for first, some in _chunks(payloads):
            table, reasons = self._decode(some)
            tables.append(table)
            errors.update((first + row, error) for row, error in reasons.items())
        if not tables:
            # Not `empty_table`: Arrow has none of lists of UUIDs.
            none = [pa.nulls(0, field.type) for field in self._schema]
            return DecodedPayloads(pa.Table.from_arrays(none, schema=self._schema), errors)
        return DecodedPayloads(pa.concat_tables(tables), errors)

    def _decode(self, payloads: Payloads) -> tuple[pa.Table, Mapping[int, DecodeError]]:
        source, starts, ends = _placed(payloads)
        failures = Failures(len(payloads))
        rows = Rows(source, starts, ends, np.arange(len(payloads)), failures)
        if isinstance(self._reader, RecordReader):
            arrays = self._reader.columns(rows)
        else:
            arrays = [self._reader.read(rows)]
        what = "The payload goes on after the value that its schema describes."
        rows.refuse_where(rows.at < rows.ends, "avro.trailing", what)
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        if failures.reasons:
            table = table.filter(pa.array(~failures.failed))
        return table, failures.reasons


def _chunks(payloads: Payloads) -> Iterator[tuple[int, Payloads]]:
    """Parts of `CHUNK_ROWS` or `CHUNK_BYTES`, at least one payload each, and their first index."""
    total = np.cumsum(payloads.ends - payloads.starts)
    first = 0
    while first < len(payloads):
        before = int(total[first - 1]) if first else 0
        fitting = int(np.searchsorted(total, before + CHUNK_BYTES, side="right"))
        last = min(max(fitting, first + 1), first + CHUNK_ROWS)
        part = slice(first, last)
        yield first, Payloads(payloads.data, payloads.starts[part], payloads.ends[part])
        first = last


def _placed(payloads: Payloads) -> tuple[Source, Positions, Positions]:
    """A source of the bytes around the payloads, and their starts and ends in it."""
    starts, ends = payloads.starts, payloads.ends
    low, high = int(starts.min()), int(ends.max())
    rising = len(starts) < 2 or bool((starts[1:] >= ends[:-1]).all())
    if not rising or high - low > 2 * CHUNK_BYTES:
        # Out of order, or with wide gaps: side by side they are read faster.
        joined = Payloads.joined([payloads[row] for row in range(len(payloads))])
        return Source(joined.data, int(joined.ends[-1])), joined.starts, joined.ends
    return Source(payloads.data[low:], high - low), starts - low, ends - low
