"""`POST /query`, with a real server and raw requests over loopback."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.doors.http import ARROW_TYPE, CONNECTIONS_MAX, HttpDoor, tls_context
from k2i_tasks.doors.tokens import Tokens
from k2i_tasks.errors import ConfigError, ServiceError
from tests.certificates import certified
from tests.unit.asking_world import EXPLOSIVE, Asked, becomes
from tests.unit.views_world import ArrowView

TOKEN = "a-token-of-a-dashboard"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


class Place(Asked):
    """Behind a door."""

    def __init__(
        self, tls: ssl.SSLContext | None = None, *, request_seconds: float = 5.0, **limits: Any
    ) -> None:
        super().__init__(**limits)
        self.door = HttpDoor(
            self.engine,
            "127.0.0.1",
            0,
            Tokens({"dashboard": TOKEN}),
            tls,
            request_seconds_max=request_seconds,
        )

    def __enter__(self) -> Place:
        self.door.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.engine.close()
        self.door.stop()

    def post(
        self, body: bytes | str, path: str = "/query", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; names of headers with `_` for `-`."""
        given = {**AUTHORIZED, **{name.replace("_", "-"): v for name, v in headers.items()}}
        connection = http.client.HTTPConnection("127.0.0.1", self.door.port, timeout=30)
        try:
            connection.request("POST", path, body, given)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()
        finally:
            connection.close()

    def raw(self, text: bytes, *, close: bool = False) -> bytes:
        """All that is answered to these bytes."""
        with socket.create_connection(("127.0.0.1", self.door.port), timeout=30) as connection:
            connection.sendall(text)
            if close:
                connection.shutdown(socket.SHUT_WR)
            return _all_of(connection)


def _all_of(connection: socket.socket) -> bytes:
    found = b""
    try:
        while part := connection.recv(1 << 16):
            found += part
    except ConnectionError:
        pass
    return found


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Place() as made:
        yield made


def test_sql_gives_lines_of_json(place: Place) -> None:
    status, headers, body = place.post("SELECT id, item, at FROM orders WHERE id < 2")
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in body.splitlines()] == [
        {"id": 0, "item": {"sku": "s0", "tags": ["a", "t0"]}, "at": "2026-11-01T12:00:00+00:00"},
        {"id": 1, "item": {"sku": "s1", "tags": ["a", "t1"]}, "at": "2026-11-01T12:00:01+00:00"},
    ]
    assert headers["Cache-Control"] == "no-store"


def test_json_gives_an_arrow_stream(place: Place) -> None:
    asked = {"sql": "SELECT id, upper(city) AS u FROM orders", "part": "hot", "limit": 10}
    status, headers, body = place.post(
        json.dumps(asked), Content_Type="application/json", Accept=ARROW_TYPE
    )
    assert (status, headers["Content-Type"]) == (200, ARROW_TYPE)
    table = pa.ipc.open_stream(body).read_all()
    assert table.num_rows == 10
    assert table["id"].to_pylist() == list(range(60, 70))


def test_an_empty_result_has_columns_in_arrow_and_nothing_in_lines(place: Place) -> None:
    sql = "SELECT id FROM orders WHERE id > 1000"
    assert place.post(sql)[2] == b""
    empty = pa.ipc.open_stream(place.post(sql, Accept=ARROW_TYPE)[2]).read_all()
    assert (empty.num_rows, empty.column_names) == (0, ["id"])


def test_any_question_of_flight_can_be_asked(place: Place) -> None:
    asked = {"table": "orders", "key": 77}
    _, _, body = place.post(json.dumps(asked), Content_Type="application/json; charset=utf-8")
    assert json.loads(body)["city"] == "Chur"


def test_what_was_cut_is_said_behind_the_rows() -> None:
    with Place(rows_max=5) as own:
        request = _request(b"SELECT id FROM orders", {**AUTHORIZED})
        assert own.raw(request).endswith(b"0\r\nK2I-Rows: 5\r\nK2I-Cut: rows\r\n\r\n")
        request = _request(b"SELECT id FROM other", {**AUTHORIZED})
        assert own.raw(request).endswith(b"0\r\nK2I-Rows: 3\r\nK2I-Cut: \r\n\r\n")


