"""What is on the disk for good."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns once a file, or the names in a folder, are on the disk. May block.

    Raises:
        OSError: the disk failed; what is on it is not known then.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Puts `content` at `path`, as a whole or not at all, and synced. May block; idempotent.

    Folders on the way are made. What stood there is there until the new file is on the disk.

    Raises:
        OSError: the disk failed or is full.
    """
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            scratch.unlink()
    sync(path.parent)
