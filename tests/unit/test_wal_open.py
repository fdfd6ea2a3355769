"""Opening a write-ahead log: its folder, its lock, and what was left in it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from k2i_tasks.errors import Component, ServiceError
from k2i_tasks.wal import (
    WalBrokenError,
    WalKind,
    WalLockedError,
    WalVersionError,
)
from k2i_tasks.wal.format import HEADER_BYTES, SegmentHeader, encode_frame
from k2i_tasks.wal.scan import scan
from tests.unit.wal_disks import FaultyDisk, bodies, open_log


def test_folder_and_files_are_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "wal"
    with open_log(folder) as log:
        log.checkpoint({})
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_second_process_is_refused_with_folder_and_holder(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from k2i_tasks.wal import WriteAheadLog as Log\n"
        "from k2i_tasks.errors import K2IError\n"
        "try:\n"
        "    Log.open(pathlib.Path(sys.argv[1]), segment_bytes_max=4096, segments_max=4)\n"
        "except K2IError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with open_log(tmp_path):
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 5
        assert f"in {tmp_path} is in use by process {os.getpid()}." in ran.stdout
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_a_second_log_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with open_log(tmp_path), pytest.raises(WalLockedError, match=str(os.getpid())):
        open_log(tmp_path)
    open_log(tmp_path).close()


def test_a_failed_opening_lets_go_of_the_folder(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.faults["sync"] = errno.EIO
    with pytest.raises(WalBrokenError):
        open_log(tmp_path, disk)
    open_log(tmp_path).close()


def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ServiceError, match=str(tmp_path / "file")) as caught:
        open_log(tmp_path / "file")
    assert caught.value.component is Component.WAL
    assert caught.value.exit_code == 5
    with pytest.raises(ServiceError, match="Not a directory"):
        open_log(tmp_path / "file" / "below")


def test_a_torn_tail_is_cut_and_the_log_goes_on(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for i in range(3):
            log.append(WalKind.SEALED, {"i": i})
    path = tmp_path / "00000001.log"
    os.truncate(path, path.stat().st_size - 5)
    with open_log(tmp_path) as log:
        assert (bodies(log), log.damage) == ([0, 1], ())
        assert log.cut_bytes == 18 + 7 - 5
        assert log.append(WalKind.SEALED, {"i": "new"}) == 3
    with open_log(tmp_path) as log:
        assert (bodies(log), log.cut_bytes) == ([0, 1, "new"], 0)


def test_a_corrupt_middle_is_set_aside_and_nothing_of_the_log_is_trusted(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for i in range(5):
            log.append(WalKind.SEALED, {"i": i})
    path = tmp_path / "00000001.log"
    data = bytearray(path.read_bytes())
    position = scan(bytes(data)).frames[2].position
    data[position + 20] ^= 1
    path.write_bytes(data)
    with open_log(tmp_path) as log:
        assert log.entries == ()
        (damage,) = log.damage
        assert (damage.path.name, damage.position) == ("00000001.log.corrupt", position)
        assert damage.path.read_bytes() == bytes(data)
        assert "checksum" in damage.why
        assert str(position) in str(damage)
        assert log.append(WalKind.CLAIMED, {"i": "new"}) > 5
    assert (tmp_path / "00000002.log").exists()
    with open_log(tmp_path) as log:
        assert (bodies(log), log.damage) == (["new"], ())
        assert (tmp_path / "00000001.log.corrupt").exists()


def test_evidence_is_kept_and_bounded_and_lsn_rise_over_it(tmp_path: Path) -> None:
    newest = 0
    for _ in range(12):
        with open_log(tmp_path) as log:
            lsn = log.append(WalKind.SEALED, {"i": 1})
            assert lsn > newest
            newest = lsn
        (path,) = tmp_path.glob("*.log")
        path.write_bytes(b"\0" + path.read_bytes()[1:])
    with open_log(tmp_path) as log:
        assert len(log.damage) == 1
        assert len(list(tmp_path.glob("*.corrupt"))) == 8


def test_a_lost_folder_is_a_fresh_log(tmp_path: Path) -> None:
    folder = tmp_path / "wal"
    with open_log(folder) as log:
        log.checkpoint({"i": 1})
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with open_log(folder) as log:
        assert (log.entries, log.damage, log.last_lsn) == ((), (), 0)


def test_an_older_segment_left_by_a_crash_is_removed_unread(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(WalKind.SEALED, {"i": "old"})
        old = (tmp_path / "00000001.log").read_bytes()
        log.checkpoint({"i": "state"})
    (tmp_path / "00000001.log").write_bytes(old[:-3] + b"bad")
    (tmp_path / "00000003.log.tmp").write_bytes(b"unfinished")
    (tmp_path / "notes.txt").write_text("somebody's")
    with open_log(tmp_path) as log:
        assert bodies(log) == ["state"]
        assert log.damage == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002.log", "lock", "notes.txt"]


def test_an_older_segment_beside_a_damaged_one_is_evidence_too(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(WalKind.SEALED, {"i": "old"})
        old = (tmp_path / "00000001.log").read_bytes()
        log.checkpoint({"i": "state"})
    (tmp_path / "00000001.log").write_bytes(old)
    newest = tmp_path / "00000002.log"
    newest.write_bytes(newest.read_bytes()[:-1])
    with open_log(tmp_path) as log:
        assert log.entries == ()
        assert [damage.path.name for damage in log.damage] == ["00000002.log.corrupt"]
    assert sorted(path.name for path in tmp_path.glob("*.log*")) == [
        "00000001.log.corrupt",
        "00000002.log.corrupt",
        "00000003.log",
    ]


def test_a_segment_under_another_number_is_damage(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(WalKind.SEALED, {"i": 1})
    (tmp_path / "00000001.log").rename(tmp_path / "00000009.log")
    with open_log(tmp_path) as log:
        assert log.entries == ()
        assert "belongs to segment 1" in log.damage[0].why


@pytest.mark.parametrize(("version", "kind", "entry_version"), [(2, 3, 1), (1, 200, 1), (1, 3, 3)])
def test_a_log_of_a_later_version_is_refused_and_left_as_it_is(
    tmp_path: Path, version: int, kind: int, entry_version: int
) -> None:
    header = SegmentHeader(1, 0, 0, HEADER_BYTES, version)
    path = tmp_path / "00000001.log"
    path.write_bytes(
        header.to_bytes() + encode_frame(header.seed, 1, kind, b"{}", entry_version) + b"torn"
    )
    before = path.read_bytes()
    with pytest.raises(WalVersionError, match="later version") as caught:
        open_log(tmp_path)
    assert caught.value.exit_code == 5
    assert path.read_bytes() == before


def test_a_whole_entry_that_is_no_json_object_is_damage_with_its_place(tmp_path: Path) -> None:
    header = SegmentHeader(1, 0, 0, HEADER_BYTES)
    good = encode_frame(header.seed, 1, 3, b"{}")
    (tmp_path / "00000001.log").write_bytes(
        header.to_bytes() + good + encode_frame(header.seed, 2, 3, b"[1]")
    )
    with open_log(tmp_path) as log:
        assert log.damage[0].position == HEADER_BYTES + len(good)
        assert log.entries == ()
