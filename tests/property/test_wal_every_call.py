"""Every call that writes or syncs the log, failing in every way: what was promised is there.

Exhaustive: each such call of a story of two sessions, with each errno, once and from then on, whole
and short, with and without the loss of what a failed fsync was to write.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from k2i_tasks.errors import ServiceError
from k2i_tasks.wal import WalBrokenError, WalKind, WriteAheadLog
from k2i_tasks.wal.disk import FULL
from tests.unit.wal_disks import DyingDisk, Fault, Lost, Spread, bodies, open_log

#: There is no room, the quota is used up, the disk is read-only, the disk is broken.
CODES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Story:
    """Two sessions of one log on a disk that fails, and what must be in the log after them.

    Args:
        folder: the log's; not there yet.
        disk: fails as told.
    """

    def __init__(self, folder: Path, disk: DyingDisk) -> None:
        self.folder = folder
        self.disk = disk
        #: Entries that were acknowledged, from the newest checkpoint on.
        self.acknowledged: list[object] = []
        #: Those of them that were told to be on the disk.
        self.durable: list[object] = []
        #: What the log holds if the one call with an unknown outcome was done.
        self.perhaps: list[object] | None = None
        self.failed = False
        self._number = 0

    def play(self) -> None:
        """Up to the end, or to a failure after which only a new start goes on."""
        try:
            with open_log(self.folder, self.disk) as log:
                for sync in (False, True, False):
                    self._append(log, sync)
                self._checkpoint(log)
                self._append(log, True)
                self._append(log, False)
            self.durable = list(self.acknowledged)
            self._tear()
            with open_log(self.folder, self.disk) as log:
                assert bodies(log) == self.acknowledged
                self._append(log, False)
                self._checkpoint(log)
                self._append(log, False)
                self._append(log, True)
                self._append(log, False)
            self.durable = list(self.acknowledged)
        except (ServiceError, WalBrokenError):
            self.failed = True

    def _tear(self) -> None:
        """Leaves an unfinished entry, for the next opening to cut."""
        with max(self.folder.glob("*.log")).open("ab") as newest:
            newest.write(b"\x00torn")

    def _append(self, log: WriteAheadLog, sync: bool) -> None:
        body = self._body()
        after = [*self.acknowledged, body["i"]]
        if self._done(log, lambda: log.append(WalKind.SEALED, body, sync=sync), after):
            self.acknowledged = after
            self.durable = after if sync else self.durable

    def _checkpoint(self, log: WriteAheadLog) -> None:
        body = self._body()
        if self._done(log, lambda: log.checkpoint(body), [body["i"]]):
            self.acknowledged = self.durable = [body["i"]]

    def _body(self) -> dict[str, object]:
        self._number += 1
        return {"i": self._number, "pad": "x" * (self._number * 37 % 101)}

    def _done(self, log: WriteAheadLog, call: Callable[[], int], after: list[object]) -> bool:
        try:
            call()
        except ServiceError:  # refused: the log is as before, and takes the next entry
            return False
        except WalBrokenError:
            self.perhaps = after
            self._must_be_out_of_use(log)
            raise
        return True

    def _must_be_out_of_use(self, log: WriteAheadLog) -> None:
        before = len(self.disk.calls)
        with pytest.raises(WalBrokenError):
            log.append(WalKind.SEALED, {"i": -1})
        with pytest.raises(WalBrokenError):
            log.checkpoint({})
        log.close()
        assert self.disk.calls[before:] == [], "the disk was asked again"

    def must_hold(self) -> None:
        """What a start on a sound disk finds."""
        assert self.disk.synced_again == [], "an fsync that had failed was tried again"
        with open_log(self.folder, DyingDisk(None)) as log:
            found, cut_bytes = bodies(log), log.cut_bytes
            log.append(WalKind.SEALED, {"i": "after"})
        assert log.damage == ()
        with open_log(self.folder, DyingDisk(None)) as log:
            assert bodies(log) == [*found, "after"]
        lost = self.disk.fault is not None and self.disk.fault.lost is not Lost.NOTHING
        if not self.failed:
            assert found == self.acknowledged
            assert cut_bytes == 0
            return
        whole = [self.acknowledged, *([self.perhaps] if self.perhaps is not None else [])]
        if not lost:
            assert found in whole
            return
        assert found == self.perhaps or found[: len(self.durable)] == self.durable
        assert any(found == each[: len(found)] for each in whole), "not a prefix"


def faults(calls: list[str]) -> Iterator[Fault]:
    """Every way in which one of these calls can fail."""
    for nth, call in enumerate(calls, 1):
        for code in CODES:
            for spread in Spread:
                yield Fault(nth, code, spread)
                if call == "write":
                    yield Fault(nth, code, spread, short=True)
                if call.startswith("sync") and code not in FULL:
                    yield Fault(nth, code, spread, lost=Lost.CUT)
                    yield Fault(nth, code, spread, lost=Lost.ZEROED)


def test_no_failing_call_loses_what_was_acknowledged(tmp_path: Path) -> None:
    sound = Story(tmp_path / "sound", DyingDisk(None))
    sound.play()
    assert not sound.failed
    sound.must_hold()
    kinds = {"open", "write", "truncate", "sync", "sync_data", "rename", "unlink"}
    assert set(sound.disk.calls) == kinds
    went_on = 0
    for fault in faults(sound.disk.calls):
        story = Story(tmp_path / "story", DyingDisk(fault))
        try:
            story.play()
            assert len(story.disk.calls) >= fault.nth, "the fault was not met"
            story.must_hold()
        except BaseException as error:
            error.add_note(f"{fault}, a call of {sound.disk.calls[fault.nth - 1]}")
            raise
        went_on += not story.failed
        shutil.rmtree(story.folder)
    assert went_on, "every fault ended the log"


def test_no_failing_call_of_an_opening_that_sets_damage_aside_brings_an_entry_back(
    tmp_path: Path,
) -> None:
    with open_log(tmp_path / "made") as log:
        for number in range(5):
            log.append(WalKind.SEALED, {"i": number})
    segment = tmp_path / "made" / "00000001.log"
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    segment.write_bytes(damaged)

    def copied() -> Path:
        return Path(shutil.copytree(tmp_path / "made", tmp_path / "opened", dirs_exist_ok=False))

    disk = DyingDisk(None)
    open_log(copied(), disk).close()
    shutil.rmtree(tmp_path / "opened")
    for fault in faults(disk.calls):
        folder = copied()
        with contextlib.suppress(ServiceError, WalBrokenError):
            open_log(folder, DyingDisk(fault)).close()
        with open_log(folder, DyingDisk(None)) as log:
            assert log.entries == (), fault
        (evidence,) = folder.glob("*.corrupt")
        assert evidence.read_bytes() == damaged, fault
        shutil.rmtree(folder)
