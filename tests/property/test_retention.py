"""Which snapshots are expired: bounds, protection, and what was kept once stays."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.table.refs import SnapshotRef, SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot, Summary

from k2i_tasks.errors import ConfigError
from k2i_tasks.iceberg.maintenance.retention import MAX_AGE, MIN_KEPT, Rules, which_to_expire
from tests.scale import times

HOUR = 3_600_000
#: What is done to a table, and with what.
Step = tuple[Any, ...]
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SINKS = ("k2i.main.state", "k2i.other.state")


def snapshot(
    number: int, parent: int | None, at: int, keys: Iterable[str] = (), sequence: int | None = None
) -> Snapshot:
    return Snapshot.model_validate(
        {
            "snapshot-id": number,
            "parent-snapshot-id": parent,
            "sequence-number": number if sequence is None else sequence,
            "timestamp-ms": at,
            "manifest-list": f"{number}.avro",
            "summary": Summary(Operation.APPEND, **dict.fromkeys(keys, "x")),
        }
    )


def ref(number: int, kind: SnapshotRefType = SnapshotRefType.BRANCH, **own: int) -> SnapshotRef:
    named = {name.replace("_", "-"): value for name, value in own.items()}
    return SnapshotRef.model_validate({"snapshot-id": number, "type": kind, **named})


def line(count: int, *, every_ms: int = 60_000, keys: Iterable[str] = SINKS) -> list[Snapshot]:
    """One branch, commits at even intervals from 0 on, ids from 1 on."""
    return [snapshot(n, n - 1 or None, n * every_ms, keys) for n in range(1, count + 1)]


@dataclass
class Table:
    """A table's snapshots and refs, as writers, operators and expiry change them."""

    now: int = 10**12
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    refs: dict[str, SnapshotRef] = field(default_factory=dict)
    made: int = 0

    def commit(self, branch: str, keys: Iterable[str], skew: int) -> None:
        head = self.refs.get(branch)
        self.made += 1
        parent = head.snapshot_id if head is not None else None
        self.snapshots[self.made] = snapshot(self.made, parent, self.now + skew, keys)
        self.refs[branch] = ref(self.made)

    def point(self, name: str, number: int, kind: SnapshotRefType) -> None:
        known = sorted(self.snapshots)
        if known:
            self.refs[name] = ref(known[number % len(known)], kind)

    def expire(self, rules: Rules) -> set[int]:
        gone = which_to_expire(list(self.snapshots.values()), self.refs, self.now, rules)
        for number in gone:
            del self.snapshots[number]
        return gone

    def branches(self) -> list[int]:
        kind = SnapshotRefType.BRANCH
        return [one.snapshot_id for one in self.refs.values() if one.snapshot_ref_type is kind]

    def back_from(self, head: int) -> list[Snapshot]:
        found: list[Snapshot] = []
        current: int | None = head
        while current is not None and current in self.snapshots:
            found.append(self.snapshots[current])
            current = found[-1].parent_snapshot_id
        return found

    def protected(self) -> set[int]:
        found = {one.snapshot_id for one in self.refs.values()}
        for head in self.branches():
            chain = self.back_from(head)
            for key in SINKS:
                for count, one in enumerate(chain, 1):
                    if one.summary is not None and key in one.summary.additional_properties:
                        found |= {each.snapshot_id for each in chain[:count]}
                        break
        return found


KEYS = st.sets(st.sampled_from(SINKS))
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("commit"), st.sampled_from(("main", "slow")), KEYS, st.integers(-90_000, 90_000)
        ),
        st.tuples(st.just("wait"), st.integers(0, 2 * HOUR)),
        st.tuples(st.just("tag"), st.sampled_from("ab"), st.integers(0, 10**6)),
        st.tuples(st.just("branch"), st.sampled_from(("main", "side")), st.integers(0, 10**6)),
        st.tuples(st.just("drop"), st.sampled_from(("a", "b", "slow", "side"))),
        st.tuples(st.just("expire")),
    ),
    max_size=120,
)
RULES = st.builds(
    Rules,
    retention_seconds=st.sampled_from((1, 600, 7200, 86_400)),
    keep_newest=st.integers(1, 8),
    keep_history=st.integers(0, 8),
)


def apply(table: Table, step: Step) -> None:
    match step:
        case ("commit", branch, keys, skew):
            table.commit(branch, keys, skew)
        case ("wait", length):
            table.now += length
        case ("tag", name, number):
            table.point(name, number, SnapshotRefType.TAG)
        case ("branch", name, number):
            table.point(name, number, SnapshotRefType.BRANCH)
        case ("drop", name):
            table.refs.pop(name, None)


@settings(SLOW, max_examples=times(300, 20_000))
@given(STEPS, RULES)
def test_protected_snapshots_stay_and_the_others_are_bounded(
    steps: Sequence[Step],
    rules: Rules,
) -> None:
    table = Table()
    for step in [*steps, ("expire",)]:
        apply(table, step)
        if step[0] != "expire":
            continue
        protected = table.protected()
        states = {head: [s.snapshot_id for s in table.back_from(head)] for head in table.branches()}
        table.expire(rules)
        left = set(table.snapshots)
        assert protected <= left
        bound = rules.keep_newest * len(states) + rules.keep_history + len(protected)
        assert len(left) <= bound
        too_old = table.now - rules.retention_ms
        assert all(table.snapshots[n].timestamp_ms >= too_old for n in left - protected)
        assert not table.expire(rules), "a second run at the same time expires more"
        for head, history in states.items():
            left_of = [s.snapshot_id for s in table.back_from(head)]
            assert left_of == history[: len(left_of)]


