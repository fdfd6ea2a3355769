"""What probes read, and how the HTTP pages behave under rude clients."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from k2i_tasks.errors import ServiceError
from k2i_tasks.serving.connection import Page, host_is_local
from k2i_tasks.serving.health import health_report, not_ready_because
from k2i_tasks.serving.http import Binding, HttpServer
from k2i_tasks.serving.pages import health_routes, health_server, metrics_server
from k2i_tasks.status import AgeSummary, ComponentHealth, Health, RunState, Status
from k2i_tasks.types import TopicPartition
from tests.unit.samples import HEALTHY_COMPONENTS, sample_status, troubled_status

K2I_COMPONENTS = ["kafka", "buffer", "iceberg", "catalog", "txlog", "schema"]


def binding(port: int = 0, host: str = "127.0.0.1") -> Binding:
    return Binding(host, port, "monitoring.health_port", "monitoring.health_host")


@contextmanager
def serving(status: Callable[[], Status | None]) -> Iterator[HttpServer]:
    with health_server(binding(), status) as server:
        yield server


def ask(
    server: HttpServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def with_component(name: str, health: Health, message: str = "") -> Status:
    components = {**HEALTHY_COMPONENTS, name: ComponentHealth(health, message)}
    return sample_status(components=components)


def test_both_ages_and_what_is_kept_are_in_the_report() -> None:
    report = health_report(sample_status())
    assert report["queryable_age"] is None
    status = replace(
        sample_status(), queryable=AgeSummary(7, 0.025, 0.05, 0.04321), kept_rows=5, kept_bytes=99
    )
    report = health_report(status)
    assert report["queryable_age"] == {
        "records": 7,
        "p50_seconds": 0.025,
        "p99_seconds": 0.05,
        "max_seconds": 0.043,
    }
    assert (report["buffer"]["kept_rows"], report["buffer"]["kept_bytes"]) == (5, 99)


def test_a_healthy_run_reports_all_components_of_k2i() -> None:
    report = health_report(sample_status())
    assert report["status"] == "healthy"
    assert list(report["components"]) == K2I_COMPONENTS
    assert report["components"]["kafka"] == {"status": "healthy"}
    assert report["lag_total"] == 1_250 * (1 + 2 + 3 + 4)
    assert report["partitions"][3] == {
        "topic": "orders",
        "partition": 3,
        "position": 301_085,
        "committed": 287_553,
        "lag": 5_000,
    }
    assert report["freshness_seconds"] == pytest.approx(1.2, abs=0.01)
    assert report["uptime_seconds"] == 3_723
    json.dumps(report)


def test_the_worst_component_decides_and_unknown_does_not_count() -> None:
    assert health_report(with_component("catalog", Health.DEGRADED))["status"] == "degraded"
    assert health_report(with_component("catalog", Health.UNHEALTHY))["status"] == "unhealthy"
    assert health_report(with_component("catalog", Health.UNKNOWN))["status"] == "healthy"


def test_a_component_nobody_reported_is_unknown() -> None:
    report = health_report(sample_status(components={}))
    assert report["components"]["txlog"] == {"status": "unknown"}


def test_a_paused_run_is_degraded_and_says_where() -> None:
    report = health_report(troubled_status())
    assert report["status"] == "degraded"
    assert "12 s" in report["components"]["catalog"]["message"]
    assert report["buffer"]["paused"] is True
    assert [note["component"] for note in report["last_errors"]] == ["iceberg", "kafka"]


@pytest.mark.parametrize("state", [RunState.STOPPED, RunState.FAILED])
def test_a_run_that_has_ended_is_unhealthy(state: RunState) -> None:
    assert health_report(sample_status(state=state))["status"] == "unhealthy"


def test_a_schema_change_that_waits_makes_the_run_not_ready_but_keeps_it_alive() -> None:
    status = with_component("schema", Health.DEGRADED, "column x changed its type")
    assert not_ready_because(status) == "column x changed its type"
    with serving(lambda: status) as server:
        assert ask(server, "/readyz")[0] == 503
        assert ask(server, "/healthz")[0] == 200
        assert ask(server, "/health")[0] == 200


@pytest.mark.parametrize("state", [RunState.STARTING, RunState.DRAINING, RunState.STOPPED])
def test_only_a_run_at_work_is_ready(state: RunState) -> None:
    assert not_ready_because(sample_status(state=state))


def test_a_paused_run_is_still_ready() -> None:
    assert not_ready_because(troubled_status()) == ""


def test_thousands_of_partitions_do_not_swell_the_report() -> None:
    report = health_report(sample_status(partitions=3_000))
    assert len(report["partitions"]) == 256
    assert report["partitions_total"] == 3_000
    assert report["lag_total"] == sum(1_250 * (n + 1) for n in range(3_000))


def test_a_partition_without_a_commit_has_no_committed_offset() -> None:
    status = replace(sample_status(partitions=1), committed={}, lag={})
    assert health_report(status)["partitions"][0]["committed"] is None
    assert TopicPartition("orders", 0) in status.positions


def test_the_pages_answer_before_there_is_a_run() -> None:
    with serving(lambda: None) as server:
        assert ask(server, "/healthz")[0] == 200
        assert ask(server, "/readyz")[0] == 503
        code, body, _ = ask(server, "/health")
        assert (code, json.loads(body)["state"]) == (200, "starting")


def test_unhealthy_is_503_on_health_and_healthz() -> None:
    status = with_component("iceberg", Health.UNHEALTHY, "fenced by another process")
    with serving(lambda: status) as server:
        code, body, headers = ask(server, "/health")
        assert (code, headers["Content-Type"]) == (503, "application/json")
        assert json.loads(body)["components"]["iceberg"]["message"] == "fenced by another process"
        assert ask(server, "/healthz")[0] == 503


def test_the_index_names_the_pages_and_other_paths_are_not_found() -> None:
    with serving(sample_status) as server:
        assert b"/readyz" in ask(server, "/")[1]
        assert ask(server, "/nope")[0] == 404
        assert ask(server, "/../etc/passwd")[0] == 404
        assert ask(server, "/healthz?verbose=1")[0] == 200


def test_only_get_and_head_are_answered() -> None:
    with serving(sample_status) as server:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            code, _, headers = ask(server, "/health", method)
            assert (code, headers["Allow"]) == (405, "GET, HEAD")
        code, body, headers = ask(server, "/health", "HEAD")
        assert (code, body) == (200, b"")
        assert int(headers["Content-Length"]) > 100


def test_a_name_rebound_to_loopback_is_refused() -> None:
    with serving(sample_status) as server:
        assert ask(server, "/health", Host="evil.example")[0] == 421
        assert ask(server, "/health", Host=f"evil.example:{server.port}")[0] == 421
        for good in ("localhost", f"localhost:{server.port}", "127.0.0.1:1", "[::1]:8080"):
            assert ask(server, "/health", Host=good)[0] == 200


@pytest.mark.parametrize(
    "header", ["localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", "", "[::1", "1"]
)
def test_hosts_that_only_look_local_are_not(header: str) -> None:
    if header == "[::1":
        assert host_is_local(header)  # no name can be rebound with a bracket in it
    else:
        assert not host_is_local(header)


def test_a_client_that_sends_byte_by_byte_is_cut_off_at_the_deadline() -> None:
    routes = health_routes(sample_status)
    with HttpServer("health", binding(), routes, request_seconds_max=0.3) as server:
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        began = time.monotonic()
        closed = False
        try:
            while not closed and time.monotonic() - began < 4:
                slow.sendall(b"G")
                slow.settimeout(0.05)
                try:
                    closed = slow.recv(1) == b""
                except TimeoutError:
                    continue
        except (ConnectionResetError, BrokenPipeError):
            closed = True
        finally:
            slow.close()
        assert closed
        assert time.monotonic() - began < 2
        assert ask(server, "/healthz")[0] == 200


def test_idle_connections_beyond_the_bound_are_closed_and_the_port_recovers() -> None:
    routes = health_routes(sample_status)
    with HttpServer("health", binding(), routes, request_seconds_max=0.5) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(60)]
        try:
            closed_at_once = idle[-1].recv(1)
        except ConnectionResetError:
            closed_at_once = b""
        assert closed_at_once == b""
        for connection in idle:
            connection.close()
        deadline = time.monotonic() + 4
        while True:
            try:
                assert ask(server, "/healthz")[0] == 200
                return
            except (http.client.HTTPException, OSError):
                assert time.monotonic() < deadline


def test_a_page_that_fails_is_500_without_details() -> None:
    def broken() -> Page:
        raise RuntimeError("secret detail")

    with HttpServer("health", binding(), {"/health": broken}) as server:
        code, body, _ = ask(server, "/health")
        assert (code, body) == (500, b"internal error\n")


def test_a_busy_port_is_one_clear_error_with_the_setting_to_change() -> None:
    with serving(sample_status) as server, pytest.raises(ServiceError) as caught:
        HttpServer("health", binding(server.port), {})
    assert caught.value.exit_code == 6
    assert str(server.port) in caught.value.what
    assert "monitoring.health_port" in caught.value.remedy


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host.invalid"])
def test_an_address_of_another_machine_is_one_clear_error(host: str) -> None:
    with pytest.raises(ServiceError) as caught:
        HttpServer("health", binding(host=host), {})
    assert caught.value.exit_code == 6
    assert "monitoring.health_host" in caught.value.remedy


def test_a_stopped_server_frees_its_port_at_once() -> None:
    with serving(sample_status) as first:
        port = first.port
    with health_server(binding(port), sample_status) as second:
        assert ask(second, "/healthz")[0] == 200
    second.stop()


def test_metrics_are_served_in_prometheus_text_format() -> None:
    with metrics_server(binding(), lambda: b"k2i_up 1.0\n") as server:
        code, body, headers = ask(server, "/metrics")
        assert (code, body) == (200, b"k2i_up 1.0\n")
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_serving_pulls_in_no_web_framework() -> None:
    code = (
        "import sys, k2i_tasks.serving.pages\n"
        "assert not {'starlette', 'uvicorn', 'fastapi', 'prefect'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
