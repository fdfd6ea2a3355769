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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

log = logging.getLogger(__name__)

REQUEST_SECONDS_MAX = 5.0
CONNECTIONS_MAX = 32
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


#: Makes the page for one path; runs on the connection's thread; must not block for long.
Route = Callable[[], Page]


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


class RouteServer(socketserver.ThreadingMixIn, HTTPServer):
    """Answers fixed routes, each connection on a daemon thread, at most `CONNECTIONS_MAX` at once.

    Args:
        address: host and port; port 0 for any free one.
        routes: page by path.
        request_seconds_max: deadline for reading a request, and again for writing the answer.

    Raises:
        OSError: the address cannot be bound.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    allow_reuse_port = False
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], routes: Mapping[str, Route], request_seconds_max: float
    ) -> None:
        self.routes = routes
        self.request_seconds_max = request_seconds_max
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, resolved = found[0]
        super().__init__((str(resolved[0]), int(resolved[1])), _Request)
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
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

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


class _Request(BaseHTTPRequestHandler):
    """One request on one connection; the connection is closed after it."""

    server: RouteServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "k2i", ""

    def setup(self) -> None:
        super().setup()
        deadline = time.monotonic() + self.server.request_seconds_max
        self.rfile = io.BufferedReader(DeadlineReader(self.connection, deadline))

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()

    def do_GET(self) -> None:
        self._answer(self._page())

    def do_HEAD(self) -> None:
        self._answer(self._page())

    def _page(self) -> Page:
        if (refusal := self._refusal()) is not None:
            return refusal
        path = self.path.partition("?")[0].partition("#")[0]
        route = self.server.routes.get(path)
        if route is None:
            return Page.of_text("not found", HTTPStatus.NOT_FOUND)
        try:
            return route()
        except Exception:
            log.exception("the page %s failed", path)
            return Page.of_text("internal error", HTTPStatus.INTERNAL_SERVER_ERROR)

    def _refusal(self) -> Page | None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) > 1 or (not hosts and self.request_version != "HTTP/1.0"):
            return Page.of_text("one Host header is needed", HTTPStatus.BAD_REQUEST)
        if hosts and self.server.loopback and not host_is_local(hosts[0]):
            return Page.of_text("this Host is not served here", HTTPStatus.MISDIRECTED_REQUEST)
        return None

    def _answer(self, page: Page, **more_headers: str) -> None:
        self.connection.settimeout(self.server.request_seconds_max)
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        for name, value in more_headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors as short text; a method that we do not have is 405, not 501."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            refused = Page.of_text("only GET and HEAD", HTTPStatus.METHOD_NOT_ALLOWED)
            self._answer(refused, Allow="GET, HEAD")
            return
        self._answer(Page.of_text(HTTPStatus(code).phrase.lower(), HTTPStatus(code)))

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
