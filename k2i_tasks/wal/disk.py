"""The system calls of the write-ahead log in one place, so that tests can make them fail."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k2i_tasks.durable import holder_of
from k2i_tasks.errors import Component, K2IError, ServiceError
from k2i_tasks.wal.entries import WalFullError, WalLockedError

#: The disk cannot take the bytes now and is otherwise sound.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
LOCK_NAME = "lock"


class Disk:
    """The calls as the system has them; each raises OSError. All may block on the disk."""

    def open(self, path: Path, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def write(self, descriptor: int, data: memoryview, position: int) -> int:
        return os.pwrite(descriptor, data, position)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        """Data and metadata to the disk."""
        os.fsync(descriptor)

    def sync_data(self, descriptor: int) -> None:
        """Data, and the metadata that is needed to read it (a grown size), to the disk."""
        os.fdatasync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def write_all(self, descriptor: int, data: bytes, position: int) -> None:
        """Writes all of `data` at `position`, however short the single writes are."""
        rest = memoryview(data)
        while rest:
            written = self.write(descriptor, rest, position)
            if written <= 0:
                raise OSError(errno.EIO, "the disk accepts no bytes")
            rest, position = rest[written:], position + written

    def sync_folder(self, folder: Path) -> None:
        """Makes the names in `folder` durable."""
        descriptor = self.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sync(descriptor)
        finally:
            self.close(descriptor)


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turns OSError into ServiceError where nothing of the log hangs on the failed call.

    Args:
        doing: what was tried, with the path: "read /var/lib/k2i/00000001.log".
    """
    try:
        yield
    except OSError as error:
        raise refusal(doing, error) from error


def refusal(doing: str, error: OSError) -> ServiceError:
    """The error for a disk that refused `doing`."""
    kind = WalFullError if error.errno in FULL else ServiceError
    if error.errno in FULL:
        remedy = "Free space on that disk or make it writable, then start again: nothing is lost."
    elif error.errno in (errno.EACCES, errno.EPERM):
        remedy = "Give this user the right to it, or set transaction_log.log_dir to another folder."
    else:
        remedy = (
            "Check the disk, or set transaction_log.log_dir to another folder: the table knows "
            "what was committed."
        )
    why = error.strerror or str(error)
    return kind(f"Cannot {doing}: {why}.", component=Component.WAL, remedy=remedy)


def make_folder(disk: Disk, folder: Path) -> None:
    """Makes `folder`, for this user alone, and its name durable; parents as the umask has it.

    Idempotent: a folder that exists is left as it is.
    """
    with disk_errors(f"make the folder of the write-ahead log, {folder}"):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except FileExistsError as error:
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
        else:
            disk.sync_folder(folder.parent)


def lock_folder(disk: Disk, folder: Path) -> int:
    """Takes the folder for this process until the descriptor that it returns is closed.

    Raises:
        WalLockedError: somebody has it; names the folder and the holder's process id.
        ServiceError: the folder cannot be locked.
    """
    path = folder / LOCK_NAME
    with disk_errors(f"open {path}"):
        descriptor = disk.open(path, os.O_RDWR | os.O_CREAT)
    try:
        with disk_errors(f"lock {path}"):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ServiceError as error:
        try:
            raise _held(folder, error) from error
        finally:
            disk.close(descriptor)
    try:
        with disk_errors(f"write {path}"):
            disk.truncate(descriptor, 0)
            disk.write_all(descriptor, f"{os.getpid()}\n".encode(), 0)
    except ServiceError:
        disk.close(descriptor)
        raise
    return descriptor


def _held(folder: Path, error: ServiceError) -> K2IError:
    if not isinstance(error.__cause__, BlockingIOError):
        return error
    return WalLockedError(
        f"The write-ahead log in {folder} is in use by {holder_of(folder / LOCK_NAME)}.",
        remedy="Stop that process, or set transaction_log.log_dir to a folder of this run's own.",
    )
