"""One field of n payloads read at once: numpy and Arrow primitives over a shared buffer.

A read takes n cursors and n ends, positions in one `Source`, and gives n values and the cursors
after them. A bad row does not stop the others: it is named, its value is zero and its cursor is put
at its end, where every further read of a byte fails too. So a caller may go on with all rows, as
long as it keeps the first reason of each.

Speed comes from three things: a gather of whole 8-byte words at unaligned positions, from which a
varint is put together by three shifts; a fast path where every varint has one byte; and byte ranges
that Arrow's `take` copies out of a binary array whose offsets are the ranges and the gaps between.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Bytes after the last payload that may be read, though they mean nothing.
PADDING = 16
#: Arrow's offsets have 32 bits.
MAX_BYTES = 2**31 - 1 - PADDING

NO_ROWS: Positions = np.empty(0, np.int64)
_CONTINUES = 0x80
_U64 = np.uint64
_ONE = _U64(1)
_HIGH_BITS = _U64(0x8080808080808080)
_LOW_BITS = _U64(0x7F7F7F7F7F7F7F7F)
#: Groups of 7, 14 and 28 bits, each the lower and the upper one of a pair, and how far they close.
_CLOSING = (
    (_U64(0x007F007F007F007F), _U64(0x7F007F007F007F00), _U64(1)),
    (_U64(0x00003FFF00003FFF), _U64(0x3FFF00003FFF0000), _U64(2)),
    (_U64(0x000000000FFFFFFF), _U64(0x0FFFFFFF00000000), _U64(4)),
)


class Source:
    """A buffer that is read at any position up to its last payload's end.

    Args:
        data: bytes; they are copied only if fewer than `PADDING` follow `end`.
        end: the highest end of a payload, at most `MAX_BYTES`.

    Attributes:
        data: the bytes and at least `PADDING` more.
        arrow: the same memory as an Arrow buffer.
    """

    __slots__ = ("_halves", "_words", "arrow", "data")

    def __init__(self, data: npt.NDArray[np.uint8], end: int) -> None:
        if end > MAX_BYTES:
            raise ValueError(f"{end} bytes at once; {MAX_BYTES} is the most")
        if len(data) < end + PADDING:
            padded = np.zeros(end + PADDING, np.uint8)
            padded[:end] = data[:end]
            data = padded
        self.data = np.ascontiguousarray(data)
        self.arrow = pa.py_buffer(self.data)
        # One word begins at every byte. As bytes without a meaning, since numpy gathers numbers
        # that are not aligned at half the speed.
        self._words = self._pieces(8)
        self._halves = self._pieces(4)

    def words(self, cursors: Positions) -> npt.NDArray[np.uint64]:
        """The 8 bytes at each cursor, the first the lowest; cursors not above `end` + 8."""
        return self._words[cursors].view("<u8")

    def halves(self, cursors: Positions) -> npt.NDArray[np.uint32]:
        """The 4 bytes at each cursor, the first the lowest; cursors not above `end` + 12."""
        return self._halves[cursors].view("<u4")

    def windows(self, cursors: Positions, size: int) -> npt.NDArray[np.uint8]:
        """The `size` bytes at each cursor, uint8 [n, size]; as many must follow it."""
        found: npt.NDArray[np.uint8] = self._pieces(size)[cursors].view(np.uint8)
        return found.reshape(len(cursors), size)

    def _pieces(self, size: int) -> npt.NDArray[np.void]:
        count = len(self.data) - size + 1
        return np.ndarray((count,), f"V{size}", buffer=self.data, strides=(1,))


class Read(NamedTuple):
    """What n reads came to.

    Args:
        values: n values; 0 where the row is bad.
        after: n cursors; the row's end where the row is bad.
        truncated: rows whose value runs past the end, rising.
        invalid: rows whose value has no valid form, rising.
    """

    values: npt.NDArray[Any]
    after: Positions
    truncated: Positions
    invalid: Positions


def read_varints(
    source: Source,
    cursors: Positions,
    ends: Positions,
    *,
    wraps: bool = False,
    most_bytes: int = 10,
) -> Read:
    """LEB128 numbers of up to 64 bits as uint64.

    Invalid is one of more bytes than `most_bytes`, or of more than 64 bits; with `wraps`, bits
    beyond are dropped, as readers of Protobuf do. Longer forms than necessary are read like any
    reader of Protobuf or Avro does.
    """
    first = source.data[cursors]
    values: npt.NDArray[np.uint64] = first.astype(np.uint64)
    after = cursors + 1
    invalid = NO_ROWS
    # No `any` on a mask: the maximum needs one pass less.
    if len(first) and int(first.max()) >= _CONTINUES:
        longer = np.flatnonzero(first >= _CONTINUES)
        if 2 * len(longer) > len(first):
            values, sizes, invalid = _read_long(source, cursors, wraps, most_bytes)
            after = cursors + sizes
        else:
            values[longer], sizes, some = _read_long(source, cursors[longer], wraps, most_bytes)
            after[longer] += sizes - 1
            invalid = longer[some]
    return _checked(values, after, ends, invalid)


def zigzag(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Signed numbers from their zigzag form: 0, 1, 2, 3 are 0, -1, 1, -2."""
    signs = (values & _ONE).view(np.int64)
    np.negative(signs, out=signs)
    signs ^= (values >> _ONE).view(np.int64)
    return signs


