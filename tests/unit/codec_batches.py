"""Batches for the JSON decoder's tests, and short ways to look at what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs import Decoder, MetadataColumns, make_decoder
from k2i_tasks.codecs.rules import Rules
from k2i_tasks.types import DecodedBatch, OffsetRange, RawBatch, TopicPartition

COLUMNS = MetadataColumns()


def records(start: int, end: int) -> RawBatch:
    """Partition 0 from `start` to `end`; the payload is the offset."""
    return batch_of([b'{"n":%d}' % n for n in range(start, end)], start)


def batch_of(values: Sequence[bytes | None], start: int = 0) -> RawBatch:
    count = len(values)
    return RawBatch(
        topic="t",
        partitions=np.zeros(count, np.int32),
        offsets=np.arange(start, start + count, dtype=np.int64),
        timestamps_ms=np.full(count, 1_700_000_000_000, np.int64),
        keys=[b"k"] * count,
        values=values,
        headers=None,
        ranges={TopicPartition("t", 0): OffsetRange(start, start + count)},
        payload_bytes=sum(len(value or b"") for value in values),
    )


def decoder_of(
    table: Iterable[tuple[str, pa.DataType] | pa.Field] | None = None,
    *,
    mode: str = "auto-additive",
    rules: Rules | None = None,
) -> Decoder:
    schema = None if table is None else pa.schema(list(table))
    return make_decoder(
        "json",
        columns=COLUMNS,
        table_schema=schema,
        max_message_bytes=10_000,
        mode=mode,
        rules=rules,
    )


def decode(decoder: Decoder, *values: bytes | None) -> DecodedBatch:
    return decoder.decode(batch_of(values))


def payload(decoded: DecodedBatch) -> list[dict[str, Any]]:
    names = COLUMNS.without(decoded.table.schema).names
    return list(decoded.table.select(names).to_pylist()) if names else []


def codes(decoded: DecodedBatch) -> list[str]:
    return [letter.code for letter in decoded.dead_letters]


def types_of(decoder: Decoder) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in decoder.schema or ()}
