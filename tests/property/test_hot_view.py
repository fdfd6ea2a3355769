"""Whatever happens beside it, a view holds each consumed row once, and never goes back."""

from __future__ import annotations

import random

import pytest

from k2i_tasks.errors import IntegrityError, TransientError
from k2i_tasks.types import Offsets
from tests.property.hot_world import PARTITIONS, World, in_order, key_of, places_of

SEEDS = range(120)
STEPS = 60


def assert_exact(world: World, shown: Offsets) -> Offsets:
    """Takes a view amid other events, and compares it with the topic; its positions."""
    consumed = dict(world.positions)
    try:
        cut = world.view.cut()
    except TransientError:
        # Allowed for one reason alone.
        assert any(consumed[tp] < shown[tp] for tp in PARTITIONS)
        return shown
    finally:
        world.meanwhile = lambda: None
    assert places_of(cut.frame) == world.expected(cut.positions)
    for tp in PARTITIONS:
        assert cut.positions[tp] >= consumed[tp], "older than what was there when it was asked for"
        assert cut.positions[tp] >= shown[tp], "went back"
    return cut.positions


@pytest.mark.parametrize("seed", SEEDS)
def test_each_consumed_row_is_in_every_view_once(seed: int) -> None:
    world = World(random.Random(seed))
    shown: Offsets = dict.fromkeys(PARTITIONS, 0)

    def some_events() -> None:
        for _ in range(world.random.randint(0, 5)):
            world.event(may_let_go=False)

    for _ in range(STEPS):
        world.event()
        if world.random.random() < 0.4:
            world.meanwhile = some_events
            shown = assert_exact(world, shown)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cut_stays_as_it_is_whatever_comes_after_it(seed: int) -> None:
    world = World(random.Random(seed))
    for _ in range(STEPS // 2):
        world.event(may_let_go=False)
    cut = world.view.cut()
    for _ in range(STEPS):
        world.event()
    world.later()
    assert places_of(cut.frame) == world.expected(cut.positions)


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_that_are_kept_are_those_of_the_rows_in_memory(seed: int) -> None:
    world = World(random.Random(seed))
    for _ in range(STEPS):
        world.event()
        if world.random.random() < 0.4:
            world.view.cut("hot")
        held = world.buffer.held()
        there = [piece for piece in held.pieces if piece.rows]
        framed = [piece for made in held.made for piece in made.pieces]
        assert framed == [piece for piece in there if piece in framed], "in order, no piece twice"
        for made in held.made:
            assert in_order(made.frame.to_arrow()) == [
                place for piece in made.pieces for place in in_order(piece.table)
            ]


@pytest.mark.parametrize("seed", range(60))
def test_a_table_that_is_rolled_back_is_made_up_for_from_memory_or_refused(seed: int) -> None:
    world = World(random.Random(seed))
    for _ in range(STEPS):
        world.event(may_let_go=False)
    world.roll_back()
    gone = world.buffer.held().floor
    recorded = world.states[-1].offsets
    if any(gone[tp] > recorded[tp] for tp in PARTITIONS):
        with pytest.raises(IntegrityError, match="have left memory"):
            world.view.cut()
        return
    cut = world.view.cut()
    assert places_of(cut.frame) == world.expected(cut.positions)


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_in_memory_are_found_by_offset_and_by_key(seed: int) -> None:
    world = World(random.Random(seed))
    for _ in range(STEPS):
        world.event()
    world.view.cut("cold")  # so that the columns are known where there is no row
    held = places_of(world.view.cut("hot").frame)
    for tp in PARTITIONS:
        for offset, _kind in world.topic[tp].items():
            found = world.view.at("t", tp.partition, offset)
            assert found.num_rows == held[(tp.partition, offset)]
            assert found.num_rows == 0 or in_order(found) == [(tp.partition, offset)]
    for key in {key_of(*place) for place in held} | {"absent"}:
        rows = world.view.with_key(key)
        assert sorted(in_order(rows)) == sorted(p for p in held if key_of(*p) == key)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_tail_brings_every_row_once_in_order_or_says_that_it_missed_some(seed: int) -> None:
    world = World(random.Random(seed))
    tail = world.view.after(None, 10)
    assert tail.rows.num_rows == 0
    start, at, missed = tail.positions, tail.positions, False
    seen = []
    for _ in range(STEPS):
        world.event(may_let_go=False)
        tail = world.view.after(at, world.random.randint(1, 12))
        at, missed = tail.positions, missed or tail.missed
        seen += in_order(tail.rows)
    while (tail := world.view.after(at, 5)).positions != at:
        at, missed = tail.positions, missed or tail.missed
        seen += in_order(tail.rows)
    assert at == world.positions
    assert len(seen) == len(set(seen))
    for tp in PARTITIONS:
        mine = [offset for partition, offset in seen if partition == tp.partition]
        assert mine == sorted(mine)
    wanted = world.expected(at) - world.expected(start)
    assert set(seen) <= set(wanted)
    assert missed or set(seen) == set(wanted)


@pytest.mark.parametrize("seed", range(40))
def test_the_bound_holds_and_what_is_kept_makes_room(seed: int) -> None:
    world = World(random.Random(seed))
    bound = 60_000
    for _ in range(STEPS):
        world.event()
        world.buffer.resize(bound)
        pending = sum(batch.nbytes for batch in world.sealed)
        pending += sum(piece.nbytes for piece in world.buffer.held().pieces if not piece.expires_at)
        rows, kept_bytes = world.buffer.kept
        assert rows == 0 or kept_bytes <= bound
