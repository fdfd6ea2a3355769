"""A disk of a test's own, in a mount namespace of its own, so that no right is needed for it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import pytest

#: Longest that a file of the disk may stay open for writing, in seconds.
PATIENCE_SECONDS = 60


class OwnDisk:
    """A file system in memory at `folder`, for programs whose command begins with `prefix`.

    Args:
        folder: made; outside the namespace it stays empty.
    """

    _unshare: ClassVar[Sequence[str]] = ("--map-root-user", "--mount")
    _enter: ClassVar[Sequence[str]] = ("--user", "--mount", "--preserve-credentials")
    #: Given `folder` and the path of a file beside it.
    _mount = 'mount -t tmpfs none "$1"'

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        missing = [tool for tool in ("unshare", "nsenter", "mount") if shutil.which(tool) is None]
        if missing:
            pytest.skip(f"a disk of its own takes {', '.join(missing)} (util-linux)")
        # Ends with this process: then its input does.
        self._keeper = subprocess.Popen(
            ["unshare", *self._unshare, *self._shell(f"{self._mount} && echo mounted && exec cat")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._keeper.stdout is not None
        told = self._keeper.stdout.readline()
        if told != "mounted\n":
            self._keeper.communicate()
            pytest.skip(f"not to be had here: {self._mount}, by unshare {self._unshare}")

    def _shell(self, script: str) -> list[str]:
        return ["sh", "-c", script, "sh", str(self.folder), f"{self.folder}.image"]

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command in the namespace."""
        return ("nsenter", f"--target={self._keeper.pid}", *self._enter)

    def read_only(self) -> None:
        """Mounts it read-only, once no file is open for writing."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (done := self._run('mount -o remount,ro "$1"')).returncode:
            assert "busy" in done.stderr, done.stderr
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.02)

    def writable(self) -> None:
        """Mounts it for reading and writing again."""
        self._must('mount -o remount,rw "$1"')

    def copy_out(self) -> None:
        """Puts its files where they are outside the namespace, too."""
        inside = f"/proc/{self._keeper.pid}/root{self.folder}"
        shutil.copytree(inside, self.folder, dirs_exist_ok=True)

    def _run(self, script: str) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, *self._shell(script)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def _must(self, script: str) -> None:
        done = self._run(script)
        assert done.returncode == 0, done.stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._keeper.communicate(timeout=30)


class Ext4Disk(OwnDisk):
    """A file system that aborts as after an error of its disk. Takes root and a loop device.

    Then it is read-only though files are open for writing, and what was not synced may be lost.
    """

    _unshare = ("--mount",)
    _enter = ("--mount",)
    _mount = (
        'truncate -s 64M "$2" && mkfs.ext4 -q "$2" && mount -o loop,errors=remount-ro "$2" "$1"'
    )

    def read_only(self) -> None:
        self._must('mount -o remount,abort "$1"')

    def writable(self) -> None:
        # 1: what was wrong with it is mended.
        self._must('umount "$1" && { e2fsck -fy "$2" || [ $? = 1 ]; } && mount -o loop "$2" "$1"')
