"""`POST /query`: SQL or a ticket's JSON in, an Arrow stream or JSON lines out.

On a port of its own, not on the health page's: that one has no login and must answer probes while
queries take all the connections there are.
"""

from __future__ import annotations

import io
import logging
import select
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pyarrow as pa

from k2i_tasks.asking.answers import Answer
from k2i_tasks.asking.engine import Engine
from k2i_tasks.doors.tokens import Tokens
from k2i_tasks.errors import (
    BusyError,
    Component,
    ConfigError,
    K2IError,
    QueryCancelledError,
    QueryLimitError,
    ServiceError,
)
from k2i_tasks.serving.connection import BoundedRequest, BoundedServer, Page, host_is_local
from k2i_tasks.serving.served import Served
from k2i_tasks.tickets import TICKET_BYTES_MAX, Ask, Sql, parsed

log = logging.getLogger(__name__)

PATH = "/query"
ARROW_TYPE = "application/vnd.apache.arrow.stream"
LINES_TYPE = "application/x-ndjson"
JSON_TYPE = "application/json"
CONNECTIONS_MAX = 64
REQUEST_SECONDS_MAX = 10.0
PIECE_BYTES = 262_144
#: Headers that go with a refusal.
_HINTS = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate": "Bearer"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": "1"},
}
_POLLRDHUP = getattr(select, "POLLRDHUP", 0x2000)


class Refused(Exception):
    """A request that is not answered with rows."""

    def __init__(self, status: HTTPStatus, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.status, self.what, self.remedy = status, what, remedy


class HttpDoor(Served):
    """Serves an engine over HTTP, on daemon threads.

    Args:
        engine: answers.
        host, port: where to listen; port 0 for any free one.
        tokens: who may ask.
        tls: with certificate and key; None for no TLS.
        request_seconds_max: deadline for reading a request, and for each piece of an answer.

    Raises:
        ServiceError: the address cannot be bound.
    """

    def __init__(
        self,
        engine: Engine,
        host: str,
        port: int,
        tokens: Tokens,
        tls: ssl.SSLContext | None = None,
        *,
        request_seconds_max: float = REQUEST_SECONDS_MAX,
    ) -> None:
        try:
            server = _Server((host, port), engine, tokens, tls, request_seconds_max)
        except (OSError, OverflowError) as error:
            raise ServiceError(
                f"POST /query cannot be served on {host}:{port}: {error}.",
                component=Component.HEALTH,
                remedy="Set query.http_port to a free port, and check query.host.",
            ) from error
        super().__init__("query", server, scheme="http" if tls is None else "https", host=host)


class _Server(BoundedServer):
    def __init__(
        self,
        address: tuple[str, int],
        engine: Engine,
        tokens: Tokens,
        tls: ssl.SSLContext | None,
        request_seconds_max: float,
    ) -> None:
        self.engine, self.tokens, self.tls = engine, tokens, tls
        super().__init__(address, _Request, request_seconds_max, CONNECTIONS_MAX)

    def prepared(self, request: Any) -> Any:
        """Hands are shaken with the first read, within the request's time."""
        if self.tls is None:
            return request
        return self.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)


