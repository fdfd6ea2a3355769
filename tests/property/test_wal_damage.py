"""Whatever happens to a log's bytes, replay gives no entry that was not written.

Either the entries are the exact prefix up to a torn end, or the damage is reported and there are
none. Deterministic: every byte and every bit, not a sample.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2i_tasks.wal import Disk, WalEntry, WalKind, WriteAheadLog
from k2i_tasks.wal.format import HEADER_BYTES, Frame
from k2i_tasks.wal.scan import Ending, Scan, scan
from tests.scale import times

APPENDED = 60
NAME = "00000002.log"


class UnsyncedDisk(Disk):
    """Skips the waits for the disk: these tests look at bytes, thousands of times."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_data(self, descriptor: int) -> None:
        pass


def open_log(folder: Path) -> WriteAheadLog:
    return WriteAheadLog.open(
        folder, segment_bytes_max=1 << 20, segments_max=4, disk=UnsyncedDisk()
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, list[WalEntry]]:
    """An older segment, the live one that begins with a checkpoint, and the live one's entries."""
    folder = tmp_path_factory.mktemp("wal")
    kinds = [kind for kind in WalKind if kind is not WalKind.CHECKPOINT]
    with open_log(folder) as log:
        for i in range(APPENDED):
            log.append(kinds[i % len(kinds)], _body(i))
        older = (folder / "00000001.log").read_bytes()
        log.checkpoint({"offsets": {"0": 10}})
        for i in range(APPENDED):
            log.append(kinds[i % len(kinds)], _body(i))
    with open_log(folder) as log:
        entries = list(log.entries)
    assert len(entries) == APPENDED + 1
    return older, (folder / NAME).read_bytes(), entries


def _body(i: int) -> dict[str, object]:
    return {"b": [i]} if i % 3 else {}


def replay(folder: Path, data: bytes) -> WriteAheadLog:
    """The log after an opening of a folder that holds `data` as its only segment; closed."""
    for path in folder.iterdir():
        path.unlink()
    (folder / NAME).write_bytes(data)
    log = open_log(folder)
    log.close()
    return log


def assert_prefix(found: Scan, sound: tuple[Frame, ...]) -> None:
    assert found.frames == sound[: len(found.frames)]


def test_a_cut_at_every_byte_replays_exactly_the_whole_entries_before_it(
    tmp_path: Path, written: tuple[bytes, bytes, list[WalEntry]]
) -> None:
    _, data, entries = written
    frames = scan(data).frames
    durable = frames[0].end
    for size in range(len(data) + 1):
        log = replay(tmp_path, data[:size])
        whole = sum(frame.end <= size for frame in frames)
        assert list(log.entries) == entries[:whole], size
        assert bool(log.damage) == (size < durable), size
        if not log.damage:
            end = frames[whole - 1].end
            assert log.cut_bytes == size - end
            assert (tmp_path / NAME).stat().st_size == end
            assert log.last_lsn == frames[whole - 1].lsn


def test_a_log_goes_on_after_a_cut_at_any_byte(
    tmp_path: Path, written: tuple[bytes, bytes, list[WalEntry]]
) -> None:
    _, data, _ = written
    for size in range(0, len(data) + 1, 23):
        replay(tmp_path, data[:size])
        with open_log(tmp_path) as log:
            before = list(log.entries)
            lsn = log.append(WalKind.CLAIMED, {"after": size})
        with open_log(tmp_path) as log:
            assert list(log.entries) == [*before, WalEntry(lsn, WalKind.CLAIMED, {"after": size})]
            assert (log.damage, log.cut_bytes) == ((), 0)


def test_a_flipped_bit_in_every_byte_is_reported_or_cuts_the_last_entry(
    tmp_path: Path, written: tuple[bytes, bytes, list[WalEntry]]
) -> None:
    _, data, entries = written
    last = scan(data).frames[-1].position
    dice = random.Random(20)
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 1 << dice.randrange(8)
        log = replay(tmp_path, bytes(bad))
        if at < last:
            assert log.entries == (), at
            assert log.damage[0].position <= at
            assert log.damage[0].path.read_bytes() == bytes(bad)
        else:
            assert list(log.entries) == entries[:-1], at
            assert log.damage == ()
            assert log.cut_bytes == len(data) - last