def read_doubles(source: Source, cursors: Positions, ends: Positions) -> Read:
    """8 bytes each, little-endian, as float64."""
    return _checked(source.words(cursors).view("<f8"), cursors + 8, ends, NO_ROWS)


def read_floats(source: Source, cursors: Positions, ends: Positions) -> Read:
    """4 bytes each, little-endian, as float32."""
    return _checked(source.halves(cursors).view("<f4"), cursors + 4, ends, NO_ROWS)


def read_fixed64(source: Source, cursors: Positions, ends: Positions) -> Read:
    """8 bytes each, little-endian, as uint64."""
    return _checked(source.words(cursors), cursors + 8, ends, NO_ROWS)


def read_fixed32(source: Source, cursors: Positions, ends: Positions) -> Read:
    """4 bytes each, little-endian, as uint32."""
    return _checked(source.halves(cursors), cursors + 4, ends, NO_ROWS)


def read_bytes(source: Source, cursors: Positions, ends: Positions) -> Read:
    """1 byte each, as uint8."""
    return _checked(source.data[cursors], cursors + 1, ends, NO_ROWS)


def read_ranges(cursors: Positions, ends: Positions, lengths: npt.NDArray[Any]) -> Read:
    """Byte ranges of `lengths` at the cursors; the values are their lengths.

    Args:
        cursors: n starts.
        ends: n ends of the rows.
        lengths: int64 or uint64; a row with a negative length is invalid, one that is too long
            truncated. The range of a bad row is empty and lies at its end.
    """
    invalid = NO_ROWS
    signed = lengths.view(np.int64)
    if len(signed) and int(signed.min()) < 0:
        negative = np.flatnonzero(signed < 0)
        signed = signed.copy()
        if lengths.dtype == np.uint64:
            # It was no negative number, but one beyond every end.
            signed[negative] = np.iinfo(np.int64).max
        else:
            signed[negative] = 0
            invalid = negative
    # Not `cursors + lengths > ends`, which could overflow.
    if len(signed) and bool((signed > ends - cursors).any()):
        truncated = np.flatnonzero(signed > ends - cursors)
        signed = signed.copy()
        signed[truncated] = 0
    else:
        truncated = NO_ROWS
    after = cursors + signed
    for bad in (truncated, invalid):
        if len(bad):
            after[bad] = ends[bad]
    return Read(signed, after, truncated, invalid)


def gather(source: Source, stops: Positions, lengths: Positions) -> pa.BinaryArray:
    """n byte ranges, each `lengths` long and ended by `stops`, copied into a binary array.

    Fast where the ranges rise and do not overlap, as those of one field do.
    """
    count = len(stops)
    if not count:
        return pa.array([], pa.binary())
    starts = stops - lengths
    if count > 1 and bool((starts[1:] < stops[:-1]).any()):
        return _gather_any(source, starts, lengths)
    # Ranges and the gaps between them are one binary array that needs no copy; Arrow's `take` of
    # every other one is the fastest gather of those measured: a third of numpy's by byte, a fifth
    # of a cast from a view array.
    offsets = np.empty(2 * count, np.int32)
    offsets[0::2] = starts
    offsets[1::2] = stops
    buffers = [None, pa.py_buffer(offsets), source.arrow]
    both = pa.Array.from_buffers(pa.binary(), 2 * count - 1, buffers)
    wanted = pa.array(np.arange(0, 2 * count, 2, dtype=np.int32))
    return pc.take(both, wanted, boundscheck=False)