class _Request(BoundedRequest):
    server: _Server

    def do_POST(self) -> None:  # noqa: N802 - the standard library calls it so
        begun = False
        try:
            writer = _writer(self.headers.get("Accept"))
            ask = self._asked()
            with self.server.engine.answer(ask, self._waits) as answer:
                pieces = _pieces(answer, writer)
                first = next(pieces, b"")
                self._begin(writer.content_type)
                begun = True
                self._rows(first, pieces, answer)
        except Refused as refused:
            self._refuse(refused)
        except K2IError as error:
            if begun:
                # Without its last chunk no client takes the answer for whole.
                log.info("an answer was cut off: %s", error)
                return
            self._refuse(_refused(error))
        except OSError:
            raise  # the client is gone, or too slow
        except Exception:
            log.exception("a question over HTTP failed")
            if not begun:
                status = HTTPStatus.INTERNAL_SERVER_ERROR
                self._refuse(Refused(status, "Internal error; the run's log has more."))

    def _asked(self) -> Ask:
        self._check()
        lengths = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or len(lengths) != 1 or not lengths[0].isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "One Content-Length is needed.")
        if len(lengths[0]) > 9 or int(lengths[0]) > TICKET_BYTES_MAX:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The question is longer than {TICKET_BYTES_MAX} bytes.",
            )
        body = self.rfile.read(int(lengths[0]))
        if len(body) < int(lengths[0]):
            raise Refused(HTTPStatus.BAD_REQUEST, "The question ends in the middle.")
        kind = (self.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        if kind == JSON_TYPE:
            return parsed(body)
        try:
            return Sql(body.decode())
        except UnicodeDecodeError:
            raise Refused(HTTPStatus.BAD_REQUEST, "The question is not UTF-8 text.") from None

    def _check(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if self.request_version != "HTTP/1.1" or len(hosts) != 1:
            raise Refused(HTTPStatus.BAD_REQUEST, "HTTP/1.1 with one Host header is needed.")
        if self.server.loopback and not host_is_local(hosts[0]):
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "This Host is not served here.")
        given = self.headers.get_all("Authorization") or []
        if len(given) != 1 or self.server.tokens.bearer(given[0]) is None:
            raise Refused(
                HTTPStatus.UNAUTHORIZED,
                "A bearer token is needed, and this is none that is known here.",
                "Send Authorization: Bearer TOKEN, one of query.tokens.",
            )
        if self.path.partition("?")[0] != PATH:
            raise Refused(HTTPStatus.NOT_FOUND, "There is only /query here.")

    def _waits(self) -> bool:
        """Whether the client is still there. TLS or not, its end is seen on the socket itself."""
        poller = select.poll()
        poller.register(self.connection.fileno(), _POLLRDHUP | select.POLLHUP | select.POLLERR)
        return not poller.poll(0)

    def _begin(self, content_type: str) -> None:
        chunked = {"Transfer-Encoding": "chunked", "Trailer": "K2I-Rows, K2I-Cut"}
        self.begin(HTTPStatus.OK, content_type, chunked)

    def _rows(self, first: bytes, pieces: Iterator[bytes], answer: Answer) -> None:
        self._chunks(first, answer)
        for piece in pieces:
            self._chunks(piece, answer)
        end = answer.end
        self.wfile.write(f"0\r\nK2I-Rows: {end.rows}\r\nK2I-Cut: {end.cut}\r\n\r\n".encode())

    def _chunks(self, piece: bytes, answer: Answer) -> None:
        whole = memoryview(piece)
        for at in range(0, len(whole), PIECE_BYTES):
            part = whole[at : at + PIECE_BYTES]
            self.wfile.write(b"%x\r\n" % len(part))
            self.wfile.write(part)
            self.wfile.write(b"\r\n")
            answer.check()

    def _refuse(self, refused: Refused) -> None:
        page = Page.of_json({"error": refused.what, "remedy": refused.remedy}, refused.status)
        self.answer(page, _HINTS.get(refused.status))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors of the protocol in the same form as all others."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._refuse(Refused(HTTPStatus.METHOD_NOT_ALLOWED, "There is only POST here."))
        else:
            self._refuse(Refused(HTTPStatus(code), HTTPStatus(code).phrase))


@dataclass(frozen=True, slots=True)
class _Writer:
    content_type: str
    pieces: Callable[[Answer], Iterator[bytes]]


def _arrow(answer: Answer) -> Iterator[bytes]:
    sink = _Sink()
    with pa.ipc.new_stream(sink, answer.schema) as writer:
        yield sink.taken()
        for batch in answer:
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


def _lines(answer: Answer) -> Iterator[bytes]:
    # It loads Polars, which a flow that nobody asks has no need of.
    from k2i_tasks.doors.lines import json_bytes

    for batch in answer:
        yield from json_bytes(batch)


class _Sink(io.RawIOBase):
    """Takes what Arrow writes until it is taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def taken(self) -> bytes:
        whole, self._parts = b"".join(self._parts), []
        return whole


def _pieces(answer: Answer, writer: _Writer) -> Iterator[bytes]:
    """What is sent; the first piece holds the first rows, so that what fails at once says so."""
    pieces = writer.pieces(answer)
    head = next(pieces, b"")
    yield head + next(pieces, b"")
    yield from pieces


def _writer(accept: str | None) -> _Writer:
    arrow, lines = _Writer(ARROW_TYPE, _arrow), _Writer(LINES_TYPE, _lines)
    kinds = [one.partition(";")[0].strip().lower() for one in (accept or "*/*").split(",")]
    for kind in kinds:
        if kind == ARROW_TYPE:
            return arrow
        if kind in (LINES_TYPE, JSON_TYPE, "application/jsonl", "application/*", "*/*"):
            return lines
    raise Refused(HTTPStatus.NOT_ACCEPTABLE, f"There is {ARROW_TYPE}, and {LINES_TYPE}.")


def _refused(error: K2IError) -> Refused:
    status = HTTPStatus.BAD_GATEWAY
    if isinstance(error, ConfigError):
        status = HTTPStatus.BAD_REQUEST
    elif isinstance(error, BusyError):
        status = HTTPStatus.SERVICE_UNAVAILABLE
    elif isinstance(error, (QueryLimitError, QueryCancelledError)):
        status = HTTPStatus.GATEWAY_TIMEOUT
    return Refused(status, error.what, error.remedy)


def tls_context(cert: str, key: str) -> ssl.SSLContext:
    """For `HttpDoor`, from PEM files. May block on the disk.

    Raises:
        ConfigError: they are not usable.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The certificate in {cert} and the key are not usable: {error}.",
            field="query.tls_cert_location",
            remedy="Name PEM files that belong together.",
        ) from None
    return context
