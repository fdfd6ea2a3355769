"""What tests of a consumer group share: its members, and what is to become of their shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from confluent_kafka import ConsumerGroupState

from tests.held import Hold
from tests.kafka_world import World
from tests.program import Program
from tests.running import PATIENCE_SECONDS, Running, at
from tests.stack.faults import FaultProxy

MEMBER = {
    "K2I_KAFKA_ASSIGNMENT": "group",
    # So that a dead or frozen member is dropped soon.
    "K2I_KAFKA_SESSION_TIMEOUT_MS": "3000",
    # So that members hear soon of one another.
    "K2I_KAFKA_HEARTBEAT_INTERVAL_MS": "200",
}


def member(
    world: World,
    number: int,
    *,
    group: str | None = None,
    hold: Hold | None = None,
    through: FaultProxy | None = None,
) -> Program:
    """A member of a group that shares the world's table, with a log of its own.

    Args:
        world: whose topic and table.
        number: of its log.
        group: that it is a member of; None for the world's own.
        hold: where it can be held.
        through: the way to its catalog.
    """
    wal = world.program.folder / f"wal{number}"
    program = world.another_program(wal, group=group or world.group)
    program.environ |= MEMBER
    if hold is not None:
        program.module = "tests.held"
        program.environ |= hold.environ
    if through is not None:
        program.environ |= {"K2I_ICEBERG_REST_URI": through.url}
    return program


def until_asked_to_join_again(world: World) -> None:
    """Waits until the group has noticed a change, and waits for its members to come."""

    def preparing() -> bool:
        asked = world.admin.describe_consumer_groups([world.group])[world.group]
        return bool(asked.result(30).state == ConsumerGroupState.PREPARING_REBALANCING)

    until(preparing, "rebalancing", [])


def until(condition: Callable[[], bool], what: str, runs: Sequence[Running]) -> None:
    """Waits until `condition` holds, while all these run; shows their output if it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() >= deadline or any(run.process.poll() is not None for run in runs):
            outputs = "\n\n".join(run.output for run in runs)
            raise AssertionError(f"never {what}\n{outputs}")
        time.sleep(0.05)


def until_shared(world: World, *runs: Running) -> None:
    """Waits until each run reads its share, and all of them together every partition."""

    def shared() -> bool:
        shares = [set(at(run.report() or {"partitions": []})) for run in runs]
        together = set().union(*shares)
        return all(shares) and sum(map(len, shares)) == len(together) == world.partitions

    until(shared, f"shared by {len(runs)}", runs)


def until_settled(world: World, *runs: Running) -> None:
    """Waits until all that was written is committed, and compares: each record is there once."""
    until(world.is_committed, f"committed up to {world.ends()}", runs)
    world.all_in()
