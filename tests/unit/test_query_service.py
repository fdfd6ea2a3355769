"""What is opened for clients of a run, by its configuration."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from k2i_tasks import client, discovery
from k2i_tasks.config import Config, demo_config, load_config, notes
from k2i_tasks.errors import ConfigError, K2IError, ServiceError
from k2i_tasks.tickets import After
from k2i_tasks.views import View
from k2i_tasks.wiring_query import QueryService, limits_of
from tests.certificates import certified
from tests.unit.asking_world import EXPLOSIVE, becomes, big, children
from tests.unit.views_world import P0, ArrowView, world

COUNT = "SELECT count(*) AS n FROM orders"


def config_at(folder: Path, **query: Any) -> Config:
    given = demo_config(folder).model_dump(exclude_unset=True)
    return load_config(
        None, environ={}, overrides={**_plain(given), "query": query} if query else _plain(given)
    )


def _plain(tables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(value) if isinstance(value, Mapping) else value
        for name, value in tables.items()
        if value is not None
    }


def views() -> Mapping[str, View]:
    return world()


def opened(config: Config) -> QueryService:
    service = QueryService(config, views)
    service.start()
    assert service.settled.wait(30)
    return service


def test_it_answers_by_default_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    service = opened(config_at(tmp_path))
    with client.connect(tmp_path) as flow:
        assert flow.sql(COUNT)["n"][0] == 100
    service.stop()
    service.stop()
    assert discovery.running(tmp_path) is None
    assert service.flight_url is None
    with pytest.raises(ServiceError):
        client.connect(tmp_path)
    left = {thread.name for thread in threading.enumerate() if thread not in before}
    assert not {name for name in left if name.startswith("k2i-")}


@pytest.mark.parametrize("encrypted", [False, True])
def test_its_end_does_not_wait_for_clients(tmp_path: Path, encrypted: bool) -> None:
    # More than what lies between the run and a client that does not read.
    rows = pa.table({"n": np.arange(8_000_000)})
    large = ArrowView("demo.large", rows.slice(0, 0), rows)
    tables = {**world(), "demo.big": big(), "demo.large": large}
    given: dict[str, Any] = {"max_queries": 3}
    if encrypted:
        cert, key = certified(tmp_path, "server")
        given |= {"tls_cert_location": str(cert), "tls_key_location": str(key)}
    # An engine that several tests share may have processes, too.
    others = children()
    service = QueryService(config_at(tmp_path, **given), lambda: tables)
    service.start()
    assert service.settled.wait(30)
    ended: list[K2IError] = []

    def ask(sql: str) -> None:
        with client.connect(tmp_path) as flow:
            try:
                flow.sql(sql)
            except K2IError as error:
                ended.append(error)

    def follow() -> None:
        with client.connect(tmp_path) as flow:
            flow.answer(After("demo.orders", {P0: 100}, wait_seconds=60))

    asking = threading.Thread(target=ask, args=(EXPLOSIVE,))
    following = threading.Thread(target=follow)
    lazy = client.connect(tmp_path)
    reader = lazy._client.do_get(lazy._flight.Ticket(b'{"table": "demo.large"}'), lazy._options)
    reader.read_chunk()
    silent, unread = hanging_in(service), hanging_in(service)
    found = discovery.running(tmp_path)
    assert found is not None
    body = b"SELECT n FROM large"
    unread.sendall(
        b"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "
        b"%s\r\nContent-Length: %d\r\n\r\n%s" % (found.token.encode(), len(body), body)
    )
    assert unread.recv(10) == b"HTTP/1.1 2"
    asking.start()
    following.start()
    assert service._engine is not None
    engine = service._engine
    assert becomes(lambda: engine.places.taken == 3 and engine._followers._value < 64)
    assert becomes(lambda: bool(children() - others))
    began = time.monotonic()
    service.stop()
    assert time.monotonic() - began < 2
    asking.join(10)
    following.join(10)
    assert len(ended) == 1
    assert becomes(lambda: engine.places.taken == 0)
    assert becomes(lambda: not children() - others)
    for connection in (silent, unread):
        assert is_over(connection)
    assert not any(thread.name == "k2i-flight-stop" for thread in threading.enumerate())
    reader.cancel()
    lazy.close()


def hanging_in(service: QueryService) -> socket.socket:
    """A connection over HTTP."""
    assert service.http_url is not None
    port = int(service.http_url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    if not service.http_url.startswith("https"):
        return connection
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def is_over(connection: socket.socket) -> bool:
    """Whether the other side has ended it, once what it has sent is read."""
    with connection:
        try:
            while connection.recv(1 << 20):
                pass
        except OSError as error:
            return not isinstance(error, TimeoutError)
    return True


def test_tls_and_tokens_are_as_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certified(tmp_path, "server")
    monkeypatch.setenv("DASHBOARD_TOKEN", "of-the-dashboard")
    config = config_at(
        tmp_path,
        host="0.0.0.0",
        tls_cert_location=str(cert),
        tls_key_location=str(key),
        tokens={"dashboard": "env:DASHBOARD_TOKEN"},
    )
    service = opened(config)
    try:
        assert service.flight_url is not None
        address = service.flight_url.replace("0.0.0.0", "127.0.0.1")
        with client.connect(address, "of-the-dashboard", ca=cert) as flow:
            assert flow.sql(COUNT)["n"][0] == 100
        with (
            client.connect(address, "DASHBOARD_TOKEN", ca=cert) as stranger,
            pytest.raises(ServiceError, match="refuses the token"),
        ):
            stranger.sql(COUNT)
        with client.connect(tmp_path) as here:
            assert here.sql(COUNT)["n"][0] == 100
    finally:
        service.stop()


def test_a_port_in_use_ends_queries_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = opened(config_at(tmp_path / "a"))
    assert first.http_url is not None
    port = int(first.http_url.rpartition(":")[2])
    second = opened(config_at(tmp_path / "b", http_port=port))
    assert second.flight_url is None
    assert discovery.running(tmp_path / "b") is None
    assert "queries are not answered" in caplog.text
    second.stop()
    first.stop()


def test_another_run_with_the_same_folder_does_not_take_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import sys; from pathlib import Path; from k2i_tasks import discovery;"
        "discovery.publish(Path(sys.argv[1]), 'grpc://a:1', 'http://a:2', 't');"
        "print('there', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"there\n"
        second = opened(config_at(tmp_path))
        assert second.http_url is not None
        assert f"process {first.pid} is found" in caplog.text
        second.stop()
        found = discovery.running(tmp_path)
        assert found is not None
        assert found.pid == first.pid
        first.communicate()


def test_nothing_is_opened_when_it_is_turned_off(tmp_path: Path) -> None:
    service = QueryService(config_at(tmp_path, enabled=False), views)
    with service:
        assert discovery.running(tmp_path) is None
        assert service.flight_url is None


def test_a_token_that_cannot_be_read_is_an_error_before_the_run(tmp_path: Path) -> None:
    config = config_at(tmp_path, tokens={"x": "env:K2I_TEST_NOT_THERE"})
    with pytest.raises(ConfigError) as caught:
        QueryService(config, views)
    assert caught.value.field == "query.tokens.x"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"host": "0.0.0.0"}, "query.host"),
        ({"host": "10.0.0.1", "tokens": {"a": "x"}}, "query.host"),
        ({"host": "10.0.0.1", "insecure_network": True}, "query.tokens"),
        ({"tls_cert_location": "/c"}, "query.tls_key_location"),
        ({"tls_key_location": "/c"}, "query.tls_cert_location"),
        ({"flight_port": 7070, "http_port": 7070}, "query.http_port"),
        ({"nice": 20}, "query.nice"),
        ({"max_seconds": 0.0}, "query.max_seconds"),
        ({"tokens": {"a b": "x"}}, "query.tokens"),
        ({"tokens": {"a": ""}}, "query.tokens"),
    ],
)
def test_what_would_be_open_or_unbounded_is_refused(
    tmp_path: Path, query: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_at(tmp_path, **query)
    assert caught.value.field.startswith(field)


def test_clear_text_over_a_network_is_possible_and_noted(tmp_path: Path) -> None:
    config = config_at(tmp_path, host="10.0.0.1", insecure_network=True, tokens={"a": "canary"})
    assert any("query.host" in note and "without TLS" in note for note in notes(config))
    assert "canary" not in repr(config)
    assert not any("query" in note for note in notes(config_at(tmp_path)))


def test_limits_are_those_of_the_configuration(tmp_path: Path) -> None:
    text = """
    max_rows = 7
    max_result_mb = 2
    max_seconds = 1.5
    max_memory_mb = 128
    max_queries = 3
    max_waiting = 4
    max_wait_seconds = 0.5
    max_followers = 9
    nice = 3
    """
    found = limits_of(config_at(tmp_path, **tomllib.loads(text)).query)
    assert (found.rows_max, found.bytes_max, found.seconds_max) == (7, 2 << 20, 1.5)
    assert (found.memory_bytes_max, found.queries_max, found.waiting_max) == (128 << 20, 3, 4)
    assert (found.wait_seconds_max, found.followers_max, found.nice) == (0.5, 9, 3)
