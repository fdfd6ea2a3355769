"""A schema registry in this process that can be told to fail, and framed payloads for it."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

#: What becomes of one request in place of an answer.
Fault = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, body: bytes = b"{}") -> Fault:
    """Answers with a status."""

    def fault(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return fault


def cut(request: BaseHTTPRequestHandler) -> None:
    """Ends the connection within the answer."""
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b'{"schema":')
    request.close_connection = True


def dripping(request: BaseHTTPRequestHandler) -> None:
    """Answers byte by byte, so that no single wait is long, until nobody listens any more."""
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()
    try:
        for _ in range(100_000):
            request.wfile.write(b" ")
            request.wfile.flush()
            time.sleep(0.02)
    except OSError:
        request.close_connection = True


class FakeRegistry:
    """Schemas by id and by subject; a context manager that serves them.

    Args:
        tls: as whom, and to whom; None for plain HTTP.

    Attributes:
        requests: paths that were asked for, in order.
        headers: of the last request.
        faults: what becomes of the next requests, one each.
        always: what becomes of the others; None for an answer.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self.headers: Mapping[str, str] = {}
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self._by_id: dict[int, dict[str, Any]] = {}
        self._subjects: dict[str, list[int]] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # One packet for head and body: two of them wait for one another.
            wbufsize = -1

            def do_GET(self) -> None:
                registry._serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            # The handshake is its own thread's, so that one that fails holds nobody up.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Answers nothing but 503 for a while."""
        self.always = status(503)
        try:
            yield
        finally:
            self.always = None

    def add(
        self,
        subject: str,
        text: str,
        *,
        kind: str = "AVRO",
        references: Sequence[tuple[str, str, int]] = (),
        schema_id: int | None = None,
    ) -> int:
        """Registers a schema as the next version; references are (name, subject, version)."""
        schema_id = schema_id or len(self._by_id) + 1
        body: dict[str, Any] = {"schema": text}
        if kind != "AVRO":
            body["schemaType"] = kind
        if references:
            words = ("name", "subject", "version")
            body["references"] = [dict(zip(words, one, strict=True)) for one in references]
        self._by_id[schema_id] = body
        self._subjects.setdefault(subject, []).append(schema_id)
        return schema_id

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        self.requests.append(unquote(parts.path))
        self.headers = dict(request.headers)
        fault = self.faults.popleft() if self.faults else self.always
        if fault is None:
            code, body = self._answer(list(map(unquote, parts.path.split("/")[1:])))
            fault = status(code, json.dumps(body).encode())
        fault(request)

    def _answer(self, path: list[str]) -> tuple[int, Any]:
        match path:
            case ["subjects"]:
                return 200, sorted(self._subjects)
            case ["schemas", "ids", number]:
                found = self._by_id.get(int(number))
                return (200, found) if found else (404, _error(40403, "Schema not found"))
            case ["subjects", subject, "versions", which]:
                ids = self._subjects.get(subject)
                if ids is None:
                    return 404, _error(40401, "Subject not found")
                place = len(ids) if which == "latest" else int(which)
                if place > len(ids):
                    return 404, _error(40402, "Version not found")
                found_id = ids[place - 1]
                own = {"subject": subject, "version": place, "id": found_id}
                return 200, own | self._by_id[found_id]
        return 404, {"detail": "no such page"}


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error_code": code, "message": message}


def frame(schema_id: int, payload: bytes, path: Sequence[int] | None = None) -> bytes:
    """A payload in its frame; with a path, as Protobuf's serialisers write it."""
    head = b"\0" + schema_id.to_bytes(4, "big")
    if path is None:
        return head + payload
    if tuple(path) == (0,):
        return head + b"\0" + payload
    return head + b"".join(map(_zigzag, (len(path), *path))) + payload


def _zigzag(number: int) -> bytes:
    raw, found = number << 1, bytearray()
    while raw > 0x7F:
        found.append(raw & 0x7F | 0x80)
        raw >>= 7
    return bytes([*found, raw])
