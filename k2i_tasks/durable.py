"""What is on the disk for good."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any


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


def take(path: Path) -> int:
    """Takes the file at `path`, made if need be, for this process until the descriptor is closed.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def holder_of(path: Path) -> str:
    """Who has taken the file at `path`, for people."""
    try:
        pid = path.read_text("ascii", "replace").strip()
    except OSError:
        pid = ""
    return f"process {pid}" if pid.isdigit() else "another process"


def checksum(body: Any) -> str:
    """SHA-256 of what JSON holds, in hexadecimal; the order of members does not matter."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
