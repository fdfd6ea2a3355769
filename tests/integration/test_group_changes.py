"""Members come and go while another is held at a place of its way: each record is one row.

A member that is held is alive: it polls and hears what the group decides while its flush, its
commit or the answer to it stands still.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.group_world import (
    member,
    until,
    until_asked_to_join_again,
    until_settled,
    until_shared,
)
from tests.held import Hold
from tests.kafka_world import Stream, World
from tests.program import Program
from tests.running import Running, running
from tests.stack.faults import Act, FaultProxy, Rule
from tests.support import CatalogAt

pytestmark = pytest.mark.integration


@pytest.fixture
def world(kafka_bootstrap: str, rest_catalog: CatalogAt, tmp_path: Path) -> World:
    found = World(tmp_path, kafka_bootstrap, partitions=4, rest=rest_catalog)
    # Long enough for whatever is done while an answer is withheld.
    found.program.environ |= {"K2I_ICEBERG_REST_REQUEST_TIMEOUT_SECONDS": "80"}
    return found


def changes(run: Running) -> int:
    """How often the group has taken partitions from this member."""
    return run.output.count("the group takes back")


@contextmanager
def noticed(run: Running) -> Iterator[None]:
    """The group changes within the block, and this member hears of it."""
    before = changes(run)
    yield
    until(lambda: changes(run) > before, "told of the change", [run])


def head_of(world: World) -> int | None:
    table = world.program.load_table()
    assert table is not None
    return table.metadata.current_snapshot_id


def come_and_go(
    world: World,
    program: Program,
    standing: Callable[[Running, Any, bool], AbstractContextManager[None]],
    places: Sequence[Any],
) -> None:
    """Another member joins, leaves, joins again and dies while one stands at a place; compares.

    Args:
        world: whose topic and table.
        program: the member that stands.
        standing: it stands at a place within the block, in which another joins or goes.
        places: one for each of the four.
    """
    joined, left, joined_again, died = places
    with Stream(world) as stream, running(program) as run, ExitStack() as stack:
        run.until_committed(10)
        for coming, going, drained in ((joined, left, True), (joined_again, died, False)):
            with standing(run, coming, True):
                other = stack.enter_context(running(member(world, 2)))
                other.until_committed(1)
            until_shared(world, run, other)
            with standing(run, going, False):
                other.drain() if drained else other.kill()
            until_shared(world, run)
        stream.stop()
        until_settled(world, run)
        run.drain()
    world.all_in()


# A place in the program.

#: Staged, and about to look at the table: what it finds there alone stops it; about to write the
#: intent; in the midst of a data file; applied, and not yet known.
PLACES = ("commit.before", "commit.intent.before", "flush.file.written", "commit.answered")
#: The others on the way of a batch.
SLOW_PLACES = (
    *("flush.before", "flush.file.before", "flush.staged.before", "flush.staged"),
    *("commit.manifests.before", "commit.send.before", "commit.landed.before", "commit.landed"),
    "wal.append.written",
)


def slow(*values: object) -> list[Any]:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def turned(places: tuple[str, ...], turn: int) -> tuple[str, ...]:
    """Four of the places, for those who join, leave, join again and die; over all turns, each."""
    return (places[turn:] + places[:turn])[:4]


@pytest.mark.parametrize(
    "places",
    [
        PLACES,
        *slow(*(turned(PLACES, turn) for turn in range(1, len(PLACES)))),
        *slow(*(turned(SLOW_PLACES, turn) for turn in range(len(SLOW_PLACES)))),
    ],
    ids=" ".join,
)
def test_a_member_that_is_held_while_others_join_leave_and_die_doubles_and_loses_nothing(
    world: World, tmp_path: Path, places: tuple[str, ...]
) -> None:
    hold = Hold(tmp_path / "hold")

    @contextmanager
    def held(run: Running, place: str, _joins: bool) -> Iterator[None]:
        hold.at(place)
        hold.until_there()
        with noticed(run):
            yield
        hold.let_go()

    come_and_go(world, member(world, 1, hold=hold), held, places)


@pytest.mark.parametrize(
    "place",
    [
        "commit.send.before",
        *slow(*(sorted({*PLACES, *SLOW_PLACES} - {"commit.send.before"}))),
    ],
)
def test_a_member_that_freezes_on_its_way_and_wakes_when_it_was_replaced_doubles_nothing(
    world: World, tmp_path: Path, place: str
) -> None:
    hold = Hold(tmp_path / "hold")
    with Stream(world) as stream, running(member(world, 1, hold=hold)) as sleeper:
        sleeper.until_committed(10)
        hold.at(place)
        hold.until_there()
        sleeper.signal(signal.SIGSTOP)
        with running(member(world, 2)) as heir:
            until_shared(world, heir)
            heir.until_committed(10)
            hold.let_go()
            sleeper.signal(signal.SIGCONT)
            until_shared(world, sleeper, heir)
            stream.stop()
            until_settled(world, sleeper, heir)
            heir.drain()
            sleeper.drain()
    world.all_in()


# On the wire.


@pytest.fixture
def proxy(rest_catalog: CatalogAt) -> Iterator[FaultProxy]:
    with FaultProxy(rest_catalog.uri) as between:
        yield between


def commits(world: World, act: Act) -> Rule:
    """What becomes of the next commit, or claim."""
    return Rule(f"{act}", act, "POST", f"/tables/{world.program.table}$")


@contextmanager
def on_the_wire(world: World, proxy: FaultProxy, run: Running, act: Act) -> Iterator[None]:
    """A commit of this member is on its way within the block, in which the group changes."""
    before = len(proxy.done)
    proxy.set(commits(world, act))
    until(lambda: len(proxy.done) > before, "sent", [run])
    with noticed(run):
        yield
    proxy.hang_up()


def test_a_commit_that_lands_just_before_the_claim_of_the_one_that_joins_lands_once(
    world: World, proxy: FaultProxy, tmp_path: Path
) -> None:
    claiming = Hold(tmp_path / "claiming")
    with Stream(world) as stream, ExitStack() as stack:
        run = stack.enter_context(running(member(world, 1, through=proxy)))
        run.until_committed(10)
        claiming.at("commit.send.before")
        with on_the_wire(world, proxy, run, Act.LATE):
            other = stack.enter_context(running(member(world, 2, hold=claiming)))
            claiming.until_there()
            assert proxy.release() == [200]
            claiming.let_go()
            other.until_committed(1)
        until_shared(world, run, other)
        stream.stop()
        until_settled(world, run, other)
        other.drain()
        run.drain()
    world.all_in()


@pytest.mark.parametrize(
    "acts",
    [
        (Act.LATE, Act.MUTE, Act.MUTE, Act.HANG),
        *slow(
            (Act.HANG, Act.LATE, Act.LATE, Act.MUTE),
            (Act.MUTE, Act.HANG, Act.HANG, Act.LATE),
        ),
    ],
    ids=" ".join,
)
def test_a_commit_on_the_wire_while_members_join_leave_and_die_lands_once_or_never(
    world: World, proxy: FaultProxy, acts: tuple[Act, ...]
) -> None:
    @contextmanager
    def waiting(run: Running, act: Act, joins: bool) -> Iterator[None]:
        with on_the_wire(world, proxy, run, act):
            yield
            landed = proxy.release()
            if joins:  # the claim of the other stands between
                assert landed == [409] * (act is Act.LATE)

    come_and_go(world, member(world, 1, through=proxy), waiting, acts)


# The claim of another.


@pytest.mark.parametrize(
    "place",
    ["commit.send.before", *slow("commit.manifests.before", "commit.answered", "claim.landed")],
)
def test_a_claim_that_stands_still_while_others_join_leave_and_die_harms_no_row(
    world: World, proxy: FaultProxy, tmp_path: Path, place: str
) -> None:
    hold = Hold(tmp_path / "hold")
    with Stream(world) as stream, ExitStack() as stack:
        first = stack.enter_context(running(member(world, 1)))
        first.until_committed(10)
        hold.at(place)
        run = stack.enter_context(running(member(world, 2, hold=hold)))
        hold.until_there()
        joining = stack.enter_context(running(member(world, 3)))
        until_asked_to_join_again(world)
        hold.let_go()
        until_shared(world, first, run, joining)
        # Its claim after one has left is there, and it does not know yet, when another dies.
        hold.at("claim.landed")
        joining.drain()
        hold.until_there()
        first.kill()
        until_asked_to_join_again(world)
        hold.let_go()
        until_shared(world, run)
        # One dies while its claim is on the wire.
        proxy.set(commits(world, Act.LATE))
        with running(member(world, 4, through=proxy)) as claiming:
            proxy.until_done(Act.LATE)
            head = head_of(world)  # what that claim was built on, or newer
            claiming.kill()
        until_shared(world, run)
        # Not by the report: a row of before may be told only now.
        until(lambda: head_of(world) != head, "committed again", [run])
        assert proxy.release() == [409]
        stream.stop()
        until_settled(world, run)
        run.drain()
    world.all_in()
