"""Keeps memory that is free, but still held by the process, small.

What a fetch of Kafka's brings is let go in another order than it came in, so that the C library's
heaps are full of holes: with 64 partitions half of it, some 200 MB. By its defaults the library
has many heaps, and keeps blocks of up to 32 MB in them once some as large were freed; `frugal` has
it give large ones back at once. Of the others it gives back only what lies at a heap's end, unless
it is told to look everywhere (`malloc_trim`). That costs new page faults, so it is done only when
the process is large. What is garbage in cycles goes first: commits leave some of PyIceberg's, and
the collector rarely comes by itself (`collector`).
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

#: Size from which on memory is given back: this, and so many times the bound of the buffers.
BASE_BYTES = 300 << 20
BUFFER_TIMES = 1.25
#: Time between two looks, and at least between two times that memory is given back, in seconds.
LOOK_SECONDS = 0.5
REST_SECONDS = 2.0
_STATM = Path("/proc/self/statm")
#: Options of the C library by their numbers, see mallopt(3). Larger blocks are pages of their own.
_M_MMAP_THRESHOLD, PAGED_BYTES = -3, 256 << 10
#: What may lie free at the end of a heap; otherwise it would come and go with each block there.
_M_TRIM_THRESHOLD, FREE_BYTES = -1, 8 << 20
_M_ARENA_MAX, HEAPS = -8, 2


def frugal() -> bool:
    """Has the C library keep less free memory from now on; whether it can be told so.

    Threads that have started already keep their heaps. Idempotent.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    told = [
        mallopt(_M_MMAP_THRESHOLD, PAGED_BYTES),
        mallopt(_M_TRIM_THRESHOLD, FREE_BYTES),
        mallopt(_M_ARENA_MAX, HEAPS),
    ]
    return all(told)


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
        while not ended.wait(LOOK_SECONDS):
            before = resident_bytes()
            if before > limit:
                gc.collect()
                trim()
                log.debug("%d MB given back of %d", (before - resident_bytes()) >> 20, before >> 20)
                ended.wait(REST_SECONDS)

    thread = threading.Thread(target=watch, name="k2i-memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
