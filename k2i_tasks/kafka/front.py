"""How far a topic was dealt out, and which of its tables it is read for now. Not thread-safe."""

from __future__ import annotations

import time
from collections.abc import Mapping

from k2i_tasks.kafka.feeds import Feed
from k2i_tasks.types import Offsets, TopicPartition

#: How long the topic is read for those that lag before those at the front have their turn again.
TURN_SECONDS = 5.0


class Front:
    """Between tables that lag and those that do not, reading takes turns: neither stops the other.

    Attributes:
        dealt: next offset of each partition that was dealt out to nobody yet. All below it were:
            their tables are known.
    """

    def __init__(self) -> None:
        self.dealt: dict[TopicPartition, int] = {}
        self._at_front = False
        self._turn_ends = 0.0

    def reached(self, offsets: Offsets) -> None:
        """All below `offsets` was dealt out, read on from where it had been before."""
        for tp, offset in offsets.items():
            self.dealt[tp] = max(offset, self.dealt.get(tp, 0))

    def lags(self, feed: Feed) -> bool:
        """Whether what `feed` takes in next was dealt out before."""
        return any(feed.expected.get(tp, offset) < offset for tp, offset in self.dealt.items())

    def wanted(
        self, feeds: Mapping[str, Feed], at: Offsets, ends: Offsets
    ) -> dict[TopicPartition, int]:
        """Where to read on, of each partition.

        Args:
            feeds: those that want records, at least one.
            at: where the reading stands; empty before it was begun.
            ends: end of each partition, as far as known.
        """
        served = self._served(feeds, ends)
        found: dict[TopicPartition, int] = {}
        for tp in {*at, *(tp for feed in served for tp in feed.expected)}:
            offsets = [feed.expected[tp] for feed in served if tp in feed.expected]
            least = min(offsets, default=at.get(tp, 0))
            if tp in at:
                # What was dealt out to nobody may have records of tables that are not known.
                least = min(least, max(at[tp], self.dealt.get(tp, 0)))
            found[tp] = least
        return found

    def _served(self, feeds: Mapping[str, Feed], ends: Offsets) -> list[Feed]:
        front = [feed for feed in feeds.values() if not self.lags(feed)]
        fresh = any(ends.get(tp, 0) > offset for tp, offset in self.dealt.items())
        if not front or len(front) == len(feeds) or not fresh:
            return list(feeds.values())
        now = time.monotonic()
        if now >= self._turn_ends:
            self._at_front, self._turn_ends = not self._at_front, now + TURN_SECONDS
        return front if self._at_front else list(feeds.values())
