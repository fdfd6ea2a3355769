"""Connections of a library that does not end them: shut down by the address that they came to."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

_OPEN = Path("/proc/self/fd")


def addresses(host: str) -> frozenset[str]:
    """Those that a host has, for `cut_off`; none for all of the machine. May block on a name.

    Raises:
        OSError: there is no such host.
    """
    found = {_plain(str(one[4][0])) for one in socket.getaddrinfo(host, None)}
    is_all = any(ipaddress.ip_address(one).is_unspecified for one in found)
    return frozenset() if is_all else frozenset(found)


def cut_off(at: frozenset[str], port: int) -> None:
    """Shuts down all connections to a port that this process listens on. Does not block.

    Whoever reads or writes them here finds their end. Where the system does not tell a process its
    open files, nothing is done.

    Args:
        at: addresses that it listens on; none for all. Another may have the port elsewhere.
        port: of TCP.
    """
    try:
        numbers = [int(name) for name in os.listdir(_OPEN)]
    except OSError:
        return
    for number in numbers:
        # Closed meanwhile, or one that only listens.
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                _shut(number, at, port)


def _shut(number: int, at: frozenset[str], port: int) -> None:
    # A descriptor of our own: the other may be closed and be another file at any moment.
    own = os.dup(number)
    try:
        connection = socket.socket(fileno=own)
    except BaseException:
        os.close(own)
        raise
    with connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return
        address, local_port = connection.getsockname()[:2]
        if local_port == port and (not at or _plain(address) in at):
            connection.getpeername()
            connection.shutdown(socket.SHUT_RDWR)


def _plain(address: str) -> str:
    """In one form: without a zone, and of IPv4 where a socket of IPv6 has it."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return str(found if mapped is None else mapped)
