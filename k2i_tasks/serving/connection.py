"""One connection: read within a deadline, checked, answered with a page, closed.

What the standard library's server lacks is here: a bound on connections, one deadline for the
whole of a request, and a check of the Host header (a page in a browser could otherwise read a
loopback port through a name that it rebinds to 127.0.0.1).
"""

from __future__ import annotations

import io
import ipaddress
import json
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

log = logging.getLogger(__name__)

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """An answer, whole and in memory."""

    body: bytes
    content_type: str = TEXT_TYPE
    status: HTTPStatus = HTTPStatus.OK

    @classmethod
    def of_json(cls, value: Any, status: HTTPStatus = HTTPStatus.OK) -> Page:
        """`value` as JSON."""
        return cls((json.dumps(value) + "\n").encode(), JSON_TYPE, status)

    @classmethod
    def of_text(cls, text: str, status: HTTPStatus = HTTPStatus.OK) -> Page:
        """`text` with a line break at its end."""
        return cls(f"{text}\n".encode(), TEXT_TYPE, status)


def is_loopback(address: str) -> bool:
    """Whether `address` is one that only this machine reaches."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return address.lower().rstrip(".") == "localhost"


def host_is_local(header: str) -> bool:
    """Whether a Host header names this machine; a name that was rebound to us does not."""
    host = header.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return is_loopback(host)


class BoundedServer(socketserver.ThreadingMixIn, HTTPServer):
    """Serves each connection on a daemon thread, a bounded number at once; more are closed.

    Args:
        address: host and port; port 0 for any free one.
        request: answers a connection.
        request_seconds_max: deadline for reading a request, and again for writing the answer.
        connections_max: at once.

    Raises:
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    allow_reuse_port = False
    request_queue_size = 64

    def __init__(
        self,
        address: tuple[str, int],
        request: type[BoundedRequest],
        request_seconds_max: float,
        connections_max: int,
    ) -> None:
        self.request_seconds_max = request_seconds_max
        self._slots = threading.BoundedSemaphore(connections_max)
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, resolved = found[0]
        super().__init__((str(resolved[0]), int(resolved[1])), request)
        self.loopback = is_loopback(str(self.server_address[0]))

    def server_bind(self) -> None:
        # Not HTTPServer's: that one asks the name server for our own name, which may take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            request = self.prepared(request)
            with self._changed:
                self._open.add(request)
            super().process_request_thread(request, client_address)
        except OSError:
            self.shutdown_request(request)
        finally:
            with self._changed:
                self._open.discard(request)
                self._changed.notify_all()
            self._slots.release()

    def cut_off(self, seconds: float) -> None:
        """Waits so long for the connections that there are, and closes those that are left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, seconds)
            left = tuple(self._open)
        for request in left:
            with suppress(OSError):
                # Not the one of TLS: it forgets the encryption first, and whoever writes at that
                # moment would send plain text.
                socket.socket.shutdown(request, socket.SHUT_RDWR)

    def prepared(self, request: Any) -> Any:
        """The connection as it is read. Does not block; an `OSError` ends it."""
        return request

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a client on %s left in the middle", client_address, exc_info=True)


class DeadlineReader(io.RawIOBase):
    """Reads a socket until one moment, however slowly the other side sends."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_seconds = self._deadline - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left_seconds)
        return self._connection.recv_into(buffer)


class BoundedRequest(BaseHTTPRequestHandler):
    """One request on one connection; the connection is closed after it."""

    server: BoundedServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "k2i", ""

    def setup(self) -> None:
        super().setup()
        deadline = time.monotonic() + self.server.request_seconds_max
        self.rfile = io.BufferedReader(DeadlineReader(self.connection, deadline))

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()

    def answer(self, page: Page, more_headers: Mapping[str, str] | None = None) -> None:
        """Sends the page, within the deadline."""
        size = {"Content-Length": str(len(page.body))}
        self.begin(page.status, page.content_type, {**size, **(more_headers or {})})
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def begin(self, status: HTTPStatus, content_type: str, more: Mapping[str, str]) -> None:
        """Sends what stands before a body: the status, these headers, and those of all answers."""
        self.connection.settimeout(self.server.request_seconds_max)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
