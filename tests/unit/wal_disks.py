"""Disks that fail or take notes, and openings of a log, for tests of the write-ahead log."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from k2i_tasks.wal import (
    Disk,
    WalKind,
    WriteAheadLog,
)


class FaultyDisk(Disk):
    """Fails the calls named in `faults` with that errno, as long as they are there."""

    def __init__(self) -> None:
        self.faults: dict[str, int] = {}
        self.most_bytes: int | None = None
        self.calls: list[str] = []

    def _pass(self, call: str) -> None:
        self.calls.append(call)
        if call in self.faults:
            raise OSError(self.faults[call], os.strerror(self.faults[call]))

    def write(self, descriptor: int, data: memoryview, position: int) -> int:
        if self.most_bytes is not None and len(data) > self.most_bytes:
            data = data[: self.most_bytes]  # a short write; the next one meets the fault
        elif self.most_bytes is None or "write" in self.faults:
            self._pass("write")
        return super().write(descriptor, data, position)

    def truncate(self, descriptor: int, size: int) -> None:
        self._pass("truncate")
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self._pass("sync")
        super().sync(descriptor)

    def sync_data(self, descriptor: int) -> None:
        self._pass("sync_data")
        super().sync_data(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self._pass("rename")
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._pass("unlink")
        super().unlink(path)


class NotingDisk(Disk):
    """Notes each step that changes or syncs something, with the name of what it is done to."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self._names: dict[int, str] = {}

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        self._names[descriptor] = "folder" if path.is_dir() else path.name
        return descriptor

    def write(self, descriptor: int, data: memoryview, position: int) -> int:
        self.steps.append(f"write {self._names[descriptor]}")
        return super().write(descriptor, data, position)

    def truncate(self, descriptor: int, size: int) -> None:
        self.steps.append(f"truncate {self._names[descriptor]}")
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self.steps.append(f"sync {self._names[descriptor]}")
        super().sync(descriptor)

    def sync_data(self, descriptor: int) -> None:
        self.steps.append(f"sync data {self._names[descriptor]}")
        super().sync_data(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self.steps.append(f"rename {old.name} {new.name}")
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self.steps.append(f"unlink {path.name}")
        super().unlink(path)


def open_log(
    folder: Path,
    disk: Disk | None = None,
    *,
    segment_bytes_max: int = 1 << 20,
    segments_max: int = 4,
) -> WriteAheadLog:
    return WriteAheadLog.open(
        folder, segment_bytes_max=segment_bytes_max, segments_max=segments_max, disk=disk
    )


def append_many(log: WriteAheadLog, count: int) -> None:
    for i in range(count):
        log.append(WalKind.SEALED, {"i": i, "pad": "x" * 100})


def bodies(log: WriteAheadLog) -> list[object]:
    return [entry.body["i"] for entry in log.entries]


class Spread(StrEnum):
    """How far a fault goes on, once it has come."""

    ONCE = "once"
    WRITES = "writes"  #: to all further writes: there is no room, all else works
    ALL = "all"  #: to every further call that changes or syncs something


class Lost(StrEnum):
    """What becomes of the pages that a failed fsync was to write."""

    NOTHING = "nothing"  #: they stay in the cache
    CUT = "cut"  #: the file ends where it was last synced
    ZEROED = "zeroed"  #: the file has its length, and zeros there


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at the `nth` call that changes or syncs something.

    Args:
        nth: from 1 on.
        code: the errno.
        spread: what else it hits.
        short: whether half of the bytes are written first, where the call is a write.
        lost: where the call is an fsync.
    """

    nth: int
    code: int
    spread: Spread = Spread.ONCE
    short: bool = False
    lost: Lost = Lost.NOTHING


class DyingDisk(Disk):
    """Counts the calls that change or sync something, and fails as told. Syncs nothing really."""

    def __init__(self, fault: Fault | None) -> None:
        self.fault = fault
        #: Name of each call so far.
        self.calls: list[str] = []
        self.synced_again: list[int] = []
        self._halved = False
        self._not_synced: set[int] = set()
        self._durable: dict[int, int] = {}
        self._renamed: tuple[Path, Path] | None = None

    def _pass(self, call: str) -> None:
        self.calls.append(call)
        fault, number = self.fault, len(self.calls)
        if fault is None or number < fault.nth:
            return
        further = {Spread.ONCE: False, Spread.WRITES: call == "write", Spread.ALL: True}
        if number == fault.nth or further[fault.spread]:
            raise OSError(fault.code, os.strerror(fault.code))

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT:
            self._pass("open")
        descriptor = super().open(path, flags)
        self._not_synced.discard(descriptor)
        self._durable[descriptor] = 0 if flags & os.O_TRUNC else self.size(descriptor)
        return descriptor

    def write(self, descriptor: int, data: memoryview, position: int) -> int:
        fault = self.fault
        due = fault is not None and fault.short and len(self.calls) + 1 == fault.nth
        if due and not self._halved:
            self._halved = True
            return super().write(descriptor, data[: len(data) // 2], position)
        self._pass("write")
        return super().write(descriptor, data, position)

    def truncate(self, descriptor: int, size: int) -> None:
        self._pass("truncate")
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self._sync("sync", descriptor)

    def sync_data(self, descriptor: int) -> None:
        self._sync("sync_data", descriptor)

    def _sync(self, call: str, descriptor: int) -> None:
        if descriptor in self._not_synced:
            self.synced_again.append(descriptor)
        try:
            self._pass(call)
        except OSError:
            self._not_synced.add(descriptor)
            self._lose(descriptor)
            raise
        self._durable[descriptor] = self.size(descriptor)

    def _lose(self, descriptor: int) -> None:
        lost = self.fault.lost if self.fault is not None else Lost.NOTHING
        if lost is Lost.NOTHING:
            return
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            if self._renamed is not None:
                os.rename(*reversed(self._renamed))
            return
        size, durable = self.size(descriptor), self._durable[descriptor]
        os.ftruncate(descriptor, durable)
        if lost is Lost.ZEROED:
            os.ftruncate(descriptor, size)

    def rename(self, old: Path, new: Path) -> None:
        self._pass("rename")
        super().rename(old, new)
        self._renamed = (old, new)

    def unlink(self, path: Path) -> None:
        self._pass("unlink")
        super().unlink(path)
