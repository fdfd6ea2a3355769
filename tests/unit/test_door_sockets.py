"""Connections that are shut down by the address that they came to."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from k2i_tasks.doors.sockets import addresses, cut_off


class Pair:
    """A connection to `host` and `port`; the near end is that of a server."""

    def __init__(self, held: ExitStack, host: str, port: int, dialled: str = "") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        dual = family == socket.AF_INET6
        listener = held.enter_context(
            socket.create_server((host, port), family=family, dualstack_ipv6=dual)
        )
        self.port: int = listener.getsockname()[1]
        self.far = held.enter_context(socket.create_connection((dialled or host, self.port), 5))
        self.near = held.enter_context(listener.accept()[0])

    def is_open(self) -> bool:
        self.far.sendall(b"x")
        return self.near.recv(1) == b"x"

    def is_shut(self) -> bool:
        return self.near.recv(1) == b""


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_only_connections_to_the_address_are_shut(held: ExitStack) -> None:
    ours = Pair(held, "127.0.0.1", 0)
    other = Pair(held, "127.0.0.2", ours.port)
    cut_off(addresses("127.0.0.1"), ours.port)
    assert ours.is_shut()
    assert other.is_open()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_wildcard_has_all_addresses(held: ExitStack, host: str) -> None:
    ours = Pair(held, "127.0.0.1", 0)
    other = Pair(held, "127.0.0.2", ours.port)
    cut_off(addresses(host), ours.port)
    assert ours.is_shut()
    assert other.is_shut()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the machine has no such sockets")
def test_a_socket_for_both_kinds_of_addresses_is_known(held: ExitStack) -> None:
    ours = Pair(held, "::", 0, "127.0.0.1")
    cut_off(addresses("127.0.0.1"), ours.port)
    assert ours.is_shut()


def test_what_cannot_be_looked_at_leaves_no_file_open(
    held: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Pair(held, "127.0.0.1", 0)
    before = len(os.listdir("/proc/self/fd"))

    def refused(fileno: int) -> None:
        raise OSError("no socket")

    with monkeypatch.context() as broken:
        broken.setattr(socket, "socket", refused)
        cut_off(addresses("127.0.0.1"), ours.port)
    assert len(os.listdir("/proc/self/fd")) == before
    assert ours.is_open()
