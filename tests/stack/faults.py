"""A proxy before a real HTTP server that misbehaves as told, and keeps what it did.

Rules are data: which requests, what becomes of them, how often. What a rule forwards has been
carried out by the real server, whatever the client is told; so a test knows both sides.

    with FaultProxy("http://127.0.0.1:8181") as proxy:
        proxy.set(Rule("lost", Act.LOSE, "POST", "/tables/orders$", status=503))
        ...                          # a client of proxy.url
        proxy.until_done("lost")     # it really happened, and the server answered ...
        assert proxy.done[-1].status == 200

Requests go on as they came, `Host` too, so that signed ones stay valid.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from .programs import HOST

#: Longest wait for the real server, and of a test for a fault to happen.
PATIENCE_SECONDS = 60.0
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_GARBAGE = b"<html><body>200 says the gateway"
_RESET = struct.pack("ii", 1, 0)


class Act(StrEnum):
    """What becomes of a request."""

    REFUSE = "refuse"  #: not forwarded; answered with `status`
    LOSE = "lose"  #: forwarded; `status` in place of the answer
    CUT = "cut"  #: forwarded; the connection is cut in place of the answer
    GARBAGE = "garbage"  #: forwarded; 200 and a page of a gateway's in place of the answer
    HANG = "hang"  #: not forwarded, never answered
    MUTE = "mute"  #: forwarded, never answered
    LATE = "late"  #: never answered; forwarded once its time has come (`Rule.lands`)
    CUT_REQUEST = "cut request"  #: half of its body is forwarded, then both sides are cut
    CUT_ANSWER = "cut answer"  #: forwarded; half of the answer's body, then cut
    THROTTLE = "throttle"  #: forwarded and answered at `bytes_per_second`


class Lands(StrEnum):
    """When a late request reaches the real server."""

    TOLD = "told"  #: with `FaultProxy.release`
    BEFORE_NEXT = "before next"  #: just before the next request of the rule's kind
    AFTER_NEXT = "after next"  #: between the next one and its answer


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of some requests. The first rule that matches and is not used up counts.

    Args:
        name: by which a test asks for it.
        act: what becomes of them.
        method: of the request.
        path: a regular expression, searched for in path and query.
        times: requests that it hits.
        skip: requests of the kind that it lets pass first.
        status: for `REFUSE` and `LOSE`.
        body: of that answer.
        bytes_per_second: for `THROTTLE`.
        lands: for `LATE`.
    """

    name: str
    act: Act
    method: str
    path: str
    times: int = 1
    skip: int = 0
    status: int = 503
    body: bytes = b'{"error": {"message": "a fault", "type": "Fault", "code": 0}}'
    bytes_per_second: int = 1024
    lands: Lands = Lands.TOLD

    def concerns(self, request: _Request) -> bool:
        return request.method == self.method and bool(re.search(self.path, request.path))


