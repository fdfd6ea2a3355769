"""JSON documents of one layout read at once: the same member of all of them, one after the other.

A cursor for each document stands before what comes next. A step compares the bytes there with what
the layout has between two values, or reads one value; where a document has something else, its
cursor is put at its end, where nothing can be read, so that the last step finds it. So every byte
of a document that is not named has been looked at, and a document that is not JSON, or that holds
anything but what the layout tells, is named.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from k2i_tasks.codecs.json_layout import Layout
from k2i_tasks.codecs.json_words import WORD, Heads, Words, digits, plain
from k2i_tasks.codecs.vector import NO_ROWS, Mask, Positions, Source, gather, list_offsets

_QUOTE, _MINUS, _PLUS, _ZERO, _DOT, _COMMA, _SPACE = b'"-+0., '
_OBJECT, _LIST, _LIST_END = b"{[]"
_EXPONENTS = b"eE"
#: What a text may not hold as it is, and its end.
_STOP = re.compile(rb'["\\\x00-\x1f]')

#: Bytes of a text that are looked at together with what is before it: its quote, and two words.
#: More of them cost more than they save, since those of all documents are to stay in a cache.
_TEXT_BYTES = 2 * WORD
HEAD_BYTES: Final = 1 + _TEXT_BYTES
#: Words of a text that are looked at for all documents at once, before each is searched alone.
_TEXT_WORDS = 8
#: Items of a list; documents with longer ones are named.
_ITEMS_MAX = 64
#: Most decimal digits that 64 bits hold whatever they are, and words that are looked at for them.
_DIGITS_MAX, _DIGIT_WORDS = 19, 3
_POWERS = np.array([10**power for power in range(_DIGITS_MAX + 1)], np.uint64)
#: A double is exact up to there, and so are powers of ten up to the 22nd; their quotient is rounded
#: once (W. D. Clinger, "How to read floating point numbers accurately", 1990).
_EXACT_MAX = np.uint64(2**53)
_SCALES = _POWERS.astype(np.float64)


class Found(NamedTuple):
    """Values of n places.

    Args:
        array: n values, null where there is none.
        after: n cursors behind them; the document's end where it is not as expected.
    """

    array: pa.Array
    after: Positions


def is_walkable(kind: pa.DataType) -> bool:
    """Whether values of this wire type can be read here."""
    types = pa.types
    if types.is_struct(kind):
        return all(is_walkable(member.type) for member in kind)
    if types.is_list(kind):
        return is_walkable(kind.value_type)
    scalar = types.is_signed_integer(kind) or types.is_float64(kind) or types.is_string(kind)
    return bool(scalar or types.is_boolean(kind) or types.is_null(kind))


class Walk:
    """Reads documents.

    Args:
        source: where they are, in UTF-8; as many bytes as a lead and a head have must follow them.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._chars = source.data

    def read(
        self, starts: Positions, ends: Positions, layout: Layout, schema: pa.Schema
    ) -> tuple[pa.Table, Positions]:
        """The documents as columns, and which of them are not as expected, rising.

        Args:
            starts: n positions, rising.
            ends: n positions behind the documents; a line ends there.
            layout: what is expected; its members are columns.
            schema: wire types, all of them walkable.

        Returns:
            n rows; what they hold where a document is not as expected means nothing.
        """
        arrays, after, closed = self._members(layout, list(schema), starts, ends)
        unlike = np.flatnonzero(~closed | (after != ends))
        return pa.Table.from_arrays(arrays, schema=schema), unlike

    def _members(
        self, layout: Layout, fields: list[pa.Field], cursors: Positions, ends: Positions
    ) -> tuple[list[pa.Array], Positions, Mask]:
        """The columns of n objects, the cursors behind them, and which of them end there."""
        found: dict[str, pa.Array] = {}
        kinds = {field.name: field.type for field in fields}
        for member in layout.members:
            size = len(member.lead)
            kind = kinds[member.name]
            heads = self._heads(cursors, size + _head_bytes(kind))
            present = heads.begins(member.lead)
            heads, begin = heads.behind(size), cursors + size
            everywhere = bool(present.all())
            if not everywhere:
                heads.clear(~present)
                begin = np.where(present, begin, ends)
            array, after = self._value(kind, member.value, heads, begin, ends)
            found[member.name] = array
            cursors = after if everywhere else np.where(present, after, cursors)
        closed = self._heads(cursors, len(layout.closing)).begins(layout.closing)
        arrays = [
            found[field.name] if field.name in found else pa.nulls(len(cursors), field.type)
            for field in fields
        ]
        return arrays, cursors + len(layout.closing), closed

    def _heads(self, cursors: Positions, size: int) -> Heads:
        return Heads(self._source.windows(cursors, -(-size // WORD) * WORD))

    def _value(
        self,
        kind: pa.DataType,
        inside: Layout | None,
        heads: Heads,
        cursors: Positions,
        ends: Positions,
    ) -> Found:
        """Values of a type; where the heads are cleared, a null at the document's end."""
        if pa.types.is_string(kind):
            return self._texts(heads, cursors, ends)
        if pa.types.is_signed_integer(kind):
            return self._integers(kind, heads, cursors, ends)
        if pa.types.is_float64(kind):
            return self._doubles(heads, cursors, ends)
        if pa.types.is_boolean(kind):
            return self._booleans(heads, cursors, ends)
        if pa.types.is_list(kind):
            return self._lists(kind, inside, heads, cursors, ends)
        if pa.types.is_struct(kind) and inside is not None:
            return self._structs(kind, inside, heads, cursors, ends)
        nothing = np.zeros(len(cursors), bool)
        return Found(pa.nulls(len(cursors), kind), _behind(cursors, nothing, heads, cursors, ends))

    def _booleans(self, heads: Heads, cursors: Positions, ends: Positions) -> Found:
        true, false = heads.begins(b"true"), heads.begins(b"false")
        after = cursors + (len("false") - true)
        fits = true | false
        if fits.all():
            return Found(pa.array(true), after)
        return Found(pa.array(true, mask=~fits), _behind(after, fits, heads, cursors, ends))

    def _integers(
        self, kind: pa.DataType, heads: Heads, cursors: Positions, ends: Positions
    ) -> Found:
        negative, begin, words = _signed(heads, cursors)
        numbers, count = self._digits(begin, words)
        fits = _are_whole(words, count) & (count <= _DIGITS_MAX)
        fits &= numbers <= np.uint64((1 << (kind.bit_width - 1)) - 1)
        values = numbers.view(np.int64)
        if negative is not None:
            values = np.where(negative, -values, values)
        after, mask = begin + count, None
        if not fits.all():
            mask = ~fits
            values[mask] = 0
            after = _behind(after, fits, heads, cursors, ends)
        return Found(pa.array(values, mask=mask).cast(kind), after)

    def _doubles(self, heads: Heads, cursors: Positions, ends: Positions) -> Found:
        negative, begin, words = _signed(heads, cursors)
        numbers, count = self._digits(begin, words)
        fits = _are_whole(words, count)
        after = begin + count
        follows = self._chars[after]
        fraction = follows == _DOT
        if fraction.any():
            # Where there is none, at the end: no digit is there.
            behind = after + 1 if fraction.all() else np.where(fraction, after + 1, ends)
            parts, decimals = self._digits(behind, self._source.words(behind))
            fits &= (decimals > 0) | ~fraction
            after = np.where(fraction, behind + decimals, after)
            follows = self._chars[after]
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
            self._hard_doubles(hard & fits, powered, cursors, after, values, fits)
        mask = None
        if not fits.all():
            mask = ~fits
            after = _behind(after, fits, heads, cursors, ends)
        return Found(pa.array(values, mask=mask), after)

    def _hard_doubles(
        self,
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
            signs = self._chars[after[places] + 1]
            begin = after[places] + 1 + ((signs == _MINUS) | (signs == _PLUS))
            _, count = self._digits(begin, self._source.words(begin))
            fits[places] = count > 0
            after[places] = begin + count
        places = np.flatnonzero(hard & fits)
        texts = gather(self._source, after[places], after[places] - cursors[places])
        try:
            values[places] = texts.cast(pa.string()).cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            fits[places] = False

    def _digits(self, cursors: Positions, words: Words) -> tuple[Words, Positions]:
        """The numbers that begin at the cursors, and of how many digits; means nothing above 19.

        Args:
            cursors: n places.
            words: what is there.
        """
        numbers, count = digits(words)
        going = np.flatnonzero(count == WORD)
        for _ in range(_DIGIT_WORDS - 1):
            if not len(going):
                break
            more, further = digits(self._source.words(cursors[going] + count[going]))
            numbers[going] = numbers[going] * _POWERS[further] + more
            count[going] += further
            going = going[further == WORD]
        return numbers, count

    def _texts(self, heads: Heads, cursors: Positions, ends: Positions) -> Found:
        fits = heads.byte(0) == _QUOTE
        sizes = self._sizes(heads, cursors)
        stops = cursors + 1 + sizes
        fits &= self._chars[stops] == _QUOTE
        valid = None
        after = stops + 1
        if not fits.all():
            sizes[~fits] = 0
            stops = np.where(fits, stops, cursors)
            after = _behind(after, fits, heads, cursors, ends)
            valid = pa.array(fits).buffers()[1]
        size_max = int(sizes.max(initial=0))
        if size_max <= _TEXT_BYTES:
            offsets, texts = heads.packed(1, sizes, size_max)
        else:
            _, offsets, texts = gather(self._source, stops, sizes).buffers()
        return Found(pa.Array.from_buffers(pa.string(), len(sizes), [valid, offsets, texts]), after)

    def _sizes(self, heads: Heads, cursors: Positions) -> Positions:
        """Bytes between a quote at the cursor and the next quote, backslash or control sign."""
        sizes = plain(heads.word(1))
        for size in range(WORD, _TEXT_BYTES, WORD):
            going = sizes == size
            if not going.any():
                return sizes
            sizes += plain(heads.word(1 + size)) * going
        places = np.flatnonzero(sizes == _TEXT_BYTES)
        for _ in range(_TEXT_WORDS - _TEXT_BYTES // WORD):
            if not len(places):
                return sizes
            # The document's end is a control sign, where it stops at the latest.
            more = plain(self._source.words(cursors[places] + 1 + sizes[places]))
            sizes[places] += more
            places = places[more == WORD]
        text = self._chars.data
        for place in places.tolist():
            begin = int(cursors[place]) + 1
            found = _STOP.search(text, begin)
            sizes[place] = found.start() - begin if found else 0
        return sizes

    def _structs(
        self,
        kind: pa.DataType,
        inside: Layout,
        heads: Heads,
        cursors: Positions,
        ends: Positions,
    ) -> Found:
        fits = heads.byte(0) == _OBJECT
        begin = cursors if fits.all() else np.where(fits, cursors, ends)
        arrays, after, closed = self._members(inside, list(kind), begin, ends)
        fits &= closed
        mask = None
        if not fits.all():
            mask = pa.array(~fits)
            after = _behind(after, fits, heads, cursors, ends)
        return Found(pa.StructArray.from_arrays(arrays, fields=list(kind), mask=mask), after)

    def _lists(
        self,
        kind: pa.DataType,
        inside: Layout | None,
        heads: Heads,
        cursors: Positions,
        ends: Positions,
    ) -> Found:
        fits = heads.byte(0) == _LIST
        after = self._spaced(np.where(fits, cursors + 1, ends))
        empty = self._chars[after] == _LIST_END
        after += empty
        # Round by round, the lists that have another item, and what it is.
        going = np.flatnonzero(fits & ~empty)
        rounds: list[tuple[Positions, pa.Array]] = []
        while len(going) and len(rounds) < _ITEMS_MAX:
            begin = after[going]
            items = self._heads(begin, _head_bytes(kind.value_type))
            array, behind = self._value(kind.value_type, inside, items, begin, ends[going])
            rounds.append((going, array))
            behind = self._spaced(behind)
            follows = self._chars[behind]
            more = follows == _COMMA
            fits[going] = more | (follows == _LIST_END)
            after[going] = behind + 1
            going = going[more]
            after[going] = self._spaced(after[going])
        fits[going] = False
        if not fits.all():
            after = _behind(after, fits, heads, cursors, ends)
        return Found(_as_lists(kind, rounds, fits), after)

    def _spaced(self, cursors: Positions) -> Positions:
        """Behind a space, where there is one."""
        spaces: Mask = self._chars[cursors] == _SPACE
        return cursors + spaces


def _head_bytes(kind: pa.DataType) -> int:
    """Bytes of a value that are looked at: a sign and a word of a number, a bracket of a list."""
    return HEAD_BYTES if pa.types.is_string(kind) else 1 + WORD


def _behind(
    after: Positions, fits: Mask, heads: Heads, cursors: Positions, ends: Positions
) -> Positions:
    """Cursors behind values: `after` where one fits, else behind a null, else the end."""
    nulls = heads.begins(b"null")
    return np.where(fits, after, np.where(nulls, cursors + len("null"), ends))


def _signed(heads: Heads, cursors: Positions) -> tuple[Mask | None, Positions, Words]:
    """Which numbers have a minus, None if none has; where their digits begin, and words of them."""
    negative = heads.byte(0) == _MINUS
    if not negative.any():
        return None, cursors, heads.word()
    return negative, cursors + negative, np.where(negative, heads.word(1), heads.word())


def _are_whole(words: Words, count: Positions) -> Mask:
    """Whether so many digits are an integer: there are some, and no zero before others."""
    first = words.view(np.uint8)[::WORD]
    whole: Mask = (count == 1) | ((count > 1) & (first != _ZERO))
    return whole


def _as_lists(
    kind: pa.DataType, rounds: list[tuple[Positions, pa.Array]], present: Mask
) -> pa.ListArray:
    """Lists of the items that rounds have found: of each list the first, then the second."""
    owners = np.concatenate([NO_ROWS, *(places for places, _ in rounds)])
    items = pa.concat_arrays([pa.array([], kind.value_type), *(array for _, array in rounds)])
    order = np.argsort(owners, kind="stable")
    mask = None
    if not present.all():
        # What is null has no items: others rely on it.
        order = order[present[owners[order]]]
        mask = pa.array(~present)
    if len(rounds) > 1 or len(order) < len(owners):
        items = items.take(pa.array(order))
    offsets = list_offsets(owners[order], len(present))
    return pa.ListArray.from_arrays(offsets, items, type=kind, mask=mask)
