"""What is kept after its commit, for how long, and what makes it go."""

from __future__ import annotations

import pyarrow as pa
import pytest

from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.errors import IntegrityError
from k2i_tasks.types import DecodedBatch, OffsetRange, SealReason, TopicPartition

P0 = TopicPartition("t", 0)
ROWS = 1_000


class Filled:
    """A buffer of one partition, and a clock that stands."""

    def __init__(self, *, ttl_seconds: float = 10.0, bytes_max: int = 1 << 30) -> None:
        self.now = 0.0
        self.buffer = HotBuffer(
            ttl_seconds=ttl_seconds, bytes_max=bytes_max, clock=lambda: self.now
        )
        self.buffer.begin({P0: 0})
        self.at = self.sealed_at = self.batches = 0

    def append(self) -> int:
        """A batch of rows; its bytes."""
        offsets = pa.array(range(self.at, self.at + ROWS), pa.int64())
        partitions = pa.array([0] * ROWS, pa.int32())
        table = pa.table({"_kafka_partition": partitions, "_kafka_offset": offsets})
        ranges = {P0: OffsetRange(self.at, self.at + ROWS)}
        self.buffer.append(DecodedBatch(table, (), ranges, table.nbytes, -1))
        self.at += ROWS
        return int(table.nbytes)

    def seal(self) -> str:
        self.batches += 1
        name = f"b{self.batches}"
        self.buffer.seal(name, SealReason.ROWS, {P0: OffsetRange(self.sealed_at, self.at)})
        self.sealed_at = self.at
        return name

    @property
    def rows(self) -> int:
        return sum(table.num_rows for table in self.buffer.scan())


def test_rows_are_kept_for_their_time_and_then_go() -> None:
    filled = Filled()
    filled.append()
    filled.buffer.release(filled.seal())
    filled.now = 9.9
    filled.buffer.expire()
    assert filled.rows == ROWS
    filled.now = 10.0
    filled.buffer.expire()
    assert filled.rows == 0
    assert filled.buffer.held().floor == {P0: ROWS}


def test_without_queries_rows_go_with_their_commit() -> None:
    filled = Filled(ttl_seconds=0.0)
    filled.append()
    name = filled.seal()
    filled.append()
    filled.buffer.release(name)
    assert filled.rows == ROWS
    assert filled.buffer.kept == (0, 0)
    filled.buffer.clear()
    assert filled.rows == 0


def test_what_is_kept_makes_room_oldest_first_and_what_is_not_committed_never_does() -> None:
    size = Filled().append()
    filled = Filled(bytes_max=4 * size + 10_000)
    for _ in range(2):
        filled.append()
        filled.buffer.release(filled.seal())
    filled.append()
    assert filled.rows == 3 * ROWS
    filled.append()
    filled.append()
    # The newest of the kept ones stays as long as it fits.
    assert filled.buffer.held().floor[P0] in (ROWS, 2 * ROWS)
    for _ in range(3):
        filled.append()
    assert filled.buffer.held().floor == {P0: 2 * ROWS}
    assert filled.rows == 6 * ROWS


def test_a_smaller_bound_takes_effect_at_once() -> None:
    filled = Filled()
    filled.append()
    filled.buffer.release(filled.seal())
    filled.buffer.resize(100)
    assert filled.rows == 0


def test_what_a_reader_made_is_thrown_away_before_the_bound_is_passed() -> None:
    filled = Filled()
    size = filled.append()
    [piece] = filled.buffer.held().pieces
    filled.buffer.keep_made(piece, ("columns", "frame"), 5_000)
    assert piece.made is not None
    filled.buffer.resize(size + 4_000)
    assert piece.made is None
    filled.buffer.keep_made(piece, ("columns", "frame"), 5_000)
    assert piece.made is None, "there is no room for it"
    assert filled.rows == ROWS


def test_a_batch_is_not_released_before_an_older_one() -> None:
    filled = Filled()
    filled.append()
    filled.seal()
    filled.append()
    with pytest.raises(IntegrityError, match="before an older one"):
        filled.buffer.release(filled.seal())


def test_rows_that_are_given_up_can_be_read_until_the_next_share_begins() -> None:
    filled = Filled()
    filled.append()
    filled.buffer.clear()
    assert filled.rows == ROWS
    assert filled.buffer.take_new() == ()
    filled.buffer.begin({P0: 0})
    assert filled.rows == 0


def test_a_held_cut_stays_when_the_rows_have_gone() -> None:
    filled = Filled()
    filled.append()
    held = filled.buffer.held()
    filled.buffer.release(filled.seal())
    filled.now = 100.0
    filled.buffer.expire()
    assert sum(piece.rows for piece in held.pieces) == ROWS
    assert held.floor == {P0: 0}
