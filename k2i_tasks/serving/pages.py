"""The pages of a run: health on one port, metrics on another."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from k2i_tasks.serving.connection import Page
from k2i_tasks.serving.health import (
    health_report,
    not_ready_because,
    overall_health,
    starting_report,
)
from k2i_tasks.serving.http import Binding, HttpServer
from k2i_tasks.serving.routes import Route
from k2i_tasks.status import Health, Status

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: The run's snapshot; None while there is no run yet.
MaybeStatus = Callable[[], Status | None]


def health_routes(status: MaybeStatus) -> dict[str, Route]:
    """`/health`, `/healthz` and `/readyz` of one run."""

    def health() -> Page:
        now = status()
        if now is None:
            return Page.of_json(starting_report())
        return Page.of_json(health_report(now), _code(overall_health(now) is not Health.UNHEALTHY))

    def alive() -> Page:
        now = status()
        state = Health.HEALTHY if now is None else overall_health(now)
        return Page.of_text(state.value, _code(state is not Health.UNHEALTHY))

    def ready() -> Page:
        now = status()
        reason = "The run is starting." if now is None else not_ready_because(now)
        return Page.of_text(reason or "ready", _code(not reason))

    return {"/health": health, "/healthz": alive, "/readyz": ready}


def health_server(binding: Binding, status: MaybeStatus) -> HttpServer:
    """The health port, bound and not yet started. Raises what `HttpServer` raises."""
    return HttpServer("health", binding, health_routes(status))


def metrics_server(binding: Binding, exposition: Callable[[], bytes]) -> HttpServer:
    """The metrics port, bound and not yet started. Raises what `HttpServer` raises.

    Args:
        binding: where to listen.
        exposition: the metrics in Prometheus text format.
    """
    routes = {"/metrics": lambda: Page(exposition(), METRICS_TYPE)}
    return HttpServer("metrics", binding, routes)


def _code(good: bool) -> HTTPStatus:
    return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
