"""Whoever joins, dies, sleeps, wakes and steals: the members of a group land each offset once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scale import times
from tests.simulation.group import Group
from tests.simulation.world import World, lands_exactly_once

SEEDS = times(2_500, 25_000)
#: Seeds that are always run: those that tell when a partition may be committed by a member that
#: does not hold it, or when a member commits what an earlier run left of others' partitions; and
#: every one that failed since.
KEPT = Path(__file__).with_name("group_seeds.txt")
CHUNKS = 10
STEPS_MAX = 8000


def run(seed: int) -> tuple[World, int]:
    """Lives through one schedule, until all is in the table; the world then, and runs so far."""
    world = World(seed, records=60)
    group = Group(world)
    group.join()
    group.join()
    for _step in range(STEPS_MAX):
        group.step()
        check(world)
        if all(world.table.state.offsets.get(tp) == end for tp, end in world.ends.items()):
            break
    return world, group.runs


def check(world: World) -> None:
    table = world.table
    assert all(count == 1 for count in table.rows.values()), "a row is there twice"
    if len(table.history) > 1:
        before, after = table.history[-2:]
        assert all(after[tp] >= offset for tp, offset in before.items()), "offsets went back"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_schedule_of_a_group_lands_every_offset_exactly_once(chunk: int) -> None:
    for seed in range(chunk, SEEDS, CHUNKS):
        lands_exactly_once(run, seed, KEPT)


def test_kept_seeds_of_a_group_hold() -> None:
    for seed in KEPT.read_text(encoding="ascii").split():
        lands_exactly_once(run, int(seed), KEPT)
