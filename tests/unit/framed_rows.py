"""Writers for tests of framed payloads: a schema is a list of columns, a payload its values.

It stands for any format: what is tested is what becomes of several writers' rows.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from k2i_tasks.codecs.base import decoded_whole
from k2i_tasks.codecs.framed import FramedDecoder
from k2i_tasks.codecs.frames import MessagePath
from k2i_tasks.codecs.payloads import DecodedPayloads, PayloadDecoder, Payloads
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.codecs.writers import Writers
from k2i_tasks.errors import DecodeError
from k2i_tasks.registry import WriterSchema
from k2i_tasks.types import DecodedBatch
from tests.schema_registry import frame
from tests.unit.codec_batches import COLUMNS, batch_of


class RowsDecoder:
    """Payloads are rows as Python literals; `!` is one that cannot be decoded."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def decode(self, payloads: Payloads) -> DecodedPayloads:
        errors = {
            n: DecodeError("rows.bad", "Bad.") for n in range(len(payloads)) if payloads[n] == b"!"
        }
        rows = [
            ast.literal_eval(payloads[n].decode()) for n in range(len(payloads)) if n not in errors
        ]
        return DecodedPayloads(pa.Table.from_pylist(rows, schema=self.schema), errors)


class Known:
    """Stands for a registry: schemas by id; `missing` are not there yet, and fetching fails."""

    def __init__(self, schemas: Mapping[int, pa.Schema]) -> None:
        self.schemas = dict(schemas)
        self.failure: Exception | None = None
        self.asked: list[int] = []

    def schema(self, schema_id: int) -> WriterSchema:
        self.asked.append(schema_id)
        if self.failure is not None:
            raise self.failure
        if schema_id not in self.schemas:
            raise DecodeError("registry.unknown_id", f"No schema {schema_id}.")
        return WriterSchema(schema_id, "AVRO", str(schema_id), {})

    def make(self, schema: WriterSchema, path: MessagePath) -> PayloadDecoder:
        return RowsDecoder(self.schemas[schema.id])


def framed(
    known: Known,
    table: pa.Schema | None = None,
    *,
    mode: str = "auto-additive",
    rules: Rules | None = None,
    **options: Any,
) -> FramedDecoder:
    writers: Writers[PayloadDecoder] = Writers(known, known.make, **options)  # type: ignore[arg-type]
    return FramedDecoder(
        "avro", writers, COLUMNS, table, max_message_bytes=1000, mode=mode, rules=rules
    )


def row(schema_id: int, **values: Any) -> bytes:
    return frame(schema_id, repr(values).encode())


def decoded(decoder: FramedDecoder, *values: bytes | None) -> DecodedBatch:
    return decoded_whole(decoder, batch_of(values), 0.0)
