"""Python's cyclic garbage collector, set for a process that makes objects by the ten thousand."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: Young objects until they are looked through, then rounds until the older ones are. By default
#: each 700 new objects are: thirty times in one poll of 20,000 messages, none of which is garbage.
THRESHOLDS = (200_000, 10, 10)


@contextmanager
def relaxed() -> Iterator[None]:
    """Looks for cycles rarely, and never among what is there on entry, as long as it lasts.

    Records die by reference count. At the default thresholds the collector takes a third of the
    time of the thread that polls and decodes (`python -m benchmarks ingest`).
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def postponed() -> Iterator[None]:
    """Does not look for cycles while modules are loaded, nor among what they made later on.

    What they make stays. Looking through it again and again takes a tenth of a start's CPU
    (`python -m benchmarks start`).
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if before:
            gc.enable()
