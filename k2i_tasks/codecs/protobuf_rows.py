"""Messages that are read side by side, the bytes they are made of, and what is found in those."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from k2i_tasks.codecs.chunked import Failures
from k2i_tasks.codecs.protobuf_tags import BYTES4, BYTES8, GROUP, LENGTH, NUMBER
from k2i_tasks.codecs.vector import Mask, Positions, Source

#: Members, counted with those nested in them, that the elements of lists and the entries of maps in
#: one payload may have in all. An element may have no bytes but a tag and a length, and is a value
#: in as many columns as its type has: a payload of a megabyte could fill the memory.
MAX_CELLS = 4_194_304
#: Wire type -> type of `Found.raw`.
RAW_TYPES: dict[int, type[np.generic]] = {
    NUMBER: np.uint64,
    BYTES8: np.uint64,
    BYTES4: np.uint32,
    LENGTH: np.int64,
    GROUP: np.int64,
}


class ProtobufFailures(Failures):
    """Why payloads have failed, and what counts towards a limit.

    Attributes:
        cells: members of the elements of lists, by payload; see `MAX_CELLS`.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.cells = np.zeros(count, np.int64)


@dataclass(frozen=True, slots=True)
class Span:
    """n messages of one type: payloads, members of messages, or elements of lists.

    Args:
        source: the payloads' bytes.
        owners: the payload of each, n.
        anchors: n positions, rising, behind each message's bytes and before the next one's.
        failures: of all payloads.
        shown: whether there are columns for them; else they only have to be valid.
    """

    source: Source
    owners: Positions
    anchors: Positions
    failures: ProtobufFailures
    shown: bool = True

    def __len__(self) -> int:
        return len(self.owners)

    def elements(self, rows: Positions, ends: Positions, *, shown: bool = True) -> Span:
        """One message for each of `rows`, which end at `ends`."""
        return Span(self.source, self.owners[rows], ends, self.failures, self.shown and shown)

    def refuse(self, rows: Positions, code: str, what: str) -> None:
        """Fails the payloads of `rows`, whose bytes are not valid."""
        if len(rows):
            self.failures.add(self.owners[rows], code, what)

    def refuse_value(self, rows: Positions, code: str, what: str) -> None:
        """Fails the payloads of `rows`, which have a value that no column holds."""
        if self.shown:
            self.refuse(rows, code, what)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Bytes that messages are made of. One that is there in pieces is what they are together.

    Args:
        starts: k positions, rising.
        ends: of each.
        rows: the message of each.
        whole: there is exactly one for each message, in order.
    """

    starts: Positions
    ends: Positions
    rows: Positions
    whole: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Every value of one field, by its tag, that is in the bytes of n messages.

    Args:
        rows: the message of each of the k values.
        at: where each begins in the source, rising: so of two in one message the later one.
        raw: the k numbers as they are on the wire (uint64, or uint32 for those of 4 bytes), or the
            lengths in bytes (int64) of strings, messages and packed lists.
        whole: there is exactly one for each message, in order.
    """

    rows: Positions
    at: Positions
    raw: npt.NDArray[Any]
    whole: bool

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ends(self) -> Positions:
        """Of what has a length."""
        ends: Positions = self.at + self.raw
        return ends

    def where(self, marks: Mask) -> Found:
        """Those that are marked."""
        return Found(self.rows[marks], self.at[marks], self.raw[marks], False)

    def alone(self) -> Found:
        """Each as the only value of a message of its own."""
        return Found(np.arange(len(self)), self.at, self.raw, True)

    def pieces(self) -> Pieces:
        """The bytes of messages."""
        return Pieces(self.at, self.ends, self.rows, self.whole)


def together(parts: list[Found]) -> Found:
    """All of `parts`, in the order of the bytes."""
    if len(parts) == 1:
        return parts[0]
    at = np.concatenate([part.at for part in parts])
    order = np.argsort(at, kind="stable")
    rows = np.concatenate([part.rows for part in parts])[order]
    return Found(rows, at[order], np.concatenate([part.raw for part in parts])[order], False)
