"""Texts of JSON, one of each of n documents at once."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from k2i_tasks.codecs.json_exact import SURROGATE_ESCAPE
from k2i_tasks.codecs.json_words import WORD, Found, Heads, behind, plain
from k2i_tasks.codecs.vector import NO_ROWS, Positions, Source, gather

_QUOTE, _BACKSLASH, _SPACE = b'"\\ '
#: The rest of a text, from a place on that is not behind a backslash.
_REST = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+')

#: Bytes of a text that are looked at together with what is before it: its quote, and two words.
#: More of them cost more than they save, since those of all documents are to stay in a cache.
_TEXT_BYTES = 2 * WORD
TEXT_HEAD_BYTES = 1 + _TEXT_BYTES
#: Further words, or ends at a backslash, that are looked at for all documents at once, before each
#: is searched alone.
_ROUNDS = 24


def read_texts(source: Source, heads: Heads, cursors: Positions, ends: Positions) -> Found:
    """Texts; the documents are known to be UTF-8."""
    sizes, escaped = _sizes(source, heads, cursors)
    stops = cursors + 1 + sizes
    fits = (heads.byte(0) == _QUOTE) & (source.data[stops] == _QUOTE)
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


def _sizes(source: Source, heads: Heads, cursors: Positions) -> tuple[Positions, Positions]:
    """What is between a quote at the cursor and the next one that no backslash is before.

    A control sign ends it as well, as the document's end is one.

    Returns:
        Bytes of each, and which of them have a backslash, rising.
    """
    sizes = plain(heads.word(1))
    for size in range(WORD, _TEXT_BYTES, WORD):
        places = np.flatnonzero(sizes == size)
        if 2 * len(places) > len(sizes):
            sizes += plain(heads.word(1 + size)) * (sizes == size)
        elif len(places):
            sizes[places] += plain(heads.word(1 + size)[places])
    begin = cursors + 1
    stopped = source.data[begin + sizes] == _BACKSLASH
    places = np.flatnonzero(stopped | (sizes == _TEXT_BYTES))
    seen = [np.flatnonzero(stopped)]
    for _ in range(_ROUNDS):
        if not len(places):
            break
        stops = begin[places] + sizes[places]
        # Behind a backslash and its sign, if that is none that ends the text.
        skips = (source.data[stops] == _BACKSLASH) & (source.data[stops + 1] >= _SPACE)
        stops += 2 * skips
        more = plain(source.words(stops))
        stops += more
        sizes[places] = stops - begin[places]
        stopped = source.data[stops] == _BACKSLASH
        seen.append(places[stopped])
        places = places[(more == WORD) | (stopped & (more + skips > 0))]
    text = source.data.data
    for place in places.tolist():
        start = int(begin[place])
        found = _REST.match(text, start + int(sizes[place]))
        assert found is not None, "a repetition matches nothing at least"
        sizes[place] = found.end() - start
        if b"\\" in found[0]:
            seen.append(np.array([place]))
    return sizes, np.unique(np.concatenate(seen)) if any(map(len, seen)) else NO_ROWS


def _unescaped(array: pa.StringArray, places: Positions) -> tuple[pa.StringArray, Positions]:
    """The texts at some places as they are meant, and those that mean none, which become null."""
    written = array.take(pa.array(places))
    meant = _meant(written)
    mask = np.zeros(len(array), bool)
    mask[places] = True
    wrong = places[meant.is_null().to_numpy(zero_copy_only=False)]
    return pc.replace_with_mask(array, pa.array(mask), meant), wrong


def _meant(written: pa.StringArray) -> pa.StringArray:
    """What is meant by what is between two quotes; null where that is none of JSON's texts."""
    lines = pc.binary_join_element_wise('{"":"', written, '"}\n', "")
    texts = lines.buffers()[2]
    # Arrow's reader is not asked for halves of pairs: of those it may make what is no text.
    if SURROGATE_ESCAPE.search(memoryview(texts)) is None:
        try:
            table = pyarrow.json.read_json(
                pa.BufferReader(texts),
                pyarrow.json.ReadOptions(use_threads=False, block_size=texts.size + 1),
                pyarrow.json.ParseOptions(explicit_schema=pa.schema([("", pa.string())])),
            )
        except pa.ArrowInvalid:
            pass
        else:
            return table.column(0).combine_chunks()
    return pa.array(list(map(_text, written.to_pylist())), pa.string())


def _text(written: str) -> str | None:
    try:
        text: str = json.loads(f'"{written}"')
        # Half of a surrogate pair is no text.
        text.encode()
    except ValueError:
        return None
    return text
