"""A small HTTP server for probes and scrapers: a few fixed pages, GET and HEAD only.

The standard library's server, not an ASGI one: it starts in a millisecond, needs no event loop,
and its whole job is a handful of requests a minute. `connection` adds what that server lacks.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from k2i_tasks.errors import Component, ServiceError
from k2i_tasks.serving.connection import Page
from k2i_tasks.serving.routes import REQUEST_SECONDS_MAX, Route, RouteServer
from k2i_tasks.serving.served import Served

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a server listens, and the settings that say so.

    Args:
        host: address or name; loopback unless the operator chose otherwise.
        port: 0 for any free one.
        port_setting: name of the setting to change when the port is taken.
        host_setting: name of the setting to change when the address is not this machine's.
    """

    host: str
    port: int
    port_setting: str
    host_setting: str


class HttpServer(Served):
    """Serves fixed routes on one port, on daemon threads.

    Args:
        name: for logs and threads: "health", "metrics".
        binding: where to listen.
        routes: page by path; a path `/` is made up when missing.
        request_seconds_max: deadline for reading a request, and again for writing the answer.

    Raises:
        ServiceError: the port is taken, or the address cannot be bound (exit code 6).
    """

    def __init__(
        self,
        name: str,
        binding: Binding,
        routes: Mapping[str, Route],
        *,
        request_seconds_max: float = REQUEST_SECONDS_MAX,
    ) -> None:
        self.name = name
        index = Page.of_text("\n".join(["k2i", *sorted(routes)]))
        try:
            server = RouteServer(
                (binding.host, binding.port),
                {"/": lambda: index, **routes},
                request_seconds_max,
            )
        except (OSError, OverflowError) as error:
            raise _cannot_bind(name, binding, error) from error
        bound = str(server.server_address[0])
        # Where a browser on this machine finds it.
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bound, bound)
        super().__init__(name, server, host=shown)
        if not server.loopback:
            log.warning("%s is open to the network on %s:%s", name, binding.host, self.port)


def _cannot_bind(name: str, binding: Binding, error: Exception) -> ServiceError:
    where = f"{binding.host}:{binding.port}"
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return ServiceError(
            f"The {name} page cannot be served: port {binding.port} on {binding.host} is in use.",
            component=Component.HEALTH,
            remedy=f"Stop the other program, or set {binding.port_setting} to a free port.",
        )
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ServiceError(
        f"The {name} page cannot be served on {where}: {why}.",
        component=Component.HEALTH,
        remedy=f"Check {binding.host_setting} and {binding.port_setting}.",
    )
