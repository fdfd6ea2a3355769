"""Each table gets each of its records once, in order, however often the topic is read again."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from k2i_tasks.kafka.feeds import Feed
from k2i_tasks.types import OffsetRange, RawBatch, TopicPartition

PARTITIONS = [TopicPartition("t", n) for n in range(3)]
TABLES = 3
#: Of each partition: for each offset the table of its record; -1 where there is none.
Log = list[list[int]]


def batch_of(log: Log, ranges: dict[TopicPartition, OffsetRange]) -> tuple[RawBatch, np.ndarray]:
    """The records in `ranges`, partition by partition, and the table of each."""
    places = [
        (tp.partition, offset)
        for tp, span in ranges.items()
        for offset in range(span.start, span.end)
        if log[tp.partition][offset] >= 0
    ]
    partitions = np.array([p for p, _ in places], np.int32)
    offsets = np.array([o for _, o in places], np.int64)
    values = [f"{p}:{o}".encode() for p, o in places]
    batch = RawBatch(
        "t", partitions, offsets, offsets * 0, [None] * len(places), values, None, ranges, 0
    )
    return batch, np.array([log[p][o] for p, o in places], np.int64)


class Taken:
    """What one run has taken: every position once, its own records at their places."""

    def __init__(self, table: int, offsets: dict[TopicPartition, int]) -> None:
        self.table = table
        self.at = dict(offsets)
        self.records: list[bytes] = []
        self.lost: list[tuple[int, int]] = []

    def take(self, ranges: dict[TopicPartition, OffsetRange], batch: RawBatch | None) -> None:
        for tp, span in ranges.items():
            assert span.start == self.at[tp], f"a hole or a double at {tp}: {span}"
            self.at[tp] = span.end
        if batch is not None:
            for partition, offset in zip(batch.partitions, batch.offsets, strict=True):
                span = batch.ranges[PARTITIONS[partition]]
                assert span.start <= offset < span.end
            self.records += [value for value in batch.values if value is not None]

    def wanted(self, log: Log, begin: dict[TopicPartition, int]) -> list[bytes]:
        return [
            f"{tp.partition}:{offset}".encode()
            for tp in begin
            for offset in range(begin[tp], self.at[tp])
            if log[tp.partition][offset] == self.table and (tp.partition, offset) not in self.lost
        ]


logs = st.lists(
    st.lists(st.integers(-1, TABLES - 1), min_size=0, max_size=40), min_size=3, max_size=3
)


@settings(deadline=None)
@given(logs, st.randoms(use_true_random=False))
def test_whatever_is_read_again_each_record_is_given_once_and_no_position_is_left_out(
    log: Log, random: object
) -> None:
    rnd = random
    begin = [
        {tp: rnd.randint(0, len(log[tp.partition])) for tp in PARTITIONS}  # type: ignore[attr-defined]
        for _ in range(TABLES)
    ]
    feeds = [Feed(offsets) for offsets in begin]
    taken = [Taken(n, begin[n]) for n in range(TABLES)]
    at = {tp: min(one[tp] for one in begin) for tp in PARTITIONS}
    for _ in range(60):
        step = rnd.random()  # type: ignore[attr-defined]
        if step < 0.15:
            # Back, or (a bug of the reader's that must harm nobody) ahead.
            at = {tp: rnd.randint(0, len(log[tp.partition])) for tp in PARTITIONS}  # type: ignore[attr-defined]
        elif step < 0.6:
            ranges = {}
            for tp in PARTITIONS:
                end = rnd.randint(at[tp], len(log[tp.partition]))  # type: ignore[attr-defined]
                if end > at[tp]:
                    ranges[tp] = OffsetRange(at[tp], end)
            at.update({tp: span.end for tp, span in ranges.items()})
            batch, tables = batch_of(log, ranges)
            kind = rnd.random()  # type: ignore[attr-defined]
            for n, feed in enumerate(feeds):
                if kind < 0.15:
                    before = dict(feed.expected)
                    feed.lose(ranges)
                    for tp, end in feed.expected.items():
                        taken[n].lost += [(tp.partition, o) for o in range(before[tp], end)]
                elif kind < 0.25 and not len(batch):
                    feed.move(ranges)
                else:
                    feed.hand(batch, np.flatnonzero(tables == n))
        else:
            n = rnd.randrange(TABLES)  # type: ignore[attr-defined]
            if step < 0.8:
                gaps, batch_or_none = feeds[n].take(rnd.randint(1, 10))  # type: ignore[attr-defined]
                taken[n].take(gaps, None)
                if batch_or_none is not None:
                    taken[n].take(dict(batch_or_none.ranges), batch_or_none)
            else:
                taken[n].take(dict(feeds[n].passed()), None)
            assert feeds[n].given == taken[n].at
    # In the end all is read once more, from the least.
    at = {tp: min(feed.expected[tp] for feed in feeds) for tp in PARTITIONS}
    ranges = {
        tp: OffsetRange(at[tp], len(log[tp.partition]))
        for tp in PARTITIONS
        if at[tp] < len(log[tp.partition])
    }
    batch, tables = batch_of(log, ranges)
    for n, feed in enumerate(feeds):
        feed.hand(batch, np.flatnonzero(tables == n))
        while not feed.settled:
            gaps, batch_or_none = feed.take(7)
            taken[n].take(gaps, None)
            if batch_or_none is not None:
                taken[n].take(dict(batch_or_none.ranges), batch_or_none)
            taken[n].take(dict(feed.passed()), None)
        assert taken[n].at == {tp: len(log[tp.partition]) for tp in PARTITIONS}
        assert sorted(taken[n].records) == sorted(taken[n].wanted(log, begin[n]))
        for tp in PARTITIONS:
            own = [r for r in taken[n].records if r.startswith(f"{tp.partition}:".encode())]
            assert own == sorted(own, key=lambda r: int(r.partition(b":")[2]))
            assert feed.nbytes == 0
