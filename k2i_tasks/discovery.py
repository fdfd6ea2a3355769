"""How a command on the same machine finds a running flow: a small file in the run's folder.

It holds addresses and a token, so its user alone can read it. A file that a killed run left is
recognised: the process is gone, or another one has its number.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "query.json"
_FILE_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Found:
    """A running flow: its process, where it answers, and the token of this machine."""

    pid: int
    born: str
    flight: str
    http: str
    token: str


def publish(folder: Path, flight: str, http: str, token: str) -> Path:
    """Tells commands of this user how this process is asked. May block on the disk.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / NAME
    found = Found(os.getpid(), born_at(os.getpid()), flight, http, token)
    scratch = path.with_name(f"{NAME}.{os.getpid()}.tmp")
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        scratch.unlink()
    # It is nobody else's to read from its first moment on. Not synced: it is of this boot alone.
    made = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(made, "w", encoding="utf-8") as file:
        json.dump(asdict(found), file)
    scratch.replace(path)
    return path


def withdraw(path: Path) -> None:
    """Takes the file away, if it is this process's own. Idempotent; may block on the disk."""
    found = _read(path)
    if found is not None and found.pid == os.getpid():
        with suppress(OSError):
            path.unlink()


def running(folder: Path) -> Found | None:
    """The flow that runs with this folder; None if none does. May block on the disk."""
    found = _read(folder / NAME)
    return found if found is not None and _lives(found) else None


def born_at(pid: int) -> str:
    """When a process was started, in ticks since the machine was; empty where that is unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text[text.rindex(")") + 2 :].split()[19]


def _read(path: Path) -> Found | None:
    try:
        with path.open("rb") as file:
            # Another user must not be able to send our questions elsewhere.
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            found = json.loads(file.read(_FILE_BYTES_MAX))
        return Found(**found)
    except (OSError, ValueError, TypeError):
        return None


def _lives(found: Found) -> bool:
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError, TypeError):
        return False
    return born_at(found.pid) == found.born
