"""Connections of a library that does not end them: shut down by the port that they came to."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

_OPEN = Path("/proc/self/fd")


def cut_off(port: int) -> None:
    """Shuts down all connections to a port that this process listens on. Does not block.

    Whoever reads or writes them here finds their end. Where the system does not tell a process its
    open files, nothing is done.
    """
    try:
        numbers = [int(name) for name in os.listdir(_OPEN)]
    except OSError:
        return
    for number in numbers:
        # Closed meanwhile, or one that only listens.
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                _shut(number, port)


def _shut(number: int, port: int) -> None:
    # A descriptor of our own: the other may be closed and be another file at any moment.
    with socket.socket(fileno=os.dup(number)) as connection:
        is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
        if is_tcp and connection.getsockname()[1] == port:
            connection.getpeername()
            connection.shutdown(socket.SHUT_RDWR)
