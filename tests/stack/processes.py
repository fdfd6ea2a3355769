"""Process groups by /proc: who is in one, since when, how much memory, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def start_time(pid: int) -> str | None:
    """When the process started, in clock ticks: with the pid it names one process for good."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def group(leader: int) -> list[int]:
    """The live processes of a process group."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[0] != "Z" and fields[2] == str(leader):
                members.append(int(entry.name))
    return members


def signal_group(leader: int, signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signum)


def end_group(leader: int, first: signal.Signals, wait_seconds: float) -> bool:
    """Ends a process group, by SIGKILL if `first` does not; whether it has ended. May block."""
    for signum in dict.fromkeys((first, signal.SIGKILL)):
        signal_group(leader, signal.SIGCONT)  # a paused process takes no other signal
        signal_group(leader, signum)
        deadline = time.monotonic() + wait_seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(leader, os.WNOHANG)
            if not group(leader):
                return True
            time.sleep(0.05)
    return False


def rss_mb(leader: int) -> int:
    """Resident memory of a process group."""
    return sum(_rss_kib(member) for member in group(leader)) // 1024


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the third on (the second, the name, may hold spaces)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _rss_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0