def as_text(array: pa.BinaryArray) -> tuple[pa.StringArray, Positions]:
    """The bytes as UTF-8 text, and the rows that are none, rising; those become empty.

    Args:
        array: not a slice.
    """
    validity, offsets, values = array.buffers()
    if values is None or not values.size or np.frombuffer(values, np.uint8).max() < _CONTINUES:
        return pa.Array.from_buffers(pa.string(), len(array), [validity, offsets, values]), NO_ROWS
    try:
        return array.cast(pa.string()), NO_ROWS
    except pa.ArrowInvalid:
        # Arrow names no row: they are looked at one by one.
        pass
    bad = np.fromiter(
        (row for row, value in enumerate(array.to_pylist()) if not _is_text(value)), np.int64
    )
    blank = pa.scalar(b"", pa.binary())
    mask = np.zeros(len(array), bool)
    mask[bad] = True
    return pc.if_else(pa.array(mask), blank, array).cast(pa.string()), bad


def spread(array: pa.Array, present: Mask) -> pa.Array:
    """`array`'s values at the places of `present`, in order, nulls at the others.

    Args:
        array: as many values as `present` has marks.
        present: n places.
    """
    places = np.cumsum(present) - 1
    return array.take(pa.array(places, mask=~present))


def list_offsets(places: Positions, count: int) -> pa.Array:
    """Offsets of `count` lists, of items whose lists, rising, are `places`."""
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.bincount(places, minlength=count), out=offsets[1:])
    return pa.array(offsets)


def last_of_each(places: Positions, keys: pa.Array) -> Positions | None:
    """Entries of maps without those whose key comes again in their map; None if none does.

    Args:
        places: the map of each entry, rising.
        keys: of the entries.
    """
    coded = keys.dictionary_encode()
    both = places * len(coded.dictionary) + coded.indices.to_numpy()
    if pc.count_distinct(pa.array(both)).as_py() == len(both):
        return None
    # The first from behind is the last.
    _, last = np.unique(both[::-1], return_index=True)
    return np.sort(len(both) - 1 - last)


def _is_text(value: bytes | None) -> bool:
    if value is None or value.isascii():
        return True
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _checked(
    values: npt.NDArray[Any], after: Positions, ends: Positions, invalid: Positions
) -> Read:
    """`values` as a result, after the rows that went past their end were found.

    A row that is invalid and also past its end is truncated: what made it invalid was not its own.
    """
    truncated = NO_ROWS
    if bool((after > ends).any()):
        truncated = np.flatnonzero(after > ends)
        invalid = np.setdiff1d(invalid, truncated, assume_unique=True)
    for bad in (truncated, invalid):
        if len(bad):
            values[bad] = 0
            after[bad] = ends[bad]
    return Read(values, after, truncated, invalid)


def _read_long(
    source: Source, cursors: Positions, wraps: bool, most_bytes: int
) -> tuple[npt.NDArray[np.uint64], Positions, Positions]:
    """Varints of up to 10 bytes: values, sizes in bytes, and the rows that are invalid."""
    words = source.words(cursors)
    stops = ~words
    stops &= _HIGH_BITS
    # From the lowest bit up to the one that ends the number; all bits, if none of 8 bytes does.
    own = stops - _ONE
    own ^= stops
    sizes = (np.bitwise_count(own) >> 3).astype(np.int64)
    words &= own
    words &= _LOW_BITS
    most = int(sizes.max())
    # Groups of 7 bits close in pairs, then pairs of pairs.
    for step, (lower, upper, shift) in enumerate(_CLOSING):
        if most > 1 << step:
            high = words & upper
            high >>= shift
            words &= lower
            words |= high
    invalid = NO_ROWS
    if most == 8:
        rows = np.flatnonzero(stops == 0)
        if len(rows):
            ninth, tenth = source.data[cursors[rows] + 8], source.data[cursors[rows] + 9]
            more = ninth >= _CONTINUES
            words[rows] |= (ninth & 0x7F).astype(np.uint64) << _U64(56)
            words[rows] |= np.where(more, tenth, 0).astype(np.uint64) << _U64(63)
            sizes[rows] = np.where(more, 10, 9)
            invalid = rows[more & (tenth >= (_CONTINUES if wraps else 2))]
    if most > most_bytes:
        invalid = np.union1d(invalid, np.flatnonzero(sizes > most_bytes))
    return words, sizes, invalid


def _gather_any(source: Source, starts: Positions, lengths: Positions) -> pa.BinaryArray:
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if int(offsets[-1]) > MAX_BYTES:
        raise ValueError(f"{offsets[-1]} bytes in one column; {MAX_BYTES} is the most")
    places = np.arange(int(offsets[-1])) + np.repeat(starts - offsets[:-1], lengths)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(source.data[places])]
    return pa.Array.from_buffers(pa.binary(), len(starts), buffers)
