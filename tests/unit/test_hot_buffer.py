"""What is kept after its commit, for how long, and what makes it go."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pytest

from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.buffer.made import Made
from k2i_tasks.buffer.piece import Piece, joined
from k2i_tasks.errors import IntegrityError
from k2i_tasks.types import DecodedBatch, OffsetRange, SealReason, TopicPartition

P0 = TopicPartition("t", 0)
ROWS = 1_000


class Frame(NamedTuple):
    """Stands for a frame: the numbers of its rows."""

    rows: range

    def slice(self, offset: int, length: int) -> Frame:
        return Frame(self.rows[offset : offset + length])


def made_of(pieces: tuple[Piece, ...], nbytes: int) -> Made:
    rows = range(pieces[0].first, pieces[-1].end)
    return Made(pieces, "columns", Frame(rows), nbytes)


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
    made = made_of(filled.buffer.held().pieces, 5_000)
    filled.buffer.keep(made)
    assert filled.buffer.held().made == (made,)
    assert filled.buffer.kept == (0, 5_000)
    filled.buffer.resize(size + 4_000)
    assert filled.buffer.held().made == ()
    filled.buffer.keep(made)
    assert filled.buffer.held().made == (), "there is no room for it"
    assert filled.rows == ROWS


def test_what_was_made_of_rows_leaves_memory_with_them() -> None:
    filled = Filled()
    for _ in range(4):
        filled.append()
        filled.buffer.release(filled.seal())
        filled.now += 1
    filled.buffer.keep(made_of(filled.buffer.held().pieces, 4_000))
    filled.now = 11.5  # two of the four have been there for their time
    filled.buffer.expire()
    [made] = filled.buffer.held().made
    assert made.pieces == filled.buffer.held().pieces
    assert made.frame.rows == range(2 * ROWS, 4 * ROWS)
    assert made.nbytes == 2_000
    filled.now = 20.0
    filled.buffer.expire()
    assert filled.buffer.held().made == ()
    assert filled.buffer.kept == (0, 0)


def test_what_was_made_of_pieces_that_are_joined_is_let_go_and_the_rest_of_it_is_kept() -> None:
    filled = Filled()
    for _ in range(6):
        filled.append()
        filled.buffer.release(filled.seal())
    pieces = list(filled.buffer.held().pieces)
    old = made_of(tuple(pieces), 6_000)
    filled.buffer.keep(old)
    assert filled.buffer.replace(pieces[2:4], joined(pieces[2:4], filled.buffer.columns))
    first, last = filled.buffer.held().made
    assert (first.pieces, first.frame.rows) == (tuple(pieces[:2]), range(2 * ROWS))
    assert (last.pieces, last.frame.rows) == (tuple(pieces[4:]), range(4 * ROWS, 6 * ROWS))
    filled.buffer.keep(old)
    assert filled.buffer.held().made == (first, last), "made of pieces that are not there any more"


def test_what_is_made_takes_the_place_of_what_was_made_before() -> None:
    filled = Filled()
    for _ in range(3):
        filled.append()
    pieces = filled.buffer.held().pieces
    for piece in reversed(pieces):
        filled.buffer.keep(made_of((piece,), 1_000))
    assert [made.pieces for made in filled.buffer.held().made] == [(piece,) for piece in pieces]
    together = made_of(pieces[:2], 1_500)
    filled.buffer.keep(together)
    assert [made.pieces for made in filled.buffer.held().made] == [pieces[:2], pieces[2:]]
    assert filled.buffer.kept == (0, 2_500)


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
