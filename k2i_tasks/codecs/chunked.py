"""Payloads decoded in chunks, and which of them have failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from k2i_tasks.codecs.payloads import DecodedPayloads, Payloads
from k2i_tasks.codecs.vector import Positions, Source
from k2i_tasks.errors import DecodeError
from k2i_tasks.no_rows import no_rows

#: Payloads read at once: many enough that a step's fixed cost does not count, few enough that
#: their bytes stay in the processor's cache from field to field.
CHUNK_ROWS = 16_384
CHUNK_BYTES = 1 << 26


class Failures:
    """The first reason of each of n payloads that has failed.

    Attributes:
        reasons: payload -> why.
        failed: marks the same payloads.
    """

    def __init__(self, count: int) -> None:
        self.reasons: dict[int, DecodeError] = {}
        self.failed = np.zeros(count, bool)

    def add(self, payloads: Positions, code: str, what: str) -> None:
        """Marks `payloads` as failed; `what` is told of those that had not failed before."""
        # One payload may have many items that are bad.
        fresh = np.unique(payloads[~self.failed[payloads]])
        self.failed[fresh] = True
        for payload in fresh.tolist():
            self.reasons[payload] = DecodeError(code, what)


#: Reads payloads of a source, by their starts and ends, rising: the columns, also for those that
#: have failed, and which those are.
DecodeChunk = Callable[[Source, Positions, Positions], tuple[list[pa.Array], Failures]]


def decode_in_chunks(payloads: Payloads, schema: pa.Schema, decode: DecodeChunk) -> DecodedPayloads:
    """One row or one error for each payload."""
    tables: list[pa.Table] = []
    errors: dict[int, DecodeError] = {}
    for first, some in _chunks(payloads):
        table, reasons = _decoded(some, schema, decode)
        tables.append(table)
        errors.update((first + row, error) for row, error in reasons.items())
    if not tables:
        return DecodedPayloads(no_rows(schema), errors)
    return DecodedPayloads(pa.concat_tables(tables), errors)


def _decoded(
    payloads: Payloads, schema: pa.Schema, decode: DecodeChunk
) -> tuple[pa.Table, Mapping[int, DecodeError]]:
    arrays, failures = decode(*_placed(payloads))
    table = pa.Table.from_arrays(arrays, schema=schema)
    if failures.reasons:
        table = table.filter(pa.array(~failures.failed))
    return table, failures.reasons


def _chunks(payloads: Payloads) -> Iterator[tuple[int, Payloads]]:
    """Parts of `CHUNK_ROWS` or `CHUNK_BYTES`, at least one payload each, and their first index."""
    total = np.cumsum(payloads.ends - payloads.starts)
    first = 0
    while first < len(payloads):
        before = int(total[first - 1]) if first else 0
        fitting = int(np.searchsorted(total, before + CHUNK_BYTES, side="right"))
        last = min(max(fitting, first + 1), first + CHUNK_ROWS)
        part = slice(first, last)
        yield first, Payloads(payloads.data, payloads.starts[part], payloads.ends[part])
        first = last


def _placed(payloads: Payloads) -> tuple[Source, Positions, Positions]:
    """A source of the bytes around the payloads, and their starts and ends in it, rising."""
    starts, ends = payloads.starts, payloads.ends
    low, high = int(starts.min()), int(ends.max())
    rising = len(starts) < 2 or bool((starts[1:] >= ends[:-1]).all())
    if not rising or high - low > 2 * CHUNK_BYTES:
        # Out of order, or with wide gaps: side by side they are read faster.
        joined = Payloads.joined([payloads[row] for row in range(len(payloads))])
        return Source(joined.data, int(joined.ends[-1])), joined.starts, joined.ends
    return Source(payloads.data[low:], high - low), starts - low, ends - low
