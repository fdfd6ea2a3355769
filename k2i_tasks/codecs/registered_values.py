"""The value of one field of records whose schemas are in a registry, by the schema that wrote each.

A record is read as a whole, by the decoder of its writer, so that it has a value only if all of it
can be read. What the writer is cannot be told while the registry is away: records wait then. Where
the registry does not know it, that is kept: a record has the same value whenever it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.frames import Framing, Indices, MessagePath
from k2i_tasks.codecs.members import Steps, avro_steps, column_steps, texts_at
from k2i_tasks.codecs.payloads import PayloadDecoder, Payloads
from k2i_tasks.codecs.registered import message_of, text_of
from k2i_tasks.codecs.values import bounded
from k2i_tasks.codecs.writers import Writers, is_unknown, ready_records
from k2i_tasks.errors import DecodeError
from k2i_tasks.registry import Schemas, WriterSchema
from k2i_tasks.types import OffsetRange, RawBatch


class MemberReader:
    """Reads one field of one writer's payloads. Stateless.

    Args:
        decoder: the writer's.
        places: where the field is in its columns; none if it has no such field.
    """

    def __init__(self, decoder: PayloadDecoder, places: Sequence[Steps]) -> None:
        self._decoder = decoder
        self._places = places

    def read(self, payloads: Payloads) -> pa.Array:
        """The text of each of n payloads, strings [n]; null where there is none."""
        if not self._places:
            return pa.nulls(len(payloads), pa.string())
        found = self._decoder.decode(payloads)
        texts = texts_at(found.columns, self._places)
        if not found.errors:
            return texts
        sound = np.ones(len(payloads), bool)
        sound[list(found.errors)] = False
        return texts.take(pa.array(np.cumsum(sound) - 1, mask=~sound))


class Unread(Protocol):
    """Keeps which records had no value since the registry did not know their schema."""

    def unread(self, schema_id: int) -> Mapping[int, Sequence[OffsetRange]]:
        """Where records of this schema have none, by partition."""

    def note_read(self, schema_id: int) -> None:
        """Records of this schema were read: what has none from now on is apart from before."""

    def keep_unread(self, found: Mapping[int, Mapping[int, OffsetRange]]) -> None:
        """Keeps such offsets, by schema and partition, durably. May block; may raise K2IError."""


class RegisteredValues:
    """Reads a field of Avro or Protobuf records. For one thread, beside that of `Writers`.

    Args:
        format: "avro" or "protobuf".
        schemas: the registry's.
        path: names from the outermost record down.
        max_message_bytes: what is longer has no value.
        unknown_seconds: how long the registry's "not known" is believed.
        unread: what is kept beyond that, and beyond this process.
    """

    def __init__(
        self,
        format: str,
        schemas: Schemas,
        path: Sequence[str],
        *,
        max_message_bytes: int,
        unknown_seconds: float,
        unread: Unread,
    ) -> None:
        self._unread = unread
        make = partial(_MAKERS[format], names=tuple(path))
        self._writers: Writers[MemberReader] = Writers(
            schemas, make, unknown_seconds=unknown_seconds
        )
        self._framing = Framing(
            format, paths=format == "protobuf", max_message_bytes=max_message_bytes
        )

    def prepare(self, raw: RawBatch, timeout_seconds: float) -> int:
        """Gets the schemas that `raw` needs; see `codecs.base.Decoder.prepare`."""
        return ready_records(self._writers, self._framing.of(raw), len(raw), timeout_seconds)

    def __call__(self, raw: RawBatch) -> pa.Array:
        """The values of a batch that is ready, strings [n]; null where there is none. May block.

        Raises:
            K2IError: what has no value for now cannot be kept.
        """
        places: npt.NDArray[np.int64] = np.full(len(raw), -1, np.int64)
        parts: list[pa.Array] = [pa.array([], pa.string())]
        unknown: dict[int, list[Indices]] = {}
        read = 0
        for group in self._framing.of(raw).groups:
            reader, records = self._writers[group.writer], group.records
            if isinstance(reader, DecodeError):
                if is_unknown(reader):
                    unknown.setdefault(group.writer.schema_id, []).append(records)
                continue
            parts.append(reader.read(group.payloads))
            places[records] = np.arange(read, read + len(records))
            read += len(records)
            self._unread.note_read(group.writer.schema_id)
            spans = self._unread.unread(group.writer.schema_id)
            places[records[_within(raw, records, spans)]] = -1
        if unknown:
            self._unread.keep_unread(
                {one: _spans(raw, np.concatenate(records)) for one, records in unknown.items()}
            )
        texts = pa.concat_arrays(parts).take(pa.array(places, mask=places < 0))
        return bounded(texts)


def _within(
    raw: RawBatch, records: Indices, spans: Mapping[int, Sequence[OffsetRange]]
) -> npt.NDArray[np.bool_]:
    """Marks the records that lie in the spans of their partitions."""
    marked = np.zeros(len(records), np.bool_)
    for partition, apart in spans.items():
        offsets, here = raw.offsets[records], raw.partitions[records] == partition
        for span in apart:
            marked |= here & (offsets >= span.start) & (offsets < span.end)
    return marked


def _spans(raw: RawBatch, records: Indices) -> dict[int, OffsetRange]:
    """By partition, the least range of offsets that the records lie in."""
    found = {}
    for partition in np.unique(raw.partitions[records]).tolist():
        offsets = raw.offsets[records[raw.partitions[records] == partition]]
        found[partition] = OffsetRange(int(offsets.min()), int(offsets.max()) + 1)
    return found


def _avro(schema: WriterSchema, path: MessagePath, *, names: Sequence[str]) -> MemberReader:
    from k2i_tasks.codecs.avro import AvroDecoder
    from k2i_tasks.codecs.avro_schema import parse_schema

    text = text_of(schema, "AVRO")
    decoder = AvroDecoder(text, schema.references)
    return MemberReader(decoder, avro_steps(parse_schema(text, schema.references), names))


def _protobuf(schema: WriterSchema, path: MessagePath, *, names: Sequence[str]) -> MemberReader:
    from k2i_tasks.codecs.protobuf import ProtobufDecoder

    kind = message_of(schema, path)
    # Whatever the tables do about nanoseconds, the record can be read.
    decoder = ProtobufDecoder(kind, truncates=True)
    return MemberReader(decoder, column_steps(decoder.schema, names) if kind.fields else ())


_MAKERS: dict[str, Callable[..., MemberReader]] = {"avro": _avro, "protobuf": _protobuf}
