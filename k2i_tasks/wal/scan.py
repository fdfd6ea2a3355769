"""Reads a segment's bytes and judges how it ends: clean, torn by a crash, or corrupt. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from k2i_tasks.wal.format import (
    FORMAT_VERSION,
    FRAME_BYTES_MIN,
    HEADER_BYTES,
    Frame,
    SegmentHeader,
    read_frame,
    read_header,
)

#: The search after a bad frame may checksum this many times the bytes it searches, and no more.
SEARCH_FACTOR = 4


class Ending(StrEnum):
    """How a segment ends."""

    CLEAN = "clean"
    TORN = "torn tail"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Scan:
    """What a segment's bytes hold.

    Args:
        header: None when it cannot be read.
        frames: whole frames from the start up to the first fault, lsn strictly +1.
        ending: whether there is a fault, and of which sort.
        position: first byte that belongs to no frame in `frames`.
        why: the fault in one sentence; empty when clean.
        highest_lsn: highest lsn seen, in valid frames behind the fault too.
    """

    header: SegmentHeader | None
    frames: tuple[Frame, ...]
    ending: Ending
    position: int
    why: str
    highest_lsn: int


def scan(data: bytes, *, last: bool = True) -> Scan:
    """Reads a whole segment and says how it ends.

    A fault is a torn tail, which a crash leaves and a writer may cut, only if the segment is the
    last one, nothing valid follows, and the fault lies behind what was durable from the start.

    Args:
        data: the segment's bytes.
        last: whether it is the newest segment of its log.
    """
    header = read_header(data)
    if isinstance(header, str):
        return Scan(None, (), Ending.CORRUPT, 0, header, 0)
    if header.version > FORMAT_VERSION:
        # What follows is not ours to judge.
        return Scan(header, (), Ending.CLEAN, HEADER_BYTES, "", header.previous_lsn)
    frames, why = _leading_frames(data, header)
    position = frames[-1].end if frames else HEADER_BYTES
    lsn = frames[-1].lsn if frames else header.previous_lsn
    if not why and position >= header.durable_bytes:
        return Scan(header, frames, Ending.CLEAN, position, "", lsn)
    later = _later_lsn(data, position, header.seed, lsn)
    ending = Ending.CORRUPT
    if later is not None:
        why = f"{why}, yet " + (f"entry {later} follows" if later else "what follows looks sound")
    elif position < header.durable_bytes:
        why = f"{why or 'the segment ends'}, within the {header.durable_bytes} bytes it began with"
    elif not last:
        why = f"{why}, and a newer segment exists"
    else:
        ending = Ending.TORN
    return Scan(header, frames, ending, position, why, max(lsn, later or 0))


def _leading_frames(data: bytes, header: SegmentHeader) -> tuple[tuple[Frame, ...], str]:
    """Whole frames in order up to the first fault, and that fault ("" at the end of the data)."""
    frames: list[Frame] = []
    seed, position, lsn = header.seed, HEADER_BYTES, header.previous_lsn
    while position < len(data):
        frame = read_frame(data, position, seed)
        if isinstance(frame, str):
            return tuple(frames), frame
        if frame.lsn != lsn + 1:
            return tuple(frames), f"entry {frame.lsn} stands where {lsn + 1} belongs"
        frames.append(frame)
        position, lsn = frame.end, frame.lsn
    return tuple(frames), ""


def _later_lsn(data: bytes, position: int, seed: int, lsn: int) -> int | None:
    """The highest lsn of valid frames from `position` on that come after `lsn`; None without any.

    The length of the bad frame is not believed: every byte is a place where a frame may begin.
    Work is linear: the candidates' checksums together cover `SEARCH_FACTOR` times the bytes, and
    when that is spent the answer is 0, "something is there": damage is reported rather than cut.
    """
    budget = SEARCH_FACTOR * (len(data) - position)
    highest: int | None = None
    for start in _frame_starts(data, position, lsn):
        length = int.from_bytes(data[start : start + 4], "little")
        if length <= len(data) - start:  # a longer one costs nothing: it is refused unread
            budget -= length
        frame = read_frame(data, start, seed)
        if isinstance(frame, Frame) and frame.lsn > lsn:
            highest = max(highest or 0, frame.lsn)
        elif budget < 0 and highest is None:
            return 0
    return highest


def _frame_starts(data: bytes, position: int, lsn: int) -> Iterator[int]:
    """Places from `position` on whose bytes could be the head of a frame with an lsn above `lsn`.

    A frame's lsn cannot be further ahead than frames fit into the bytes, which fixes its upper five
    bytes to one or two values. Neither a JSON payload nor a tail of zeros contains such a head.
    """
    most = lsn + 1 + (len(data) - position) // FRAME_BYTES_MIN
    uppers = range((lsn + 1) >> 24, (most >> 24) + 1)
    upper = b"|".join(re.escape(value.to_bytes(5, "little")) for value in uppers)
    head = re.compile(b"(?=(?:" + upper + b")[\x01-\xff][\x01-\xff])")
    ahead = 8 + 3  # length, checksum and the three lower bytes of the lsn
    for match in head.finditer(data, position + ahead):
        yield match.start() - ahead
