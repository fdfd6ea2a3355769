"""Readers of the messages that are no structs: Google's well-known types, empty ones, recursion."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError as ProtobufError

from k2i_tasks.codecs.protobuf_leaves import fixed_width, with_nulls
from k2i_tasks.codecs.protobuf_readers import StructReader
from k2i_tasks.codecs.protobuf_rows import Pieces, Span
from k2i_tasks.codecs.protobuf_scan import scan
from k2i_tasks.codecs.vector import Mask

#: Seconds of 0001-01-01T00:00:00 and 10000-01-01T00:00:00; readers fail outside.
_FIRST_SECOND = -62_135_596_800
_END_SECOND = 253_402_300_800
_SECOND_NANOS = 1_000_000_000


class EmptyReader:
    """A message without fields: true where there is one."""

    type = pa.bool_()
    cells = 1

    def read(self, span: Span, pieces: Pieces, present: Mask | None) -> pa.Array:
        scan({}, span, pieces)
        return with_nulls(pa.array(np.ones(len(span), bool)), _everywhere(span, present))


class WrapperReader:
    """A message whose one field is the value: `google.protobuf.Int64Value` and its like.

    Args:
        inner: reads it as a struct.
    """

    def __init__(self, inner: StructReader) -> None:
        self.type = inner.type[0].type
        self.cells = 1
        self._inner = inner

    def read(self, span: Span, pieces: Pieces, present: Mask | None) -> pa.Array:
        return with_nulls(self._inner.columns(span, pieces)[0], _everywhere(span, present))


class TimestampReader:
    """`google.protobuf.Timestamp`, in microseconds.

    Args:
        inner: reads it as a struct of seconds and nanoseconds.
        where: dotted path of the field, for errors.
        truncates: whether nanoseconds are cut off, and not refused.
    """

    type = pa.timestamp("us", "UTC")
    cells = 1

    def __init__(self, inner: StructReader, where: str, *, truncates: bool) -> None:
        self._inner = inner
        self._where = where
        self._truncates = truncates

    def read(self, span: Span, pieces: Pieces, present: Mask | None) -> pa.Array:
        columns = self._inner.columns(span, pieces)
        seconds, nanos = (column.to_numpy(zero_copy_only=True) for column in columns)
        micros, rest = np.divmod(nanos.astype(np.int64), 1_000)
        bad = (seconds < _FIRST_SECOND) | (seconds >= _END_SECOND)
        bad |= (nanos < 0) | (nanos >= _SECOND_NANOS)
        what = f"Field {self._where!r} is a time outside years 1 to 9999, or has no valid nanos."
        span.refuse_value(np.flatnonzero(bad), "protobuf.range", what)
        if not self._truncates:
            what = (
                f"Field {self._where!r} has nanoseconds, which a column of microseconds cannot "
                'hold (kafka.format.nanoseconds = "truncate" cuts them off).'
            )
            span.refuse_value(np.flatnonzero(rest), "protobuf.nanoseconds", what)
        times = np.where(bad, 0, seconds) * 1_000_000 + micros
        return with_nulls(fixed_width(times, self.type), _everywhere(span, present))


class JsonReader:
    """A message as text, in Protobuf's own JSON form; read by Google's library, one by one.

    For what no type of a column can hold: `google.protobuf.Struct`, and messages in themselves.

    Args:
        where: dotted path of the field, for errors.
    """

    type = pa.string()
    cells = 1

    def __init__(self, kind: Descriptor, where: str) -> None:
        self._class: Any = message_factory.GetMessageClass(kind)
        self._pool = kind.file.pool
        self._where = where

    def read(self, span: Span, pieces: Pieces, present: Mask | None) -> pa.Array:
        places = range(len(span)) if present is None else np.flatnonzero(present).tolist()
        messages = {place: self._class() for place in places}
        broken: set[int] = set()
        data = span.source.data
        rows, starts, ends = (a.tolist() for a in (pieces.rows, pieces.starts, pieces.ends))
        for row, start, end in zip(rows, starts, ends, strict=True):
            try:
                messages[row].MergeFromString(data[start:end].tobytes())
            except ProtobufError:
                broken.add(row)
        what = f"Field {self._where!r} is no valid message."
        span.refuse(np.array(sorted(broken), np.int64), "protobuf.message", what)
        texts: list[str | None] = [None] * len(span)
        for place, message in messages.items():
            if place not in broken:
                texts[place] = self._text(span, place, message)
        return pa.array(texts, pa.string())

    def _text(self, span: Span, place: int, message: Any) -> str | None:
        try:
            found = json_format.MessageToDict(
                message,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
                descriptor_pool=self._pool,
            )
            return json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except (json_format.Error, ProtobufError, TypeError, ValueError, RecursionError):
            # NaN in a Struct, an Any of a type that is not in the schema, a time of year 0.
            what = f"Field {self._where!r} holds a value that JSON has no form for."
            span.refuse_value(np.array([place], np.int64), "protobuf.json", what)
            return None


def _everywhere(span: Span, present: Mask | None) -> Mask:
    return np.ones(len(span), bool) if present is None else present
