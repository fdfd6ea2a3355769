"""Runs that share a topic as members of a consumer group: each record is one row all the same."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.group_world import member, until_settled, until_shared
from tests.kafka_world import Stream, World
from tests.running import Running, running

pytestmark = pytest.mark.integration


@pytest.fixture
def world(kafka_bootstrap: str, tmp_path: Path) -> World:
    return World(tmp_path, kafka_bootstrap, partitions=4)


def test_members_that_come_go_and_die_while_flushing_land_every_record_once(world: World) -> None:
    with ExitStack() as stack, Stream(world) as stream:
        first = stack.enter_context(running(member(world, 1)))
        first.until_committed(50)
        second = stack.enter_context(running(member(world, 2)))
        until_shared(world, first, second)
        third = stack.enter_context(running(member(world, 3)))
        until_shared(world, first, second, third)
        third.until_committed(20)
        first.kill()
        until_shared(world, second, third)
        again = stack.enter_context(running(member(world, 1)))
        until_shared(world, again, second, third)
        second.drain()
        until_shared(world, again, third)
        again.until_committed(20)
        stream.stop()
        until_settled(world, again, third)
        again.drain()
        until_shared(world, third)
        world.more(40)
        until_settled(world, third)
        third.drain()
    world.all_in()


def test_a_frozen_member_that_wakes_after_its_partitions_moved_commits_nothing_of_them(
    world: World,
) -> None:
    world.more(400)
    # It holds what it has consumed, so that it has something to commit when it wakes.
    hold = {"K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "600", "K2I_BUFFER_FLUSH_BATCH_SIZE": "1000000"}
    with running(member(world, 1), environ=hold) as sleeper:
        sleeper.until_consumed(400)
        sleeper.signal(signal.SIGSTOP)
        with running(member(world, 2)) as heir:
            until_shared(world, heir)
            until_settled(world, heir)
            sleeper.signal(signal.SIGCONT)
            until_shared(world, sleeper, heir)
            world.more(40)
            heir.drain()
            sleeper.until_at(world.ends())
            sleeper.drain()
    assert "the group has dropped us" in sleeper.output
    until_settled(world)


def fences(world: World, newer: Running, older: Running, word: str) -> None:
    """The newer run takes all over; the older one ends as fenced, and says so by this word."""
    until_shared(world, newer)
    world.more(40)
    code, output = older.end()
    assert code == 3, output
    assert word in output
    until_settled(world, newer)


def test_a_run_of_its_own_fences_the_members_of_a_group_and_a_group_a_run_of_its_own(
    world: World,
) -> None:
    world.more(40)
    with running(member(world, 1)) as one:
        one.until_committed(40)
        alone = world.another_program(world.program.folder / "wal2", group="alone")
        with running(alone) as other:
            fences(world, other, one, "fenced")
            with running(member(world, 3)) as back:
                fences(world, back, other, "fenced")
                back.drain()


def test_members_of_another_group_fence_those_of_the_first(world: World) -> None:
    world.more(40)
    with running(member(world, 1, group="one")) as first:
        first.until_committed(40)
        with running(member(world, 2, group="two")) as second:
            fences(world, second, first, "group two")
            second.drain()


def test_partitions_that_are_added_are_given_to_the_members(world: World) -> None:
    world.more(40)
    with running(member(world, 1)) as first, running(member(world, 2)) as second:
        until_shared(world, first, second)
        until_settled(world, first, second)
        world.add_partitions(7)
        until_shared(world, first, second)
        world.more(70)
        until_settled(world, first, second)
        first.drain()
        second.drain()
