"""What readers have made of pieces: frames of rows that follow one another, kept as those are."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from k2i_tasks.buffer.piece import Piece


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A frame of consecutive pieces.

    Args:
        pieces: at least one, and each with rows, oldest first.
        columns: for which columns it was made.
        frame: the rows; `slice(offset, length)` gives some of them without a copy.
        nbytes: memory that it takes beside the pieces'.
    """

    pieces: tuple[Piece, ...]
    columns: Any
    frame: Any
    nbytes: int

    @property
    def first(self) -> int:
        """Number of its first row."""
        return self.pieces[0].first

    @property
    def end(self) -> int:
        """Number of the row behind its last."""
        return self.pieces[-1].end

    def between(self, first: int, end: int) -> tuple[Made, ...]:
        """It without pieces that are not between these rows; nothing when none is."""
        left = tuple(one for one in self.pieces if first <= one.first and one.end <= end)
        if len(left) in (0, len(self.pieces)):
            return (self,) if left else ()
        rows = left[-1].end - left[0].first
        frame = self.frame.slice(left[0].first - self.first, rows)
        nbytes = self.nbytes * rows // (self.end - self.first)
        return (Made(left, self.columns, frame, nbytes),)


class AllMade:
    """All of one buffer's, in order, no row twice. For who holds the buffer's lock."""

    def __init__(self) -> None:
        self.all: tuple[Made, ...] = ()
        self.nbytes = 0

    def put(self, new: Made) -> None:
        """Adds it, in the place of what there is of the same rows."""
        self.forget(new.first, new.end)
        at = bisect_right(self.all, new.first, key=lambda one: one.first)
        self._set((*self.all[:at], new, *self.all[at:]))

    def bytes_of(self, first: int, end: int) -> int:
        """Bytes that letting go of the rows between these would free."""
        return sum(
            one.nbytes * (min(end, one.end) - max(first, one.first)) // (one.end - one.first)
            for one in self.all
            if one.first < end and first < one.end
        )

    def forget(self, first: int, end: int) -> None:
        """Lets go of what was made of the pieces between these rows."""
        if not any(one.first < end and first < one.end for one in self.all):
            return
        rest: list[Made] = []
        for one in self.all:
            if end <= one.first or one.end <= first:
                rest.append(one)
            else:
                rest += (*one.between(one.first, first), *one.between(end, one.end))
        self._set(tuple(rest))

    def clear(self) -> None:
        self._set(())

    def _set(self, made: tuple[Made, ...]) -> None:
        self.all, self.nbytes = made, sum(one.nbytes for one in made)
