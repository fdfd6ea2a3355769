"""The payloads of one batch joined in one buffer, and the fast reading of a part of it.

Why rows and messages cannot shift against each other. Every payload in a page begins with `{`, ends
with `}`, is UTF-8 and holds no NUL byte; payloads are joined by newlines. Look at the reader's
state at such a newline. It is not inside a string, for a raw newline is not allowed there. If it is
inside an unfinished document, the last byte `}` closed an inner object, so that the next byte must
be a comma or a closing bracket; but the next payload begins with `{`: the reader fails. So in a
reading that does not fail each newline of ours lies between documents, and each payload is one or
more whole documents. Hence rows >= payloads, and rows == payloads means one document each, in
order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.json

from k2i_tasks.codecs.json_exact import WHITESPACE, parse_document
from k2i_tasks.codecs.wire import RefusedError
from k2i_tasks.errors import DecodeError

_OPEN, _CLOSE = b"{}"
_ROW = re.compile(r" in row (\d+)$")
_DRIFT = re.compile(
    r"Column\(.*/([^/]+)\) changed from (?!null)\w+ to (\w+) in row \d+$", re.DOTALL
)
#: What the value of a kind begins with.
_BEGINS = {
    "string": rb'"',
    "object": rb"\{",
    "array": rb"\[",
    "boolean": rb"[tf]",
    "number": rb"[-0-9]",
}
_LITERAL = re.compile(r"couldn't parse:(.+)$", re.DOTALL)
#: What may stand beside a number, or beside text that was refused.
_BEFORE_VALUE = frozenset({b":", b"[", b",", b" ", b"\t", b"\r", b"\n", b'"'})
_AFTER_VALUE = frozenset({b",", b"]", b"}", b" ", b"\t", b"\r", b"\n", b'"'})
_TOMBSTONE = b"{}"
_BOM = b"\xef\xbb\xbf"


class Page:
    """Payloads that may be read fast, and the reasons why others may not be read at all.

    Args:
        values: payloads of the batch, None for a tombstone.
        max_message_bytes: longer payloads are refused.

    Attributes:
        records: int64 [m], record index of each payload in the page, rising.
        errors: record index -> reason, for the records that are not in the page.
    """

    def __init__(self, values: Sequence[bytes | None], max_message_bytes: int) -> None:
        self.errors: dict[int, DecodeError] = {}
        self.records: npt.NDArray[np.int64] = np.arange(len(values), dtype=np.int64)
        texts = [_TOMBSTONE if value is None else value for value in values]
        self._join(texts)
        fit = self._fit(max_message_bytes)
        sound = _is_text(self._body)
        if not sound or not fit.all():
            suspects = np.arange(len(texts)) if not sound else np.flatnonzero(~fit)
            self._set_aside(texts, suspects.tolist(), max_message_bytes)
        self._buffer = pa.py_buffer(self._body)
        #: What `read` reads once there are blank places.
        self._changed: bytearray | None = None

    def __len__(self) -> int:
        return len(self.records)

    def payload(self, place: int) -> bytes:
        """Payload number `place` of the page, 0 <= place < m."""
        return self._body[self._starts[place] : self._ends[place]]

    def containing(self, needle: bytes, most: int) -> list[bytes]:
        """Up to `most` payloads that contain `needle`, from the start of the page."""
        found: list[bytes] = []
        at = self._body.find(needle)
        while at >= 0 and len(found) < most:
            place = self.place_at(at)
            found.append(self.payload(place))
            at = self._body.find(needle, int(self._ends[place]))
        return found

    def place_at(self, position: int) -> int:
        """The payload that the byte at `position` belongs to."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def sample(self, most: int) -> list[bytes]:
        """Up to `most` payloads, spread evenly over the page."""
        if not len(self):
            return []
        places = np.unique(np.linspace(0, len(self) - 1, most).astype(np.int64))
        return [self.payload(place) for place in places.tolist()]

    def find(self, literal: bytes, start: int, end: int, most: int) -> list[int]:
        """The payloads in [start, end) with `literal` as a whole value; empty if over `most`."""
        low, high = int(self._starts[start]), int(self._ends[end - 1])
        places: list[int] = []
        at = self._body.find(literal, low, high)
        while at >= 0:
            after = at + len(literal)
            before = self._body[at - 1 : at]
            if before in _BEFORE_VALUE and self._body[after : after + 1] in _AFTER_VALUE:
                if len(places) == most:
                    return []
                places.append(self.place_at(at))
                # The rest of this payload need not be looked at.
                after = int(self._ends[places[-1]])
            at = self._body.find(literal, after, high)
        return places

    def needle(self, place: int, drift: tuple[str, str]) -> bytes | None:
        """What payload `place` holds, as it is written, where it has this drift; None if unclear.

        Args:
            place: a payload that was refused.
            drift: name of the member, and the kind of its value.
        """
        name, kind = drift
        begins = _BEGINS.get(kind)
        if begins is None:
            return None
        member = re.escape(json.dumps(name, ensure_ascii=False).encode())
        found = re.search(member + rb"\s*:\s*" + begins, self.payload(place))
        return found.group() if found else None

    def holding(self, needle: bytes, most: int) -> list[int]:
        """The payloads that contain `needle`; empty if over `most`."""
        places: list[int] = []
        at = self._body.find(needle)
        while at >= 0:
            if len(places) == most:
                return []
            places.append(self.place_at(at))
            at = self._body.find(needle, int(self._ends[places[-1]]))
        return places

    def blank(self, places: Iterable[int]) -> None:
        """From now on `read` finds an empty object in these places, one whole document as well."""
        if self._changed is None:
            self._changed = bytearray(self._body)
            self._buffer = pa.py_buffer(self._changed)
        for place in places:
            start, end = int(self._starts[place]), int(self._ends[place])
            # Of the same length, as the buffer is held: what was read of it is a copy.
            self._changed[start:end] = _TOMBSTONE.ljust(end - start)

    def end_of(self, start: int, records_max: int, bytes_max: int) -> int:
        """End of the part from `start` within both bounds; at least one payload long."""
        limit = int(self._starts[start]) + bytes_max
        by_bytes = int(np.searchsorted(self._ends, limit, side="right"))
        return max(start + 1, min(start + records_max, by_bytes, len(self)))

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
        return table

    def _join(self, texts: list[bytes]) -> None:
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        # With an empty piece at the end, for another newline without another copy.
        self._body = b"\n".join([*texts, b""]) or b"\n"
        self._ends = np.cumsum(sizes + 1) - 1
        self._starts = self._ends - sizes

    def _fit(self, max_message_bytes: int) -> npt.NDArray[np.bool_]:
        chars = np.frombuffer(self._body, np.uint8)
        sizes = self._ends - self._starts
        edges = (chars[self._starts] == _OPEN) & (chars[self._ends - 1] == _CLOSE)
        fit: npt.NDArray[np.bool_] = edges & (sizes >= 2) & (sizes <= max_message_bytes)
        return fit

    def _set_aside(self, texts: list[bytes], suspects: list[int], max_message_bytes: int) -> None:
        """Trim the suspects that can be trimmed, give the rest a reason, join what is left."""
        for index in suspects:
            text = texts[index]
            if len(text) <= max_message_bytes:
                text = text.removeprefix(_BOM).strip(WHITESPACE)
                if text[:1] == b"{" and text[-1:] == b"}" and len(text) > 1 and _is_text(text):
                    texts[index] = text
                    continue
            self.errors[index] = _reason(text, max_message_bytes)
        if self.errors:
            kept = [index for index in range(len(texts)) if index not in self.errors]
            self.records = np.array(kept, dtype=np.int64)
            texts = [texts[index] for index in kept]
        self._join(texts)


def _is_text(body: bytes) -> bool:
    if b"\0" in body:
        return False
    if body.isascii():
        return True
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _reason(text: bytes, max_message_bytes: int) -> DecodeError:
    try:
        parse_document(text, max_message_bytes)
    except DecodeError as error:
        return error
    raise AssertionError("a document that is not an object in UTF-8 was parsed as one")


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
