"""What is computed ahead comes in order, as much as was asked for and no more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2i_tasks.iceberg.few_ahead import few_ahead


@given(st.lists(st.integers()), st.integers(1, 4), st.integers(0, 5))
def test_all_results_come_in_the_order_of_their_items(
    items: list[int], threads: int, most: int
) -> None:
    taken = 0

    def asked() -> Iterator[int]:
        nonlocal taken
        for item in items:
            taken += 1
            yield item

    found = []
    for result in few_ahead(lambda item: -item, asked(), threads=threads, most=most):
        found.append(result)
        assert taken <= len(found) + most
    assert found == [-item for item in items]


def test_the_next_is_computed_while_one_is_worked_on() -> None:
    begun = [threading.Event() for _ in range(3)]

    def begin(number: int) -> int:
        begun[number].set()
        return number

    results = few_ahead(begin, range(3), threads=1, most=1)
    assert next(results) == 0
    assert begun[1].wait(30)
    assert not begun[2].is_set()
    assert list(results) == [1, 2]


def test_an_error_is_raised_in_its_turn_and_nothing_is_begun_after_it() -> None:
    begun: list[int] = []

    def divided(number: int) -> float:
        begun.append(number)
        return 1 / number

    results = few_ahead(divided, [1, 2, 0, 4, 5, 6], threads=1, most=1)
    assert next(results) == 1
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert set(begun) <= {1, 2, 0, 4}
    assert list(results) == []


def test_what_is_not_asked_for_is_not_computed() -> None:
    begun: list[int] = []
    results = few_ahead(begun.append, range(100), threads=2, most=2)
    next(results)
    results.close()
    assert len(begun) <= 3
