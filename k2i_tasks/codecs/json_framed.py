"""Framed JSON: the writers' JSON Schemas name columns, the JSON decoder reads the values."""

from __future__ import annotations

import pyarrow as pa

from k2i_tasks.codecs.base import assemble
from k2i_tasks.codecs.frames import HEAD_BYTES, Framing, schema_id_of
from k2i_tasks.codecs.json import JsonDecoder
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.codecs.writers import Writers, ready_records
from k2i_tasks.errors import DecodeError
from k2i_tasks.types import DecodedBatch, RawBatch


class FramedJsonDecoder:
    """One JSON object per message; columns by the schemas first, then by what records bring.

    Args:
        writers: gives the columns of writers' schemas.
        columns: names of the metadata columns.
        table_schema: columns of the table, None when it does not exist.
        max_message_bytes: a longer payload is a dead letter.
        mode: "manual" adds no columns (but creates them once where there is no table).
        rules: bounds, hints and what is done about conflicts.
    """

    def __init__(
        self,
        writers: Writers[pa.Schema],
        columns: MetadataColumns,
        table_schema: pa.Schema | None,
        *,
        max_message_bytes: int,
        mode: str,
        rules: Rules | None = None,
    ) -> None:
        self._writers = writers
        self._metadata = columns
        self._framing = Framing("json", paths=False, max_message_bytes=max_message_bytes)
        self._json = JsonDecoder(
            columns, table_schema, max_message_bytes=max_message_bytes, mode=mode, rules=rules
        )

    @property
    def schema(self) -> pa.Schema | None:
        """Payload columns known so far; None before the first."""
        return self._json.schema

    def adopt(self, given: pa.Schema) -> None:
        """Takes the columns of a schema in before its first record, as far as the mode allows."""
        self._json.adopt(given)

    def prepare(self, raw: RawBatch, timeout_seconds: float) -> int:
        """Gets the schemas that `raw` needs; see `Decoder.prepare`."""
        return ready_records(self._writers, self._framing.of(raw), len(raw), timeout_seconds)

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """One row or one dead letter per record; must not block; never raises for a bad record."""
        frames = self._framing.of(raw)
        errors = dict(frames.errors)
        for group in frames.groups:
            given = self._writers[group.writer]
            if isinstance(given, DecodeError):
                errors.update(dict.fromkeys(group.records.tolist(), given))
            else:
                self._json.adopt(given)
        kept = [index for index in range(len(raw)) if index not in errors]
        found = (raw.values[index] for index in kept)
        payload, refused = self._json.read(
            [None if value is None else value[HEAD_BYTES:] for value in found]
        )
        errors |= {kept[place]: error for place, error in refused.items()}
        schema = self._json.schema or pa.schema([])
        return assemble(raw, payload, schema, errors, self._metadata, schema_id_of)
