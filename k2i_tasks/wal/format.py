"""The write-ahead log's format: frames to bytes and back. Pure: no file is touched here.

A segment is a header of 40 bytes and frames end to end; all numbers are little-endian and unsigned.

    header   magic 8 | version u16 | flags u16 | number u64 | previous lsn u64 | previous crc u32
             | durable bytes u32 | crc u32
    frame    len u32 | crc u32 | lsn u64 | kind u8 | version u8 | payload (len bytes of JSON)

A frame's checksum starts from its segment header's, so a frame of another segment never passes.
docs/wal-format.md has the rules in full.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAGIC = b"K2IWAL\r\n"
FORMAT_VERSION = 1
#: What the payload of an entry may hold: all that earlier programs know, or schema changes too.
PLAIN_VERSION = 1
SCHEMA_VERSION = 2
#: The newest that this program reads.
ENTRY_VERSION = SCHEMA_VERSION

_HEADER = struct.Struct("<8sHHQQIII")
_FRAME = struct.Struct("<IIQBB")
_U32 = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
FRAME_HEAD_BYTES = _FRAME.size
#: Shortest frame: its payload is `{}`.
FRAME_BYTES_MIN = FRAME_HEAD_BYTES + 2
FRAME_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """How a segment begins.

    Args:
        number: the segment's number, rising by one; also in its file name.
        previous_lsn: last lsn before this segment; its first frame has the next one.
        previous_crc: checksum of that frame (0 when there is none): chains segment to segment.
        durable_bytes: bytes that were on disk before the segment got its name, header included.
        version: format version.
    """

    number: int
    previous_lsn: int
    previous_crc: int
    durable_bytes: int
    version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        """The 40 bytes of the header, its checksum last."""
        head = self._pack(0)[:-4]
        return head + _U32.pack(zlib.crc32(head))

    @property
    def seed(self) -> int:
        """The header's checksum, from which those of its frames start."""
        return zlib.crc32(self._pack(0)[:-4])

    def _pack(self, crc: int) -> bytes:
        return _HEADER.pack(
            MAGIC,
            self.version,
            0,
            self.number,
            self.previous_lsn,
            self.previous_crc,
            self.durable_bytes,
            crc,
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame whose checksum holds; `position` is its first byte in the segment."""

    lsn: int
    kind: int
    version: int
    payload: bytes
    crc: int
    position: int

    @property
    def end(self) -> int:
        return self.position + FRAME_HEAD_BYTES + len(self.payload)


def encode_payload(body: Mapping[str, Any]) -> bytes:
    """Canonical JSON: keys sorted, no blanks, ASCII with escapes; equal bodies give equal bytes.

    Raises:
        TypeError: a value that JSON does not have.
        ValueError: NaN or an infinity.
    """
    text = json.dumps(
        dict(body), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return text.encode("ascii")


def decode_payload(payload: bytes) -> dict[str, Any]:
    """The JSON object in `payload`.

    Raises:
        ValueError: it is not one.
    """
    body = json.loads(payload)
    if not isinstance(body, dict):
        raise ValueError("the payload is not a JSON object")
    return body


def encode_frame(
    seed: int, lsn: int, kind: int, payload: bytes, version: int = PLAIN_VERSION
) -> bytes:
    """One frame, for the segment whose header's checksum is `seed`.

    Raises:
        ValueError: it would be longer than `FRAME_BYTES_MAX`.
    """
    if FRAME_HEAD_BYTES + len(payload) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame holds at most {FRAME_BYTES_MAX} bytes")
    head = _FRAME.pack(len(payload), 0, lsn, kind, version)
    crc = zlib.crc32(payload, zlib.crc32(head[8:], zlib.crc32(head[:4], seed)))
    return head[:4] + _U32.pack(crc) + head[8:] + payload


def frame_crc(frame: bytes) -> int:
    """The checksum that an encoded frame carries."""
    crc: int = _U32.unpack_from(frame, 4)[0]
    return crc


def read_header(data: bytes) -> SegmentHeader | str:
    """The header at the start of `data`, or why there is none.

    The first 40 bytes keep their places in every format version, so that a sound header of a later
    version is told from a damaged one. The caller looks at `version`.
    """
    if len(data) < HEADER_BYTES:
        return f"the header is cut after {len(data)} bytes"
    magic, version, flags, number, lsn, previous_crc, durable, crc = _HEADER.unpack_from(data)
    if zlib.crc32(data[: HEADER_BYTES - 4]) != crc:
        return "the header's checksum does not hold"
    if magic != MAGIC:
        return "the header's magic is not that of a log segment"
    if version <= FORMAT_VERSION and (version == 0 or flags != 0):
        return f"the header names version {version} with flags {flags}, which no program writes"
    return SegmentHeader(number, lsn, previous_crc, durable, version)


def read_frame(data: bytes, position: int, seed: int) -> Frame | str:
    """The frame that begins at `position`, or why there is none. Its lsn is not judged here."""
    left = len(data) - position
    if left < FRAME_HEAD_BYTES:
        return f"{left} bytes are left, too few for a frame"
    length, crc, lsn, kind, version = _FRAME.unpack_from(data, position)
    size = FRAME_HEAD_BYTES + length
    if not FRAME_BYTES_MIN <= size <= FRAME_BYTES_MAX:
        return f"a frame of {size} bytes is outside the bounds"
    if size > left:
        return f"a frame of {size} bytes does not fit into the {left} that are left"
    end = position + size
    sum_of_length = zlib.crc32(data[position : position + 4], seed)
    if zlib.crc32(memoryview(data)[position + 8 : end], sum_of_length) != crc:
        return "the frame's checksum does not hold"
    payload = data[position + FRAME_HEAD_BYTES : end]
    return Frame(lsn, kind, version, payload, crc, position)
