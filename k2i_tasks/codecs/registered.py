"""The formats whose schemas are in a registry, and what makes their decoders.

Modules of a format are imported with its first schema: not everybody needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from k2i_tasks.codecs.framed import FramedDecoder
from k2i_tasks.codecs.frames import MessagePath
from k2i_tasks.codecs.json_framed import FramedJsonDecoder
from k2i_tasks.codecs.json_schema import json_schema_columns
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.codecs.payloads import PayloadDecoder
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.codecs.writers import Writers
from k2i_tasks.errors import DecodeError
from k2i_tasks.registry import Schemas, WriterSchema

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

RegisteredDecoder = FramedDecoder | FramedJsonDecoder


def registered_decoder(
    format: str,
    schemas: Schemas,
    *,
    columns: MetadataColumns,
    table_schema: pa.Schema | None,
    max_message_bytes: int,
    mode: str,
    rules: Rules,
    unknown_seconds: float,
    truncates: bool = False,
) -> RegisteredDecoder:
    """The decoder of a format of `MAKERS`.

    Args:
        schemas: the registry's.
        unknown_seconds: how long the registry's "not known" is believed.
        truncates: whether nanoseconds of Protobuf timestamps are cut off, and not refused.
        columns, table_schema, max_message_bytes, mode, rules: as for `make_decoder`.
    """
    make = MAKERS[format]
    if format == "protobuf":
        make = partial(_protobuf, truncates=truncates)
    writers: Writers[Any] = Writers(schemas, make, unknown_seconds=unknown_seconds)
    if format == "jsonschema":
        return FramedJsonDecoder(
            writers,
            columns,
            table_schema,
            max_message_bytes=max_message_bytes,
            mode=mode,
            rules=rules,
        )
    return FramedDecoder(
        format,
        writers,
        columns,
        table_schema,
        max_message_bytes=max_message_bytes,
        mode=mode,
        rules=rules,
    )


def columns_of(format: str, schema: WriterSchema, message_type: str | None = None) -> pa.Schema:
    """The columns that records of `schema` have. May block on a compiler.

    Args:
        message_type: full name of a type in a Protobuf file; its first one for None.

    Raises:
        DecodeError: it is of another format, or cannot be used.
        TransientError: the compiler could not be run here and now.
    """
    if format == "protobuf":
        return _protobuf(schema, message_type or (0,)).schema
    made = MAKERS[format](schema, ())
    return made if isinstance(made, pa.Schema) else made.schema


def _json_columns(schema: WriterSchema, path: MessagePath) -> pa.Schema:
    return json_schema_columns(text_of(schema, "JSON"), schema.references)


def _avro(schema: WriterSchema, path: MessagePath) -> PayloadDecoder:
    from k2i_tasks.codecs.avro import AvroDecoder

    return AvroDecoder(text_of(schema, "AVRO"), schema.references)


def _protobuf(
    schema: WriterSchema, which: MessagePath | str, *, truncates: bool = False
) -> PayloadDecoder:
    """The decoder of a message type, by its path or full name."""
    from k2i_tasks.codecs.protobuf import ProtobufDecoder

    return ProtobufDecoder(message_of(schema, which), truncates=truncates)


def message_of(schema: WriterSchema, which: MessagePath | str) -> Descriptor:
    """The message type of `schema` by its path or full name. May block on a compiler.

    Raises:
        DecodeError: there is none, or the schema is of another format, or cannot be used.
        TransientError: the compiler could not be run here and now.
    """
    from k2i_tasks.codecs.protobuf_compile import compile_schema
    from k2i_tasks.codecs.protobuf_schema import message_at, message_named

    file = compile_schema(text_of(schema, "PROTOBUF"), schema.references)
    return message_named(file, which) if isinstance(which, str) else message_at(file, which)


def text_of(schema: WriterSchema, kind: str) -> str:
    """The schema's text.

    Raises:
        DecodeError: it is of another kind.
    """
    if schema.kind != kind:
        what = f"Schema {schema.id} of the registry is of type {schema.kind}, not {kind}."
        raise DecodeError("schema.wrong_type", what)
    return schema.text


#: Format -> what makes, of a writer's schema, its decoder (or for JSON, its columns).
MAKERS: dict[str, Callable[[WriterSchema, MessagePath], PayloadDecoder | pa.Schema]] = {
    "avro": _avro,
    "jsonschema": _json_columns,
    "protobuf": _protobuf,
}
