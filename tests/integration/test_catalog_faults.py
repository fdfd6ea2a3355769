"""A real catalog behind a proxy that loses answers: whatever is not known is looked up, once each.

Faults meet the requests of one running program one after the other; after each the table is
counted, so that a failure names the fault, and at the end every value is compared.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.fault_world import World, meeting, world_at
from tests.running import running
from tests.stack.faults import Act, FaultProxy, Lands, Rule
from tests.support import CatalogAt

pytestmark = pytest.mark.integration

HTML = b"<html><body><h1>Bad Gateway</h1></body></html>"
APPLIED = {Act.LOSE, Act.CUT, Act.MUTE, Act.GARBAGE, Act.CUT_ANSWER}
#: Short, so that what is never answered costs little.
QUICK = {
    "K2I_ICEBERG_REST_REQUEST_TIMEOUT_SECONDS": "1",
    "K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "0.1",
}


@pytest.fixture
def proxy(rest_catalog: CatalogAt) -> Iterator[FaultProxy]:
    with FaultProxy(rest_catalog.uri) as between:
        yield between


@pytest.fixture
def world(
    kafka_bootstrap: str, rest_catalog: CatalogAt, proxy: FaultProxy, tmp_path: Path
) -> World:
    between = replace(rest_catalog, uri=proxy.url)
    return world_at(tmp_path, kafka_bootstrap, rest_catalog, between, dict(QUICK))


# Commits.


def commit_faults(world: World) -> list[Rule]:
    """Everything that may become of a commit, for the program to meet one after the other."""
    rule = Rule("", Act.REFUSE, "POST", f"/tables/{world.table}$")
    codes = (500, 502, 503, 504, 409, 429)
    rules = [replace(rule, name=f"{code}, not done", status=code) for code in codes]
    rules.append(replace(rule, name="a gateway's 502, not done", status=502, body=HTML))
    lost = replace(rule, act=Act.LOSE)
    rules += [replace(lost, name=f"{code}, done", status=code) for code in (*codes, 400, 404)]
    rules.append(replace(lost, name="a gateway's 504, done", status=504, body=HTML))
    rules += [
        replace(rule, name="time-out, not done", act=Act.HANG),
        replace(rule, name="time-out, done", act=Act.MUTE),
        replace(rule, name="cut in the request", act=Act.CUT_REQUEST),
        replace(rule, name="cut, done", act=Act.CUT),
        replace(rule, name="cut in the answer", act=Act.CUT_ANSWER),
        replace(rule, name="garbage, done", act=Act.GARBAGE),
        replace(rule, name="late, before the next", act=Act.LATE, lands=Lands.BEFORE_NEXT),
        replace(rule, name="late, behind the next", act=Act.LATE, lands=Lands.AFTER_NEXT),
    ]
    return rules


def told(rule: Rule) -> list[int | None]:
    """What the real catalog answered to the requests of such a fault."""
    if rule.act is Act.LATE:
        return [None, 200 if rule.lands is Lands.BEFORE_NEXT else 409]
    return [200 if rule.act in APPLIED else None]


def test_whatever_is_answered_to_a_commit_each_row_lands_once(
    world: World, proxy: FaultProxy
) -> None:
    with running(world.program) as run:
        run.until_committed(world.more())
        for rule in commit_faults(world):
            with meeting(rule.name):
                proxy.set(rule)
                run.until_committed(world.more())
                met = proxy.until_done(rule.name, len(told(rule)))
                assert [each.status for each in met] == told(rule)
                world.assert_counts()
        run.drain()
    world.assert_complete()


# Everything else that is asked of a catalog.

ACTS = [
    Act.LOSE,
    Act.CUT_REQUEST,
    Act.GARBAGE,
    Act.HANG,
    Act.REFUSE,
    Act.CUT,
    Act.CUT_ANSWER,
    Act.MUTE,
]


def requests_of(world: World) -> dict[str, tuple[str, str]]:
    """The kinds of requests on the way to the first commit: method and path."""
    table, letters = f"/tables/{world.table}", f"/tables/{world.letters}"
    return {
        "reading the settings": ("GET", "/v1/config"),
        "creating the namespace": ("POST", "/v1/namespaces$"),
        "creating a table": ("POST", "/namespaces/tests/tables$"),
        "reading the table": ("GET", rf"{table}(\?|$)"),
        "the claim": ("POST", f"{table}$"),
        "reading the dead letters": ("GET", rf"{letters}(\?|$)"),
        "the commit of dead letters": ("POST", f"{letters}$"),
    }


@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in range(1, len(ACTS)))]
)
def test_whatever_is_answered_on_the_way_to_the_first_commit_each_row_lands_once(
    world: World, proxy: FaultProxy, turn: int
) -> None:
    method, path = requests_of(world)["creating a table"]
    proxy.set(Rule("a table that is not there is", Act.REFUSE, method, path, status=409))
    for number, (kind, (method, path)) in enumerate(requests_of(world).items()):
        # Over all turns each kind meets each act, and in each turn two that are unlike.
        for act in (ACTS[(number + turn) % 8], ACTS[(number + turn + 4) % 8]):
            proxy.set(Rule(kind, act, method, path))
    world.more(bad=3)
    with running(world.program) as run:
        world.until_landed(run)
        world.more(bad=3)  # for faults of commits that the first one did not meet
        world.until_landed(run)
        run.drain()
    assert not proxy.unused, run.output
    world.assert_complete()


# Kills while the answer is withheld.


@dataclass(frozen=True)
class Kill:
    """A request whose answer a killed run never gets.

    Args:
        rule: what becomes of the request.
        status: what the real catalog answered to it in the end.
        log_lost: whether the write-ahead log is lost with the process.
    """

    rule: Rule
    status: int
    log_lost: bool = False


def kills(world: World) -> list[Kill]:
    """What a killed run had sent, and when it lands: before its end, or amid the next start."""
    table = Rule("", Act.LATE, "POST", f"/tables/{world.table}$", lands=Lands.BEFORE_NEXT)
    letters = replace(table, path=f"/tables/{world.letters}$")
    behind = replace(table, lands=Lands.AFTER_NEXT)
    return [
        Kill(replace(table, name="rows that landed", act=Act.MUTE), 200),
        Kill(replace(table, name="rows that land before the next claim"), 200),
        Kill(replace(behind, name="rows that come behind the next claim"), 409),
        Kill(replace(letters, name="letters that land before they are sent again"), 200),
        Kill(replace(letters, name="letters, and the log is lost"), 200, log_lost=True),
    ]


def slow_kills(world: World) -> list[Kill]:
    """Some more of the kind."""
    table = Rule("", Act.LATE, "POST", f"/tables/{world.table}$", lands=Lands.TOLD)
    letters = replace(table, path=f"/tables/{world.letters}$")
    behind = Lands.AFTER_NEXT
    return [
        Kill(replace(table, name="rows that land between two runs"), 200),
        Kill(replace(table, name="rows between two runs, and the log is lost"), 200, log_lost=True),
        Kill(replace(letters, name="letters that landed", act=Act.MUTE), 200),
        Kill(replace(letters, name="letters that land between two runs"), 200),
        Kill(replace(letters, name="letters that come too late", lands=behind), 409),
    ]


@pytest.mark.parametrize("which", [kills, pytest.param(slow_kills, marks=pytest.mark.slow)])
def test_a_kill_before_the_answer_leaves_each_row_to_land_once(
    world: World, proxy: FaultProxy, which: Callable[[World], list[Kill]]
) -> None:
    world.more(bad=1)
    before = "nothing yet"
    for kill in which(world):
        with meeting(f"{before}, then {kill.rule.name}"), running(world.program) as run:
            world.until_landed(run)
            world.assert_counts()
            proxy.set(kill.rule)
            world.more(bad=1)
            proxy.until_done(kill.rule.name)
            run.kill()
        if kill.rule.lands is Lands.TOLD:
            proxy.release()
        if kill.log_lost:
            (world.program.folder / "wal").rename(world.program.folder / f"wal-{run.process.pid}")
        before = kill.rule.name
    with meeting(before), running(world.program) as run:
        world.until_landed(run)
        run.drain()
    met = {done.rule: done.status for done in proxy.done}
    assert met == {kill.rule.name: kill.status for kill in which(world)}
    world.assert_complete()


@pytest.mark.slow
def test_a_claim_of_a_killed_run_that_comes_late_harms_no_row(
    world: World, proxy: FaultProxy
) -> None:
    world.more()
    claim = Rule("claim", Act.LATE, "POST", f"/tables/{world.table}$", lands=Lands.BEFORE_NEXT)
    proxy.set(claim)
    with running(world.program) as run:
        proxy.until_done("claim")
        run.kill()
    # To this start it looks as if another run had started at the same time, so it gives way.
    code, output = world.program.run()
    assert code == 3, output
    assert "was claimed by" in output
    assert [done.status for done in proxy.done] == [None, 200]
    with running(world.program) as run:
        world.until_landed(run)
        run.drain()
    world.assert_complete()


# A catalog that hangs.


def hang(proxy: FaultProxy) -> None:
    proxy.set(*(Rule("hung", Act.HANG, method, "", times=1000) for method in ("GET", "POST")))


def test_a_hung_catalog_hangs_neither_a_run_nor_its_end(world: World, proxy: FaultProxy) -> None:
    program = world.program
    program.environ |= {"K2I_RUN_RETRY_BUDGET_SECONDS": "2"}
    with running(program) as run:
        run.until_committed(world.more())
        hang(proxy)
        world.more()
        code, output = run.end()
    assert code == 3, output
    assert "timed out" in output
    proxy.clear()
    program.environ |= {"K2I_RUN_RETRY_BUDGET_SECONDS": "600", "K2I_RUN_DRAIN_TIMEOUT_SECONDS": "2"}
    with running(program) as run:
        world.until_landed(run)
        world.assert_complete()
        hang(proxy)
        before = len(proxy.done)
        world.more()
        proxy.until_done("hung", before + 1)
        run.signal(signal.SIGTERM)
        code, output = run.end()
    assert code == 10, output
    assert "The drain did not end" in output
