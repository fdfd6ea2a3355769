"""Disks that fail or take notes, and openings of a log, for tests of the write-ahead log."""

from __future__ import annotations

import os
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