def _request(body: bytes, headers: dict[str, str], length: int | None = None) -> bytes:
    lines = ["POST /query HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body) if length is None else length}", "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("SELECT * FROM none", {}, 400),
        ("SELECT * FROM read_csv('/etc/passwd')", {}, 400),
        ("SHOW TABLES", {}, 400),
        ("", {}, 400),
        (b"\xff\xfe", {}, 400),
        ("SELECT " + "(" * 60_000, {}, 400),
        ("x" * 300_000, {}, 413),
        ("{", {"Content_Type": "application/json"}, 400),
        ('{"sql": 1}', {"Content_Type": "application/json"}, 400),
        (
            '{"table": "orders", "where": [["at", ">", "0001-01-01T00:00:00+14:00"]]}',
            {"Content_Type": "application/json"},
            400,
        ),
        ("SELECT 1 AS a", {"Accept": "text/html"}, 406),
        ("SELECT 1 AS a", {"Authorization": "Bearer wrong"}, 401),
        ("SELECT 1 AS a", {"Authorization": f"Basic {TOKEN}"}, 401),
        ("SELECT 1 AS a", {"Authorization": TOKEN}, 401),
        ("SELECT 1 AS a", {"path": "/other"}, 404),
        ("SELECT 1 AS a", {"Host": "evil.example"}, 421),
        ("SELECT 1 AS a", {"Transfer_Encoding": "chunked"}, 411),
    ],
)
def test_a_bad_question_gets_a_short_error(
    place: Place, body: Any, headers: dict[str, str], status: int
) -> None:
    found, answered, said = place.post(body, **headers)
    assert found == status
    assert answered["Content-Type"] == "application/json"
    assert set(json.loads(said)) == {"error", "remedy"}
    assert b"root:" not in said
    assert len(said) < 600
    assert place.engine.places.taken == 0


def test_other_methods_and_broken_requests_are_refused(place: Place) -> None:
    head = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
    assert b" 405 " in place.raw(b"GET /query" + head)
    assert b" 405 " in place.raw(b"PUT /query" + head)
    assert b"Bad Request" in place.raw(b"nonsense\r\n\r\n")
    assert b" 400 " in place.raw(_request(b"SELECT", {**AUTHORIZED}, length=600), close=True)
    twice = b"POST /query HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + TOKEN.encode()
    assert b" 411 " in place.raw(twice + b"\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n1")
    assert b" 411 " in place.raw(twice + b"\r\n\r\n")
    assert b" 401 " in place.raw(twice + b"\r\nAuthorization: Bearer x\r\n\r\n")
    old = b"POST /query HTTP/1.0\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
    assert b" 400 " in place.raw(old)


def test_what_nobody_thought_of_is_answered_too_and_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(ArrowView):
        def at(self, topic: str, partition: int, offset: int) -> pa.Table:
            raise ZeroDivisionError

    with Place() as own:
        none = pa.table({"id": pa.array([], pa.int64())})
        own.views = {"demo.broken": Broken("demo.broken", none, none)}
        asked = json.dumps({"table": "broken", "at": ["orders", 0, 1]})
        status, _, said = own.post(asked, Content_Type="application/json")
    assert status == 500
    assert "log" in json.loads(said)["error"]
    assert "ZeroDivisionError" in caplog.text


def test_one_that_sends_slowly_is_not_waited_for() -> None:
    with Place(request_seconds=0.5) as own:
        whole = _request(b"SELECT 1 AS a", {**AUTHORIZED})
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", own.door.port), timeout=10) as connection:
            for byte in whole[:60]:
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    break
                time.sleep(0.02)
            _all_of(connection)
        assert time.monotonic() - began < 4


