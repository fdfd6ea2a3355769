"""A machine that has no thread, no process or no file left, and what a query leaves behind then."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from k2i_tasks.asking.engine import Engine
from k2i_tasks.errors import TransientError
from k2i_tasks.tickets import Rows, Sql
from tests.unit.asking_world import becomes, limited, rows
from tests.unit.views_world import world

ASKED: list[Callable[[Engine], object]] = [
    lambda one: one.answer(Sql("SELECT id FROM orders")),
    lambda one: one.answer(Sql("SELECT sum(id) AS s FROM orders")),
    lambda one: one.schema(Rows("orders")),
]


@pytest.fixture
def one() -> Iterator[Engine]:
    made = limited(world(), queries_max=1, waiting_max=0)
    # Polars' threads are there.
    made.answer(Sql("SELECT id FROM orders")).table()
    yield made
    made.close()


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("kind", [threading.Timer, threading.Thread])
def test_without_a_thread_a_query_fails_and_its_place_is_free(
    one: Engine, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Engine], object], kind: type
) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if type(thread) is kind:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            ask(one)
    assert one.places.taken == 0
    assert len(rows(one, "SELECT id FROM orders")) == 100


@pytest.mark.parametrize("what", ["process", "pipe"])
def test_without_a_process_a_query_is_told_and_leaves_no_file_open(
    one: Engine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def refused(*_words: Any, **_options: Any) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as scarce:
        scarce.setattr(*((subprocess, "Popen") if what == "process" else (os, "pipe")), refused)
        with pytest.raises(TransientError, match="cannot be started: Resource temporarily"):
            rows(one, "SELECT sum(id) AS s FROM orders")
    assert becomes(lambda: one.places.taken == 0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert rows(one, "SELECT count(*) AS n FROM orders") == [{"n": 100}]
