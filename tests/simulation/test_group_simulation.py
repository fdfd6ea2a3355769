"""Whoever joins, dies, sleeps, wakes and steals: the members of a group land each offset once."""

from __future__ import annotations

import os

import pytest

from tests.simulation.group import Group
from tests.simulation.world import World

SEEDS = int(os.environ.get("K2I_TEST_SEEDS", "10000")) // 4
CHUNKS = 10
STEPS_MAX = 8000


def run(seed: int) -> tuple[World, Group]:
    """Lives through one schedule, until all is in the table."""
    world = World(seed, records=60)
    group = Group(world)
    group.join()
    group.join()
    for _step in range(STEPS_MAX):
        group.step()
        check(world)
        if all(world.table.state.offsets.get(tp) == end for tp, end in world.ends.items()):
            break
    return world, group


def check(world: World) -> None:
    table = world.table
    assert all(count == 1 for count in table.rows.values()), "a row is there twice"
    if len(table.history) > 1:
        before, after = table.history[-2:]
        assert all(after[tp] >= offset for tp, offset in before.items()), "offsets went back"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_schedule_of_a_group_lands_every_offset_exactly_once(chunk: int) -> None:
    for seed in range(chunk, SEEDS, CHUNKS):
        try:
            world, group = run(seed)
            missing = world.wanted() - set(world.table.rows)
            assert not missing, f"{len(missing)} rows missing after {group.runs} runs"
            extra = set(world.table.rows) - world.wanted()
            assert not extra, f"{len(extra)} rows that nobody produced"
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
