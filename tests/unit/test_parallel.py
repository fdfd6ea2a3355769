"""Work on all processors at once."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from k2i_tasks.codecs.parallel import _others, at_once, processors
from tests.unit.asking_world import becomes


def test_results_are_in_order_and_the_first_is_made_here() -> None:
    here = threading.current_thread()
    seen = at_once(lambda n: (n, threading.current_thread()), list(range(20)))
    assert [n for n, _ in seen] == list(range(20))
    assert seen[0][1] is here
    assert at_once(lambda n: n, []) == []


@pytest.mark.skipif(processors() < 2, reason="one processor has one thread")
def test_two_are_at_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)
    at_once(lambda _: both.wait(), [1, 2])


def test_what_nobody_has_begun_is_done_here() -> None:
    free = threading.Event()
    busy = [_others().submit(free.wait, 30) for _ in range(processors())]
    here = threading.current_thread()
    seen = at_once(lambda n: (n, threading.current_thread()), list(range(9)))
    free.set()
    assert seen == [(n, here) for n in range(9)]
    assert all(future.result() for future in busy)


@pytest.mark.parametrize("bad", [0, 3])
def test_an_error_is_raised_once_no_work_is_under_way(bad: int) -> None:
    begun: list[int] = []
    done: list[int] = []

    def work(n: int) -> None:
        begun.append(n)
        if n == bad:
            raise ValueError(n)
        done.append(n)

    with pytest.raises(ValueError, match=str(bad)):
        at_once(work, list(range(6)))
    assert sorted(done) == sorted(n for n in begun if n != bad)


class _Large:
    """Something that a weak reference can tell the end of."""


@pytest.mark.parametrize("bad", [0, 1])
def test_what_an_error_came_from_is_let_go_with_it(bad: int) -> None:
    items = [_Large(), _Large()]
    gone = [weakref.ref(item) for item in items]

    def work(item: _Large) -> None:
        if item is items[bad]:
            raise ValueError

    gc.disable()
    try:
        with pytest.raises(ValueError):  # noqa: PT011 - ours
            at_once(work, items)
        items.clear()
        assert becomes(lambda: not any(one() for one in gone))
    finally:
        gc.enable()


def test_without_a_thread_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_others(), "submit", refused)
    here = threading.current_thread()
    assert at_once(lambda n: (n, threading.current_thread()), [1, 2, 3]) == [
        (1, here),
        (2, here),
        (3, here),
    ]
