"""The write-ahead log on a disk that is full or fails, and the order of its durable steps."""

from __future__ import annotations

import errno
import logging
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from k2i_tasks.errors import IntegrityError, is_transient
from k2i_tasks.wal import (
    Disk,
    WalBrokenError,
    WalFullError,
    WalKind,
)
from tests.unit.wal_disks import FaultyDisk, NotingDisk, bodies, open_log


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_full_disk_refuses_an_entry_and_takes_the_next_when_there_is_room(
    tmp_path: Path, code: int
) -> None:
    disk = FaultyDisk()
    log = open_log(tmp_path, disk)
    log.append(WalKind.SEALED, {"i": 1})
    size = log.size_bytes
    disk.faults["write"], disk.most_bytes = code, 10
    with pytest.raises(WalFullError) as caught:
        log.append(WalKind.STAGED, {"i": "a long entry that is written in part"})
    assert caught.value.exit_code == 5
    assert caught.value.remedy
    assert not is_transient(caught.value)
    assert (tmp_path / "00000001.log").stat().st_size == size == log.size_bytes
    disk.faults.clear()
    disk.most_bytes = None
    assert log.append(WalKind.STAGED, {"i": 2}) == 2
    log.close()
    with open_log(tmp_path) as log:
        assert (bodies(log), log.cut_bytes, log.damage) == ([1, 2], 0, ())


def test_a_torn_entry_that_cannot_be_taken_back_breaks_the_log(tmp_path: Path) -> None:
    disk = FaultyDisk()
    log = open_log(tmp_path, disk)
    log.append(WalKind.SEALED, {"i": 1})
    disk.faults |= {"write": errno.ENOSPC, "truncate": errno.EIO}
    disk.most_bytes = 10
    with pytest.raises(WalBrokenError, match="could not be undone"):
        log.append(WalKind.STAGED, {"i": 2})
    disk.faults.clear()
    with pytest.raises(WalBrokenError):
        log.append(WalKind.STAGED, {"i": 3})
    log.close()
    with open_log(tmp_path) as log:
        assert bodies(log) == [1]
        assert log.cut_bytes > 0


def test_an_input_output_error_on_write_breaks_the_log(tmp_path: Path) -> None:
    disk = FaultyDisk()
    log = open_log(tmp_path, disk)
    disk.faults["write"] = errno.EIO
    with pytest.raises(IntegrityError, match="write to") as caught:
        log.append(WalKind.SEALED, {"i": 1})
    assert caught.value.exit_code == 5
    disk.faults.clear()
    with pytest.raises(IntegrityError, match="out of use"):
        log.append(WalKind.SEALED, {"i": 1})
    with pytest.raises(IntegrityError, match="out of use"):
        log.checkpoint({})
    log.close()


def test_a_failed_fsync_is_never_tried_again(tmp_path: Path) -> None:
    disk = FaultyDisk()
    log = open_log(tmp_path, disk)
    disk.faults["sync_data"] = errno.EIO
    with pytest.raises(WalBrokenError, match="fsync"):
        log.append(WalKind.COMMIT_STARTED, {"i": 1}, sync=True)
    disk.faults.clear()
    disk.calls.clear()
    with pytest.raises(WalBrokenError, match="fsync"):
        log.append(WalKind.COMMIT_STARTED, {"i": 1}, sync=True)
    log.close()
    assert disk.calls == []


def test_a_failed_fsync_at_the_close_is_told_and_the_folder_let_go(tmp_path: Path) -> None:
    disk = FaultyDisk()
    log = open_log(tmp_path, disk)
    log.append(WalKind.SEALED, {"i": 1})
    disk.faults["sync_data"] = errno.EIO
    with pytest.raises(WalBrokenError, match="fsync"):
        log.close()
    log.close()
    open_log(tmp_path).close()


def test_a_full_disk_refuses_a_checkpoint_and_the_old_segment_goes_on(tmp_path: Path) -> None:
    disk = FaultyDisk()
    log = open_log(tmp_path, disk)
    log.append(WalKind.SEALED, {"i": 1})
    for call in ("write", "rename"):
        disk.faults[call] = errno.ENOSPC
        with pytest.raises(WalFullError):
            log.checkpoint({"i": "state"})
        disk.faults.clear()
    log.append(WalKind.STAGED, {"i": 2})
    log.checkpoint({"i": "state"})
    log.append(WalKind.STAGED, {"i": 3})
    log.close()
    with open_log(tmp_path) as log:
        assert bodies(log) == ["state", 3]


