"""Work on all processors at once."""

from __future__ import annotations

import threading

import pytest

from k2i_tasks.codecs.parallel import at_once, processors


def test_results_are_in_order_and_the_first_is_made_here() -> None:
    here = threading.current_thread()
    seen = at_once(lambda n: (n, threading.current_thread()), list(range(20)))
    assert [n for n, _ in seen] == list(range(20))
    assert seen[0][1] is here
    assert all(thread is not here for _, thread in seen[1:])
    assert at_once(lambda n: n, []) == []


@pytest.mark.skipif(processors() < 2, reason="one processor has one thread")
def test_two_are_at_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)
    at_once(lambda _: both.wait(), [1, 2])


@pytest.mark.parametrize("bad", [0, 3])
def test_an_error_is_raised_once_all_work_is_over(bad: int) -> None:
    done: list[int] = []

    def work(n: int) -> None:
        if n == bad:
            raise ValueError(n)
        done.append(n)

    with pytest.raises(ValueError, match=str(bad)):
        at_once(work, list(range(6)))
    assert sorted(done) == [n for n in range(6) if n != bad]
