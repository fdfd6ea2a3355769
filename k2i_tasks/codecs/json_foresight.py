"""What refused payloads tell of later ones: which of them the fast reader need not try.

A refusal costs much: what was read before it is read again, and where the reader names no place it
has to be sought. What is told here is a suspicion; the exact path decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from k2i_tasks.codecs.json_page import Page
from k2i_tasks.errors import ConflictError, DecodeError

#: One in so many records, and a few, may be decoded exactly because they look like a refused one.
SUSPECTS_SHARE = 64
#: Clues that are kept for the next page, and for how many records after they last led to one.
CLUES_MAX = 16
KEPT_RECORDS = 100_000
#: Clues that are tried on one page, and their size: where all is broken, each costs a search.
TRIED_MAX = 24
CLUE_BYTES_MAX = 64
#: The clue that quotes and brackets do not come to pairs; others are pieces of payloads.
BALANCE = b""
#: What the value of a kind begins with.
_BEGINS = {
    "string": rb'"',
    "object": rb"\{",
    "array": rb"\[",
    "boolean": rb"[tf]",
    "number": rb"[-0-9]",
}
#: What documents have between their words, and how much of a word among them is looked at.
_SIGNS = frozenset('{}[]:," \t\r\n')
_WORD_MAX = 24


@dataclass(slots=True)
class _Clue:
    """How payloads look that are refused.

    Args:
        certain: whether those that look so are sound only by mistake of the fast reader, so that
            they count even when they make rows.
        left: records that may go by without one.
        places: those of the page that look so.
    """

    certain: bool
    left: int = 0
    places: list[int] = field(default_factory=list)


class Foresight:
    """Clues of one decoder, from page to page."""

    def __init__(self) -> None:
        self._clues: dict[bytes, _Clue] = {}
        self._page: Page

    def begin(self, page: Page) -> list[int]:
        """The payloads of the next page that look as others did which were refused."""
        self._page = page
        self._look(self._clues)
        found: set[int] = set()
        for clue in self._clues.values():
            if len(found) + len(clue.places) <= _most(page):
                found.update(clue.places)
        return sorted(found)

    def refused(self, place: int, drift: tuple[str, str] | None) -> list[int]:
        """Those of this page that look as the one does that the fast reader has named.

        Args:
            place: of the page.
            drift: name of the member that was refused, and the kind of its value; None if not that.
        """
        if len(self._clues) >= TRIED_MAX:
            return []
        if drift is None:
            return self._slipped(place)
        return self._learn(_drift(self._page.payload(place), *drift), certain=True)

    def erred(self, place: int, error: DecodeError) -> list[int]:
        """Those of this page that look as the one does that the exact path has refused."""
        if len(self._clues) >= TRIED_MAX:
            return []
        if not isinstance(error, ConflictError):
            return self._slipped(place)
        name = error.path.rpartition(".")[2]
        return self._learn(_member(self._page.payload(place), name), certain=False)

    def end(self, errors: Mapping[int, DecodeError]) -> None:
        """Forgets the clues that have led nowhere for long; errors by place of this page."""
        for clue in self._clues.values():
            found = bool(clue.places) if clue.certain else not errors.keys().isdisjoint(clue.places)
            clue.left = KEPT_RECORDS if found else clue.left - len(self._page)
        kept = [(needle, clue) for needle, clue in self._clues.items() if clue.left > 0]
        self._clues = dict(kept[-CLUES_MAX:])
        del self._page  # it is large, and the next one may be long in coming

    def _slipped(self, place: int) -> list[int]:
        slip = _slip(self._page.payload(place))
        if slip is None:
            return []
        return self._learn(BALANCE, certain=False) + self._learn(slip, certain=False)

    def _learn(self, needle: bytes | None, *, certain: bool) -> list[int]:
        """What looks so in this page, once; nothing if that is too much."""
        if needle is None or needle in self._clues:
            return []
        if needle != BALANCE and not 2 <= len(needle) <= CLUE_BYTES_MAX:
            return []
        clue = self._clues[needle] = _Clue(certain)
        self._look({needle: clue})
        return clue.places

    def _look(self, clues: Mapping[bytes, _Clue]) -> None:
        """Finds the places of these clues in the page."""
        most = _most(self._page)
        if BALANCE in clues:
            clues[BALANCE].places = self._page.unbalanced(most)
        needles = [needle for needle in clues if needle != BALANCE]
        if needles:
            for needle, places in zip(needles, self._page.holding(needles, most), strict=True):
                clues[needle].places = places


def _most(page: Page) -> int:
    return 8 + len(page) // SUSPECTS_SHARE


def _member(payload: bytes, name: str, begins: bytes = b"") -> bytes | None:
    """How the name of a member is written up to its colon, or what its value begins with."""
    member = re.escape(json.dumps(name, ensure_ascii=False).encode())
    value = rb"\s*" + begins if begins else b""
    found = re.search(member + rb"\s*:" + value, payload)
    return found.group() if found else None


def _drift(payload: bytes, name: str, kind: str) -> bytes | None:
    begins = _BEGINS.get(kind)
    return _member(payload, name, begins) if begins else None


def _slip(payload: bytes) -> bytes | None:
    """The signs, and the word among them, where a payload ceases to be JSON; None if it is JSON."""
    try:
        json.loads(payload.decode())
    except json.JSONDecodeError as error:
        text, start, end = error.doc, error.pos, error.pos
        least, most = max(0, start - CLUE_BYTES_MAX), min(len(text), end + CLUE_BYTES_MAX)
        while start > least and text[start - 1] in _SIGNS:
            start -= 1
        while end < min(most, error.pos + _WORD_MAX) and text[end] not in _SIGNS:
            end += 1
        while end < most and text[end] in _SIGNS:
            end += 1
        slip = text[start:end]
        # A quote beside it only tells what kind of value it was.
        bare = slip.strip('"')
        return (bare if len(bare) > 1 and " " not in bare else slip).encode()
    except (ValueError, RecursionError):
        return None
    return None
