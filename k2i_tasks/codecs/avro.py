"""Avro's binary encoding to Arrow, column by column.

Source: the Apache Avro 1.12 specification, section "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.avro_readers import RecordReader, reader_of
from k2i_tasks.codecs.avro_rows import AvroFailures, Rows
from k2i_tasks.codecs.avro_schema import parse_schema
from k2i_tasks.codecs.avro_types import row_schema
from k2i_tasks.codecs.chunked import decode_in_chunks
from k2i_tasks.codecs.payloads import DecodedPayloads, Payloads
from k2i_tasks.codecs.vector import Positions, Source


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
        return decode_in_chunks(payloads, self._schema, self._decode)

    def _decode(
        self, source: Source, starts: Positions, ends: Positions
    ) -> tuple[list[pa.Array], AvroFailures]:
        failures = AvroFailures(len(starts))
        rows = Rows(source, starts, ends, np.arange(len(starts)), failures)
        if isinstance(self._reader, RecordReader):
            arrays = self._reader.columns(rows)
        else:
            arrays = [self._reader.read(rows)]
        what = "The payload goes on after the value that its schema describes."
        rows.refuse_where(rows.at < rows.ends, "avro.trailing", what)
        return arrays, failures
