"""Numbers of JSON, one of each of n documents at once.

A number is what JSON says it is: no sign but a minus, no zero before other digits, digits on both
sides of a point. One that is none, or not of its column's range, is not as expected. What follows a
number is found when the next bytes are compared.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.json_words import WORD, Found, Heads, Words, behind, digits
from k2i_tasks.codecs.vector import Mask, Positions, Source, gather

_MINUS, _PLUS, _ZERO, _DOT = b"-+0."
_EXPONENTS = b"eE"

#: A sign and a word: what is looked at of a number at first.
NUMBER_HEAD_BYTES = 1 + WORD
#: Most decimal digits that 64 bits hold whatever they are, and words that are looked at for them.
_DIGITS_MAX, _DIGIT_WORDS = 19, 3
_POWERS = np.array([10**power for power in range(_DIGITS_MAX + 1)], np.uint64)
#: A double is exact up to there, and so are powers of ten up to the 22nd; their quotient is rounded
#: once (W. D. Clinger, "How to read floating point numbers accurately", 1990).
_EXACT_MAX = np.uint64(2**53)
_SCALES = _POWERS.astype(np.float64)


def read_integers(
    source: Source, kind: pa.DataType, heads: Heads, cursors: Positions, ends: Positions
) -> Found:
    """Integers of a signed type."""
    negative, begin, words = _signed(heads, cursors)
    numbers, count = _digits(source, begin, words)
    fits = _are_whole(words, count) & (count <= _DIGITS_MAX)
    fits &= numbers <= np.uint64((1 << (kind.bit_width - 1)) - 1)
    values = numbers.view(np.int64)
    if negative is not None:
        values = np.where(negative, -values, values)
    after, mask = begin + count, None
    if not fits.all():
        mask = ~fits
        values[mask] = 0
        after = behind(after, fits, heads, cursors, ends)
    return Found(pa.array(values, mask=mask).cast(kind), after)


def read_doubles(source: Source, heads: Heads, cursors: Positions, ends: Positions) -> Found:
    """Doubles, each the nearest to what is written."""
    negative, begin, words = _signed(heads, cursors)
    numbers, count = _digits(source, begin, words)
    fits = _are_whole(words, count)
    after = begin + count
    follows = source.data[after]
    fraction = follows == _DOT
    if fraction.any():
        # Where there is none, at the end: no digit is there.
        begin = after + 1 if fraction.all() else np.where(fraction, after + 1, ends)
        parts, decimals = _digits(source, begin, source.words(begin))
        fits &= (decimals > 0) | ~fraction
        after = np.where(fraction, begin + decimals, after)
        follows = source.data[after]
        count += decimals
        decimals = np.minimum(decimals, _DIGITS_MAX)
        numbers *= _POWERS[decimals]
        numbers += parts
        values = numbers / _SCALES[decimals]
    else:
        values = numbers.astype(np.float64)
    if negative is not None:
        values = np.where(negative, -values, values)
    powered = (follows == _EXPONENTS[0]) | (follows == _EXPONENTS[1])
    hard = powered | (count > _DIGITS_MAX) | (numbers > _EXACT_MAX)
    if hard.any():
        _read_hard(source, hard & fits, powered, cursors, after, values, fits)
    mask = None
    if not fits.all():
        mask = ~fits
        after = behind(after, fits, heads, cursors, ends)
    return Found(pa.array(values, mask=mask), after)


def _read_hard(
    source: Source,
    hard: Mask,
    powered: Mask,
    cursors: Positions,
    after: Positions,
    values: npt.NDArray[np.float64],
    fits: Mask,
) -> None:
    """Reads numbers with many digits or a power; changes `after`, `values` and `fits`."""
    places = np.flatnonzero(hard & powered)
    if len(places):
        signs = source.data[after[places] + 1]
        begin = after[places] + 1 + ((signs == _MINUS) | (signs == _PLUS))
        _, count = _digits(source, begin, source.words(begin))
        fits[places] = count > 0
        after[places] = begin + count
    places = np.flatnonzero(hard & fits)
    texts = gather(source, after[places], after[places] - cursors[places])
    try:
        values[places] = texts.cast(pa.string()).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        fits[places] = False


def _signed(heads: Heads, cursors: Positions) -> tuple[Mask | None, Positions, Words]:
    """Which numbers have a minus, None if none has; where their digits begin, and words of them."""
    negative = heads.byte(0) == _MINUS
    if not negative.any():
        return None, cursors, heads.word()
    return negative, cursors + negative, np.where(negative, heads.word(1), heads.word())


def _digits(source: Source, cursors: Positions, words: Words) -> tuple[Words, Positions]:
    """The numbers that begin at the cursors, and of how many digits; means nothing above 19.

    Args:
        source: of the documents.
        cursors: n places.
        words: what is there.
    """
    numbers, count = digits(words)
    going = np.flatnonzero(count == WORD)
    for _ in range(_DIGIT_WORDS - 1):
        if not len(going):
            break
        more, further = digits(source.words(cursors[going] + count[going]))
        numbers[going] = numbers[going] * _POWERS[further] + more
        count[going] += further
        going = going[further == WORD]
    return numbers, count


def _are_whole(words: Words, count: Positions) -> Mask:
    """Whether so many digits are an integer: there are some, and no zero before others."""
    first = words.view(np.uint8)[::WORD]
    whole: Mask = (count == 1) | ((count > 1) & (first != _ZERO))
    return whole