@dataclass(frozen=True, slots=True)
class Done:
    """One request that a rule hit.

    Args:
        rule: its name.
        request: method and path.
        status: of the real server's answer; None if it was not asked, or not wholly.
    """

    rule: str
    request: str
    status: int | None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class FaultProxy:
    """Listens on a free loopback port until closed.

    Args:
        upstream: the real server, `http://host:port`.
        rewrite: text in the server's answers -> what the client gets instead; for addresses.
    """

    def __init__(self, upstream: str, rewrite: Mapping[str, str] | None = None) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._rewrite = {k.encode(): v.encode() for k, v in (rewrite or {}).items()}
        self._changed = threading.Condition()
        self._rules: list[tuple[Rule, int]] = []
        self._held: list[tuple[Rule, _Request]] = []
        self._done: list[Done] = []
        self.over = threading.Event()
        self._server = _Server((HOST, 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://{HOST}:{self._server.server_port}"

    @property
    def done(self) -> list[Done]:
        """All that was done to requests so far, oldest first."""
        with self._changed:
            return list(self._done)

    @property
    def unused(self) -> list[str]:
        """Names of the rules that are not used up."""
        with self._changed:
            return [rule.name for rule, _ in self._rules]

    def set(self, *rules: Rule) -> None:
        """Adds rules after those that there are."""
        with self._changed:
            self._rules += [(rule, rule.skip + rule.times) for rule in rules]

    def clear(self) -> None:
        """Ends all rules, used up or not."""
        with self._changed:
            self._rules.clear()

    def until_done(self, name: str, times: int = 1) -> list[Done]:
        """Waits until the rule has hit so many requests; what was done to them."""

        def found() -> list[Done]:
            return [done for done in self._done if done.rule == name]

        with self._changed:
            happened = self._changed.wait_for(lambda: len(found()) >= times, PATIENCE_SECONDS)
            assert happened, f"{name!r} hit {len(found())} of {times} requests; {self._done}"
            return found()

    def release(self) -> list[int]:
        """Forwards the late requests that are held; the real server's answers to them."""
        with self._changed:
            held, self._held = self._held, []
        return [self._land(rule, request) for rule, request in held]

    def hang_up(self) -> None:
        """Cuts the connections that wait for an answer which never comes."""
        over, self.over = self.over, threading.Event()
        over.set()

    def close(self) -> None:
        """Stops listening; requests that hang are cut."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # For the connections' threads.

    def rule_for(self, request: _Request) -> Rule | None:
        """The rule that hits this request, one use of which is taken."""
        with self._changed:
            for number, (rule, left) in enumerate(self._rules):
                if not rule.concerns(request):
                    continue
                if left == 1:
                    del self._rules[number]
                else:
                    self._rules[number] = (rule, left - 1)
                return rule if left <= rule.times else None
        return None

    def forward(self, request: _Request, slowly: int = 0) -> _Answer:
        """Sends it to the real server, and with it the late ones that were to wait for it."""
        self._release_for(request, Lands.BEFORE_NEXT)
        answer = self._ask(request, slowly)
        self._release_for(request, Lands.AFTER_NEXT)
        return answer

    def forward_half(self, request: _Request) -> None:
        """Sends what there is of a request whose announced body is longer, and hangs up."""
        with contextlib.closing(self._send_head(request)) as connection:
            connection.send(request.body)

    def hold(self, rule: Rule, request: _Request) -> None:
        with self._changed:
            self._held.append((rule, request))
        self.note(rule, request, None)

    def note(self, rule: Rule, request: _Request, status: int | None) -> None:
        with self._changed:
            self._done.append(Done(rule.name, f"{request.method} {request.path}", status))
            self._changed.notify_all()

    def _release_for(self, request: _Request, moment: Lands) -> None:
        with self._changed:
            due = [one for one in self._held if one[0].lands == moment and one[0].concerns(request)]
            self._held = [one for one in self._held if one not in due]
        for rule, late in due:
            self._land(rule, late)

    def _land(self, rule: Rule, request: _Request) -> int:
        status = self._ask(request).status
        self.note(rule, request, status)
        return status

    def _send_head(self, request: _Request) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._upstream, timeout=PATIENCE_SECONDS)
        connection.putrequest(
            request.method, request.path, skip_host=True, skip_accept_encoding=True
        )
        for key, value in request.headers:
            if not (self._rewrite and key.lower() == "accept-encoding"):
                connection.putheader(key, value)
        connection.endheaders()
        return connection

    def _ask(self, request: _Request, slowly: int = 0) -> _Answer:
        with contextlib.closing(self._send_head(request)) as connection:
            for piece in pieces(request.body, slowly):
                connection.send(piece)
            response = connection.getresponse()
            body = response.read()
            for before, after in self._rewrite.items():
                body = body.replace(before, after)
            return _Answer(response.status, tuple(response.getheaders()), body)


def pieces(data: bytes, per_second: int) -> Iterable[bytes]:
    """`data` at so many bytes a second, ten pieces a second; at once if 0."""
    step = max(1, per_second // 10) if per_second else max(1, len(data))
    for start in range(0, len(data), step):
        if per_second:
            time.sleep(0.1)
        yield data[start : start + step]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def _serve(self) -> None:
        head = tuple((key, value) for key, value in self.headers.items())
        request = _Request(self.command, self.path, head)
        rule = self.server.proxy.rule_for(request)
        if rule is not None and rule.act is Act.CUT_REQUEST:
            half = _Request(self.command, self.path, head, self._half_body())
            self.server.proxy.forward_half(half)
            self.server.proxy.note(rule, request, None)
            self._cut()
            return
        request = _Request(self.command, self.path, head, self._body())
        if rule is None:
            self._pass_on(self.server.proxy.forward(request))
        else:
            self._misbehave(rule, request)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _misbehave(self, rule: Rule, request: _Request) -> None:
        proxy = self.server.proxy
        if rule.act is Act.LATE:
            proxy.hold(rule, request)
            self._say_nothing()
            return
        answer = None
        if rule.act not in (Act.REFUSE, Act.HANG):
            slowly = rule.bytes_per_second if rule.act is Act.THROTTLE else 0
            answer = proxy.forward(request, slowly)
        proxy.note(rule, request, answer.status if answer else None)
        match rule.act:
            case Act.REFUSE | Act.LOSE:
                json = (("Content-Type", "application/json"),)
                self._pass_on(_Answer(rule.status, json, rule.body))
            case Act.GARBAGE:
                self._pass_on(_Answer(200, (("Content-Type", "text/html"),), _GARBAGE))
            case Act.HANG | Act.MUTE:
                self._say_nothing()
            case Act.CUT:
                self._cut()
            case Act.CUT_ANSWER if answer:
                self._pass_on(answer, most_bytes=len(answer.body) // 2)
                self._cut()
            case Act.THROTTLE if answer:
                self._pass_on(answer, slowly=rule.bytes_per_second)

    def _body(self) -> bytes:
        """As it came: a body in chunks with their sizes."""
        if not self._in_chunks():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body, line = b"", b""
        while line.rstrip() != b"0":
            line = self.rfile.readline()
            body += line + self.rfile.read(int(line.split(b";")[0], 16))
            body += self.rfile.readline()
        return body

    def _half_body(self) -> bytes:
        if self._in_chunks():  # which is not known to be half of it before it is all there
            body = self._body()
            return body[: len(body) // 2]
        return self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)

    def _in_chunks(self) -> bool:
        return str(self.headers.get("Transfer-Encoding", "")).lower() == "chunked"

    def _pass_on(self, answer: _Answer, *, most_bytes: int | None = None, slowly: int = 0) -> None:
        self.send_response_only(answer.status)
        length = str(len(answer.body))
        for key, value in answer.headers:
            if key.lower() == "content-length" and self.command == "HEAD":
                length = value
            if key.lower() not in _HOP_BY_HOP:
                self.send_header(key, value)
        if answer.status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in pieces(answer.body[:most_bytes], slowly):
            self.wfile.write(piece)

    def _say_nothing(self) -> None:
        """Until the client has had enough, or is hung up on."""
        over = self.server.proxy.over
        while not over.is_set():
            if select.select([self.connection], [], [], 0.05)[0]:
                break
        self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.connection.shutdown(socket.SHUT_RDWR)
