"""Decimals and UUIDs of many rows, made of 8-byte words."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.avro_rows import Rows
from k2i_tasks.codecs.vector import Positions

_WORD_BITS = 64
_DECIMAL_BYTES = 16
_TEXT_BYTES = 36
_HYPHENS = (8, 13, 18, 23)
_DIGITS = tuple(place for place in range(_TEXT_BYTES) if place not in _HYPHENS)
_NO_DIGIT = 255


def _digit_values() -> npt.NDArray[np.uint8]:
    values = np.full(256, _NO_DIGIT, np.uint8)
    for value, digit in enumerate("0123456789abcdef"):
        values[[ord(digit), ord(digit.upper())]] = value
    return values


_DIGIT_VALUES = _digit_values()


def decimals(
    rows: Rows, starts: Positions, lengths: Positions, kind: pa.DataType, where: str
) -> pa.Array:
    """Unscaled numbers in big-endian two's complement, of any length, as decimals.

    A number with more digits than the type fails its row; no bytes are zero.

    Args:
        rows: the rows, for their source and failures.
        starts: n positions of the first byte.
        lengths: n numbers of bytes.
        kind: a decimal128.
        where: dotted path of the field, for errors.
    """
    # Sixteen bytes from the start on, as one big-endian number, shifted right by what is not its.
    high = rows.source.words(starts).byteswap().view(np.int64)
    low = rows.source.words(starts + 8).byteswap()
    spare = (8 * (_DECIMAL_BYTES - np.minimum(lengths, _DECIMAL_BYTES))).astype(np.int64)
    both = np.empty((len(starts), 2), np.int64)
    near = np.minimum(spare, _WORD_BITS - 1)
    # A shift by 64 is none in C: where nothing is to be shifted, nothing is carried over either.
    carried = np.where(
        spare > 0, high.view(np.uint64) << ((_WORD_BITS - near) & 63).astype(np.uint64), 0
    )
    short = spare >= _WORD_BITS
    far = np.clip(spare - _WORD_BITS, 0, _WORD_BITS - 1)
    within = ((low >> near.astype(np.uint64)) | carried).view(np.int64)
    both[:, 0] = np.where(short, high >> far, within)
    both[:, 1] = np.where(short, high >> (_WORD_BITS - 1), high >> near)
    both[lengths == 0] = 0
    bad = np.zeros(len(starts), bool)
    for row in np.flatnonzero(lengths > _DECIMAL_BYTES).tolist():
        start = int(starts[row])
        raw = rows.source.data[start : start + int(lengths[row])].tobytes()
        lead, tail = raw[:-_DECIMAL_BYTES], raw[-_DECIMAL_BYTES:]
        # More bytes are fine as long as they only repeat the sign.
        bad[row] = lead != (b"\xff" if tail[0] >= 0x80 else b"\x00") * len(lead)
        both[row] = np.frombuffer(tail[::-1], "<i8")
    bad |= _beyond(both, kind.precision)
    what = f"Field {where!r} has more digits than its decimal type, {kind.precision}."
    both[rows.refuse_where(bad, "avro.decimal", what)] = 0
    return pa.Array.from_buffers(kind, len(starts), [None, pa.py_buffer(both)])


def _beyond(both: npt.NDArray[np.int64], precision: int) -> npt.NDArray[np.bool_]:
    """Which numbers, low and high word each, have more than `precision` digits."""
    high, low = both[:, 1], both[:, 0].view(np.uint64)
    marks = np.zeros(len(both), bool)
    for limit, above in ((10**precision - 1, True), (1 - 10**precision, False)):
        top, rest = limit >> _WORD_BITS, np.uint64(limit & (2**64 - 1))
        if above:
            marks |= (high > top) | ((high == top) & (low > rest))
        else:
            marks |= (high < top) | ((high == top) & (low < rest))
    return marks


def uuids(rows: Rows, texts: pa.StringArray, where: str) -> pa.Array:
    """UUIDs of their text: the canonical form at once, the others that Python reads one by one.

    Args:
        rows: the rows, for their failures.
        texts: n texts without nulls, no slice.
        where: dotted path of the field, for errors.
    """
    packed = _canonical(texts)
    if packed is None:
        packed = np.zeros((len(texts), 16), np.uint8)
        bad = np.zeros(len(texts), bool)
        for row, text in enumerate(texts.to_pylist()):
            try:
                packed[row] = np.frombuffer(UUID(text).bytes, np.uint8)
            except ValueError:
                bad[row] = True
        rows.refuse_where(bad, "avro.uuid", f"Field {where!r} is no UUID.")
    storage = pa.Array.from_buffers(pa.binary(16), len(texts), [None, pa.py_buffer(packed)])
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def _canonical(texts: pa.StringArray) -> npt.NDArray[np.uint8] | None:
    """n times 16 bytes; None if not every text is 8-4-4-4-12 hexadecimal digits."""
    _, offsets, values = texts.buffers()
    starts = np.frombuffer(offsets, np.int32, len(texts) + 1)
    if not len(texts) or not bool((np.diff(starts) == _TEXT_BYTES).all()):
        return None
    letters = np.frombuffer(values, np.uint8).reshape(-1, _TEXT_BYTES)
    if not bool((letters[:, _HYPHENS] == ord("-")).all()):
        return None
    # The gather leaves the digits of one place side by side, a buffer those of one row.
    digits = np.ascontiguousarray(_DIGIT_VALUES[letters[:, _DIGITS]])
    if int(digits.max()) == _NO_DIGIT:
        return None
    packed = digits[:, 0::2] << np.uint8(4)
    packed |= digits[:, 1::2]
    return packed
