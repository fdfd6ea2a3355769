"""Waiting for a store while what it gave before is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def few_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, most: int
) -> Generator[Result]:
    """What `function` gives for each item, in their order, computed on other threads.

    Who leaves before the end closes it, so that the threads end.

    Args:
        function: of one item; may block.
        items: asked for as they are needed.
        threads: that call it at the same time.
        most: results that are computed, or being computed, beyond the one that is waited for.

    Raises:
        whatever `function` raises, in its item's turn.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "k2i-ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
