"""Signs of JSON found and read eight at a time, a word of them for each of n places.

The first quote, or the end of the digits, is found in a word, and the digits make a number, by the
ways of C programs that do it within a register: S. E. Anderson, "Bit Twiddling Hacks" (the lowest
byte that is zero, or less than another), and D. Lemire, "Quickly parsing eight digits" (2018).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.vector import Mask, Positions

Words = npt.NDArray[np.uint64]
Chars = npt.NDArray[np.uint8]

WORD: Final = 8
_U64 = np.uint64
_ONE = _U64(1)
_EACH = _U64(0x0101010101010101)
_HIGH = _U64(0x8080808080808080)
_LOW = _U64(0x7F7F7F7F7F7F7F7F)
_ZEROS, _QUOTES, _BACKSLASHES, _SPACES = (_EACH * _U64(sign) for sign in b'0"\\ ')
#: Added to a byte, it reaches the high bit from 10 on.
_ABOVE_NINE = _EACH * _U64(0x80 - 10)
#: Ones and tens, then hundreds, then ten thousands: mask, factor, shift.
_STEPS = (
    (_U64(0x0F0F0F0F0F0F0F0F), _U64(1 + (10 << 8)), _U64(8)),
    (_U64(0x00FF00FF00FF00FF), _U64(1 + (100 << 16)), _U64(16)),
    (_U64(0x0000FFFF0000FFFF), _U64(1 + (10_000 << 32)), _U64(32)),
)


def whole_words(size: int) -> int:
    """Bytes of the fewest words that hold so many."""
    return -(-size // WORD) * WORD


class Heads:
    """The first bytes of n values.

    Args:
        windows: uint8 [n, size], contiguous; it is changed by `clear`.
        at: where the values begin in each.
    """

    __slots__ = ("_at", "_windows")

    def __init__(self, windows: Chars, at: int = 0) -> None:
        self._windows = windows
        self._at = at

    def byte(self, place: int) -> Chars:
        """The byte at this place of each."""
        chars: Chars = self._windows[:, self._at + place]
        return chars

    def word(self, place: int = 0) -> Words:
        """The 8 bytes from this place on, the first the lowest. A copy."""
        return np.array(self._view("<u8", place))

    def begins(self, expected: bytes) -> Mask:
        """Which of them begin with these bytes."""
        matches: Mask | None = None
        for place in range(0, len(expected), WORD):
            piece = expected[place : place + WORD]
            words = self._view("<u8", place)
            if len(piece) < WORD:
                words = words & _U64((1 << 8 * len(piece)) - 1)
            equal = words == _U64(int.from_bytes(piece, "little"))
            matches = equal if matches is None else matches & equal
        assert matches is not None
        return matches

    def clear(self, places: Mask) -> None:
        """Nothing that can be read is there from now on."""
        self._windows[places] = 0

    def skip(self, size: int) -> Heads:
        """The same without their first bytes."""
        return Heads(self._windows, self._at + size)

    def packed(self, place: int, sizes: Positions, size_max: int) -> tuple[pa.Buffer, pa.Buffer]:
        """Bytes from `place` on, one range behind the other.

        Args:
            place: where each range begins.
            sizes: of n ranges, in bytes.
            size_max: the largest.

        Returns:
            Offsets, int32 [n + 1], and the bytes.
        """
        offsets = np.zeros(len(sizes) + 1, np.int32)
        np.cumsum(sizes, out=offsets[1:])
        total = int(offsets[-1])
        # Whole words are put down, in order: what is too much lies where the next are put.
        size = whole_words(max(size_max, 1))
        step = f"V{size}"
        packed = np.empty(total + size, np.uint8)
        places = np.ndarray((total + 1,), step, buffer=packed, strides=(1,))
        places[offsets[:-1]] = self._view(step, place)
        return pa.py_buffer(offsets), pa.py_buffer(packed).slice(0, total)

    def _view(self, kind: str, place: int) -> npt.NDArray[np.uint64]:
        count, size = self._windows.shape
        return np.ndarray((count,), kind, self._windows, self._at + place, (size,))


class Found(NamedTuple):
    """Values of n places.

    Args:
        array: n values, null where there is none.
        after: n cursors behind them; the document's end where it is not as expected.
    """

    array: pa.Array
    after: Positions


def behind(
    after: Positions, fits: Mask, heads: Heads, cursors: Positions, ends: Positions
) -> Positions:
    """Cursors behind values: `after` where one fits, else behind a null, else the end."""
    nulls = heads.begins(b"null")
    return np.where(fits, after, np.where(nulls, cursors + len("null"), ends))


def digits(words: Words) -> tuple[Words, Positions]:
    """The numbers that words begin with, and of how many digits they are, 0 to 8."""
    numbers = words ^ _ZEROS
    others = numbers & _LOW
    others += _ABOVE_NINE
    others |= numbers
    count = _before_first(others)
    # The digits to the top: below them are zeros then, which come first in a number.
    numbers <<= ((WORD - count) << 3).view(np.uint64)
    for mask, factor, shift in _STEPS:
        numbers &= mask
        numbers *= factor
        numbers >>= shift
    return numbers, count


def plain(words: Words) -> Positions:
    """How many bytes of each come before a quote, a backslash or a control sign; 8 if all."""
    # Of a byte that is not the lowest to be found it may be wrong, since it borrows from it.
    found = words ^ _QUOTES
    marks = found - _EACH
    marks &= ~found
    found = words ^ _BACKSLASHES
    marks |= (found - _EACH) & ~found
    marks |= (words - _SPACES) & ~words
    return _before_first(marks)


def _before_first(marks: Words) -> Positions:
    """How many bytes come before the first whose high bit is set; 8 if none is. Changes `marks`."""
    marks &= _HIGH
    below = marks - _ONE
    below &= ~marks
    count: npt.NDArray[np.uint8] = np.bitwise_count(below)
    count >>= 3
    return count.astype(np.int64)
