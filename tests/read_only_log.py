"""`k2i` whose write-ahead log is on a disk that turns read-only amid the run.

`mount -o remount,ro` is refused while a file is open for writing, as the log always is. A file
system does it by itself after an error (ext4 with `errors=remount-ro`, to be had by `mount -o
remount,abort`): from then on each call that writes answers EROFS, on open files and for fsync too.
That takes a block device and root, so here the calls answer as ext4's do, once the file that
`READ_ONLY_WHEN` names is there.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import patch

import k2i_tasks.wal.log
from k2i_tasks.cli import main
from k2i_tasks.wal import Disk

VARIABLE = "READ_ONLY_WHEN"


class TurningReadOnly(Disk):
    def __init__(self) -> None:
        self._when = Path(os.environ[VARIABLE])

    def _check(self) -> None:
        if self._when.exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def open(self, path: Path, flags: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            self._check()
        return super().open(path, flags)

    def write(self, descriptor: int, data: memoryview, position: int) -> int:
        self._check()
        return super().write(descriptor, data, position)

    def truncate(self, descriptor: int, size: int) -> None:
        self._check()
        super().truncate(descriptor, size)

    def sync(self, descriptor: int) -> None:
        self._check()
        super().sync(descriptor)

    def sync_data(self, descriptor: int) -> None:
        self._check()
        super().sync_data(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        self._check()
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        self._check()
        super().unlink(path)


if __name__ == "__main__":
    with patch.object(k2i_tasks.wal.log, "Disk", TurningReadOnly):
        main()