@settings(SLOW, max_examples=times(60, 2_000))
@given(
    st.lists(st.integers(1_000, HOUR), min_size=1, max_size=300),
    st.integers(1, 20),
    RULES,
)
def test_what_is_kept_as_history_stays_until_it_is_too_old(
    pauses: Sequence[int], between: int, rules: Rules
) -> None:
    table = Table()
    for number, pause in enumerate(pauses):
        table.commit("main", SINKS, 0)
        table.now += pause
        if number % between:
            continue
        before = set(table.snapshots)
        newest = {s.snapshot_id for s in table.back_from(table.made)[: rules.keep_newest]}
        gone = table.expire(rules)
        history = before - newest - gone
        for kept in history:
            assert table.snapshots[kept].timestamp_ms >= table.now - rules.retention_ms
        later = Table(table.now, dict(table.snapshots), dict(table.refs), table.made)
        later.now += 1_000
        later.commit("main", SINKS, 0)
        too_old = {
            n for n in history if table.snapshots[n].timestamp_ms < later.now - rules.retention_ms
        }
        assert not (later.expire(rules) & history) - too_old


def test_a_commit_each_second_leaves_a_history_over_the_whole_retention() -> None:
    table = Table()
    rules = Rules(retention_seconds=86_400, keep_newest=50, keep_history=24)
    start = table.now
    for second in range(2 * 86_400 // 10):
        table.commit("main", SINKS, 0)
        table.now = start + second * 10_000
        if second % 30 == 0:
            table.expire(rules)
    table.expire(rules)
    assert len(table.snapshots) <= 50 + 24
    times_kept = sorted(one.timestamp_ms for one in table.snapshots.values())
    gaps = [after - before for before, after in itertools.pairwise(times_kept)]
    stretch = rules.retention_ms / 23
    assert max(gaps) <= 2 * stretch
    assert times_kept[0] <= table.now - rules.retention_ms + 2 * stretch


def test_the_chain_back_to_the_newest_state_of_each_sink_stays_whatever_its_age() -> None:
    ours = line(3, keys=SINKS)
    lone = [snapshot(4, 3, 4 * 60_000, SINKS[:1])]
    foreign = [snapshot(n, n - 1, n * 60_000) for n in range(5, 9)]
    all_of_them = [*ours, *lone, *foreign]
    rules = Rules(retention_seconds=1, keep_newest=1, keep_history=0)
    gone = which_to_expire(all_of_them, {"main": ref(8)}, 10**9, rules)
    assert gone == {1, 2}, "3 carries the newest state of the second sink"


def test_no_ref_is_removed_and_a_tag_keeps_its_snapshot() -> None:
    rules = Rules(retention_seconds=1, keep_newest=1, keep_history=0)
    refs = {"main": ref(9), "old": ref(2, SnapshotRefType.TAG, max_ref_age_ms=1)}
    assert which_to_expire(line(9), refs, 10**9, rules) == {1, 3, 4, 5, 6, 7, 8}


def test_a_branch_has_settings_of_its_own() -> None:
    rules = Rules(retention_seconds=3600, keep_newest=9, keep_history=0)
    found = line(9)
    now = 9 * 60_000
    assert which_to_expire(found, {"main": ref(9)}, now, rules) == set()
    young = {"main": ref(9, max_snapshot_age_ms=150_000)}
    assert which_to_expire(found, young, now, rules) == {1, 2, 3, 4, 5, 6}
    few = {"main": ref(9, max_snapshot_age_ms=150_000, min_snapshots_to_keep=5)}
    assert which_to_expire(found, few, now, rules) == {1, 2, 3, 4}


def test_the_properties_of_the_table_win_over_the_configuration() -> None:
    rules = Rules(retention_seconds=3600, keep_newest=9, keep_history=0)
    own = rules.of_table({MAX_AGE: "120000", MIN_KEPT: "4"})
    assert which_to_expire(line(9), {"main": ref(9)}, 20 * 60_000, own) == {1, 2, 3, 4, 5}
    assert rules.of_table({}) == rules


@pytest.mark.parametrize("text", ["0", "-1", "soon", "1.5", ""])
def test_a_property_that_is_no_number_expires_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match=MAX_AGE):
        Rules(retention_seconds=1).of_table({MAX_AGE: text})


def test_what_waits_to_be_published_is_kept_until_it_is_too_old() -> None:
    staged = snapshot(10, 3, 10 * 60_000, ("wap.id",))
    rules = Rules(retention_seconds=3600, keep_newest=1, keep_history=0)
    found = [*line(9), staged]
    assert 10 not in which_to_expire(found, {"main": ref(9)}, 11 * 60_000, rules)
    assert 10 in which_to_expire(found, {"main": ref(9)}, 11 * 60_000 + HOUR, rules)
