"""The proxy that tests put before real services: it does what a rule says, and tells."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.stack.faults import Act, Done, FaultProxy, Lands, Rule

#: Of the client here; what is never answered costs as much.
TIMEOUT_SECONDS = 0.3
BODY = b"0123456789" * 100


class _Store(http.server.BaseHTTPRequestHandler):
    """Keeps what is put, in the order in which it came."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        whole = len(body) == int(self.headers["Content-Length"])
        if whole:
            self.server.kept.append((self.path, body))
        self._answer(201 if whole else 400, b"kept")

    def do_GET(self) -> None:
        self._answer(200, BODY + b" by " + self.headers["Host"].encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    server.handle_error = lambda *_: None  # a request that was cut
    server.daemon_threads = True
    server.kept = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxy(store: Any) -> Iterator[FaultProxy]:
    with FaultProxy(f"http://127.0.0.1:{store.server_port}") as running:
        yield running


def put(proxy: FaultProxy, path: str = "/a") -> requests.Response:
    return requests.put(proxy.url + path, data=BODY, timeout=TIMEOUT_SECONDS)


def test_what_no_rule_names_passes_both_ways_unchanged(store: Any, proxy: FaultProxy) -> None:
    proxy.set(Rule("other", Act.REFUSE, "PUT", "/b$"), Rule("get", Act.REFUSE, "GET", "/a$"))
    with requests.Session() as session:
        for _ in range(3):
            assert session.put(proxy.url + "/a?x=%2F", data=BODY).status_code == 201
        answer = session.get(proxy.url + "/c")
    assert store.kept == [("/a?x=%2F", BODY)] * 3
    assert answer.content == BODY + b" by " + proxy.url.removeprefix("http://").encode()
    assert proxy.done == []
    assert proxy.unused == ["other", "get"]


def test_rules_are_used_up_one_after_the_other_and_tell_what_they_did(
    store: Any, proxy: FaultProxy
) -> None:
    proxy.set(
        Rule("refused", Act.REFUSE, "PUT", "/a$", times=2, skip=1, status=429),
        Rule("lost", Act.LOSE, "PUT", "/a$", status=504, skip=1),
    )
    assert [put(proxy).status_code for _ in range(6)] == [201, 429, 429, 201, 504, 201]
    assert len(store.kept) == 4
    assert proxy.done == [
        Done("refused", "PUT /a", None),
        Done("refused", "PUT /a", None),
        Done("lost", "PUT /a", 201),
    ]
    assert proxy.unused == []


@pytest.mark.parametrize(
    ("act", "kept", "raised"),
    [
        (Act.CUT, 1, requests.ConnectionError),
        (Act.MUTE, 1, requests.ReadTimeout),
        (Act.HANG, 0, requests.ReadTimeout),
        (Act.CUT_REQUEST, 0, requests.ConnectionError),
    ],
)
def test_a_client_without_an_answer_does_not_know_whether_it_was_done(
    store: Any, proxy: FaultProxy, act: Act, kept: int, raised: type[Exception]
) -> None:
    proxy.set(Rule("x", act, "PUT", "/a$"))
    with pytest.raises(raised):
        put(proxy)
    assert proxy.until_done("x")[0].status == (201 if kept else None)
    assert put(proxy, "/after").status_code == 201
    assert [path for path, _ in store.kept] == ["/a"] * kept + ["/after"]


def test_a_client_that_is_hung_up_on_waits_no_longer(store: Any, proxy: FaultProxy) -> None:
    proxy.set(Rule("mute", Act.MUTE, "PUT", "/a$", times=2))
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            waiting = pool.submit(requests.put, proxy.url + "/a", BODY)
            while not waiting.done():
                proxy.hang_up()
            assert isinstance(waiting.exception(), requests.ConnectionError)
    assert [path for path, _ in store.kept] == ["/a"] * 2


def test_garbage_and_half_an_answer_come_with_the_status_of_success(proxy: FaultProxy) -> None:
    proxy.set(Rule("page", Act.GARBAGE, "GET", "/a$"), Rule("half", Act.CUT_ANSWER, "GET", "/a$"))
    answer = requests.get(proxy.url + "/a")
    assert answer.status_code == 200
    assert answer.content.startswith(b"<html>")
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        _ = requests.get(proxy.url + "/a").content


@pytest.mark.parametrize(
    ("lands", "order"),
    [
        (Lands.BEFORE_NEXT, ["/a?late", "/a?next", "/a?last"]),
        (Lands.AFTER_NEXT, ["/a?next", "/a?late", "/a?last"]),
        (Lands.TOLD, ["/a?next", "/a?last", "/a?late"]),
    ],
)
def test_a_late_request_lands_when_its_time_has_come(
    store: Any, proxy: FaultProxy, lands: Lands, order: list[str]
) -> None:
    proxy.set(Rule("late", Act.LATE, "PUT", "/a", lands=lands))
    with pytest.raises(requests.ReadTimeout):
        put(proxy, "/a?late")
    assert put(proxy, "/other").status_code == 201
    assert put(proxy, "/a?next").status_code == 201
    assert put(proxy, "/a?last").status_code == 201
    assert proxy.release() == ([201] if lands is Lands.TOLD else [])
    assert [path for path, _ in store.kept if path != "/other"] == order
    assert [one.status for one in proxy.until_done("late", 2)] == [None, 201]


def test_a_slow_connection_delivers_all_of_it(store: Any, proxy: FaultProxy) -> None:
    proxy.set(Rule("slow", Act.THROTTLE, "PUT", "/a$", bytes_per_second=5_000))
    assert requests.put(proxy.url + "/a", data=BODY).status_code == 201
    assert store.kept == [("/a", BODY)]
    assert proxy.done == [Done("slow", "PUT /a", 201)]


def test_addresses_in_answers_are_rewritten(store: Any) -> None:
    real = f"http://127.0.0.1:{store.server_port}"
    with FaultProxy(real, {"0123456789012": "elsewhere", " by ": " through "}) as proxy:
        text = requests.get(proxy.url + "/a").text
    assert text.startswith("elsewhere3456789")
    assert " through 127" in text
