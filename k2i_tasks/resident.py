"""Gives memory that is free but still held back to the system, before too much of it is held.

What a fetch of Kafka's brings is let go in another order than it came in, so that the C library's
heap is full of holes: with 64 partitions half of it, some 200 MB. The library gives back only what
lies at its end, unless it is told to look everywhere (`malloc_trim`). That costs new page faults,
so it is done only when the process is large. What is garbage in cycles goes first: commits leave
some of PyIceberg's, and the collector rarely comes by itself (`collector`).
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

#: Size from which on memory is given back: this, and so many times the bound of the buffers.
BASE_BYTES = 300 << 20
BUFFER_TIMES = 1.25
#: Time between two looks, in seconds.
LOOK_SECONDS = 0.25
#: Rest after memory was given back, in times of what that took, and at most in seconds.
REST_TIMES, REST_SECONDS_MAX = 19, 5.0
#: From so many times that size on the rest ends once a good part of it has come anew.
URGENT_TIMES, ANEW_SHARE = 1.15, 0.05
_STATM = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Memory that this process has now; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trimmer() -> Callable[[], None] | None:
    """What gives all free memory of the C library back; None where it cannot. It may block."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: trim(0)


@contextmanager
def bounded(buffer_bytes_max: int) -> Iterator[None]:
    """Keeps the process near its size while inside, by a thread that looks from time to time.

    Args:
        buffer_bytes_max: bound of all rows in memory.
    """
    trim = trimmer()
    if trim is None or not resident_bytes():
        yield
        return
    limit = BASE_BYTES + int(BUFFER_TIMES * buffer_bytes_max)
    ended = threading.Event()

    def watch() -> None:
        rested, left = 0.0, 0
        while not ended.wait(LOOK_SECONDS):
            before, began = resident_bytes(), time.monotonic()
            # What was left is in use: to look through it again would give nothing back.
            urgent = max(URGENT_TIMES * limit, left + ANEW_SHARE * limit)
            if before > (limit if began >= rested else urgent):
                gc.collect()
                trim()
                left, now = resident_bytes(), time.monotonic()
                log.debug("%d MB given back of %d", (before - left) >> 20, before >> 20)
                rested = now + min(REST_SECONDS_MAX, REST_TIMES * (now - began))

    thread = threading.Thread(target=watch, name="k2i-memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
