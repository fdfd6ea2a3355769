"""Frames and segments, byte by byte."""

from __future__ import annotations

import time

import pytest

from k2i_tasks.wal.entries import WalKind
from k2i_tasks.wal.format import (
    FRAME_BYTES_MAX,
    FRAME_HEAD_BYTES,
    HEADER_BYTES,
    Frame,
    SegmentHeader,
    decode_payload,
    encode_frame,
    encode_payload,
    read_frame,
    read_header,
)
from k2i_tasks.wal.scan import Ending, scan


def segment(count: int, *, number: int = 1, previous_lsn: int = 0, durable: int = 1) -> bytes:
    """A segment of `count` frames, of which the first `durable` were there from the start."""
    lengths = [len(encode_frame(0, 1, 3, _payload(i))) for i in range(durable)]
    header = SegmentHeader(number, previous_lsn, 0, HEADER_BYTES + sum(lengths))
    frames = [encode_frame(header.seed, previous_lsn + 1 + i, 3, _payload(i)) for i in range(count)]
    return header.to_bytes() + b"".join(frames)


def _payload(i: int) -> bytes:
    return encode_payload({"i": i})


def test_the_bytes_of_a_segment_are_those_that_the_format_page_shows() -> None:
    header = SegmentHeader(number=7, previous_lsn=41, previous_crc=0xDEADBEEF, durable_bytes=40)
    frame = encode_frame(header.seed, 42, WalKind.SEALED.code, encode_payload({"b": 1, "a": "é"}))
    assert (header.to_bytes() + frame).hex(" ") == (
        "4b 32 49 57 41 4c 0d 0a 01 00 00 00 07 00 00 00 00 00 00 00 "
        "29 00 00 00 00 00 00 00 ef be ad de 28 00 00 00 72 ce 60 60 "
        "14 00 00 00 "
        "5e 06 0d fe 2a 00 00 00 00 00 00 00 03 01 "
        "7b 22 61 22 3a 22 5c 75 30 30 65 39 22 2c 22 62 22 3a 31 7d"
    )


def test_codes_of_kinds_are_fixed_for_ever() -> None:
    assert {kind.name: kind.code for kind in WalKind} == {
        "CHECKPOINT": 1,
        "CLAIMED": 2,
        "SEALED": 3,
        "STAGED": 4,
        "COMMIT_STARTED": 5,
        "COMMIT_LANDED": 6,
        "ABANDONED": 7,
        "ACKNOWLEDGED": 8,
        "GAP": 9,
        "SCHEMA": 10,
        "MAINTENANCE": 11,
    }
    assert all(WalKind.of_code(kind.code) is kind for kind in WalKind)
    assert WalKind.of_code(0) is None


def test_header_and_frame_come_back_as_they_went() -> None:
    header = SegmentHeader(3, 2**40, 17, 99)
    assert read_header(header.to_bytes()) == header
    data = encode_frame(header.seed, 2**40 + 1, 5, b'{"x":null}')
    frame = read_frame(data, 0, header.seed)
    assert isinstance(frame, Frame)
    assert (frame.lsn, frame.kind, frame.version, frame.payload, frame.end) == (
        2**40 + 1,
        5,
        1,
        b'{"x":null}',
        len(data),
    )


def test_equal_bodies_give_equal_bytes_whatever_the_order_of_their_keys() -> None:
    assert encode_payload({"b": [1, 2.5], "a": None}) == encode_payload({"a": None, "b": [1, 2.5]})


@pytest.mark.parametrize(
    "body", [{"text": 'é\u0000"\\\n'}, {"lone": "\ud800"}, {"big": 2**80}, {"deep": [{"a": {}}]}]
)
def test_a_body_survives_the_round_trip(body: dict[str, object]) -> None:
    assert decode_payload(encode_payload(body)) == body


def test_what_json_does_not_have_is_refused_before_anything_is_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_payload({"x": float("nan")})
    with pytest.raises(TypeError):
        encode_payload({"x": b"bytes"})


def test_a_frame_of_another_segment_does_not_pass() -> None:
    ours, theirs = SegmentHeader(2, 0, 0, 40), SegmentHeader(1, 0, 0, 40)
    stale = encode_frame(theirs.seed, 1, 3, b"{}")
    assert read_frame(stale, 0, ours.seed) == "the frame's checksum does not hold"


