"""The payloads of one batch joined in one buffer, and the fast reading of a part of it.

Why rows and messages cannot shift against each other. Every payload that is read begins with `{`
and ends with `}`, white space aside, is UTF-8 and holds no NUL byte; where one is not so, `{}` is
read. Payloads are joined by newlines. Look at the reader's state at such a newline. It is not
inside a string, for a raw newline is not allowed there. If it is inside an unfinished document, the
last byte `}` closed an inner object, so that the next byte must be a comma or a closing bracket;
but the next payload begins with `{`: the reader fails. So in a reading that does not fail each
newline of ours lies between documents, and each payload is one or more whole documents. Hence rows
>= payloads, and rows == payloads means one document each, in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json

from k2i_tasks.codecs.json_exact import WHITESPACE
from k2i_tasks.codecs.json_layout import LEAD_BYTES_MAX, Layout
from k2i_tasks.codecs.json_walk import HEAD_BYTES, Walk
from k2i_tasks.codecs.null_lists import with_all_nulls
from k2i_tasks.codecs.vector import Source
from k2i_tasks.codecs.wire import RefusedError

Places = npt.NDArray[np.int64]

_BRACES = _OPEN, _CLOSE = b"{}"
_BRACKETS = b"[]"
_QUOTE, _BACKSLASH = b'"\\'
_ROW = re.compile(r" in row (\d+)$")
_DRIFT = re.compile(
    r"Column\(.*/([^/]+)\) changed from (?!null)\w+ to (\w+) in row \d+$", re.DOTALL
)
_LITERAL = re.compile(r"couldn't parse:(.+)$", re.DOTALL)
#: What may stand beside a number, or beside text that was refused.
_BEFORE_VALUE = frozenset({b":", b"[", b",", b" ", b"\t", b"\r", b"\n", b'"'})
_AFTER_VALUE = frozenset({b",", b"]", b"}", b" ", b"\t", b"\r", b"\n", b'"'})
#: What is searched at once, for a processor's cache; and what tells how rare two bytes are.
_BLOCK_BYTES, _SAMPLE_BYTES = 256 * 1024, 8 * 1024
#: Payloads that are looked at together for what is not UTF-8.
_TEXTS = 64
_IS_WHITE = np.isin(np.arange(256), list(WHITESPACE))
_TOMBSTONE = b"{}"
#: What may be looked at behind the last payload.
_ROOM = b" " * (LEAD_BYTES_MAX + HEAD_BYTES + 16)
_BOM = b"\xef\xbb\xbf"


class Page:
    """The payloads of a batch, and which of them may not be read fast.

    Args:
        values: n payloads of the batch, None for a tombstone. Their places are 0 to n - 1.
        max_message_bytes: longer payloads are not read.

    Attributes:
        unfit: int64, rising, the places where `read` finds an empty object, since what is there is
            no object in UTF-8, or too long.
    """

    def __init__(self, values: Sequence[bytes | None], max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        texts: list[bytes] = (
            list(values)  # type: ignore[arg-type]
            if all(values)  # as nearly always, and much faster told than looked at one by one
            else [_TOMBSTONE if value is None else value for value in values]
        )
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        # Room for an empty object in each place; no white space is told of in a reason.
        short = np.flatnonzero(sizes < len(_TOMBSTONE))
        for place in short.tolist():
            texts[place] = texts[place].ljust(len(_TOMBSTONE))
        sizes[short] = len(_TOMBSTONE)
        # With a piece at the end, for another newline and room without another copy.
        self._body = bytearray(b"\n").join([*texts, _ROOM])
        self._chars = np.frombuffer(self._body, np.uint8)
        self._ends = np.cumsum(sizes + 1) - 1
        self._starts = self._ends - sizes
        self._buffer = pa.py_buffer(self._body)
        #: What was in the places that are blank.
        self._blanked: dict[int, bytes] = {}
        self.unfit: Places = np.array(self._unfit(), np.int64)
        self.blank(self.unfit.tolist())

    def __len__(self) -> int:
        return len(self._starts)

    def payload(self, place: int) -> bytes:
        """What is in a place, without white space and byte order mark around it."""
        text = self._blanked.get(place)
        if text is None:
            text = bytes(self._body[self._starts[place] : self._ends[place]])
        if len(text) > self._max_message_bytes:
            return text
        return text.removeprefix(_BOM).strip(WHITESPACE)

    def containing(self, needle: bytes, most: int) -> list[bytes]:
        """Up to `most` fit payloads that contain `needle`, from the start of the page."""
        unfit = set(self.unfit.tolist())
        blank = ((place, text) for place, text in self._blanked.items() if place not in unfit)
        places = [place for place, text in blank if needle in text]
        blanked = len(places)
        at = self._body.find(needle)
        while at >= 0 and len(places) < blanked + most:
            places.append(self.place_at(at))
            at = self._body.find(needle, int(self._ends[places[-1]]))
        return [self.payload(place) for place in sorted(places)[:most]]

    def place_at(self, position: int) -> int:
        """The payload that the byte at `position` belongs to."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def sample(self, most: int) -> list[bytes]:
        """Up to `most` payloads that may be read, spread evenly over the page."""
        places = np.setdiff1d(np.arange(len(self)), self.unfit, assume_unique=True)
        if not len(places):
            return []
        chosen = np.unique(np.linspace(0, len(places) - 1, most).astype(np.int64))
        return [self.payload(place) for place in places[chosen].tolist()]

    def find(self, literal: bytes, start: int, end: int, most: int) -> list[int]:
        """The payloads in [start, end) with `literal` as a whole value; empty if over `most`."""
        low, high = int(self._starts[start]), int(self._ends[end - 1])
        places: list[int] = []
        at = self._body.find(literal, low, high)
        while at >= 0:
            after = at + len(literal)
            before, behind = bytes(self._body[at - 1 : at]), bytes(self._body[after : after + 1])
            if before in _BEFORE_VALUE and behind in _AFTER_VALUE:
                if len(places) == most:
                    return []
                places.append(self.place_at(at))
                # The rest of this payload need not be looked at.
                after = int(self._ends[places[-1]])
            at = self._body.find(literal, after, high)
        return places

    def holding(self, needles: Sequence[bytes], most: int) -> list[list[int]]:
        """For each needle, of two bytes at least, the fit payloads with it; none if over `most`."""
        rarest = [self._rarest(needle) for needle in needles]
        pairs = {needle[at : at + 2] for needle, at in zip(needles, rarest, strict=True)}
        places: list[set[int]] = [set() for _ in needles]
        longest = max(map(len, needles), default=0)
        # By bytes, not by payloads: a single one may be very large.
        for start in range(0, len(self._body), _BLOCK_BYTES):
            chars = self._chars[start : start + _BLOCK_BYTES + longest]
            seen = _pairs(chars, pairs)
            for needle, rare, some in zip(needles, rarest, places, strict=True):
                if len(some) > most:
                    continue
                found = seen - rare
                found = found[(found >= 0) & (found <= len(chars) - len(needle))]
                # What is rare first, so that little is left to compare.
                for at in (rare, rare + 1, *range(len(needle))):
                    found = found[chars[found + at] == needle[at]]
                owners = np.searchsorted(self._starts, found + start, side="right") - 1
                some.update(self._fit_of(owners))
        return [sorted(some) if len(some) <= most else [] for some in places]

    def _rarest(self, needle: bytes) -> int:
        """Where in a needle the two bytes are that a page has least of."""
        return min(
            range(len(needle) - 1),
            key=lambda at: self._body.count(needle[at : at + 2], 0, _SAMPLE_BYTES),
        )

    def unbalanced(self, most: int) -> list[int]:
        """The fit payloads with a quote or a bracket too many or too few; empty if over `most`.

        Near enough for a suspicion: brackets in texts count, escaped quotes do not.
        """
        places: list[int] = []
        for low, high in self._blocks():
            starts = self._starts[low:high] - self._starts[low]
            chars = self._chars[self._starts[low] : self._ends[high - 1]]
            quotes = chars == _QUOTE
            quotes[1:] &= chars[:-1] != _BACKSLASH
            odd = _summed(quotes.view(np.uint8), starts) & 1
            for opening, closing in (_BRACES, _BRACKETS):
                more = (chars == opening).view(np.uint8) - (chars == closing).view(np.uint8)
                odd |= _summed(more, starts)
            found = np.flatnonzero(odd)
            if len(found):
                places += self._fit_of(found + low)
            if len(places) > most:
                return []
        return places

    def blank(self, places: Iterable[int]) -> None:
        """From now on `read` finds an empty object in these places, one whole document as well."""
        for place in places:
            start, end = int(self._starts[place]), int(self._ends[place])
            self._blanked[place] = bytes(self._body[start:end])
            # In place, as the buffer is held: what was read of it is a copy.
            self._body[start:end] = _TOMBSTONE.ljust(end - start)

    def end_of(self, start: int, records_max: int, bytes_max: int) -> int:
        """End of the part from `start` within both bounds; at least one payload long."""
        limit = int(self._starts[start]) + bytes_max
        by_bytes = int(np.searchsorted(self._ends, limit, side="right"))
        return max(start + 1, min(start + records_max, by_bytes, len(self)))

    def size_bytes(self, start: int, end: int) -> int:
        """Bytes of the payloads [start, end), and between them."""
        return int(self._ends[end - 1] - self._starts[start]) if start < end else 0

    def shares(self, start: int, end: int, most: int, bytes_min: int) -> list[tuple[int, int]]:
        """Payloads [start, end), start < end, in at most so many parts of about as many bytes.

        Args:
            start, end: places.
            most: parts at most, 1 at least.
            bytes_min: below which a part is not made smaller.
        """
        first, last = int(self._starts[start]), int(self._ends[end - 1])
        count = max(1, min(most, end - start, (last - first) // bytes_min))
        cuts = np.searchsorted(self._ends, np.linspace(first, last, count + 1)[1:-1]) + 1
        bounds: list[int] = np.unique([start, *np.clip(cuts, start, end), end]).tolist()
        return list(pairwise(bounds))

    def read(
        self,
        start: int,
        end: int,
        schema: pa.Schema,
        *,
        others: Literal["error", "ignore"] = "error",
    ) -> pa.Table:
        """Payloads [start, end) as a table of wire types, one row each. Must not block.

        Args:
            start, end: places, start < end.
            schema: columns.
            others: whether members that are no columns are refused.

        Raises:
            RefusedError: a payload is not one document of these columns, or is not JSON.
        """
        first, last = int(self._starts[start]), int(self._ends[end - 1]) + 1
        part = self._buffer.slice(first, last - first)
        try:
            table = pyarrow.json.read_json(
                pa.BufferReader(part),
                # One block: a block that ends inside a payload would cut it at a newline.
                pyarrow.json.ReadOptions(use_threads=False, block_size=last - first + 1),
                pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
            )
        except pa.ArrowInvalid as error:
            raise _refusal(str(error), end - start) from None
        if table.num_rows != end - start:
            raise RefusedError
        return with_all_nulls(table)

    def walk(
        self, start: int, end: int, layout: Layout, schema: pa.Schema
    ) -> tuple[pa.Table, Places]:
        """Payloads [start, end) as `read` has them, by their layout. Must not block.

        Args:
            start, end: places, start < end.
            layout: what is expected of each.
            schema: columns, of types that can be walked.

        Returns:
            One row each, and the places of those that are not as expected, rising, whose rows mean
            nothing.
        """
        # Positions from here on: Arrow's have 32 bits, and a page may have more bytes.
        first, last = int(self._starts[start]), int(self._ends[end - 1]) + 1
        walk = Walk(Source(self._chars[first : last + len(_ROOM)], last - first))
        starts, ends = self._starts[start:end] - first, self._ends[start:end] - first
        table, unlike = walk.read(starts, ends, layout, schema)
        return table, unlike + start

    def _unfit(self) -> list[int]:
        """The places that cannot be read; takes away byte order marks."""
        sizes = self._ends - self._starts
        last = self._ends - 1
        closed = self._chars[last] == _CLOSE
        if not closed.all():
            # Behind a line's end, if each payload has one.
            for _ in b"\r\n":
                last = last - _IS_WHITE[self._chars[last]]
            closed = self._chars[last] == _CLOSE
        fit = (self._chars[self._starts] == _OPEN) & closed & (sizes <= self._max_message_bytes)
        unfit = set() if _is_text(self._body) else set(self._no_text())
        for place in np.flatnonzero(~fit).tolist():
            text = self.payload(place)
            sound = text[:1] == b"{" and text[-1:] == b"}" and len(text) > 1
            if not sound or sizes[place] > self._max_message_bytes:
                unfit.add(place)
            elif self._body.startswith(_BOM, start := int(self._starts[place])):
                self._body[start : start + len(_BOM)] = b" " * len(_BOM)
        return sorted(unfit)

    def _no_text(self) -> Iterator[int]:
        """The places that hold a NUL byte, or are not UTF-8."""
        for low in range(0, len(self), _TEXTS):
            high = min(low + _TEXTS, len(self))
            if not _is_text(self._body[self._starts[low] : self._ends[high - 1]]):
                texts = map(self.payload, range(low, high))
                yield from (low + at for at, text in enumerate(texts) if not _is_text(text))

    def _fit_of(self, places: Places) -> list[int]:
        found: list[int] = np.setdiff1d(places, self.unfit).tolist()
        return found

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """All places, in parts."""
        low = 0
        while low < len(self):
            high = self.end_of(low, len(self), _BLOCK_BYTES)
            yield low, high
            low = high


def _pairs(chars: npt.NDArray[np.uint8], pairs: Iterable[bytes]) -> Places:
    """Where any of these two bytes are, seen at even places and then at odd ones."""
    wanted = [np.frombuffer(pair, np.uint16)[0] for pair in pairs]
    found = []
    for shift in (0, 1):
        words = chars[shift : len(chars) - (len(chars) - shift) % 2].view(np.uint16)
        hits = np.zeros(len(words), np.bool_)
        for pair in wanted:
            hits |= words == pair
        found.append(np.flatnonzero(hits) * 2 + shift)
    return np.concatenate(found)


def _summed(values: npt.NDArray[np.uint8], starts: Places) -> npt.NDArray[np.uint8]:
    """The sum over each payload, modulo 256."""
    sums: npt.NDArray[np.uint8] = np.add.reduceat(values, starts, dtype=np.uint8)
    return sums


def _is_text(body: bytes | bytearray) -> bool:
    if b"\0" in body:
        return False
    if body.isascii():
        return True
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _refusal(message: str, size: int) -> RefusedError:
    """What the reader's message says about the place; only a hint, never relied upon."""
    if found := _ROW.search(message):
        row = int(found[1])
        drift = _DRIFT.search(message)
        told = (drift[1], drift[2]) if drift else None
        return RefusedError(row if row < size else None, drift=told)
    if found := _LITERAL.search(message):
        return RefusedError(literal=found[1].encode())
    return RefusedError()
