"""Protobuf's wire format to Arrow, column by column.

Source: "Encoding" in the Protocol Buffers documentation.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from google.protobuf.descriptor import Descriptor

from k2i_tasks.codecs.chunked import decode_in_chunks
from k2i_tasks.codecs.payloads import DecodedPayloads, Payloads
from k2i_tasks.codecs.protobuf_readers import StructReader
from k2i_tasks.codecs.protobuf_rows import Pieces, ProtobufFailures, Span
from k2i_tasks.codecs.protobuf_schema import reader_of
from k2i_tasks.codecs.vector import Positions, Source

#: The column of a message without fields.
VALUE = "value"


class ProtobufDecoder:
    """Decodes messages of one type, without a Python object per value but for JSON text.

    The columns are the message's fields, in the order of the schema, or one called `value` where
    it has none; `k2i_tasks.codecs.protobuf_schema.reader_of` tells their types. What Google's
    parsers take is taken: fields in any order, unknown ones, lists packed or not, a message in
    several parts.

    Args:
        kind: the type.
        truncates: whether nanoseconds of timestamps are cut off, and not refused.

    Raises:
        DecodeError: `schema.invalid`, it is too large.
    """

    def __init__(self, kind: Descriptor, *, truncates: bool = False) -> None:
        self._reader = reader_of(kind, truncates=truncates)
        if isinstance(self._reader, StructReader):
            self._schema = pa.schema(list(self._reader.type))
        else:
            self._schema = pa.schema([(VALUE, self._reader.type)])

    @property
    def schema(self) -> pa.Schema:
        """Columns of every table that `decode` gives, all of them optional."""
        return self._schema

    def decode(self, payloads: Payloads) -> DecodedPayloads:
        """One row or one error for each payload; never raises for a bad payload. Does not block.

        The codes of errors are protobuf.truncated, .number, .tag, .wire_type, .group, .encoding,
        .range, .nanoseconds, .items, .message and .json.
        """
        return decode_in_chunks(payloads, self._schema, self._decode)

    def _decode(
        self, source: Source, starts: Positions, ends: Positions
    ) -> tuple[list[pa.Array], ProtobufFailures]:
        failures = ProtobufFailures(len(starts))
        rows = np.arange(len(starts))
        span = Span(source, rows, ends, failures)
        pieces = Pieces(starts, ends, rows, True)
        if isinstance(self._reader, StructReader):
            return self._reader.columns(span, pieces), failures
        return [self._reader.read(span, pieces, None)], failures
