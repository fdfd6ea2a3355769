"""What a process and its children use: CPU seconds, peak memory, bytes from the broker. Linux.

CPU is that of `/proc/PID/stat` (user and system, ended children included), memory the sum of the
processes' own peaks. What was used before the first bytes of the topic came is start-up, and is
kept apart: an engine that runs for weeks starts once.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: More than what clients talk about before the first fetch.
FIRST_BYTES = 300_000
#: Between two looks, before and after the first bytes: connections are looked at only till then.
EVERY_SECONDS, LATER_SECONDS = 0.1, 0.25
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: when (monotonic), CPU seconds and bytes received so far, CPU of the services."""

    at: float
    cpu_seconds: float
    received: int
    services_seconds: float


class NoDataError(Exception):
    """So little came from the broker that start-up and work cannot be told apart."""


class Meter:
    """Looks at a process tree from a thread until it is stopped; for a `with` statement.

    Args:
        pid: root of the tree.
        broker_port: whose connections count as the topic's.
        services: roots of the trees that it works with, whose CPU is apart.
    """

    def __init__(self, pid: int, broker_port: int, services: Sequence[int] = ()) -> None:
        self._pid = pid
        self._services = services
        self._port = broker_port
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self.samples: list[Sample] = []
        self.peak_rss_mb = 0.0
        self._error: Exception | None = None

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _main(self) -> None:
        try:
            self._look()
        except Exception as error:
            self._error = error

    def _look(self) -> None:
        bytes_seen = 0
        while not self._done.is_set():
            children = _children()
            pids = tree(self._pid, children)
            cpu = sum(map(cpu_seconds, pids))
            root = _stat(self._pid)
            if root is None or root[0] == "Z":
                return  # it has ended
            self.peak_rss_mb = max(self.peak_rss_mb, sum(map(peak_mb, pids)))
            begun = bytes_seen >= FIRST_BYTES
            if not begun:
                bytes_seen = received(pids, self._port)
            beside = sum(
                cpu_seconds(each) for root in self._services for each in tree(root, children)
            )
            self.samples.append(Sample(time.monotonic(), cpu, bytes_seen, beside))
            self._done.wait(LATER_SECONDS if begun else EVERY_SECONDS)

    def first_data(self) -> Sample:
        """The last look before the topic's first bytes.

        Raises:
            NoDataError: they were never seen.
        """
        for before, sample in zip([self.samples[0], *self.samples], self.samples, strict=False):
            if sample.received >= FIRST_BYTES:
                return before
        raise NoDataError(f"fewer than {FIRST_BYTES:,} bytes were seen: take more messages")

    def at(self, moment: float) -> Sample:
        """The first look at or after `moment`, or the last there is."""
        return next((each for each in self.samples if each.at >= moment), self.samples[-1])


def _children() -> dict[int, list[int]]:
    """All processes by their parents."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        fields = _stat(int(name)) if name.isdigit() else None
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(name))
    return children


def tree(root: int, children: Mapping[int, Sequence[int]] | None = None) -> list[int]:
    """The process and all that descend from it.

    Args:
        root: its id.
        children: all processes by their parents; looked at now when None.
    """
    children = _children() if children is None else children
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / _TICKS if fields is not None else 0.0


def _stat(pid: int) -> list[str] | None:
    """What follows the command's name in `/proc/PID/stat`; None when the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def peak_mb(pid: int) -> float:
    """A process's own peak so far; what `wait4` tells begins with that of its parent."""
    return _status_mb(pid, "VmHWM")


def resident_mb(pid: int) -> float:
    """Resident memory of a process now; 0 when it has ended."""
    return _status_mb(pid, "VmRSS")


def _status_mb(pid: int, figure: str) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text("utf-8", errors="replace")
    except OSError:
        return 0.0
    found = re.search(rf"{figure}:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


def received(pids: list[int], port: int) -> int:
    """Bytes that these processes' open connections to `port` have received."""
    words = ["ss", "-tnpHi", "dport", "=", f":{port}"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    total = 0
    for head, details in zip(lines[::2], lines[1::2], strict=False):
        found = re.search(r"bytes_received:(\d+)", details)
        if found and any(f"pid={pid}," in head for pid in pids):
            total += int(found[1])
    return total
