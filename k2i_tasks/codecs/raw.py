"""Payloads kept as they are: `raw` as bytes, `string` as UTF-8 text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.codecs.base import assemble
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.errors import ConfigError, DecodeError, SchemaConflictError
from k2i_tasks.types import DecodedBatch, RawBatch

VALUE = "value"


class PlainDecoder:
    """One payload column `value`; a tombstone is a row with null in it.

    Args:
        payload: pa.binary() for `raw`, pa.string() for `string`.
        columns: names of the metadata columns.
        table_schema: columns of the table, None when it does not exist.
        max_message_bytes: a longer payload is a dead letter.

    Raises:
        ConfigError: a metadata column is called `value`.
        SchemaConflictError: the table has no `value` column of that type, or needs other columns.
    """

    def __init__(
        self,
        payload: pa.DataType,
        columns: MetadataColumns,
        table_schema: pa.Schema | None,
        *,
        max_message_bytes: int,
    ) -> None:
        if VALUE in columns.reserved():
            what = f"A metadata column is named {VALUE!r}, which holds the payload."
            raise ConfigError(what, field="iceberg.metadata_columns")
        self._format = "raw" if payload == pa.binary() else "string"
        self._columns = columns
        self._max_message_bytes = max_message_bytes
        present = None if table_schema is None else columns.without(table_schema)
        self._schema = pa.schema([_value_field(payload, present, self._format)])

    @property
    def schema(self) -> pa.Schema:
        """The one payload column."""
        return self._schema

    def prepare(self, raw: RawBatch, timeout_seconds: float) -> int:
        """All of it is ready: nothing but the records is needed."""
        return len(raw)

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """One row or one dead letter per record; must not block."""
        array = pa.array(raw.values, type=pa.binary())
        errors = self._refused(raw.values, array)
        if errors:
            values = [value for index, value in enumerate(raw.values) if index not in errors]
            array = pa.array(values, type=pa.binary())
        array = array.cast(self._schema.field(VALUE).type)
        return assemble(raw, {VALUE: array}, self._schema, errors, self._columns)

    def _refused(
        self, values: Sequence[bytes | None], array: pa.Array | pa.ChunkedArray
    ) -> dict[int, DecodeError]:
        """Record index -> reason; `array` holds the `values`."""
        limit = self._max_message_bytes
        errors: dict[int, DecodeError] = {}
        sizes = np.asarray(pc.binary_length(array).fill_null(0))
        for index in np.flatnonzero(sizes > limit).tolist():
            what = f"The payload has {sizes[index]} bytes, the limit is {limit}."
            errors[index] = DecodeError(f"{self._format}.too_large", what)
        if array.null_count and not self._schema.field(VALUE).nullable:
            what = "A tombstone has no value, and the table's column is required."
            for index in np.flatnonzero(np.asarray(array.is_null())).tolist():
                errors[index] = DecodeError(f"{self._format}.missing_value", what)
        if self._format == "string" and not _is_text(array):
            for index, value in enumerate(values):
                if value is not None and not value.isascii() and index not in errors:
                    try:
                        value.decode("utf-8")
                    except UnicodeDecodeError as error:
                        what = f"The payload is not UTF-8 at byte {error.start}."
                        errors[index] = DecodeError("string.encoding", what)
        return errors


def _is_text(array: pa.Array | pa.ChunkedArray) -> bool:
    """Whether all values are UTF-8, in one pass of Arrow's."""
    try:
        array.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _value_field(payload: pa.DataType, present: pa.Schema | None, format_name: str) -> pa.Field:
    if present is None:
        return pa.field(VALUE, payload)
    types = pa.types
    for field in present:
        if field.name == VALUE:
            text = types.is_string(field.type) or types.is_large_string(field.type)
            binary = types.is_binary(field.type) or types.is_large_binary(field.type)
            if text if payload == pa.string() else binary:
                continue
        elif field.nullable:
            continue
        found = f"{field.type}" + ("" if field.nullable else " and required")
        raise SchemaConflictError(
            f"Column {field.name!r} of the table is {found}; format {format_name!r} writes "
            f"one column {VALUE!r} of type {payload}.",
            remedy="Choose another table or another kafka.format.type.",
        )
    if VALUE not in present.names:
        return pa.field(VALUE, payload)
    return present.field(VALUE).with_type(payload)
