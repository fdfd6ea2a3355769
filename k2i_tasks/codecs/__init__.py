"""Codecs: many payloads in, one Arrow batch and dead letters out."""

from __future__ import annotations

import pyarrow as pa

from k2i_tasks.codecs.base import Decoder
from k2i_tasks.codecs.json import JsonDecoder
from k2i_tasks.codecs.metadata import MetadataColumns
from k2i_tasks.codecs.raw import PlainDecoder
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.errors import ConfigError

__all__ = ["FORMATS", "Decoder", "JsonDecoder", "MetadataColumns", "PlainDecoder", "make_decoder"]

#: The payload formats that `make_decoder` knows.
FORMATS = ("raw", "string", "json")

#: Words of `schema_evolution.mode`.
MODES = ("manual", "auto-additive", "permissive")


def make_decoder(
    format: str,
    *,
    columns: MetadataColumns,
    table_schema: pa.Schema | None,
    max_message_bytes: int,
    mode: str,
    rules: Rules | None = None,
) -> Decoder:
    """The decoder of a payload format.

    Args:
        format: one of `FORMATS`.
        columns: names of the metadata columns.
        table_schema: the table's columns when the table exists; metadata columns in it are ignored.
        max_message_bytes: a longer payload becomes a dead letter.
        mode: "auto-additive" and "permissive" add columns for new fields; "manual" does not.
        rules: bounds, hints and what is done about conflicts.

    Raises:
        ConfigError: unknown format or mode, or metadata columns that clash with the payload's.
        SchemaConflictError: the table's columns cannot hold this format.
    """
    if mode not in MODES:
        what = f"schema_evolution.mode is {mode!r}; it is one of {', '.join(MODES)}."
        raise ConfigError(what, field="schema_evolution.mode")
    if format == "json":
        return JsonDecoder(
            columns, table_schema, max_message_bytes=max_message_bytes, mode=mode, rules=rules
        )
    if format in ("raw", "string"):
        payload = pa.binary() if format == "raw" else pa.string()
        return PlainDecoder(payload, columns, table_schema, max_message_bytes=max_message_bytes)
    what = f"kafka.format.type is {format!r}; it is one of {', '.join(FORMATS)}."
    raise ConfigError(what, field="kafka.format.type")
