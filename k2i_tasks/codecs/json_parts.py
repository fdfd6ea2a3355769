"""The parts of a page that are read at once: by their layout, and by Arrow's reader beside it.

A walk is of one thread, since each of its many steps needs the interpreter's lock. Arrow's reader
needs twice the time for a document and no lock, so that further processors have some with it; one
is left to what else there is, files and the Kafka client, so that of two none is further.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import pyarrow as pa

from k2i_tasks.codecs.json_habit import WALK_RECORDS_MAX
from k2i_tasks.codecs.json_layout import Layout
from k2i_tasks.codecs.json_page import Page
from k2i_tasks.codecs.parallel import processors
from k2i_tasks.codecs.wire import RefusedError, Rows

Error = TypeVar("Error", bound=Exception)

#: Most bytes that are read at once, and fewest that are worth a thread's while.
PART_BYTES_MAX, SHARE_BYTES_MIN = 32 * 1024 * 1024, 512 * 1024
#: How fast Arrow's reader is beside a walk.
READER_SPEED = 0.45


class Part(NamedTuple):
    """Payloads [low, high), read by their layout; by Arrow's reader if that is None."""

    low: int
    high: int
    layout: Layout | None


class Read(NamedTuple):
    """Payloads [low, high).

    Args:
        found: their rows, and the places of those whose rows mean nothing, None where no layout was
            expected; or why there are no rows.
    """

    low: int
    high: int
    found: tuple[pa.Table, Rows | None] | RefusedError


def parts_of(page: Page, start: int, end: int, layout: Layout | None, *, wide: bool) -> list[Part]:
    """Payloads [start, end), shared out among the processors.

    Args:
        page: theirs.
        start, end: places, start < end.
        layout: what is expected of them, if anything.
        wide: whether larger parts may be read by Arrow's reader, which are refused as a whole.

    Returns:
        Parts that follow one another, of which the first is for the thread that asks; none if they
        are better read in turn.
    """
    if layout is None:
        shares = page.shares(start, end, processors(), SHARE_BYTES_MIN) if wide else []
        return [Part(*share, None) for share in shares] if len(shares) > 1 else []
    others = max(0, processors() - 2) if wide else 0
    size = page.size_bytes(start, end)
    # Who walks is done with its part when the others, who are slower, are with theirs.
    walked = int(size / (1 + others * READER_SPEED))
    if size - walked < SHARE_BYTES_MIN:
        return [Part(start, end, layout)]
    cut = page.end_of(start, end - start, walked)
    if cut == end:
        return [Part(start, end, layout)]
    shares = page.shares(cut, end, others, SHARE_BYTES_MIN)
    return [Part(start, cut, layout), *(Part(*share, None) for share in shares)]


def read_part(page: Page, part: Part, schema: pa.Schema) -> Iterator[Read]:
    """What is found of a part, in order. Thread-safe while the page is not changed.

    Args:
        page: of the part.
        part: what to read.
        schema: wire types.
    """
    if part.layout is None:
        try:
            yield Read(part.low, part.high, (page.read(part.low, part.high, schema), None))
        except RefusedError as refused:
            yield Read(part.low, part.high, alone(refused))
        return
    for low in range(part.low, part.high, WALK_RECORDS_MAX):
        high = min(low + WALK_RECORDS_MAX, part.high)
        yield Read(low, high, page.walk(low, high, part.layout, schema))


def alone(error: Error) -> Error:
    """Without its frames: the page and what was read of it would be kept with them."""
    error.__context__ = None
    return error.with_traceback(None)
