"""What every decoder is, and how rows and dead letters are put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.metadata import MetadataColumns, metadata_arrays
from k2i_tasks.errors import ConflictError, DecodeError, TransientError
from k2i_tasks.types import NEWEST_MS, DeadLetter, DecodedBatch, RawBatch, Spread

#: What one dead letter weighs in memory beside its payload bytes.
DEAD_LETTER_OVERHEAD_BYTES = 400
#: Longest wait of one `prepare` where nothing else is to be done, in seconds.
PREPARE_SECONDS = 1.0


class Decoder(Protocol):
    """Turns polled batches into Arrow. Stateful (it learns columns), for one thread."""

    @property
    def schema(self) -> pa.Schema | None:
        """Payload columns known so far, without metadata columns; None before the first."""
        ...

    def prepare(self, raw: RawBatch, timeout_seconds: float) -> int:
        """Gets what `decode` needs for `raw`: schemas that its records name. Idempotent.

        May block for the time-out, and does only while the first record is not ready.

        Returns:
            How many of the first records are ready for `decode`; for the others ask again.

        Raises:
            TransientError: the schema registry is away. Each failure is told once; ask again.
            K2IError: the registry refuses us, or there is none.
        """
        ...

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """One row or one dead letter per record, in record order; never raises for a bad record.

        Only of records that are ready. Must not block: no I/O, no locks.
        """
        ...


def decoded_whole(decoder: Decoder, raw: RawBatch, patience_seconds: float) -> DecodedBatch:
    """`raw` decoded as soon as all of it is ready. Blocks until then.

    Raises:
        TransientError: the schema registry was away for `patience_seconds`.
        K2IError: it refuses us.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            ready = decoder.prepare(raw, 0.0)
            if ready == len(raw):
                return decoder.decode(raw)
            rest = raw.split(ready)[1] if ready else raw
            decoder.prepare(rest, PREPARE_SECONDS)
        except TransientError:
            if time.monotonic() >= deadline:
                raise


def dead_letter(
    raw: RawBatch, index: int, error: DecodeError, schema_id: int | None = None
) -> DeadLetter:
    """Record `index` of `raw`, kept whole, with the reason why it was refused."""
    return DeadLetter(
        topic=raw.topic,
        partition=int(raw.partitions[index]),
        offset=int(raw.offsets[index]),
        timestamp_ms=int(raw.timestamps_ms[index]),
        key=raw.keys[index],
        value=raw.values[index],
        headers=raw.headers[index] if raw.headers is not None else None,
        stage="decode",
        code=error.code,
        reason=error.what,
        schema_id=schema_id,
        conflict=error.path if isinstance(error, ConflictError) else None,
    )


def dead_letter_bytes(letter: DeadLetter) -> int:
    """Bytes that a dead letter holds in memory, near enough for a bound."""
    headers = sum(len(name) + len(value or b"") for name, value in letter.headers or ())
    payload = len(letter.key or b"") + len(letter.value or b"")
    return payload + headers + len(letter.reason) + DEAD_LETTER_OVERHEAD_BYTES


def assemble(
    raw: RawBatch,
    payload: Mapping[str, pa.Array | pa.ChunkedArray],
    payload_schema: pa.Schema,
    errors: Mapping[int, DecodeError],
    columns: MetadataColumns,
    schema_id_of: Callable[[bytes | None], int | None] = lambda _value: None,
) -> DecodedBatch:
    """The decoded batch: payload columns, then metadata columns, and the dead letters.

    Args:
        raw: the polled batch of n records.
        payload: per payload column n - len(errors) values, in record order.
        payload_schema: the payload columns, in order.
        errors: record index -> why it is a dead letter.
        columns: names of the metadata columns.
        schema_id_of: the id of the schema that a value names, for its dead letter.
    """
    kept = None
    if errors:
        mask = np.ones(len(raw), dtype=bool)
        mask[list(errors)] = False
        kept = np.flatnonzero(mask).astype(np.int64)
    metadata = metadata_arrays(raw, columns, kept)
    schema = pa.schema([*payload_schema, *columns.schema()])
    arrays = [payload[field.name] for field in payload_schema]
    table = pa.Table.from_arrays([*arrays, *metadata], schema=schema)
    letters = tuple(
        dead_letter(raw, index, errors[index], schema_id_of(raw.values[index]))
        for index in sorted(errors)
    )
    return DecodedBatch(
        table=table,
        dead_letters=letters,
        ranges=raw.ranges,
        nbytes=int(table.nbytes) + sum(map(dead_letter_bytes, letters)),
        newest_timestamp_ms=int(raw.timestamps_ms.max()) if len(raw) else -1,
        spread=_spread(raw),
    )


def _spread(raw: RawBatch) -> Spread | None:
    """Of the records that have a time which can be shown."""
    stamps = raw.timestamps_ms
    if not len(stamps):
        return None
    oldest, newest = int(stamps.min()), int(stamps.max())
    if oldest >= 0 and newest <= NEWEST_MS:
        return Spread(len(stamps), oldest, newest)
    timed = stamps[(stamps >= 0) & (stamps <= NEWEST_MS)]
    return Spread(len(timed), int(timed.min()), int(timed.max())) if len(timed) else None