def test_one_that_reads_slowly_loses_its_place() -> None:
    with Place(request_seconds=0.5) as own:
        for sql in (b"SELECT a.k, a.v FROM big a, other b", b"SELECT k, v FROM big"):
            with socket.create_connection(("127.0.0.1", own.door.port)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                connection.sendall(_request(sql, {**AUTHORIZED, "Accept": ARROW_TYPE}))
                connection.recv(10)
                assert becomes(lambda: own.engine.places.taken == 1)
                assert becomes(lambda: own.engine.places.taken == 0, 5), sql


def test_one_that_leaves_frees_its_place_while_the_query_runs() -> None:
    with Place() as own:
        with socket.create_connection(("127.0.0.1", own.door.port)) as connection:
            connection.sendall(_request(EXPLOSIVE.encode(), {**AUTHORIZED}))
            assert becomes(lambda: own.engine.places.taken == 1)
        assert becomes(lambda: own.engine.places.taken == 0, 5)


def test_limits_have_statuses_of_their_own() -> None:
    with Place(seconds_max=2.0, queries_max=1, waiting_max=0) as own:
        status, _, said = own.post(EXPLOSIVE)
        assert (status, "more than 2 seconds" in json.loads(said)["error"]) == (504, True)
        from k2i_tasks.tickets import Sql

        with own.engine.answer(Sql("SELECT k, v FROM big")):
            status, headers, said = own.post("SELECT k, v FROM big")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "places" in json.loads(said)["error"]


def test_what_breaks_in_the_middle_is_not_taken_for_whole() -> None:
    with Place(seconds_max=6.0, request_seconds=60.0) as own:
        connection = http.client.HTTPConnection("127.0.0.1", own.door.port, timeout=30)
        sql = "SELECT a.k, a.v, b.city FROM big a, orders b"
        connection.request("POST", "/query", sql, {**AUTHORIZED})
        answer = connection.getresponse()
        assert answer.status == 200
        # Nobody reads until its time is over.
        assert becomes(lambda: own.engine.places.taken == 0, 20)
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_connections_are_bounded(place: Place) -> None:
    held = [
        socket.create_connection(("127.0.0.1", place.door.port)) for _ in range(CONNECTIONS_MAX)
    ]
    try:
        assert becomes(lambda: place.door._server._slots._value == 0)
        assert place.raw(b"") == b""
    finally:
        for one in held:
            one.close()
    assert becomes(lambda: place.door._server._slots._value == CONNECTIONS_MAX)
    assert place.post("SELECT 1 AS one")[0] == 200


def test_tls_is_spoken_and_a_broken_certificate_is_a_clear_error(tmp_path: Path) -> None:
    cert, key = certified(tmp_path, "server")
    with Place(tls_context(str(cert), str(key))) as own:
        trusting = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", own.door.port, context=trusting, timeout=20
        )
        connection.request("POST", "/query", "SELECT count(*) AS n FROM orders", AUTHORIZED)
        assert json.loads(connection.getresponse().read()) == {"n": 100}
        # Clear text where TLS is spoken ends that connection alone.
        assert b"200" not in own.raw(_request(b"SELECT 1 AS a", {**AUTHORIZED}))
        with pytest.raises(ssl.SSLError):
            http.client.HTTPSConnection("127.0.0.1", own.door.port, timeout=20).connect()
        connection = http.client.HTTPSConnection(
            "127.0.0.1", own.door.port, context=trusting, timeout=20
        )
        connection.request("POST", "/query", EXPLOSIVE, AUTHORIZED)
        assert becomes(lambda: own.engine.places.taken == 1)
        connection.close()
        assert becomes(lambda: own.engine.places.taken == 0, 5)
    _, other = certified(tmp_path, "other")
    with pytest.raises(ConfigError, match="not usable"):
        tls_context(str(cert), str(other))


def test_a_connection_that_is_cut_off_keeps_its_encryption(tmp_path: Path) -> None:
    cert, key = certified(tmp_path, "server")
    context = tls_context(str(cert), str(key))
    trusting = ssl.create_default_context(cafile=str(cert))
    plain_near, plain_far = socket.socketpair()
    plain_near.settimeout(10)
    plain_far.settimeout(10)
    near = context.wrap_socket(plain_near, server_side=True, do_handshake_on_connect=False)
    far = trusting.wrap_socket(
        plain_far, server_hostname="127.0.0.1", do_handshake_on_connect=False
    )
    with near, far, Place(context) as own:
        hands = threading.Thread(target=near.do_handshake)
        hands.start()
        far.do_handshake()
        hands.join(10)
        server = own.door._server
        server._open.add(near)
        server.cut_off(0)
        server._open.discard(near)
        assert near.version() is not None, "a writer would go on in plain text"
        with pytest.raises(OSError):  # noqa: PT011 - of TLS or of the system
            near.sendall(b"more")


def test_a_port_in_use_is_a_clear_error(place: Place) -> None:
    with pytest.raises(ServiceError, match="in use") as caught:
        HttpDoor(place.engine, "127.0.0.1", place.door.port, Tokens({}))
    assert caught.value.exit_code == 6