@pytest.mark.parametrize("call", ["sync", "rename"])
def test_a_checkpoint_whose_fsync_or_rename_fails_breaks_the_log(tmp_path: Path, call: str) -> None:
    disk = FaultyDisk()
    log = open_log(tmp_path, disk)
    log.append(WalKind.SEALED, {"i": 1})
    disk.faults[call] = errno.EIO
    with pytest.raises(WalBrokenError):
        log.checkpoint({"i": "state"})
    disk.faults.clear()
    with pytest.raises(WalBrokenError):
        log.append(WalKind.STAGED, {"i": 2})
    log.close()
    with open_log(tmp_path) as log:
        assert bodies(log) == [1]
        assert list(tmp_path.glob("*.tmp")) == []


def test_a_segment_that_cannot_be_removed_counts_until_the_next_checkpoint_removes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FaultyDisk()
    with open_log(tmp_path, disk) as log:
        log.append(WalKind.SEALED, {"i": "x" * 500})
        disk.faults["unlink"] = errno.EACCES
        with caplog.at_level(logging.WARNING):
            log.checkpoint({"i": 1})
        assert "Cannot remove" in caplog.text
        assert log.size_bytes > 500
        disk.faults.clear()
        log.checkpoint({"i": 2})
        assert log.size_bytes < 200
        assert [path.name for path in tmp_path.glob("*.log")] == ["00000003.log"]


def test_a_process_at_its_file_size_limit_keeps_a_log_that_replays(tmp_path: Path) -> None:
    script = (
        "import resource, sys, pathlib\n"
        "from k2i_tasks.wal import WalFullError, WalKind, WriteAheadLog\n"
        "log = WriteAheadLog.open(pathlib.Path(sys.argv[1]), segment_bytes_max=65536,\n"
        "                         segments_max=4)\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))\n"
        "i = 0\n"
        "try:\n"
        "    while True:\n"
        "        log.append(WalKind.SEALED, {'i': i}); i += 1\n"
        "except WalFullError:\n"
        "    pass\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "log.append(WalKind.SEALED, {'i': 'after'})\n"
        "print(i)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", script, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    with open_log(tmp_path) as log:
        assert bodies(log) == [*range(int(ran.stdout)), "after"]
        assert log.cut_bytes == 0


def test_a_disk_that_is_really_full_is_told_as_such(tmp_path: Path) -> None:
    class FullDevice(Disk):
        def write(self, descriptor: int, data: memoryview, position: int) -> int:
            with open("/dev/full", "wb", buffering=0) as full:
                return full.write(data)

    open_log(tmp_path).close()
    with pytest.raises(WalFullError, match="No space left on device"):
        open_log(tmp_path, FullDevice())


def test_short_writes_are_gone_on_with(tmp_path: Path) -> None:
    disk = FaultyDisk()
    disk.most_bytes = 7
    with open_log(tmp_path, disk) as log:
        for i in range(20):
            log.append(WalKind.SEALED, {"i": i})
        log.checkpoint({"i": "state"})
        log.append(WalKind.SEALED, {"i": "x" * 100})
    with open_log(tmp_path) as log:
        assert bodies(log) == ["state", "x" * 100]


def test_each_step_is_durable_before_the_one_that_depends_on_it(tmp_path: Path) -> None:
    disk = NotingDisk()
    folder = tmp_path / "wal"
    log = open_log(folder, disk)
    assert disk.steps == [
        "sync folder",  # the parent, that names the new folder
        "truncate lock",
        "write lock",
        "write 00000001.log.tmp",
        "sync 00000001.log.tmp",
        "rename 00000001.log.tmp 00000001.log",
        "sync folder",
    ]
    disk.steps.clear()
    log.append(WalKind.SEALED, {})
    log.append(WalKind.COMMIT_STARTED, {}, sync=True)
    assert [step.split()[:2] for step in disk.steps] == [
        ["write", "00000001.log.tmp"],  # opened under that name
        ["write", "00000001.log.tmp"],
        ["sync", "data"],
    ]
    disk.steps.clear()
    log.checkpoint({})
    assert disk.steps == [
        "write 00000002.log.tmp",
        "sync 00000002.log.tmp",
        "rename 00000002.log.tmp 00000002.log",
        "sync folder",
        "unlink 00000001.log",
    ]
    log.close()


def test_a_cut_and_a_setting_aside_are_durable_before_anything_is_written(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(WalKind.SEALED, {"i": 1})
    path = tmp_path / "00000001.log"
    with path.open("ab") as file:
        file.write(b"torn")
    disk = NotingDisk()
    open_log(tmp_path, disk).close()
    assert disk.steps[2:] == ["truncate 00000001.log", "sync 00000001.log"]
    path.write_bytes(b"")
    disk = NotingDisk()
    open_log(tmp_path, disk).close()
    assert disk.steps[2:] == [
        "rename 00000001.log 00000001.log.corrupt",
        "sync folder",
        "write 00000002.log.tmp",
        "sync 00000002.log.tmp",
        "rename 00000002.log.tmp 00000002.log",
        "sync folder",
    ]
