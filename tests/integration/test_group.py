"""Runs that share a topic as members of a consumer group: each record is one row all the same."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kafka_world import Stream, World
from tests.program import Program
from tests.running import PATIENCE_SECONDS, Running, at, running

pytestmark = pytest.mark.integration

MEMBER = {
    "K2I_KAFKA_ASSIGNMENT": "group",
    # So that a dead or frozen member is dropped soon: the shortest that a broker allows by default.
    "K2I_KAFKA_SESSION_TIMEOUT_MS": "6000",
    # So that members hear soon of one another.
    "K2I_KAFKA_HEARTBEAT_INTERVAL_MS": "200",
}


@pytest.fixture
def world(kafka_bootstrap: str, tmp_path: Path) -> World:
    return World(tmp_path, kafka_bootstrap, partitions=4)


def member(world: World, number: int, group: str = "members") -> Program:
    program = world.another_program(world.program.folder / f"wal{number}", group=group)
    program.environ |= MEMBER
    return program


def until(condition: Callable[[], bool], what: str, runs: Sequence[Running]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        outputs = "\n\n".join(run.output for run in runs)
        assert time.monotonic() < deadline, f"never {what}\n{outputs}"
        time.sleep(0.05)


def shared(runs: Sequence[Running], partitions: int) -> bool:
    """Whether each run reads its share, and all of them everything."""
    shares = [set(at(run.report() or {"partitions": []})) for run in runs]
    return all(shares) and sum(map(len, shares)) == len(set().union(*shares)) == partitions


def settled(world: World, runs: Sequence[Running]) -> None:
    """All that was written is in the table, once."""
    until(world.is_committed, f"committed up to {world.ends()}", runs)
    world.all_in()


def test_members_that_come_go_and_die_while_flushing_land_every_record_once(world: World) -> None:
    with ExitStack() as stack, Stream(world) as stream:
        first = stack.enter_context(running(member(world, 1)))
        first.until_committed(50)
        second = stack.enter_context(running(member(world, 2)))
        until(lambda: shared([first, second], 4), "shared by two", [first, second])
        third = stack.enter_context(running(member(world, 3)))
        runs = [first, second, third]
        until(lambda: shared(runs, 4), "shared by three", runs)
        third.until_committed(20)
        first.kill()
        until(lambda: shared([second, third], 4), "shared by the two left", [second, third])
        again = stack.enter_context(running(member(world, 1)))
        until(lambda: shared([again, second, third], 4), "shared by three again", [again])
        second.drain()
        until(lambda: shared([again, third], 4), "shared after a drain", [again, third])
        again.until_committed(20)
        stream.stop()
        settled(world, [again, third])
        again.drain()
        until(lambda: shared([third], 4), "alone", [third])
        world.more(40)
        settled(world, [third])
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
            until(lambda: shared([heir], 4), "taken over by the other", [heir])
            settled(world, [heir])
            sleeper.signal(signal.SIGCONT)
            until(lambda: shared([sleeper, heir], 4), "shared again", [sleeper, heir])
            world.more(40)
            heir.drain()
            sleeper.until_at(world.ends())
            sleeper.drain()
    assert "the group has dropped us" in sleeper.output
    settled(world, [])


def test_a_run_of_its_own_fences_the_members_of_a_group_and_a_group_a_run_of_its_own(
    world: World,
) -> None:
    world.more(40)
    with running(member(world, 1)) as one:
        one.until_committed(40)
        alone = world.another_program(world.program.folder / "wal2", group="alone")
        with running(alone) as other:
            until(lambda: shared([other], 4), "read by one run", [other])
            world.more(40)
            code, output = one.end()
            assert code == 3, output
            assert "fenced" in output
            settled(world, [other])
            with running(member(world, 3)) as back:
                until(lambda: shared([back], 4), "read by a member", [back])
                world.more(40)
                code, output = other.end()
                assert code == 3, output
                assert "fenced" in output
                settled(world, [back])
                back.drain()


def test_members_of_another_group_fence_those_of_the_first(world: World) -> None:
    world.more(40)
    with running(member(world, 1, group="one")) as first:
        first.until_committed(40)
        with running(member(world, 2, group="two")) as second:
            until(lambda: shared([second], 4), "read by the second group", [second])
            world.more(40)
            code, output = first.end()
            assert code == 3, output
            assert "group two" in output
            settled(world, [second])
            second.drain()


def test_partitions_that_are_added_are_given_to_the_members(world: World) -> None:
    world.more(40)
    with running(member(world, 1)) as first, running(member(world, 2)) as second:
        until(lambda: shared([first, second], 4), "shared by two", [first, second])
        settled(world, [first, second])
        world.add_partitions(7)
        until(lambda: shared([first, second], 7), "the new ones shared", [first, second])
        world.more(70)
        settled(world, [first, second])
        first.drain()
        second.drain()
