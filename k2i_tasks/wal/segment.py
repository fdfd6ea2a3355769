"""The live segment: an open file that only grows. Not thread-safe; its log holds the lock."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from k2i_tasks.failpoints import hit
from k2i_tasks.wal.disk import FULL, Disk, disk_errors, refusal
from k2i_tasks.wal.folder import segment_path
from k2i_tasks.wal.format import HEADER_BYTES, SegmentHeader, encode_frame, frame_crc
from k2i_tasks.wal.replay import Tail, broken, sync_or_break


class Segment:
    """One segment and where its next frame goes."""

    def __init__(self, disk: Disk, descriptor: int, tail: Tail) -> None:
        self.path = tail.path
        self.size = tail.size
        self.last_lsn = tail.last_lsn
        self.last_crc = tail.last_crc
        self.unsynced = False
        self._seed = tail.seed
        self._disk = disk
        self._descriptor = descriptor

    @classmethod
    def resume(cls, disk: Disk, tail: Tail) -> Segment:
        """Opens the segment that replay found.

        Raises:
            ServiceError: it cannot be opened for writing.
        """
        with disk_errors(f"open {tail.path} for writing"):
            descriptor = disk.open(tail.path, os.O_RDWR)
        return cls(disk, descriptor, tail)

    @classmethod
    def begin(
        cls,
        disk: Disk,
        folder: Path,
        number: int,
        *,
        last_lsn: int,
        last_crc: int,
        first: tuple[int, bytes, int] | None,
        place: str,
    ) -> Segment:
        """Makes segment `number`, durable under its name when this returns. May block on the disk.

        Args:
            disk: the system calls.
            folder: the log's folder.
            number: above that of every segment before.
            last_lsn: the last lsn before this segment.
            last_crc: the checksum of that frame.
            first: kind, payload and version of the frame it begins with.
            place: prefix of the failpoints on the way.

        Raises:
            ServiceError: the disk refused; there is no such segment, and what was is as before.
            WalBrokenError: an fsync or the rename failed; nothing more may be appended to the log.
        """
        header, frame = _beginning(number, last_lsn, last_crc, first)
        path = segment_path(folder, number)
        unfinished = path.with_name(path.name + ".tmp")
        descriptor = _write_new(disk, unfinished, header.to_bytes() + frame)
        try:
            hit(f"{place}.tmp")
            sync_or_break(disk, descriptor, unfinished)
            hit(f"{place}.synced")
            _rename(disk, unfinished, path)
            hit(f"{place}.renamed")
            _sync_name(disk, folder)
        except BaseException:
            disk.close(descriptor)
            raise
        lsn, crc = (last_lsn + 1, frame_crc(frame)) if frame else (last_lsn, last_crc)
        size = HEADER_BYTES + len(frame)
        return cls(disk, descriptor, Tail(path, header.seed, size, lsn, crc))

    def append(self, kind: int, payload: bytes, version: int) -> int:
        """Appends a frame, whole or not at all, and returns its lsn. May block on the disk.

        Raises:
            WalFullError: the disk is full or read-only; the segment is as before.
            WalBrokenError: the disk failed otherwise, or the torn frame could not be taken back.
        """
        frame = encode_frame(self._seed, self.last_lsn + 1, kind, payload, version)
        try:
            # At a fixed place: what an earlier failure left there is written over.
            self._disk.write_all(self._descriptor, frame, self.size)
        except OSError as error:
            self._take_back(error)
            raise refusal(f"append to {self.path}", error) from error
        self.size += len(frame)
        self.last_lsn += 1
        self.last_crc = frame_crc(frame)
        self.unsynced = True
        return self.last_lsn

    def sync(self) -> float:
        """Makes all frames durable and returns the seconds it took. May block on the disk.

        Raises:
            WalBrokenError: it failed, and must not be tried again.
        """
        started = time.perf_counter()
        try:
            self._disk.sync_data(self._descriptor)
        except OSError as error:
            raise broken(f"an fsync of {self.path} failed", error) from error
        self.unsynced = False
        return time.perf_counter() - started

    def close(self) -> None:
        """Closes the file; durable is only what was synced."""
        self._disk.close(self._descriptor)

    def _take_back(self, error: OSError) -> None:
        why = f"a write to {self.path} failed"
        if error.errno not in FULL:
            raise broken(why, error) from error
        try:
            if self._disk.size(self._descriptor) == self.size:
                return  # nothing of it was written; a read-only disk would not let it be cut either
            self._disk.truncate(self._descriptor, self.size)
        except OSError as second:
            raise broken(f"{why} and could not be undone", second) from second


def _beginning(
    number: int, last_lsn: int, last_crc: int, first: tuple[int, bytes, int] | None
) -> tuple[SegmentHeader, bytes]:
    """Header and first frame. The header has the frame's length, the frame the header's sum."""
    if first is None:
        return SegmentHeader(number, last_lsn, last_crc, HEADER_BYTES), b""
    kind, payload, version = first
    length = len(encode_frame(0, last_lsn + 1, kind, payload, version))
    header = SegmentHeader(number, last_lsn, last_crc, HEADER_BYTES + length)
    return header, encode_frame(header.seed, last_lsn + 1, kind, payload, version)


def _write_new(disk: Disk, path: Path, data: bytes) -> int:
    with disk_errors(f"make {path}"):
        descriptor = disk.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with disk_errors(f"write {path}"):
            disk.write_all(descriptor, data, 0)
    except BaseException:
        disk.close(descriptor)
        with contextlib.suppress(OSError):  # the next opening removes it, the next try replaces it
            disk.unlink(path)
        raise
    return descriptor


def _rename(disk: Disk, old: Path, new: Path) -> None:
    try:
        disk.rename(old, new)
    except OSError as error:
        if error.errno in FULL:
            raise refusal(f"rename {old}", error) from error
        # It may have happened; then what is appended to the older segment would not be read.
        raise broken(f"the rename of {old} failed", error) from error


def _sync_name(disk: Disk, folder: Path) -> None:
    try:
        disk.sync_folder(folder)
    except OSError as error:
        raise broken(f"an fsync of {folder} failed", error) from error
