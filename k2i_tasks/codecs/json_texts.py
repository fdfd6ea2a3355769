"""Texts of JSON, one of each of n documents at once."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.codecs.json_words import WORD, Found, Heads, behind, plain
from k2i_tasks.codecs.vector import Positions, Source, gather

_QUOTE, _BACKSLASH = b'"\\'
#: The rest of a text, from a place on that is not behind a backslash: up to one, or to its end.
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*+')
_REST = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+')

#: Bytes of a text that are looked at together with what is before it: its quote, and two words.
#: More of them cost more than they save, since those of all documents are to stay in a cache.
_TEXT_BYTES = 2 * WORD
TEXT_HEAD_BYTES = 1 + _TEXT_BYTES
#: Words of a text that are looked at for all documents at once, before each is searched alone.
_TEXT_WORDS = 8
#: One in so many texts may have a backslash, since each of these is read alone.
ESCAPED_SHARE = 8


def read_texts(source: Source, heads: Heads, cursors: Positions, ends: Positions) -> Found:
    """Texts; the documents are known to be UTF-8."""
    fits = heads.byte(0) == _QUOTE
    sizes = _sizes(source, heads, cursors)
    stops = cursors + 1 + sizes
    follows = source.data[stops]
    escaped = np.flatnonzero(fits & (follows == _BACKSLASH))
    if 0 < len(escaped) <= len(cursors) // ESCAPED_SHARE:
        _search(source, _REST, cursors, sizes, escaped)
        stops = cursors + 1 + sizes
        follows = source.data[stops]
    else:
        escaped = escaped[:0]
    fits &= follows == _QUOTE
    valid = None
    after = stops + 1
    if not fits.all():
        sizes[~fits] = 0
        stops = np.where(fits, stops, cursors)
        after = behind(after, fits, heads, cursors, ends)
        valid = pa.array(fits).buffers()[1]
    size_max = int(sizes.max(initial=0))
    if size_max <= _TEXT_BYTES:
        offsets, texts = heads.packed(1, sizes, size_max)
    else:
        _, offsets, texts = gather(source, stops, sizes).buffers()
    array = pa.Array.from_buffers(pa.string(), len(sizes), [valid, offsets, texts])
    escaped = escaped[fits[escaped]]
    if len(escaped):
        array, wrong = _unescaped(array, escaped)
        after[wrong] = ends[wrong]
    return Found(array, after)


def _sizes(source: Source, heads: Heads, cursors: Positions) -> Positions:
    """Bytes between a quote at the cursor and the next quote, backslash or control sign."""
    sizes = plain(heads.word(1))
    for size in range(WORD, _TEXT_BYTES, WORD):
        places = np.flatnonzero(sizes == size)
        if 2 * len(places) > len(sizes):
            sizes += plain(heads.word(1 + size)) * (sizes == size)
        elif len(places):
            sizes[places] += plain(heads.word(1 + size)[places])
        else:
            return sizes
    places = np.flatnonzero(sizes == _TEXT_BYTES)
    for _ in range(_TEXT_WORDS - _TEXT_BYTES // WORD):
        if not len(places):
            return sizes
        # The document's end is a control sign, where it stops at the latest.
        more = plain(source.words(cursors[places] + 1 + sizes[places]))
        sizes[places] += more
        places = places[more == WORD]
    _search(source, _PLAIN, cursors, sizes, places)
    return sizes


def _search(
    source: Source, rest: re.Pattern[bytes], cursors: Positions, sizes: Positions, places: Positions
) -> None:
    """Adds the rest to the sizes of some texts."""
    text = source.data.data
    for place in places.tolist():
        begin = int(cursors[place]) + 1
        found = rest.match(text, begin + int(sizes[place]))
        assert found is not None, "a repetition matches nothing at least"
        sizes[place] = found.end() - begin


def _unescaped(array: pa.StringArray, places: Positions) -> tuple[pa.StringArray, Positions]:
    """The texts at some places as they are meant, and those that mean none, which become null."""
    meant: list[str | None] = []
    for written in array.take(pa.array(places)).to_pylist():
        try:
            text: str = json.loads(f'"{written}"')
            # Half of a surrogate pair is no text.
            text.encode()
        except ValueError:
            meant.append(None)
        else:
            meant.append(text)
    mask = np.zeros(len(array), bool)
    mask[places] = True
    found = pa.array(meant, pa.string())
    wrong = places[found.is_null().to_numpy(zero_copy_only=False)]
    return pc.replace_with_mask(array, pa.array(mask), found), wrong
