"""How old records were when something became of them, as a histogram that costs little a batch."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np

from k2i_tasks.status import AgeSummary
from k2i_tasks.types import Spread

#: Upper bounds of the buckets in seconds; older ones are in the last, which has none.
BOUNDS_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86400.0),
)


class Ages:
    """A histogram of ages over a whole run. Thread-safe; does not block.

    A batch gives its oldest and its newest record; what lies between counts as evenly spread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = np.zeros(len(BOUNDS_SECONDS) + 1, np.int64)
        self._sum_seconds = 0.0
        self._max_seconds = 0.0

    def add(self, spreads: Iterable[Spread], now: float) -> None:
        """Counts the records of `spreads` with their age at `now`, unix seconds.

        Ages below zero, where clocks differ, count as zero.
        """
        found = list(spreads)
        if not found:
            return
        records = np.array([one.records for one in found], np.int64)
        oldest = np.array([one.oldest_ms for one in found], np.float64)
        newest = np.array([one.newest_ms for one in found], np.float64)
        longest = np.maximum(now - oldest / 1000, 0.0)[:, None]
        shortest = np.maximum(now - newest / 1000, 0.0)[:, None]
        width = np.maximum(longest - shortest, 1e-9)
        below = np.clip((np.array(BOUNDS_SECONDS) - shortest) / width, 0.0, 1.0)
        # Whole records, so that the buckets add up to what was given.
        upto = np.rint(below * records[:, None]).astype(np.int64)
        upto = np.concatenate([upto, records[:, None]], axis=1)
        counts = np.diff(upto, prepend=0, axis=1).sum(axis=0)
        total = float((records[:, None] * (longest + shortest) / 2).sum())
        with self._lock:
            self._counts += counts
            self._sum_seconds += total
            self._max_seconds = max(self._max_seconds, float(longest.max()))

    def cumulative(self) -> tuple[list[tuple[str, float]], float]:
        """Buckets as Prometheus has them, upper bound and records up to it; and the sum."""
        with self._lock:
            counts, total = self._counts.cumsum(), self._sum_seconds
        bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
        return list(zip(bounds, map(float, counts), strict=True)), total

    def summary(self) -> AgeSummary | None:
        """None before the first record."""
        with self._lock:
            upto, longest = self._counts.cumsum(), self._max_seconds
        records = int(upto[-1])
        if records == 0:
            return None

        def bound(share: float) -> float:
            at = int(np.searchsorted(upto, share * records))
            return min(BOUNDS_SECONDS[at], longest) if at < len(BOUNDS_SECONDS) else longest

        return AgeSummary(records, bound(0.5), bound(0.99), longest)
