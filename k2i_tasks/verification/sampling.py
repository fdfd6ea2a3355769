"""Which records have their values compared: windows of consecutive offsets, by a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping

from k2i_tasks.types import OffsetRange

#: Positions of a window: one fetch, and few files.
WINDOW_POSITIONS = 250
#: One window for each of some partitions, read at the same time.
Round = dict[int, OffsetRange]


def sample_rounds(spans: Mapping[int, OffsetRange], rows: int, seed: int) -> list[Round]:
    """Windows over all partitions, about `rows` positions in all.

    The first and the last window of each partition are always among them. The others of one round
    are at the same place in all partitions, relative to their length: what was read at the same
    time is in the same files.

    Windows of a partition rise from round to round.

    Args:
        spans: what may be compared, by partition.
        rows: positions to choose, about; all when there are not more.
        seed: the same seed gives the same windows for the same spans.
    """
    spans = {number: span for number, span in spans.items() if span.end > span.start}
    if not spans:
        return []
    if sum(span.end - span.start for span in spans.values()) <= rows:
        return [dict(spans)]
    size = max(1, min(WINDOW_POSITIONS, rows // (2 * len(spans))))
    places = [0.0, 1.0]
    chance = random.Random(seed)
    more = rows // (size * len(spans)) - len(places)
    places += [chance.random() for _ in range(more)]
    taken: dict[int, set[int]] = {number: set() for number in spans}
    rounds = []
    for place in sorted(places):
        turn: Round = {}
        for number, span in spans.items():
            # Numbered from the end, so that the last window is whole: windows never overlap.
            windows = -(-(span.end - span.start) // size)
            window = min(windows - 1, int(place * windows))
            if window not in taken[number]:
                taken[number].add(window)
                end = span.end - (windows - 1 - window) * size
                turn[number] = OffsetRange(max(span.start, end - size), end)
        rounds.append(turn)
    return rounds