def test_a_frame_beyond_the_bound_is_neither_written_nor_read() -> None:
    with pytest.raises(ValueError, match="at most"):
        encode_frame(0, 1, 3, b" " * (FRAME_BYTES_MAX - FRAME_HEAD_BYTES + 1))
    claimed = (FRAME_BYTES_MAX).to_bytes(4, "little") + b"\0" * 40
    assert "outside the bounds" in str(read_frame(claimed, 0, 0))


def test_a_whole_segment_scans_clean() -> None:
    data = segment(5)
    found = scan(data)
    assert (found.ending, found.position, found.why) == (Ending.CLEAN, len(data), "")
    assert [frame.lsn for frame in found.frames] == [1, 2, 3, 4, 5]


def test_a_damaged_length_in_the_middle_is_corrupt_whatever_it_claims() -> None:
    data = segment(5)
    start = scan(data).frames[2].position
    for length in (0, 1, 7, 8, 30, 200, 2**31, 2**32 - 1):
        bad = data[:start] + length.to_bytes(4, "little") + data[start + 4 :]
        if bad == data:
            continue
        found = scan(bad)
        assert (found.ending, found.position) == (Ending.CORRUPT, start), length
        assert found.highest_lsn == 5


def test_a_missing_frame_is_corrupt_and_a_doubled_last_one_is_a_tail_to_cut() -> None:
    data = segment(5)
    frames = scan(data).frames
    missing = data[: frames[2].position] + data[frames[3].position :]
    assert (scan(missing).ending, scan(missing).position) == (Ending.CORRUPT, frames[2].position)
    doubled = data + data[frames[4].position :]
    assert (scan(doubled).ending, scan(doubled).position) == (Ending.TORN, len(data))


def test_a_fault_in_an_older_segment_is_corrupt_even_at_its_end() -> None:
    data = segment(5)[:-1]
    assert scan(data).ending is Ending.TORN
    assert scan(data, last=False).ending is Ending.CORRUPT


def test_bytes_that_were_durable_when_the_segment_got_its_name_cannot_be_torn() -> None:
    data = segment(3, durable=2)
    durable = scan(data).frames[1].end
    assert scan(data[: durable - 1]).ending is Ending.CORRUPT
    assert scan(data[: scan(data).frames[0].end]).ending is Ending.CORRUPT
    assert scan(data[:durable]).ending is Ending.CLEAN
    assert scan(data[: durable + 1]).ending is Ending.TORN


def test_the_search_after_a_fault_crosses_a_boundary_of_the_upper_bytes_of_the_lsn() -> None:
    data = segment(6, previous_lsn=2**24 - 4)
    start = scan(data).frames[1].position
    bad = data[:start] + b"\xff" * (len(data) - start - 60) + data[len(data) - 60 :]
    found = scan(bad)
    assert (found.ending, found.position) == (Ending.CORRUPT, start)
    assert found.highest_lsn == 2**24 + 2


def test_the_search_after_a_fault_is_linear_on_bytes_made_to_slow_it() -> None:
    # Every 20 bytes a head that claims all that is left: 25,000 checksums of half a megabyte each.
    heads, size = bytearray(), 500_000
    for at in range(0, size, 20):
        heads += (size - at - 20).to_bytes(4, "little") + b"\1\1\1\1"
        heads += (2).to_bytes(8, "little") + b"\3\1ab"
    data = segment(1) + bytes(heads)
    started = time.process_time()
    found = scan(data)
    assert time.process_time() - started < 1
    assert found.ending is Ending.CORRUPT  # not proven to be a torn tail, so nothing is cut
    assert "looks sound" in found.why


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b'{"a":1}'])
def test_megabytes_of_filler_at_the_end_are_a_torn_tail_found_quickly(filler: bytes) -> None:
    data = segment(3)
    started = time.process_time()
    found = scan(data + filler * (4_000_000 // len(filler)))
    assert time.process_time() - started < 1
    assert (found.ending, found.position) == (Ending.TORN, len(data))
