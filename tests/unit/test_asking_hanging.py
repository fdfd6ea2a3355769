"""A catalog or a store that hangs, and those who ask meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import polars as pl
import pytest
from polars.io.plugins import register_io_source

from k2i_tasks.asking.engine import Engine
from k2i_tasks.errors import BusyError, QueryLimitError
from k2i_tasks.tickets import Rows, Sql
from k2i_tasks.views import Cut, Part
from tests.unit.asking_world import becomes, limited
from tests.unit.views_world import ArrowView, orders


class Hanging(ArrowView):
    """A table whose catalog, or store, answers once it is told to."""

    def __init__(self, *, store: bool) -> None:
        whole = orders(0, 10)
        super().__init__("demo.orders", whole, whole.slice(0, 0))
        self.answers = threading.Event()
        self.store = store
        self.asked = 0

    def cut(self, part: Part = "all") -> Cut:
        found = super().cut(part)
        if not self.store:
            self._wait()
            return found

        def rows(columns: list[str] | None, *_rest: object) -> Iterator[pl.DataFrame]:
            self._wait()
            whole = found.frame.collect()
            yield whole if columns is None else whole.select(columns)

        frame = register_io_source(rows, schema=found.frame.collect_schema())
        return Cut(frame, found.positions, None, 0)

    def _wait(self) -> None:
        self.asked += 1
        assert self.answers.wait(30)


WAYS: list[Callable[[Engine], object]] = [
    lambda one: one.answer(Sql("SELECT id FROM orders WHERE id > 1")).table(),
    lambda one: one.answer(Sql("SELECT sum(id) AS s FROM orders")).table(),
    lambda one: one.answer(Rows("orders", ("id",))).table(),
    lambda one: one.schema(Rows("orders")),
    lambda one: one.schema(Sql("SELECT id FROM orders")),
    lambda one: one.schemas(),
]


@pytest.mark.parametrize("first", [0, 2, 3, 5])
def test_a_catalog_that_hangs_has_no_more_askers_than_there_are_places(first: int) -> None:
    view = Hanging(store=False)
    one = limited({view.name: view}, queries_max=1, waiting_max=0, seconds_max=0.5)
    began = time.monotonic()
    if first == 5:
        assert WAYS[first](one) == {"demo.orders": None}
    else:
        with pytest.raises(QueryLimitError, match=r"more than 0\.5 seconds"):
            WAYS[first](one)
    assert time.monotonic() - began < 5, "whoever asks does not wait for the catalog"
    for way in WAYS:
        with pytest.raises(BusyError):
            way(one)
    assert (view.asked, one.places.taken) == (1, 1)
    view.answers.set()
    assert becomes(lambda: one.places.taken == 0)
    assert one.schema(Rows("orders")).names[0] == "id"
    one.close()


@pytest.mark.parametrize("way", WAYS[:3])
def test_a_store_that_hangs_has_no_more_askers_than_there_are_places(
    way: Callable[[Engine], object],
) -> None:
    view = Hanging(store=True)
    one = limited({view.name: view}, queries_max=1, waiting_max=0, seconds_max=1.0)
    began = time.monotonic()
    with pytest.raises(QueryLimitError, match="more than 1 seconds"):
        way(one)
    assert time.monotonic() - began < 10
    with pytest.raises(BusyError):
        way(one)
    assert (view.asked, one.places.taken) == (1, 1)
    view.answers.set()
    assert becomes(lambda: one.places.taken == 0)
    way(one)
    one.close()
