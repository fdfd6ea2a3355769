"""Work that releases the interpreter's lock, on all processors at once.

Threads of our own and not Arrow's: those are started by whoever needs them first, and keep its
priority, which may be that of a query. Pieces are to be large, a few milliseconds or more: each
thread waits for the lock at the beginning and at the end of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: More would wait for the one thread that makes use of what they give.
PROCESSORS_MAX = 8


@cache
def processors() -> int:
    """Processors that this process may use, `PROCESSORS_MAX` at most."""
    # The system's number where it cannot tell ours: macOS.
    affinity = getattr(os, "sched_getaffinity", None)
    count = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
    return min(count, PROCESSORS_MAX)


@cache
def _others() -> ThreadPoolExecutor:
    """Threads for all but the one that asks, started when they are first needed."""
    return ThreadPoolExecutor(max(1, processors() - 1), thread_name_prefix="k2i-decode")


def at_once(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `work` gives for each item, in order; of the first, and whatever nobody began, here.

    Blocks. Raises what `work` raised, once none is at work any more; no more is begun then.
    """
    futures: list[Future[Result] | None] = []
    try:
        futures += [_begun(work, item) for item in items[1:]]
        results = [work(item) for item in items[:1]]
        for number, item in enumerate(items[1:]):
            results.append(_result(work, item, futures[number]))
    finally:
        wait([future for future in futures if future is not None and not future.cancel()])
        # An error knows this frame, and a future its error: a circle, and the items are large.
        futures.clear()
    return results


def _begun(work: Callable[[Item], Result], item: Item) -> Future[Result] | None:
    """None where no thread is to be had: the system gives no more, or the process is at its end."""
    try:
        return _others().submit(work, item)
    except RuntimeError:
        return None


def _result(work: Callable[[Item], Result], item: Item, future: Future[Result] | None) -> Result:
    try:
        # The threads may be busy with what others of ours have asked for.
        return work(item) if future is None or future.cancel() else future.result()
    finally:
        del future
