"""Fixed pages by path, for GET and HEAD."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus

from k2i_tasks.serving.connection import BoundedRequest, BoundedServer, Page, host_is_local

log = logging.getLogger(__name__)

REQUEST_SECONDS_MAX = 5.0
CONNECTIONS_MAX = 32

#: Makes the page for one path; runs on the connection's thread; must not block for long.
Route = Callable[[], Page]


class RouteServer(BoundedServer):
    """Answers fixed routes, at most `CONNECTIONS_MAX` connections at once.

    Args:
        address, request_seconds_max: as `BoundedServer`.
        routes: page by path.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(
        self, address: tuple[str, int], routes: Mapping[str, Route], request_seconds_max: float
    ) -> None:
        self.routes = routes
        super().__init__(address, _Request, request_seconds_max, CONNECTIONS_MAX)


class _Request(BoundedRequest):
    server: RouteServer

    def do_GET(self) -> None:  # noqa: N802 - the standard library calls it so
        self.answer(self._page())

    def do_HEAD(self) -> None:  # noqa: N802 - the standard library calls it so
        self.answer(self._page())

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

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors as short text; a method that we do not have is 405, not 501."""
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            refused = Page.of_text("only GET and HEAD", HTTPStatus.METHOD_NOT_ALLOWED)
            self.answer(refused, {"Allow": "GET, HEAD"})
            return
        self.answer(Page.of_text(HTTPStatus(code).phrase.lower(), HTTPStatus(code)))
