"""Arrow Flight, with a real server and a real client over loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pyarrow import flight

from k2i_tasks import client
from k2i_tasks.client import Client
from k2i_tasks.doors.flight import FlightDoor, pem_pair
from k2i_tasks.doors.tokens import Tokens
from k2i_tasks.errors import (
    BusyError,
    Component,
    ConfigError,
    K2IError,
    QueryLimitError,
    ServiceError,
    TransientError,
)
from k2i_tasks.tickets import Condition, Rows, Sql
from k2i_tasks.views import Cut, Part
from tests.certificates import certified
from tests.unit.asking_world import EXPLOSIVE, Asked, becomes, children
from tests.unit.views_world import P0, ArrowView

TOKEN = "a-token-of-a-dashboard"
TOKENS = Tokens({"dashboard": TOKEN, "other": "another"})


class Place(Asked):
    """Behind a door."""

    def __init__(self, tls: tuple[bytes, bytes] | None = None, **limits: Any) -> None:
        super().__init__(**limits)
        self.door = FlightDoor(self.engine, "127.0.0.1", 0, TOKENS, tls)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_error: object) -> None:
        self.engine.close()
        self.door.stop()

    def client(self, token: str = TOKEN) -> Client:
        return client.connect(self.door.url, token)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Place() as made:
        yield made


@pytest.fixture
def flow(place: Place) -> Iterator[Client]:
    with place.client() as made:
        yield made


def options(token: str = TOKEN) -> Any:
    return flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])


def test_a_query_gives_a_frame_or_a_table(flow: Client) -> None:
    sql = "SELECT city, count(*) AS n FROM demo.orders GROUP BY city ORDER BY n, city"
    frame = flow.sql(sql)
    assert isinstance(frame, pl.DataFrame)
    assert frame["n"].sum() == 100
    assert pl.DataFrame(flow.arrow(sql)).equals(frame)
    assert flow.sql("SELECT count(*) AS n FROM orders", part="hot")["n"][0] == 40
    assert flow.sql("SELECT id FROM orders", limit=7).height == 7


def test_types_arrive_as_any_reader_knows_them(flow: Client) -> None:
    found = flow.arrow("SELECT * FROM orders WHERE id >= 98")
    by_worker = flow.arrow("SELECT * FROM orders WHERE id + 0 >= 98")
    assert found.equals(by_worker)
    assert found.schema.field("city").type == pa.large_string()
    assert found["item"].to_pylist()[0] == {"sku": "s98", "tags": ["a", "t98"]}


def test_tables_and_their_columns_are_listed(place: Place, flow: Client) -> None:
    tables = flow.tables()
    assert sorted(tables) == ["demo.big", "demo.orders", "demo.other"]
    assert tables["demo.orders"].names == ["id", "city", "price", "at", "item", "_offset"]
    plain = flight.FlightClient(place.door.url)
    path = flight.FlightDescriptor.for_path("demo", "orders")
    assert plain.get_schema(path, options()).schema == tables["demo.orders"]


def test_a_table_whose_columns_are_not_known_hides_no_other() -> None:
    class Unread(ArrowView):
        """A topic of a fleet that has no record yet."""

        def cut(self, part: Part = "all") -> Cut:
            raise TransientError("Nothing is known of the columns.", component=Component.KAFKA)

    with Place() as own:
        none = pa.table({"id": pa.array([], pa.int64())})
        own.views["demo.unread"] = Unread("demo.unread", none, none)
        with own.client() as flow:
            tables = flow.tables()
    assert sorted(tables) == ["demo.big", "demo.orders", "demo.other", "demo.unread"]
    assert tables["demo.unread"].names == []
    assert tables["demo.orders"].names[0] == "id"


def test_what_a_plain_flight_client_does_works(place: Place) -> None:
    plain = flight.FlightClient(place.door.url)
    asked = {"sql": "SELECT id, price * 2 AS double FROM orders WHERE id < 3 ORDER BY id"}
    info = plain.get_flight_info(
        flight.FlightDescriptor.for_command(json.dumps(asked).encode()), options()
    )
    assert info.schema.names == ["id", "double"]
    found = plain.do_get(info.endpoints[0].ticket, options()).read_all()
    assert found.to_pydict() == {"id": [0, 1, 2], "double": [0.0, 1.0, 2.0]}
    assert found.schema == info.schema
    listed = next(iter(plain.list_flights(options=options())))
    assert plain.do_get(listed.endpoints[0].ticket, options()).read_all().num_rows == 200_000
    assert list(plain.list_actions(options())) == []
    with pytest.raises(pa.ArrowInvalid):
        list(plain.do_action(flight.Action("drop", b""), options()))


def test_rows_by_columns_and_conditions(flow: Client) -> None:
    asked = Rows("orders", ("id", "city"), (Condition("at", ">=", "2026-11-01T12:01:38"),))
    assert flow.answer(asked).table.to_pydict() == {"id": [98, 99], "city": ["Chur", None]}
    with pytest.raises(ConfigError, match="no column none"):
        flow.answer(Rows("orders", ("none",)))


def test_rows_in_memory_by_key_and_by_record(flow: Client) -> None:
    assert flow.lookup(77, "orders")["city"].to_pylist() == ["Chur"]
    assert flow.at("orders", 0, 60, "orders")["id"].to_pylist() == [60]
    assert flow.at("orders", 0, 7, "orders").num_rows == 0
    with pytest.raises(ConfigError, match="type"):
        flow.lookup("x", "orders")


def test_a_tail_gives_each_new_row_once() -> None:
    with Place() as own, own.client() as flow:
        view = own.views["demo.orders"]
        got: list[int] = []
        asked = threading.Event()

        def read() -> None:
            for rows in flow.tail("orders", positions={P0: 100}):
                got.extend(rows["id"].to_pylist())
                asked.set()
                if len(got) >= 30:
                    return

        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(10):
            view.append(3)
            asked.wait(0.02)
        thread.join(20)
        assert got == list(range(100, 130))


def test_a_tail_that_is_too_slow_says_so(flow: Client) -> None:
    with pytest.raises(QueryLimitError, match="left memory"):
        next(flow.tail("orders", positions={P0: 3}))
    missed: list[bool] = []
    rows = next(flow.tail("orders", positions={P0: 3}, on_missed=lambda: missed.append(True)))
    assert (missed, rows.num_rows) == ([True], 40)


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "Bearer", "\u00e9"])
def test_a_wrong_token_opens_nothing(place: Place, token: str) -> None:
    with place.client(token) as stranger:
        for ask in (
            lambda: stranger.sql("SELECT 1 AS a"),
            lambda: stranger.tables(),
            lambda: stranger.lookup(1, "orders"),
        ):
            with pytest.raises(K2IError) as caught:
                ask()
            assert token not in str(caught.value) or not token


def test_without_a_token_nothing_is_said(place: Place) -> None:
    plain = flight.FlightClient(place.door.url)
    for call in (
        lambda: plain.do_get(flight.Ticket(b'{"sql": "SELECT 1"}')).read_all(),
        lambda: list(plain.list_flights()),
        lambda: list(plain.list_actions()),
        lambda: plain.get_schema(flight.FlightDescriptor.for_path("demo.orders")),
    ):
        # `get_schema` of PyArrow raises an OSError for all that a server refuses.
        with pytest.raises((flight.FlightUnauthenticatedError, OSError)) as caught:
            call()
        assert "token is needed" in str(caught.value)
        assert "demo" not in str(caught.value)


def test_errors_say_what_and_what_to_do(place: Place, flow: Client) -> None:
    with pytest.raises(ConfigError, match=r"no table none; there are: big, demo\.big") as caught:
        flow.sql("SELECT * FROM none")
    assert "gRPC" not in str(caught.value)
    with pytest.raises(ConfigError, match="read_csv"):
        flow.sql("SELECT * FROM read_csv('/etc/passwd')")
    with pytest.raises(ConfigError, match="not JSON"):
        _asked_raw(place, b"\xff")


def _asked_raw(place: Place, body: bytes) -> None:
    plain = flight.FlightClient(place.door.url)
    try:
        plain.do_get(flight.Ticket(body), options()).read_all()
    except pa.ArrowInvalid as error:
        raise ConfigError(str(error)) from error


def test_a_result_that_is_cut_is_not_taken_for_whole() -> None:
    with Place(rows_max=1_000) as own, own.client() as flow:
        for sql in ("SELECT k, v FROM big", "SELECT k, v + 1 AS w FROM big"):
            with pytest.raises(QueryLimitError, match="more than the 1,000 rows"):
                flow.sql(sql)
            rows = flow.answer(Sql(sql))
            assert (rows.table.num_rows, rows.was_cut) == (1_000, True)
            assert flow.sql(sql, limit=10).height == 10


def test_rows_of_a_key_that_are_cut_are_an_error() -> None:
    with Place(bytes_max=10) as own, own.client() as flow:
        with pytest.raises(QueryLimitError, match="more than the 0 rows"):
            flow.lookup(77, "orders")
        with pytest.raises(QueryLimitError, match="more than the 0 rows"):
            flow.at("orders", 0, 77, "orders")


def test_limits_reach_the_client_as_what_they_are() -> None:
    with Place(seconds_max=4.0, queries_max=1, waiting_max=0) as own, own.client() as flow:
        flow.sql("SELECT count(*) AS n FROM other")
        held = own.engine.answer(Sql("SELECT k, v FROM big"))
        with pytest.raises(BusyError, match="Ask again"):
            flow.sql("SELECT k, v FROM big")
        with pytest.raises(BusyError):
            flow.tables()
        held.close()
        with pytest.raises(QueryLimitError, match="more than 4 seconds"):
            flow.sql(EXPLOSIVE)


def test_a_client_that_is_killed_frees_place_and_process() -> None:
    with Place() as own, own.client() as flow:
        others = children()
        flow.sql("SELECT count(*) AS n FROM other")
        (worker,) = children() - others
        code = (
            "import sys; from k2i_tasks import client;"
            "flow = client.connect(sys.argv[1], sys.argv[2]); print('asks', flush=True);"
            "flow.sql(sys.argv[3])"
        )
        words = [sys.executable, "-c", code, own.door.url, TOKEN, EXPLOSIVE]
        asking = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert becomes(lambda: own.engine.places.taken == 1, 20)
        asking.kill()
        asking.wait()
        assert becomes(lambda: own.engine.places.taken == 0, 5)
        assert becomes(lambda: worker not in children(), 5)


def test_a_client_that_leaves_in_the_middle_frees_its_place() -> None:
    with Place() as own:
        for sql in ("SELECT k, v FROM big", "SELECT k, v + 1 AS w FROM big"):
            plain = flight.FlightClient(own.door.url)
            reader = plain.do_get(flight.Ticket(json.dumps({"sql": sql}).encode()), options())
            reader.read_chunk()
            reader.cancel()
            plain.close()
            assert becomes(lambda: own.engine.places.taken == 0, 5), sql


def test_tls_is_spoken_with_those_who_trust_the_certificate(tmp_path: Path) -> None:
    cert, key = certified(tmp_path, "server")
    stranger, _ = certified(tmp_path, "stranger")
    with Place(pem_pair(cert, key)) as own:
        assert own.door.url.startswith("grpc+tls://")
        with client.connect(own.door.url, TOKEN, ca=cert) as flow:
            assert flow.sql("SELECT count(*) AS n FROM orders")["n"][0] == 100
        for how in ({"ca": stranger}, {}):
            with (
                client.connect(own.door.url, TOKEN, **how) as distrustful,  # type: ignore[arg-type]
                pytest.raises(ServiceError, match="Nothing answers"),
            ):
                distrustful.sql("SELECT 1 AS a")
        with (
            client.connect(own.door.url.replace("+tls", ""), TOKEN) as clear,
            pytest.raises(K2IError),
        ):
            clear.sql("SELECT 1 AS a")
        with (
            client.connect(own.door.url, "wrong", ca=cert) as wrong,
            pytest.raises(ServiceError, match="refuses the token"),
        ):
            wrong.sql("SELECT 1 AS a")


def test_a_port_in_use_and_a_broken_certificate_are_clear_errors(
    place: Place, tmp_path: Path
) -> None:
    port = place.door.port
    with pytest.raises(ServiceError) as caught:
        FlightDoor(place.engine, "127.0.0.1", port, TOKENS)
    assert caught.value.exit_code == 6
    with pytest.raises(ConfigError, match="cannot be read"):
        pem_pair(tmp_path / "none", tmp_path / "none")


def test_a_client_needs_a_token_and_a_folder_with_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="token is needed"):
        client.connect("grpc://127.0.0.1:1")
    with pytest.raises(ServiceError, match="No flow runs"):
        client.connect(tmp_path)
    with (
        client.connect("127.0.0.1:1", "x") as nobody,
        pytest.raises(ServiceError, match="Nothing answers"),
    ):
        nobody.sql("SELECT 1 AS a")


def test_the_client_is_imported_without_what_is_heavy() -> None:
    code = (
        "import sys; import k2i_tasks.client;"
        "heavy = ('polars', 'pyarrow.flight', 'prefect', 'pyiceberg');"
        "print([module for module in heavy if module in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_many_ask_at_once_and_each_gets_its_own(place: Place) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        with place.client() as flow:
            for turn in range(5):
                key = 60 + (number * 5 + turn) % 40
                if flow.lookup(key, "orders")["id"].to_pylist() != [key]:
                    wrong.append(f"key {key}")
                sql = f"SELECT sum(id) AS s FROM orders WHERE id = {key}"
                if flow.sql(sql)["s"][0] != key:
                    wrong.append(sql)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert time.monotonic() - began < 30
