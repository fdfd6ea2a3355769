"""Calls over Flight that are one too many, and what a client is told."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

from k2i_tasks.errors import BusyError, ConfigError, ServiceError, TransientError
from k2i_tasks.views import Cut, Part
from tests.unit.asking_world import becomes
from tests.unit.test_flight_door import Place
from tests.unit.views_world import ArrowView


def test_busy_and_away_are_told_apart_whatever_the_words() -> None:
    class Failing(ArrowView):
        def cut(self, part: Part = "all") -> Cut:
            raise failure

    with Place() as own, own.client() as flow:
        none = pa.table({"id": pa.array([], pa.int64())})
        own.views["demo.failing"] = Failing("demo.failing", none, none)
        failures = [BusyError("Later."), TransientError("All places have clients, and no store.")]
        for failure in failures:
            with pytest.raises(TransientError) as caught:
                flow.sql("SELECT id FROM failing")
            assert type(caught.value) is type(failure)
            assert caught.value.what == failure.what


class Waiting(ArrowView):
    """A table whose look-ups are answered once they are told to."""

    def __init__(self) -> None:
        rows = pa.table({"id": [1]})
        super().__init__("demo.waiting", rows.slice(0, 0), rows)
        self.answers = threading.Event()

    def with_key(self, value: object) -> pa.Table:
        assert self.answers.wait(30)
        return self.hot


def test_calls_under_way_are_bounded_and_each_end_makes_room() -> None:
    with Place(followers_max=1, queries_max=1, waiting_max=0) as own, own.client() as flow:
        own.views["demo.waiting"] = waiting = Waiting()
        calls, most = own.door._gate.calls, own.engine.limits.calls_max
        # More than what lies between both sides.
        large = pa.table({"n": np.arange(8_000_000)})
        own.views["demo.large"] = ArrowView("demo.large", large.slice(0, 0), large)
        reader = flow._client.do_get(flight.Ticket(b'{"table": "demo.large"}'), flow._options)
        reader.read_chunk()
        with ThreadPoolExecutor(most) as pool:
            asked = [pool.submit(flow.lookup, 1, "waiting") for _ in range(most - 1)]
            assert becomes(lambda: calls._value == 0)
            for call in (lambda: flow.lookup(60, "orders"), flow.tables):
                with pytest.raises(BusyError, match=f"{most} calls"):
                    call()
            with own.client("wrong") as stranger, pytest.raises(ServiceError, match="token"):
                stranger.tables()
            # Whoever leaves makes room, and so does whoever has been answered, refused or failed.
            reader.cancel()
            assert becomes(lambda: calls._value == 1)
            assert flow.lookup(60, "orders").num_rows == 1
            waiting.answers.set()
            assert [one.result().num_rows for one in asked] == [1] * (most - 1)
        for wrong in ("SELECT", "SELECT nothing FROM orders", "SELECT id FROM none"):
            with pytest.raises(ConfigError):
                flow.sql(wrong)
        with pytest.raises(pa.ArrowInvalid):
            list(flow._client.do_action(flight.Action("drop", b""), flow._options))
        assert becomes(lambda: calls._value == most)