def test_every_bit_of_every_byte_when_flipped_never_yields_a_wrong_frame(
    written: tuple[bytes, bytes, list[WalEntry]],
) -> None:
    _, data, _ = written
    sound = scan(data).frames
    sound_ends = [HEADER_BYTES, *(frame.end for frame in sound)]
    for at in range(len(data)):
        for bit in range(8):
            bad = bytearray(data)
            bad[at] ^= 1 << bit
            found = scan(bytes(bad))
            expected = Ending.TORN if at >= sound[-1].position else Ending.CORRUPT
            assert found.ending is expected, (at, bit)
            assert_prefix(found, sound)
            position = max((end for end in sound_ends if end <= at), default=0)
            assert found.position == position, (at, bit)


def _tails(dice: random.Random, older: bytes, data: bytes) -> Iterator[tuple[str, bytes]]:
    stale, own = scan(older).frames, scan(data).frames
    for size in range(0, 200):
        yield "zeros", bytes(size)
    for _ in range(times(500, 100_000)):
        yield "garbage", dice.randbytes(dice.randrange(400))
    for frame in stale:
        yield "stale frame", older[frame.position : frame.end]
        yield "stale frames to the end", older[frame.position :]
    for frame in own:
        yield "a copy of an own frame", data[frame.position : frame.end]
        yield "a copy of the own end", data[frame.position :]
    yield "a whole older segment", older
    yield "the whole segment again", data


def test_no_tail_of_garbage_zeros_or_stale_frames_adds_an_entry(
    tmp_path: Path, written: tuple[bytes, bytes, list[WalEntry]]
) -> None:
    older, data, entries = written
    for what, tail in _tails(random.Random(21), older, data):
        log = replay(tmp_path, data + tail)
        assert list(log.entries) == entries, what
        assert (log.damage, log.cut_bytes) == ((), len(tail)), what


def test_stale_frames_in_place_of_the_end_are_cut_even_where_their_lsn_would_fit(
    tmp_path: Path,
) -> None:
    # Two segments of one number and lsn that differ in what went before: a restored copy.
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, state in ((first, {"epoch": 1}), (second, {"epoch": 2})):
        with open_log(folder) as log:
            log.append(WalKind.CLAIMED, state)
            log.checkpoint(state)
            for i in range(3):
                log.append(WalKind.SEALED, {"i": i, **state})
    stale, data = (first / NAME).read_bytes(), (second / NAME).read_bytes()
    cut = scan(data).frames[2].position
    assert cut == scan(stale).frames[2].position
    (second / NAME).write_bytes(data[:cut] + stale[cut:])
    with open_log(second) as log:
        assert [entry.body for entry in log.entries] == [{"epoch": 2}, {"i": 0, "epoch": 2}]
        assert log.cut_bytes == len(stale) - cut


@settings(max_examples=300, deadline=None)
@given(damage=st.data())
def test_any_mix_of_writes_over_a_segment_leaves_a_prefix(
    written: tuple[bytes, bytes, list[WalEntry]], damage: st.DataObject
) -> None:
    _, data, _ = written
    bad = bytearray(data)
    for _ in range(damage.draw(st.integers(1, 4))):
        at = damage.draw(st.integers(0, len(bad)))
        cut = damage.draw(st.integers(0, 40))
        bad[at : at + cut] = damage.draw(st.binary(max_size=60))
    found = scan(bytes(bad))
    assert_prefix(found, scan(data).frames)
    if found.ending is Ending.TORN:
        # Nothing that was written and is still whole lies behind what would be cut.
        for frame in scan(data).frames[len(found.frames) :]:
            whole = data[frame.position : frame.end]
            assert whole not in bytes(bad[found.position :])
